"""Every public function refuses wrong shapes, dtypes and ranges, and says what was expected."""

from __future__ import annotations

import functools
import inspect
import re
import tempfile
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import digits_jax as dj
from digits_jax import metrics, plots, splits, statistics

NETWORK = dj.DigitsCNN(conv_features=(2,), dense_features=())
RECIPE = dj.Recipe(network=NETWORK, batch_size=8)
LABELS = np.arange(20, dtype=np.int32) % 10
IMAGES = np.zeros((20, 8, 8), np.uint8)
DATA = (IMAGES, LABELS)
ROWS = dj.Data(IMAGES, LABELS)
SPLITS = dj.kfold_splits(LABELS, 2)
RUNS = dj.make_runs(SPLITS)
RUN: dj.Run = dj.take_run(RUNS, 0)
BATCH = dj.Batch(jnp.asarray(IMAGES), jnp.asarray(LABELS), jnp.ones(20))
KEY = jax.random.key(0)
SCORES = [0.9, 0.8, 0.7]
HALVES = np.full((3, 2), 0.5)


@functools.cache
def _state() -> dj.TrainState:
    init = jax.jit(functools.partial(dj.init_state, recipe=RECIPE))
    return init(RUN, ROWS)  # type: ignore[no-any-return]


def _train(**changes: Any) -> Any:
    return dj.cross_validate(
        **{"data": DATA, "runs": RUNS, "recipe": RECIPE, "epochs": 1, **changes}
    )


def _runs(**h: Any) -> dj.Run:
    return dj.make_runs(SPLITS, dj.Hyperparameters(**h))


def _step(batch: dj.Batch) -> Any:
    step = jax.jit(functools.partial(dj.train_step, recipe=RECIPE))
    return step(_state(), batch, dj.Hyperparameters(), KEY)


def _eval(batch: dj.Batch) -> dj.Sums:
    return dj.eval_step(_state(), batch, recipe=RECIPE)


def _epoch(run: Any = RUN, data: Any = ROWS) -> Any:
    return jax.jit(functools.partial(dj.train_epoch, recipe=RECIPE))(_state(), run, data)


def _waves(count: int, **changes: Any) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        return dj.train_in_waves(DATA, lambda start, stop: RUNS, count, folder=folder, **changes)


def _split(**changes: Any) -> splits.Split:
    return SPLITS._replace(**changes)


WRONG: dict[str, list[tuple[Callable[[], object], type[Exception], str]]] = {
    "load_digits": [
        (lambda: dj.load_digits(3), TypeError, "expected str, bytes or os.PathLike"),  # type: ignore[arg-type]
        (lambda: dj.load_digits("bundled", timeout=-1), ValueError, "positive number of seconds"),
    ],
    "kfold_splits": [
        (lambda: dj.kfold_splits(LABELS, 1), ValueError, "folds must be at least 2, got 1"),
        (lambda: dj.kfold_splits(LABELS, 2.0), TypeError, "folds must be an integer, got 2.0"),  # type: ignore[arg-type]
        (lambda: dj.kfold_splits(LABELS, 21), ValueError, "21 folds need at least 21 rows, got 20"),
        (lambda: dj.kfold_splits(LABELS, 3), ValueError, "class 0 has 2 row(s), fewer than the 3"),
        (lambda: dj.kfold_splits(LABELS, 2, repeats=0), ValueError, "repeats must be at least 1"),
        (lambda: dj.kfold_splits(LABELS, 2, seed=-1), ValueError, "seed must be at least 0"),
        (
            lambda: dj.kfold_splits(LABELS, 2, seed=2**32 - 1, repeats=2),
            ValueError,
            "seed must be at most 4294967294, got 4294967295",
        ),
        (lambda: dj.kfold_splits(LABELS / 2), TypeError, "labels must be integers, got float64"),
        (lambda: dj.kfold_splits(["a", "b"]), TypeError, "labels must be integers"),
        (lambda: dj.kfold_splits([]), ValueError, "labels is empty"),
        (lambda: dj.kfold_splits(IMAGES), ValueError, "labels must be 1-D, got shape (20, 8, 8)"),
    ],
    "holdout_split": [
        (lambda: dj.holdout_split(LABELS, test_size=1), ValueError, "a fraction between 0 and 1"),
        (lambda: dj.holdout_split(LABELS, seed=2**32), ValueError, "seed must be at most"),
        (lambda: dj.holdout_split(3), ValueError, "labels must be [N] or [N, ...], got a scalar"),
        (
            lambda: dj.holdout_split(IMAGES, stratified=True),
            ValueError,
            "labels must be 1-D, got shape (20, 8, 8)",
        ),
        (
            lambda: dj.holdout_split(LABELS / 2, stratified=True),
            TypeError,
            "labels must be integers, got float64",
        ),
    ],
    "refit_split": [
        (lambda: dj.refit_split(0.5), ValueError, "labels must be [N] or [N, ...], got a scalar"),
        (lambda: dj.refit_split([]), ValueError, "labels is empty"),
    ],
    "index_splits": [
        (lambda: dj.index_splits(3), TypeError, "pairs must be an iterable of (train, test)"),  # type: ignore[arg-type]
        (lambda: dj.index_splits([]), ValueError, "index_splits needs at least one pair"),
    ],
    "with_validation": [
        (lambda: dj.with_validation(SPLITS, 1), ValueError, "fraction must be between 0 and 1"),
        (lambda: dj.with_validation(SPLITS, "x"), TypeError, "fraction must be a number"),  # type: ignore[arg-type]
        (lambda: dj.with_validation(RUN.split, 0.1), ValueError, "splits must be stacked"),
    ],
    "train_sizes": [(lambda: dj.train_sizes(RUN.split), ValueError, "splits must be stacked")],
    "test_sizes": [(lambda: dj.test_sizes(LABELS), TypeError, "splits must be a Split")],  # type: ignore[arg-type]
    "writer_disjoint_split": [
        (lambda: dj.writer_disjoint_split(LABELS), ValueError, "needs all 5620 rows"),
        (lambda: dj.writer_disjoint_split(np.zeros(5620, int)), ValueError, "UCI's order"),
    ],
    "stack_splits": [
        (lambda: dj.stack_splits(), ValueError, "at least one split"),
        (lambda: dj.stack_splits([1]), TypeError, "splits must be a Split, got list"),  # type: ignore[arg-type]
        (lambda: dj.stack_splits(RUN.split), ValueError, "[R, rows]"),
        (
            lambda: dj.stack_splits(_split(test_weights=np.ones((2, 3)))),
            ValueError,
            "test_rows and test_weights [R, rows] with R at least 1; their shapes are (2, 10)",
        ),
        (
            lambda: dj.stack_splits(_split(train_rows=SPLITS.train_rows / 1)),
            TypeError,
            "train_rows must be integers, got float64",
        ),
        (lambda: dj.stack_splits(_split(test_rows=[0], test_weights=[1])), ValueError, "stacked"),
    ],
    "inner_splits": [
        (lambda: dj.inner_splits(LABELS, RUN.split), ValueError, "splits must be stacked"),
        (lambda: dj.inner_splits(LABELS, SPLITS, 1), ValueError, "folds must be at least 2, got 1"),
        (lambda: dj.inner_splits(LABELS, LABELS), TypeError, "splits must be a Split"),  # type: ignore[arg-type]
    ],
    "recipe_by_name": [
        (lambda: dj.recipe_by_name("best"), ValueError, "there is no recipe 'best'"),
        (lambda: dj.recipe_by_name("strong", epochs=0), ValueError, "epochs must be at least 1"),
        (lambda: dj.recipe_by_name("strong", batch_size=0), ValueError, "batch_size must be at"),
        (lambda: dj.recipe_by_name("strong", epochs=1.5), TypeError, "integer"),  # type: ignore[arg-type]
    ],
    "train_in_waves": [
        (lambda: _waves(0), ValueError, "must be at least 1"),
        (lambda: _waves(2, wave_size=0), ValueError, "must be at least 1"),
        (lambda: _waves(2, epochs=0), ValueError, "must be at least 1"),
    ],
    "read_waves": [(lambda: dj.read_waves("nowhere"), Exception, "nowhere")],
    "make_runs": [
        (lambda: dj.make_runs(RUN.split), ValueError, "splits must be stacked"),
        (lambda: dj.make_runs(LABELS), TypeError, "splits must be a Split"),  # type: ignore[arg-type]
        (lambda: dj.make_runs(SPLITS, seed=-1), ValueError, "seed must be 0 to 2**32 - 1, not -1"),
        (lambda: dj.make_runs(SPLITS, seed=2**32), ValueError, "seed must be 0 to 2**32 - 1"),
        (lambda: dj.make_runs(SPLITS, seed=0.5), TypeError, "integer"),  # type: ignore[arg-type]
        (lambda: _runs(learning_rate=[1.0] * 3), ValueError, "a number or have shape (2, ...)"),
        (lambda: _runs(learning_rate=float("nan")), ValueError, "learning_rate must be finite"),
        (
            lambda: dj.make_runs(SPLITS, {"a": np.nan}),
            ValueError,
            "hyperparameter a must be finite",
        ),
        (lambda: dj.make_runs(SPLITS, {"a": "x"}), TypeError, "hyperparameter a must be numbers"),
        (lambda: dj.make_runs(SPLITS, {"a": 2**40}), ValueError, "does not fit int32"),
        (
            lambda: dj.make_runs(SPLITS, {"a": [1, 2, 3]}),
            ValueError,
            "an array for all runs is sha",
        ),
        (
            lambda: dj.make_runs(SPLITS, {"a": 1}, configurations={"a": [1]}),
            ValueError,
            "give h or configurations, not both",
        ),
        (
            lambda: dj.make_runs(SPLITS, configurations={"a": [1, 2], "b": [1, 2, 3]}),
            ValueError,
            "the configurations' leaves have different lengths, [2, 3]",
        ),
        (lambda: _runs(learning_rate=1e39), ValueError, "learning_rate must be finite and >= 0"),
        (lambda: _runs(epsilon=-1e-7), ValueError, "epsilon must be finite and >= 0, not -1e-07"),
        (lambda: _runs(beta_1=1), ValueError, "beta_1 must be at least 0 and below 1, not 1"),
        (lambda: _runs(dropout_rate=[0.5, 1]), ValueError, "dropout_rate must be at least 0 and"),
        (lambda: _runs(label_smoothing="x"), ValueError, "x"),
    ],
    "cross_validate": [
        (lambda: _train(epochs=0), ValueError, "epochs must be at least 1, not 0"),
        (lambda: _train(epochs=1.5), TypeError, "epochs must be an integer, not 1.5"),
        (lambda: _train(epochs=2**31), ValueError, "an int32 counts to 2**31 - 1"),
        (lambda: _train(vmap_size=0), ValueError, "vmap_size must be at least 1, not 0"),
        (lambda: _train(epochs_per_call=0), ValueError, "epochs_per_call must be at least 1"),
        (lambda: _train(checkpoint_every=0), ValueError, "checkpoint_every must be at least 1"),
        (lambda: _train(devices=[]), ValueError, "at least one of each is needed"),
        (lambda: _train(runs=SPLITS), TypeError, "runs must be a Run, as of make_runs"),
        (lambda: _train(runs=RUN), ValueError, "splits must be stacked"),
        (
            lambda: _train(runs=RUNS._replace(key=jax.random.split(KEY, 3))),
            ValueError,
            "key must be [R, ...], R = 2 as in the splits, not [3]",
        ),
        (
            lambda: _train(runs=RUNS._replace(hyperparameters=dj.Hyperparameters())),
            ValueError,
            "learning_rate must be [R, ...], R = 2 as in the splits, not []",
        ),
        (lambda: _train(recipe=NETWORK), TypeError, "recipe must be a Recipe, not DigitsCNN"),
        (
            lambda: _train(data=(IMAGES, LABELS / 2)),
            TypeError,
            "must be integers 0 to 9, not float",
        ),
        (lambda: _train(data=(IMAGES[0], LABELS)), ValueError, "must have the same N"),
        (lambda: _train(data=(IMAGES, LABELS[0])), ValueError, "must have the same N"),
        (lambda: _train(data=(IMAGES.astype(str), LABELS)), TypeError, "<U"),
        (lambda: _train(data=(IMAGES, LABELS + 1)), ValueError, "labels 1 to 10, but the network"),
        (lambda: _train(data=(IMAGES, LABELS - 1)), ValueError, "labels -1 to 8, but the network"),
        (
            lambda: _train(data=(IMAGES[:15], LABELS[:15])),
            ValueError,
            "the data have rows 0 to 14",
        ),
        (lambda: _train(data=(IMAGES[:, :1], LABELS)), ValueError, "at least 2 for 1"),
        (lambda: _train(data=IMAGES), TypeError, "data must be a tuple (inputs, targets)"),
        (lambda: _train(data=dj.load_digits("bundled")), TypeError, "give its .data"),
        (lambda: _train(total_epochs=0), ValueError, "total_epochs must be at least 1, not 0"),
        (lambda: _train(epochs=3, epochs_per_call=2), ValueError, "must divide epochs=3"),
        (lambda: _train(states=RUNS), TypeError, "states must be a TrainState, not Run"),
        (lambda: _train(params={"a": 1}), ValueError, "params must have the leaves of the network"),
        (lambda: _train(devices="cpu"), TypeError, "devices must be a list of JAX devices"),
    ],
    "load_states": [(lambda: dj.load_states("nowhere"), Exception, "no folder of checkpoints at")],
    "Recipe": [
        (lambda: dj.Recipe(batch_size=0), ValueError, "batch_size must be 1 to 2^31 - 1"),
        (lambda: dj.Recipe(batch_size=2**31), ValueError, "batch_size must be 1 to 2^31 - 1"),
        (lambda: dj.Recipe(batch_size=8.0), TypeError, "batch_size must be an integer"),  # type: ignore[arg-type]
        (lambda: dj.Recipe(network=dj.DigitsCNN), TypeError, "give an instance, DigitsCNN(...)"),
        (lambda: dj.Recipe(optimizer="adam"), TypeError, "optimizer must be a function"),  # type: ignore[arg-type]
        (lambda: dj.Recipe(loss=None), TypeError, "loss must be a function, not None"),  # type: ignore[arg-type]
        (lambda: dj.Recipe(augment=True), TypeError, "augment must be a function, not True"),  # type: ignore[arg-type]
        (lambda: dj.Recipe(average=0.9), TypeError, "average must be a function, not 0.9"),  # type: ignore[arg-type]
        (lambda: dj.Recipe(remainder="kept"), ValueError, "remainder must be one of"),  # type: ignore[arg-type]
        (lambda: dj.Recipe(lowering="all"), ValueError, "lowering must be one of"),  # type: ignore[arg-type]
        (lambda: dj.Recipe(metrics=[dj.accuracy]), TypeError, "metrics must be a dict"),  # type: ignore[arg-type]
        (lambda: dj.Recipe(metrics={"a": 1}), TypeError, "metrics['a'] must be a function"),  # type: ignore[dict-item]
        (lambda: dj.Recipe(monitor=("f1", "max")), ValueError, "the name one of loss, accuracy"),
        (lambda: dj.Recipe(views=5), TypeError, "views must be a function, not 5"),  # type: ignore[arg-type]
    ],
    "init_state": [
        (
            lambda: dj.init_state(RUN, dj.Data(IMAGES[0], LABELS), recipe=RECIPE),
            ValueError,
            "images must be [B, H, W] or [B, H, W, C]",
        ),
    ],
    "train_step": [
        (
            lambda: _step(BATCH._replace(weights=jnp.ones(()))),
            ValueError,
            "weights [B]; the shapes",
        ),
        (lambda: _step(BATCH._replace(targets=jnp.ones(20))), TypeError, "must be integers 0 to 9"),
        (lambda: _step(BATCH._replace(inputs=BATCH.inputs[0])), ValueError, "inputs [B, ...]"),
        (
            lambda: _step(BATCH._replace(targets=BATCH.targets[:, None])),
            ValueError,
            "class targets need logits [B, K] and integers [B] or probabilities [B, K]",
        ),
    ],
    "eval_step": [
        (lambda: _eval(BATCH._replace(weights=jnp.ones(3))), ValueError, "weights [B]"),
    ],
    "predict": [
        (
            lambda: dj.predict(_state(), IMAGES[0], recipe=RECIPE),
            ValueError,
            "images must be [B, H, W] or [B, H, W, C], with H and W at least 2 for 1 pools, not",
        ),
        (
            lambda: dj.predict(
                jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), _state()),
                IMAGES,
                recipe=RECIPE,
            ),
            ValueError,
            "state is that of 3 runs; take one of them, with result.state(i)",
        ),
    ],
    "train_epoch": [
        (lambda: _epoch(RUNS), ValueError, "take one of stacked runs with take_run(runs, i)"),
        (lambda: _epoch(data=dj.Data(IMAGES, LABELS / 2)), TypeError, "must be integers 0 to 9"),
    ],
    "train_epochs": [
        (
            lambda: dj.train_epochs(_state(), RUN, ROWS, recipe=RECIPE, epochs=0),
            ValueError,
            "epochs must be at least 1, not 0",
        ),
    ],
    "evaluate": [
        (
            lambda: dj.evaluate(_state(), RUNS, ROWS, recipe=RECIPE),
            ValueError,
            "one run's split has train_rows [rows], not [2, 10]",
        ),
    ],
    "cross_entropy": [
        (
            lambda: dj.cross_entropy(jnp.zeros((2, 3)), jnp.zeros((2, 3), int), None),
            TypeError,
            "targets [B, K] must be probabilities (floats), not int32",
        ),
        (
            lambda: dj.cross_entropy(jnp.zeros((2, 3)), jnp.zeros((2, 4)), None),
            ValueError,
            "not outputs [2, 3] and targets [2, 4]",
        ),
        (
            lambda: dj.cross_entropy(jnp.zeros((2, 3)), jnp.array([0, 3]), None),
            ValueError,
            "labels 0 to 3, but the network gives 3 logits, for the labels 0 to 2",
        ),
        (
            lambda: dj.cross_entropy(jnp.zeros((2, 3)), jnp.zeros(2), None),
            TypeError,
            "targets [B] must be integers 0 to 2, not float32",
        ),
    ],
    "squared_error": [
        (
            lambda: dj.squared_error(jnp.zeros((2, 1)), jnp.zeros(2)),
            ValueError,
            "needs outputs and targets of one shape, not [2, 1] and [2]",
        ),
    ],
    "accuracy": [
        (lambda: dj.accuracy(jnp.zeros((2, 1)), jnp.zeros(2, int)), ValueError, "gives one logit"),
        (lambda: dj.accuracy(jnp.zeros(2), jnp.zeros(2, int)), ValueError, "need logits [B, K]"),
    ],
    "as_network": [
        (lambda: dj.as_network(dj.DigitsCNN), TypeError, "give an instance, DigitsCNN(...)"),
        (lambda: dj.as_network(3), TypeError, "network must be a flax.linen module, an nnx.Module"),
    ],
    "grid": [
        (lambda: dj.grid({"a": []}), ValueError, "a must have at least one value"),
        (lambda: dj.grid({"a": dj.uniform(0, 1)}), ValueError, "a has a law without an end"),
    ],
    "random_search": [
        (lambda: dj.random_search({"a": 1}, 0), ValueError, "count must be at least 1, not 0"),
    ],
    "choice": [(lambda: dj.choice([]), ValueError, "choice needs at least one value")],
    "uniform": [(lambda: dj.uniform(1, 0), ValueError, "uniform needs low <= high")],
    "log_uniform": [(lambda: dj.log_uniform(0, 1), ValueError, "log_uniform needs 0 < low")],
    "decay": [(lambda: dj.decay(0.5, 1), ValueError, "decay needs low <= high < 1")],
    "layer_table": [
        (lambda: dj.layer_table(dj.DigitsCNN(), (4, 4)), ValueError, "at least 8 for 3 pools"),
        (lambda: dj.layer_table(dj.DigitsCNN(), (8,)), ValueError, "images must be [B, H, W]"),
    ],
    "runs_mesh": [
        (lambda: dj.runs_mesh(0), ValueError, "at least one of each is needed"),
        (lambda: dj.runs_mesh(1.5), TypeError, "runs must be an integer, not 1.5"),  # type: ignore[arg-type]
    ],
    "summarize": [
        (lambda: dj.summarize([]), ValueError, "scores must be 1-D and not empty"),
        (lambda: dj.summarize([0.5, np.nan]), ValueError, "finite, but scores[1] is nan"),
        (lambda: dj.summarize(SCORES, train_rows=9), ValueError, "both train_rows and test_rows"),
        (
            lambda: dj.summarize(SCORES, train_rows=-9, test_rows=3),
            ValueError,
            "train_rows must be positive",
        ),
    ],
    "corrected_resampled_ttest": [
        (
            lambda: dj.corrected_resampled_ttest(SCORES, [1], train_rows=9, test_rows=1),
            ValueError,
            "scores_a has 3 scores and scores_b 1",
        ),
    ],
    "mcnemar_test": [
        (lambda: dj.mcnemar_test([1, 0], [1, 1]), TypeError, "correct_a must be bool, got int64"),
        (lambda: dj.mcnemar_test([True], [True] * 2), ValueError, "correct_a has 1 rows"),
    ],
    "nested_cross_validate": [
        (lambda: dj.nested_cross_validate(DATA, folds=2), ValueError, "at least three folds"),
        (lambda: dj.nested_cross_validate(DATA, metric="auc"), ValueError, "no score 'auc'"),
    ],
    "crossed": [
        (lambda: dj.crossed(), ValueError, "at least one level, got {}"),
        (lambda: dj.crossed(split=2, order=0), ValueError, "at least one level"),
    ],
    "wilson_interval": [
        (lambda: dj.wilson_interval(3, 2), ValueError, "successes must be in 0..count"),
        (lambda: dj.wilson_interval(0.5, 2), TypeError, "must be integers, got 0.5"),  # type: ignore[arg-type]
        (lambda: dj.wilson_interval(1, 2, 95), ValueError, "confidence must be between 0 and 1"),
    ],
    "metrics": [
        (lambda: metrics.probabilities(1.0), ValueError, "logits must be [..., K]"),
        (lambda: metrics.probabilities([np.inf, 0]), ValueError, "1 of 2 are not"),
        (lambda: metrics.confusion([0], [0], classes=0), ValueError, "classes must be at least 1"),
        (lambda: metrics.confusion([0], [0], classes=2.5), TypeError, "must be an integer"),  # type: ignore[arg-type]
        (lambda: metrics.confusion([3], [0], classes=3), ValueError, "in 0..2, but labels[0] is 3"),
        (lambda: metrics.reliability([0, 1, 0], HALVES, 0), ValueError, "bins must be at least 1"),
        (lambda: metrics.reliability([0, 1, 0], HALVES, 1.5), TypeError, "bins must be an integer"),  # type: ignore[arg-type]
        (lambda: metrics.roc_curves([0, 1], HALVES), ValueError, "lengths differ"),
        (
            lambda: metrics.classification_scores([0, 1, 0], HALVES * 3),
            ValueError,
            "are these logits?",
        ),
        (lambda: metrics.pooled_predictions([[0.0]], [[[1]]]), TypeError, "must be integers"),
        (lambda: metrics.always_wrong([0], [1], [2, 3]), ValueError, "lengths differ"),
    ],
    "plots": [
        (lambda: plots.class_means(IMAGES, LABELS / 2), TypeError, "labels must be integers"),
        (lambda: plots.embedding(HALVES, [0.5] * 3), TypeError, "labels must be integers, got"),
        (lambda: plots.embedding(HALVES[0], [0]), ValueError, "points must be [N, 2]"),
        (lambda: plots.digit_sheet(IMAGES[:1], ["a"], columns=0), ValueError, "at least 1, got 0"),
        (lambda: plots.fold_scores({"a": SCORES, "b": SCORES[:2]}), ValueError, "b must be [3]"),
        (lambda: plots.save(plots.filters(np.ones((3, 3, 1, 2))), "x", "png"), TypeError, "('png'"),
    ],
    "statistics": [(lambda: statistics.summarize([[1.0]]), ValueError, "must be 1-D")],
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_call_says_what_was_expected(name: str) -> None:
    for call, kind, message in WRONG[name]:
        with pytest.raises(kind, match=re.escape(message)) as caught:
            call()
        assert "\n" not in str(caught.value), f"{name}: {message}"


def test_every_public_function_is_tried() -> None:
    """Apart from those that take no argument that could be wrong."""
    functions = {name for name in dj.__all__ if inspect.isroutine(getattr(dj, name))}
    harmless = {"adam", "fast", "lower", "shared", "take_run", "take_runs", "trained_recipe"}
    harmless |= {"use_all_cpu_cores", "use_compilation_cache"}
    assert functions - set(WRONG) == harmless


def test_wrong_shapes_are_told_while_tracing_too() -> None:
    step = jax.jit(functools.partial(dj.train_step, recipe=RECIPE))
    batch = BATCH._replace(weights=jnp.ones(3))
    with pytest.raises(ValueError, match=r"weights \[B\]; the shapes are"):
        step(_state(), batch, dj.Hyperparameters(), KEY)

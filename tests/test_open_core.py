"""Any network, numbers, targets and optimizer by one call, each against a plain Python loop.

The loops know how an epoch is shuffled and how keys are derived; all else they do by themselves,
without padding, vmap, scan or jit of the library.
"""

from __future__ import annotations

import functools
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from sklearn.datasets import load_diabetes
from sklearn.metrics import r2_score
from sklearn.model_selection import GroupKFold, LeaveOneGroupOut, TimeSeriesSplit

import digits_jax as dj
from digits_jax.splits import index_runs

ROWS, CLASSES, BATCH = 50, 3, 16
Loss = Callable[[Any, Any, Any, Any], jax.Array]  # (params, inputs, targets, h) -> [B]


class Numbers(NamedTuple):
    """Hyperparameters of one's own."""

    rate: Any = 0.1
    momentum: Any = 0.0


class MLP(nn.Module):
    """Called as (x)."""

    outputs: int = CLASSES

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(self.outputs)(nn.tanh(nn.Dense(6)(x)))


def sgd(h: Any) -> optax.GradientTransformation:
    return optax.sgd(h.rate, momentum=h.momentum)


RECIPE = dj.Recipe(network=MLP(), optimizer=sgd, batch_size=BATCH)


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    """Tabular rows, whose class their largest column tells."""
    inputs = np.random.default_rng(0).normal(size=(ROWS, 4)).astype(np.float32)
    return inputs, inputs[:, :CLASSES].argmax(1).astype(np.int32)


def splits() -> dj.Split:
    """Two folds: 25 rows train each, in batches of 16 and 9."""
    return dj.kfold_splits(np.arange(ROWS) % 2, 2)


def train(data: Any, h: Any = None, recipe: dj.Recipe = RECIPE, **options: Any) -> Any:
    """Three epochs of the two folds on one device."""
    runs = options.pop("runs", None)
    runs = dj.make_runs(splits(), Numbers() if h is None else h, seed=5) if runs is None else runs
    options = {"epochs": 3, "devices": jax.devices()[:1], **options}
    return dj.cross_validate(data, runs, recipe=recipe, **options)


def batches(run: dj.Run, epoch: int, absent: Any = (), full: bool = False) -> Iterator[Any]:
    """Rows and the key of each step of an epoch."""
    rows = run.split.train_rows[run.split.train_weights > 0]
    rows = rows[~np.isin(rows, absent)]
    key = jax.random.fold_in(jax.random.fold_in(run.key, 1), epoch)
    shuffle, step = jax.random.split(key)
    draws = np.asarray(jax.random.bits(shuffle, (len(run.split.train_rows),), jnp.uint32))
    rows = rows[np.argsort(draws[: len(rows)], kind="stable")]
    for i in range(0, len(rows), BATCH):
        if not full or len(rows) - i >= BATCH:
            yield rows[i : i + BATCH], jax.random.fold_in(step, i // BATCH)


def take(tree: Any, rows: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf[rows]), tree)


@functools.cache
def gradient_of(loss: Loss) -> Callable[..., Any]:
    """Of (params, inputs, targets, weights, h): the mean loss and its slope."""

    @jax.jit
    def gradient(params: Any, inputs: Any, targets: Any, w: jax.Array, h: Any) -> Any:
        def mean(params: Any) -> jax.Array:
            return jnp.sum(w * loss(params, inputs, targets, h)) / jnp.sum(w)

        return jax.value_and_grad(mean)(params)

    return gradient


def loop(
    data: Any,
    run: dj.Run,
    params: Any,
    loss: Loss,
    *,
    weights: np.ndarray | None = None,
    absent: Any = (),
    full: bool = False,
    epochs: int = 3,
) -> tuple[Any, list[float]]:
    """Plain SGD with momentum: the weights after it, and the mean loss of each epoch."""
    h = jax.tree.map(float, run.hyperparameters)
    weights = np.ones(len(jax.tree.leaves(data)[0]), np.float32) if weights is None else weights
    gradient = gradient_of(loss)
    params = jax.device_get(params)
    velocity, history = jax.tree.map(np.zeros_like, params), []
    for epoch in range(epochs):
        total = count = 0.0
        for rows, _ in batches(run, epoch, absent, full):
            w = weights[rows]
            batch = take(data[0], rows), take(data[1], rows)
            value, grads = jax.device_get(gradient(params, *batch, w, h))
            velocity = jax.tree.map(lambda v, g: h.momentum * v + g, velocity, grads)
            params = jax.tree.map(lambda p, v: p - h.rate * v, params, velocity)
            total, count = total + float(value) * w.sum(), count + w.sum()
        history.append(total / count)
    return params, history


@functools.cache
def jitted(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """Compiled once: operation by operation it takes longer."""
    return jax.jit(functools.partial(function, **options))


def start(run: dj.Run, data: Any, recipe: dj.Recipe) -> Any:
    """The initial parameters."""
    return jitted(dj.init_state, recipe=recipe)(run, dj.Data(*data[:2])).params


def same(got: Any, expected: Any, tolerance: float = 1e-6) -> None:
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance), got, expected
    )


def check(
    result: Any, data: Any, loss: Loss, h: Any = None, apply: Any = None, **options: Any
) -> None:
    """Weights and history of both folds are the loop's, and so is the loss of their test rows."""
    runs = dj.make_runs(splits(), Numbers() if h is None else h, seed=5)
    recipe = options.pop("recipe", RECIPE)
    for i in range(2):
        run = dj.take_run(runs, i)
        params, history = loop(data, run, start(run, data, recipe), loss, **options)
        same(result.state(i).params, params)
        same(result.history["loss"][i], history, 1e-5)
        rows = run.split.test_rows[~np.isin(run.split.test_rows, options.get("absent", ()))]
        assert result.test_rows[i][result.test_rows[i] >= 0].tolist() == rows.tolist()
        values = jitted(loss)(params, take(data[0], rows), take(data[1], rows), None)
        weights = options.get("weights")
        w = np.ones(len(rows)) if weights is None else weights[rows]
        same(result.scores["loss"][i], (values * w).sum() / w.sum(), 1e-5)


def entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Cross-entropy, written once more."""
    logs = logits - jnp.log(jnp.exp(logits).sum(1, keepdims=True))
    return -logs[jnp.arange(len(labels)), labels]


def of_mlp(params: Any, inputs: Any, targets: Any, h: Any) -> jax.Array:
    return entropy(MLP().apply({"params": params}, inputs), targets)


# --- grids ---------------------------------------------------------------------------------------


def test_a_grid_of_twelve_momenta_on_five_folds_at_once(data: Any) -> None:
    momenta = np.linspace(0, 0.97, 12)
    five = dj.kfold_splits(data[1], 5)
    space = dj.grid(Numbers(momentum=momenta))
    runs = dj.make_runs(five, configurations=space, seed=7)
    result = train(data, runs=runs, vmap_size=60)
    assert result.scores["accuracy"].shape == (60,)
    for i in range(60):
        run = dj.take_run(runs, i)
        assert float(run.hyperparameters.momentum) == np.float32(momenta[i // 5])
        assert run.split.test_rows.tolist() == five.test_rows[i % 5].tolist()
        assert run.key == runs.key[i % 5], "a fold's key is shared by its configurations"
    for i in (0, 4, 23, 31, 59):  # a run is the same whatever is beside it: a few of them suffice
        run = dj.take_run(runs, i)
        params, history = loop(data, run, start(run, data, RECIPE), of_mlp)
        same(result.state(i).params, params)
        same(result.history["loss"][i], history, 1e-5)
    assert len(np.unique(result.history["loss"][:, -1])) == 60


# --- targets -------------------------------------------------------------------------------------


def squared(outputs: jax.Array, targets: jax.Array, h: Any) -> jax.Array:
    return (outputs[:, 0] - targets) ** 2


def test_regression_on_the_diabetes_data() -> None:
    inputs, progression = load_diabetes(return_X_y=True)
    data = 20 * inputs[:ROWS], (progression[:ROWS] - 150) / 80
    mae = {"mae": lambda outputs, targets: abs(outputs[:, 0] - targets)}
    recipe = dj.Recipe(
        network=MLP(1), loss=squared, metrics=mae, optimizer=sgd, batch_size=BATCH, monitor="loss"
    )
    result = train(data, Numbers(0.02, 0.9), recipe, epochs=20)

    def loss(params: Any, inputs: Any, targets: Any, h: Any) -> jax.Array:
        return squared(MLP(1).apply({"params": params}, inputs), targets, h)

    floats = tuple(np.asarray(each, np.float32) for each in data)
    check(result, floats, loss, Numbers(0.02, 0.9), recipe=recipe, epochs=20)
    for i, rows in enumerate(result.test_rows):
        missed = abs(result.outputs[i][:, 0] - floats[1][rows])
        same(result.scores["mae"][i], missed.mean(), 1e-5)
    scores = result.score(lambda targets, outputs: r2_score(targets, outputs[:, 0]))
    variance = [floats[1][rows].var() for rows in result.test_rows]
    same(scores, 1 - result.scores["loss"] / variance, 1e-4)
    assert (result.history["loss"][:, -1] < 0.7 * result.history["loss"][:, 0]).all()
    assert set(result.scores) == {"loss", "mae"} and not result.diverged.any()


def test_several_labels_a_row(data: Any) -> None:
    many = (data[0] > 0)[:, :3].astype(np.int32)

    def each(outputs: jax.Array, targets: jax.Array, h: Any) -> jax.Array:
        return optax.sigmoid_binary_cross_entropy(outputs, targets).mean(axis=-1)

    def all_right(outputs: jax.Array, targets: jax.Array) -> jax.Array:
        return ((outputs > 0) == (targets > 0)).all(axis=-1)

    recipe = dj.Recipe(
        network=MLP(), loss=each, metrics={"exact": all_right}, optimizer=sgd, batch_size=BATCH
    )
    result = train((data[0], many), recipe=recipe)

    def loss(params: Any, inputs: Any, targets: Any, h: Any) -> jax.Array:
        p = 1 / (1 + jnp.exp(-MLP().apply({"params": params}, inputs)))
        return -jnp.where(targets == 1, jnp.log(p), jnp.log(1 - p)).mean(axis=1)

    check(result, (data[0], many), loss)
    right = ((result.outputs > 0) == many[result.test_rows]).all(axis=-1).mean(axis=-1)
    same(result.scores["exact"], right)


def test_soft_labels(data: Any) -> None:
    soft = np.random.default_rng(1).dirichlet(np.ones(CLASSES), ROWS).astype(np.float32)
    result = train((data[0], soft))

    def loss(params: Any, inputs: Any, targets: Any, h: Any) -> jax.Array:
        logits = MLP().apply({"params": params}, inputs)
        return -(targets * (logits - jnp.log(jnp.exp(logits).sum(1, keepdims=True)))).sum(1)

    check(result, (data[0], soft), loss)
    right = result.outputs.argmax(-1) == soft[result.test_rows].argmax(-1)
    same(result.scores["accuracy"], right.mean(axis=1))


# --- weights -------------------------------------------------------------------------------------


def test_fractional_weights_and_rows_of_weight_zero(data: Any) -> None:
    weights = np.random.default_rng(2).uniform(0.1, 3, ROWS).astype(np.float32)
    absent = [3, 4, 17, 42]
    weights[absent] = 0
    result = train((*data, weights))
    check(result, data, of_mlp, weights=weights, absent=absent)
    hits = result.outputs.argmax(-1) == data[1][result.test_rows]
    w = np.where(result.test_rows >= 0, weights[result.test_rows], 0)
    same(result.scores["accuracy"], (hits * w).sum(1) / w.sum(1), 1e-5)
    # Whatever they hold: not a number, or a class that there is not.
    inputs, labels = data[0].copy(), data[1].copy()
    inputs[absent], labels[absent] = np.nan, 99
    for changed in ((inputs, labels, weights), (1e30 * inputs, labels, weights)):
        changed[0][~np.isnan(inputs)] = data[0][~np.isnan(inputs)]
        again = train(changed)
        jax.tree.map(np.testing.assert_array_equal, again.states, result.states)
        np.testing.assert_array_equal(again.scores["loss"], result.scores["loss"])


def test_only_the_ratios_of_weights_matter(data: Any) -> None:
    plain, halved = train(data), train((*data, np.full(ROWS, 0.5)))
    same(halved.states.params, plain.states.params)
    same(dict(halved.history), dict(plain.history), 1e-5)
    same(dict(halved.scores), dict(plain.scores), 1e-5)


# --- inputs and networks -------------------------------------------------------------------------


class TokensAndNumbers(nn.Module):
    """Called with a dict of inputs."""

    @nn.compact
    def __call__(self, x: dict[str, jax.Array]) -> jax.Array:
        words = nn.Embed(11, 4)(x["tokens"]).mean(axis=1)
        return nn.Dense(CLASSES)(jnp.concatenate([words, x["numbers"]], axis=1))


def test_a_dict_of_tokens_and_numbers(data: Any) -> None:
    tokens = np.random.default_rng(3).integers(0, 11, (ROWS, 5))
    inputs = {"tokens": tokens, "numbers": data[0]}
    recipe = dj.Recipe(network=TokensAndNumbers(), optimizer=sgd, batch_size=BATCH)
    result = train((inputs, data[1]), recipe=recipe)

    def loss(params: Any, inputs: Any, targets: Any, h: Any) -> jax.Array:
        return entropy(TokensAndNumbers().apply({"params": params}, inputs), targets)

    check(result, (inputs, data[1]), loss, recipe=recipe)
    some = take(inputs, result.test_rows[1])
    predict = jitted(dj.predict, recipe=recipe)
    same(predict(result.state(1), some), result.outputs[1], 1e-5)


def test_outputs_may_be_a_dict(data: Any) -> None:
    class Two(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> dict[str, jax.Array]:
            hidden = nn.tanh(nn.Dense(6)(x))
            return {"class": nn.Dense(CLASSES)(hidden), "sum": nn.Dense(1)(hidden)}

    targets = {"class": data[1], "sum": data[0].sum(axis=1)}

    def both(outputs: Any, targets: Any, h: Any) -> jax.Array:
        return entropy(outputs["class"], targets["class"]) + squared(
            outputs["sum"], targets["sum"], h
        )

    recipe = dj.Recipe(network=Two(), loss=both, optimizer=sgd, batch_size=BATCH)
    result = train((data[0], targets), recipe=recipe)

    def loss(params: Any, inputs: Any, targets: Any, h: Any) -> jax.Array:
        return both(Two().apply({"params": params}, inputs), targets, h)

    check(result, (data[0], targets), loss, recipe=recipe)
    assert result.outputs["class"].shape == (2, 25, CLASSES)
    assert result.outputs["sum"].shape == (2, 25, 1)


class Noisy(nn.Module):
    """Called as (x, deterministic)."""

    @nn.compact
    def __call__(self, x: jax.Array, deterministic: bool) -> jax.Array:
        x = nn.Dropout(0.5)(nn.tanh(nn.Dense(8)(x)), deterministic=deterministic)
        return nn.Dense(CLASSES)(x)


def test_a_linen_module_called_with_deterministic(data: Any) -> None:
    """Full batches alone: dropout draws for the whole batch."""
    recipe = dj.Recipe(network=Noisy(), optimizer=sgd, batch_size=BATCH, remainder="dropped")
    result = train(data, recipe=recipe)
    runs = dj.make_runs(splits(), Numbers(), seed=5)
    run = dj.take_run(runs, 1)
    params = start(run, data, recipe)

    @jax.jit
    def gradient(params: Any, x: Any, y: Any, key: Any) -> Any:
        def mean(params: Any) -> jax.Array:
            rngs = {"dropout": jax.random.split(key)[0]}
            return entropy(
                Noisy().apply({"params": params}, x, deterministic=False, rngs=rngs), y
            ).mean()

        return jax.grad(mean)(params)

    for epoch in range(3):
        for rows, key in batches(run, epoch, full=True):
            grads = gradient(params, take(data[0], rows), take(data[1], rows), key)
            params = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
    assert result.states.step.tolist() == [3, 3]
    same(result.state(1).params, params)
    logits = Noisy().apply({"params": params}, take(data[0], result.test_rows[1]), True)
    same(result.outputs[1], logits, 1e-5)


def _pairs(name: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Training and test rows, as scikit-learn's splitters give them."""
    rows, groups = np.zeros(ROWS), np.arange(ROWS) // 7
    if name == "GroupKFold":
        return list(GroupKFold(3).split(rows, groups=groups))
    if name == "TimeSeriesSplit":
        return list(TimeSeriesSplit(3).split(rows))
    if name == "LeaveOneGroupOut":
        return list(LeaveOneGroupOut().split(rows, groups=groups // 3))
    draw = np.random.default_rng(0)
    drawn = [draw.integers(0, ROWS, ROWS) for _ in range(3)]
    return [(rows, np.setdiff1d(np.arange(ROWS), rows)) for rows in drawn]


@pytest.mark.parametrize("name", ["GroupKFold", "TimeSeriesSplit", "LeaveOneGroupOut", "bootstrap"])
def test_the_splits_of_any_splitter_train_as_in_a_loop(data: Any, name: str) -> None:
    pairs = _pairs(name)
    runs = dj.make_runs(dj.index_splits(pairs), Numbers(), seed=5)
    result = train(data, runs=runs)
    for i, (train_rows, test_rows) in enumerate(pairs):
        run = dj.take_run(runs, i)
        assert sorted(run.split.train_rows[run.split.train_weights > 0]) == sorted(train_rows)
        params, history = loop(data, run, start(run, data, RECIPE), of_mlp)
        same(result.state(i).params, params)
        same(result.history["loss"][i], history, 1e-5)
        tested = result.test_rows[i][result.test_rows[i] >= 0]
        assert sorted(tested) == sorted(test_rows)
        logits = jitted(MLP().apply)({"params": params}, take(data[0], test_rows))
        right = np.asarray(logits).argmax(1) == data[1][test_rows]
        assert result.scores["accuracy"][i] == pytest.approx(right.mean())


class Sampled(nn.Module):
    """Draws in evaluation, too, from a stream of its own."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Dense(CLASSES)(x)
        return x + 0.1 * jax.random.normal(self.make_rng("noise"), x.shape)


def test_a_linen_module_that_draws_in_evaluation_draws_the_same_each_time(data: Any) -> None:
    recipe = dj.Recipe(network=Sampled(), optimizer=sgd, batch_size=BATCH)
    result = train(data, recipe=recipe)
    inputs = take(data[0], result.test_rows[0][:BATCH])
    predict = jitted(dj.predict, recipe=recipe)
    one, again = (predict(result.state(0), inputs) for _ in range(2))
    np.testing.assert_array_equal(one, again)
    dense = nn.Dense(CLASSES)
    plain = dense.apply({"params": result.state(0).params["Dense_0"]}, inputs)
    assert 0.02 < float(jnp.std(one - plain)) < 0.3


@pytest.mark.parametrize("bad", [np.nan, np.inf, 3e38])
def test_a_row_of_weight_0_of_ones_own_batch_is_as_absent(data: Any, bad: float) -> None:
    run = dj.take_run(dj.make_runs(splits(), Numbers(), seed=5), 0)
    state = jitted(dj.init_state, recipe=RECIPE)(run, dj.Data(*data))
    step, score = (jitted(each, recipe=RECIPE) for each in (dj.train_step, dj.eval_step))
    h, key = run.hyperparameters, jax.random.key(1)
    x, y, weights = take(data[0], np.arange(4)), take(data[1], np.arange(4)), jnp.ones(4)
    expected, _ = step(state, dj.Batch(x[:3], y[:3], weights[:3]), h, key)
    batch = dj.Batch(x.at[3].set(bad), y.at[3].set(99), weights.at[3].set(0))
    stepped, sums = step(state, batch, h, key)
    same(stepped.params, expected.params)
    assert sums.weight == 3 and np.isfinite(sums.totals["loss"])
    assert np.isfinite(score(stepped, batch).totals["loss"])


class Normed(nnx.Module):
    """An nnx module with batch statistics and dropout, and no mask."""

    def __init__(self, width: int = 8, *, rngs: nnx.Rngs) -> None:
        self.first = nnx.Linear(4, width, rngs=rngs)
        self.norm = nnx.BatchNorm(width, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.last = nnx.Linear(width, CLASSES, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.last(self.dropout(nnx.relu(self.norm(self.first(x)))))


def test_an_nnx_class_with_batch_statistics_and_dropout(
    data: Any, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = dj.Recipe(network=Normed, optimizer=sgd, batch_size=BATCH)
    with caplog.at_level(logging.WARNING, "digits_jax"):
        result = train(data, recipe=recipe)
    assert 'trained on full batches only, as with remainder="dropped"' in caplog.text
    run = dj.take_run(dj.make_runs(splits(), Numbers(), seed=5), 1)
    model = Normed(rngs=nnx.Rngs(jax.random.fold_in(run.key, 0)))
    model.train()
    graph, params, random, rest = nnx.split(model, nnx.Param, nnx.RngState, ...)

    @jax.jit
    def gradient(params: Any, rest: Any, x: Any, y: Any, key: Any) -> Any:
        key = jax.random.split(key)[0]
        leaves, structure = jax.tree.flatten(random)
        fresh = [
            jax.random.fold_in(key, i) if leaf.dtype != jnp.uint32 else leaf * 0
            for i, leaf in enumerate(leaves)
        ]

        def mean(params: Any) -> Any:
            model = nnx.merge(graph, params, jax.tree.unflatten(structure, fresh), rest, copy=True)
            loss = entropy(model(x), y).mean()
            return loss, nnx.split(model, nnx.Param, nnx.RngState, ...)[3]

        return jax.grad(mean, has_aux=True)(params)

    for epoch in range(3):
        for rows, key in batches(run, epoch, full=True):
            grads, rest = gradient(params, rest, take(data[0], rows), take(data[1], rows), key)
            params = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
    state = result.state(1)
    assert int(state.step) == 3
    same(state.params, nnx.to_pure_dict(params))
    same(state.collections, nnx.to_pure_dict(rest))
    assert not np.allclose(state.collections["norm"]["mean"], 0)
    model = nnx.merge(graph, params, random, rest)
    model.eval()
    same(result.outputs[1], model(take(data[0], result.test_rows[1])), 1e-5)


def test_a_partial_gives_an_nnx_class_its_arguments(data: Any) -> None:
    recipe = dj.Recipe(network=functools.partial(Normed, width=5), optimizer=sgd)
    run = dj.take_run(dj.make_runs(splits(), Numbers()), 0)
    params = start(run, data, recipe)
    model = Normed(5, rngs=nnx.Rngs(jax.random.fold_in(run.key, 0)))
    same(params, nnx.to_pure_dict(nnx.state(model, nnx.Param)))


def test_a_pair_of_pure_functions_that_names_what_it_reads(data: Any) -> None:
    def init(key: jax.Array, x: jax.Array) -> Any:
        return {"w": 0.3 * jax.random.normal(key, (x.shape[1], CLASSES)), "b": jnp.zeros(CLASSES)}

    def apply(params: Any, x: jax.Array, h: Any) -> jax.Array:
        return h.scale * x @ params["w"] + params["b"][None]

    class Scaled(NamedTuple):
        rate: Any
        momentum: Any
        scale: Any

    h = Scaled(0.2, 0.5, [0.5, 2.0])
    recipe = dj.Recipe(network=dj.Network(init, apply), optimizer=sgd, batch_size=BATCH)
    result = train(data, h, recipe)
    runs = dj.make_runs(splits(), h, seed=5)

    def loss(params: Any, inputs: Any, targets: Any, h: Any) -> jax.Array:
        return entropy(h.scale * inputs @ params["w"] + params["b"][None], targets)

    for i in range(2):
        run = dj.take_run(runs, i)
        drawn = init(jax.random.fold_in(run.key, 0), data[0])
        params, history = loop(data, run, drawn, loss)
        same(result.state(i).params, params)
        same(result.history["loss"][i], history, 1e-5)
    same(
        dj.predict(result.state(0), data[0], dj.take_run(runs, 0).hyperparameters, recipe=recipe),
        apply(result.state(0).params, data[0], Scaled(0, 0, 0.5)),
    )


def test_what_a_module_sows_is_no_state(data: Any) -> None:
    class Sowing(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            x = nn.Dense(6, name="Dense_1")(x)
            self.sow("intermediates", "hidden", x)
            self.sow("losses", "size", jnp.mean(x**2))
            return nn.Dense(CLASSES, name="Dense_0")(nn.tanh(x))

    recipe = dj.Recipe(network=Sowing(), optimizer=sgd, batch_size=BATCH)
    result = train(data, recipe=recipe)
    assert result.states.collections == {}
    check(result, data, of_mlp, recipe=recipe)


def test_training_starts_from_given_parameters(data: Any) -> None:
    given = MLP().init(jax.random.key(9), data[0][:1])["params"]
    result = train(data, params=given)
    run = dj.take_run(dj.make_runs(splits(), Numbers(), seed=5), 1)
    params, _ = loop(data, run, given, of_mlp)
    same(result.state(1).params, params)


# --- dtypes --------------------------------------------------------------------------------------


def test_bfloat16_parameters_stay_so(data: Any) -> None:
    network = nn.Dense(CLASSES, param_dtype=jnp.bfloat16)
    for optimizer in (sgd, lambda h: optax.adam(h.rate)):
        recipe = dj.Recipe(network=network, optimizer=optimizer, batch_size=BATCH)
        result = train(data, Numbers(0.1, 0.9 if optimizer is sgd else 0.0), recipe)
        assert {str(leaf.dtype) for leaf in jax.tree.leaves(result.states.params)} == {"bfloat16"}
        assert (result.history["loss"][:, -1] < result.history["loss"][:, 0]).all()


def test_float64_where_jax_is_set_to_it() -> None:
    """In a process of its own; the loop is of NumPy."""
    code = """
import jax, numpy as np, optax, digits_jax as dj
x = np.random.default_rng(0).normal(size=(20, 3)); y = x @ [1.0, -2.0, 0.5]
network = dj.Network(lambda key, x: np.zeros(3), lambda w, x: x @ w)
recipe = dj.Recipe(network=network, loss=lambda o, t, h: (o - t) ** 2,
    optimizer=lambda h: optax.sgd(h["rate"]))
splits = dj.kfold_splits(np.arange(20) % 2, 2)
result = dj.cross_validate((x, y), dj.make_runs(splits, {"rate": 0.1}), recipe=recipe, epochs=5)
assert result.states.params.dtype == np.float64, result.states.params.dtype
for i in range(2):
    w, rows = np.zeros(3), splits.train_rows[i]
    for _ in range(5):
        w -= 0.1 * 2 * x[rows].T @ (x[rows] @ w - y[rows]) / len(rows)
    np.testing.assert_allclose(result.states.params[i], w, rtol=1e-12)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "JAX_ENABLE_X64": "1", "JAX_PLATFORMS": "cpu"},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


# --- programs ------------------------------------------------------------------------------------


def test_a_fresh_lambda_compiles_nothing_anew(data: Any) -> None:
    compiled: list[str] = []

    def note(event: str, seconds: float, **_: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    def fresh(width: int, factor: float = 1.0) -> dj.Recipe:
        factors = np.full(width, factor, np.float32)[None]
        return dj.Recipe(
            network=dj.Network(
                lambda key, x: jax.random.normal(key, (x.shape[1], width)), lambda w, x: x @ w
            ),
            loss=lambda outputs, targets, h: jnp.sum(factors * outputs**2, axis=-1) + targets,
            optimizer=lambda h: optax.sgd(h.rate),
            metrics={"first": lambda outputs, targets: outputs[:, 0]},
            batch_size=BATCH,
        )

    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        first = train(data, recipe=fresh(7))
        before = len(compiled)
        again = train(data, recipe=fresh(7))
        after = len(compiled)
        other = train(data, recipe=fresh(7, factor=2.0))
    finally:
        jax.monitoring.unregister_event_duration_listener(note)
    assert before >= 3, "initial weights, an epoch, the evaluation"
    assert after == before, "nothing was compiled for lambdas that say the same"
    assert len(compiled) > after, "a constant that a function holds is part of its program"
    assert not np.allclose(other.states.params, first.states.params)
    jax.tree.map(np.testing.assert_array_equal, again.states, first.states)


def test_programs_that_differ_in_what_they_do_not_read_are_not_mixed_up(data: Any) -> None:
    """Initial weights depend on neither targets nor splits; the program of them is given both."""
    first = train(data)
    soft = train((data[0], np.eye(CLASSES, dtype=np.float32)[data[1]]))
    same(soft.states.params, first.states.params)
    longer = dj.stack_splits(splits(), dj.refit_split(data[1]))
    runs = dj.make_runs(index_runs(longer, [0, 2]), Numbers(), seed=5)
    assert np.isfinite(train(data, runs=runs).history["loss"]).all()


# --- refusals ------------------------------------------------------------------------------------


def _outputs(count: int) -> dj.Recipe:
    return dj.Recipe(network=MLP(count), optimizer=sgd, batch_size=BATCH)


def _loss(loss: Callable[..., Any], **options: Any) -> dj.Recipe:
    return dj.Recipe(network=MLP(1), loss=loss, optimizer=sgd, batch_size=BATCH, **options)


class Listed(nn.Module):
    """Its field can't be hashed if it is a list."""

    widths: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(self.widths[0])(x)


X = np.random.default_rng(0).normal(size=(ROWS, 4)).astype(np.float32)
Y = np.arange(ROWS) % CLASSES
F = Y.astype(np.float32)
ONES = np.ones(ROWS, np.float32)
TEN = np.arange(ROWS) % 10


def _with(values: np.ndarray, value: float) -> np.ndarray:
    changed = values.copy()
    changed[7] = value
    return changed


def _centred(outputs: jax.Array, targets: jax.Array, h: Any) -> jax.Array:
    losses = (outputs[:, 0] - targets) ** 2
    return losses - losses.mean()


REFUSED: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "a loss that gives a scalar": (
        lambda: train((X, F), recipe=_loss(lambda o, t, h: jnp.mean((o[:, 0] - t) ** 2))),
        ValueError,
        r"loss gives \[\] for a trial batch of 6 rows, and must give \[6\]: give each row's value, "
        "not their mean",
    ),
    "a loss that gives a column": (
        lambda: train((X, F), recipe=_loss(lambda o, t, h: (o - t[:, None]) ** 2)),
        ValueError,
        r"loss gives \[6, 1\] for a trial batch of 6 rows, .*: take its last axis away",
    ),
    "a loss that gives a square": (
        lambda: train((X, F), recipe=_loss(lambda o, t, h: (o - t[None]) ** 2)),
        ValueError,
        r"loss gives \[6, 6\] for a trial batch of 6 rows",
    ),
    "a loss that gives a mean of a square": (
        lambda: train((X, F), recipe=_loss(lambda o, t, h: ((o - t[None]) ** 2).mean(axis=1))),
        ValueError,
        "loss mixes rows: a change of one row changed the value of another",
    ),
    "a loss that centres": (
        lambda: train((X, F), recipe=_loss(_centred)),
        ValueError,
        'loss mixes rows: .* let the function take mask, or set remainder="dropped"',
    ),
    "a metric that gives a scalar": (
        lambda: train((X, F), recipe=_loss(squared, metrics={"m": lambda o, t: jnp.mean(o)})),
        ValueError,
        r"metrics\['m'\] gives \[\] for a trial batch of 6 rows",
    ),
    "a loss without h": (
        lambda: _loss(lambda o, t: (o[:, 0] - t) ** 2),
        TypeError,
        r"^loss must take \(outputs, targets, h\), not \(o, t\)$",
    ),
    "a metric with h": (
        lambda: _loss(squared, metrics={"mae": lambda o, t, h: jnp.abs(o[:, 0] - t)}),
        TypeError,
        r"^metrics\['mae'\] must take \(outputs, targets\), not \(o, t, h\)$",
    ),
    "an optimizer without h": (
        lambda: dj.Recipe(optimizer=lambda: optax.sgd(0.1)),
        TypeError,
        r"^optimizer must take \(h\) or \(h, steps\), not \(\)$",
    ),
    "an augmentation without h": (
        lambda: _augmented(lambda key, x, y: (x, y)),
        TypeError,
        r"^augment must take \(key, inputs, targets, h\), not \(key, x, y\)$",
    ),
    "the default loss on numbers": (
        lambda: train((X, F), recipe=_outputs(CLASSES)),
        TypeError,
        "targets .B. must be integers .*; for numbers give loss=dj.squared_error$",
    ),
    "a loss that needs h": (
        lambda: train((X, F), recipe=_loss(lambda o, t, h: h.rate * (o[:, 0] - t) ** 2)),
        TypeError,
        "scores call the loss with h=None, for its value without regularisation",
    ),
    "an augmentation that mixes rows": (
        lambda: train((X, Y), recipe=_augmented(lambda key, x, y, h: (x + x.mean(), y))),
        ValueError,
        "augment mixes rows",
    ),
    "an augmentation that gives inputs alone": (
        lambda: train((X, Y), recipe=_augmented(lambda key, x, y, h: x)),
        TypeError,
        r"augment\(key, inputs, targets, h\) must give \(inputs, targets\)",
    ),
    "nine logits for ten classes": (
        lambda: train((X, TEN), recipe=_outputs(9)),
        ValueError,
        "labels 0 to 9, but the network gives 9 logits, for the labels 0 to 8",
    ),
    "nine logits in a loss of one's own": (
        lambda: train((X, TEN), recipe=_own_entropy(9)),
        ValueError,
        "labels 0 to 9, but the network gives 9 logits",
    ),
    "nine logits in a loss of one's own on full batches": (
        lambda: train((X, TEN), recipe=_own_entropy(9, remainder="dropped")),
        ValueError,
        "labels 0 to 9, but the network gives 9 logits",
    ),
    "one logit": (
        lambda: train((X, Y), recipe=_outputs(1)),
        ValueError,
        "the network gives one logit, .* give it two outputs, or take a loss for one",
    ),
    "a hyperparameter that nothing reads": (
        lambda: train((X, Y), _Misspelt(0.1, 0.0, [0.1, 0.2])),
        ValueError,
        "the hyperparameter weight_decya varies between the runs, but nothing in the recipe reads",
    ),
    "a leaf of another length": (
        lambda: train((X, Y), Numbers(momentum=np.zeros(3))),
        ValueError,
        r"momentum must be a number or have shape \(2, \.\.\.\), .* for all runs is shared\(v\)",
    ),
    "an optax object": (
        lambda: dj.Recipe(optimizer=optax.adam(1e-3)),  # type: ignore[arg-type]
        TypeError,
        "optimizer is an optax transformation; give a function of the hyperparameters that makes",
    ),
    "an nnx instance": (
        lambda: dj.Recipe(network=Normed(rngs=nnx.Rngs(0))),
        TypeError,
        "network is an instance of the nnx.Module Normed; give the class, network=Normed",
    ),
    "a field that is a list": (
        lambda: dj.Recipe(network=Listed([3])),
        TypeError,
        "network: the field widths of Listed is a list; give a tuple",
    ),
    "a weight that is not a number": (
        lambda: train((X, Y, _with(ONES, np.nan))),
        ValueError,
        r"weights must be \[N\], finite and at least 0",
    ),
    "a negative weight": (
        lambda: train((X, Y, _with(ONES, -1))),
        ValueError,
        r"weights must be \[N\], finite and at least 0; they are \[50\], -1.0 to 1.0",
    ),
    "complex inputs": (
        lambda: train((X * 1j, Y)),
        TypeError,
        "inputs is complex; give its real and imaginary parts as channels",
    ),
    "masked inputs": (
        lambda: train((np.ma.masked_less(X, 0), Y)),
        TypeError,
        "inputs is a masked array; fill in its values, or give these rows weight 0",
    ),
    "integers that overflow": (
        lambda: train((np.full((ROWS, 4), 2**40), Y)),
        ValueError,
        "inputs hold integers .* which do not fit int32",
    ),
    "floats that overflow": (
        lambda: train((_with(X.astype(np.float64), 1e300), Y)),
        ValueError,
        "inputs must be within float32; row 7 is not, the first of 1",
    ),
    "inputs that are not finite": (
        lambda: train((_with(X, np.inf), Y)),
        ValueError,
        "inputs must be finite; row 7 is not, the first of 1",
    ),
    "a leaf of the inputs that is not finite": (
        lambda: train(({"a": X, "b": _with(X, np.nan)}, Y)),
        ValueError,
        r"inputs\.b must be finite; row 7 is not",
    ),
    "labels that are booleans": (
        lambda: train((X, Y > 0)),
        TypeError,
        r"targets \[B\] must be integers 0 to 2, not bool",
    ),
    "labels that are words": (
        lambda: train((X, np.array(["a", "b"])[Y % 2])),
        TypeError,
        r"targets must be numbers, not <U1; np.unique\(labels, return_inverse=True\) gives",
    ),
    "labels that are objects": (
        lambda: train((X, np.array([None, 1], object)[Y % 2])),
        TypeError,
        "targets must be numbers, not object",
    ),
    "fewer rows than a full batch": (
        lambda: train((X, Y), runs=_ten_and_fifty(), recipe=_full_batches()),
        ValueError,
        "run 0 trains on 10 rows, fewer than a batch of 16, .*: give a smaller batch_size",
    ),
    "fewer rows than a full batch, in the only run": (
        lambda: train((X, Y), runs=dj.take_runs(_ten_and_fifty(), [0]), recipe=_full_batches()),
        ValueError,
        "run 0 trains on 10 rows, fewer than a batch of 16, .*: give a smaller batch_size",
    ),
    "a monitor without direction": (
        lambda: dj.Recipe(monitor="accuracy"),
        ValueError,
        r'monitor="accuracy" does not say which way is better; give \("accuracy", "max"\)',
    ),
    "a metric named loss": (
        lambda: dj.Recipe(metrics={"loss": dj.accuracy}),
        ValueError,
        'metrics: the name "loss" is taken',
    ),
    "states of another number of runs": (
        lambda: train((X, Y), states=_three_states()),
        ValueError,
        r"states must be those of these 2 runs, every leaf \[2, \.\.\.\]",
    ),
}


class _Misspelt(NamedTuple):
    rate: Any
    momentum: Any
    weight_decya: Any


def _augmented(augment: Callable[..., Any]) -> dj.Recipe:
    return dj.Recipe(network=MLP(), optimizer=sgd, batch_size=BATCH, augment=augment)


def _own_entropy(count: int, **options: Any) -> dj.Recipe:
    def loss(outputs: jax.Array, targets: jax.Array, h: Any) -> jax.Array:
        return 2 * dj.cross_entropy(outputs, targets, h)

    return dj.Recipe(network=MLP(count), loss=loss, optimizer=sgd, batch_size=BATCH, **options)


def _full_batches() -> dj.Recipe:
    return dj.Recipe(network=MLP(), optimizer=sgd, batch_size=BATCH, remainder="dropped")


def _ten_and_fifty() -> dj.Run:
    """Runs of ten training rows and of fifty."""
    unequal = dj.stack_splits(dj.holdout_split(Y, test_size=0.8), dj.refit_split(Y))
    return dj.make_runs(unequal, Numbers())


def _three_states() -> dj.TrainState:
    init = functools.partial(dj.init_state, data=dj.Data(X, Y), recipe=RECIPE)
    state = jax.jit(init)(dj.take_run(dj.make_runs(splits(), Numbers()), 0))
    return jax.tree.map(lambda leaf: np.stack([leaf] * 3), state)  # type: ignore[no-any-return]


@pytest.mark.parametrize("what", REFUSED)
def test_what_would_train_to_something_wrong_is_refused_in_a_line(what: str) -> None:
    call, kind, message = REFUSED[what]
    with pytest.raises(kind, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_mixing_rows_is_allowed_where_it_is_meant() -> None:
    """On full batches, or by a function that knows which rows are padding."""

    def masked(outputs: jax.Array, targets: jax.Array, h: Any, mask: jax.Array) -> jax.Array:
        losses = (outputs[:, 0] - targets) ** 2
        return losses - 0.5 * jnp.sum(losses * mask) / jnp.sum(mask)

    train((X, F), recipe=_loss(_centred, remainder="dropped"), epochs=1)
    result = train((X, F), recipe=_loss(masked))

    def loss(params: Any, inputs: Any, targets: Any, h: Any) -> jax.Array:
        outputs = MLP(1).apply({"params": params}, inputs)
        return masked(outputs, targets, h, jnp.ones(len(targets), bool))

    run = dj.take_run(dj.make_runs(splits(), Numbers(), seed=5), 0)
    params, _ = loop((X, F), run, start(run, (X, F), _loss(masked)), loss)
    same(result.state(0).params, params)

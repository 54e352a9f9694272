"""Which changes of a recipe a checkpoint goes on with, and which it refuses, in which words."""

from __future__ import annotations

import functools
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import digits_jax as dj
from digits_jax.losses import cross_entropy
from digits_jax.runs.digests import digest_of_jaxpr, digest_of_stablehlo
from digits_jax.runs.identity import describe, describe_program
from digits_jax.runs.preparation import prepare
from digits_jax.runs.refusals import refuse_other_training
from digits_jax.storage.checkpoints import Checkpoints
from digits_jax.storage.errors import CheckpointError
from digits_jax.structures import Data

DATA = Data(
    np.random.default_rng(0).normal(size=(24, 5)).astype(np.float32),
    (np.arange(24) % 3).astype(np.int32),
)
RUNS = dj.make_runs(dj.kfold_splits(DATA.targets, 2), {"rate": 0.1})
SCALE = 1.0  # of the losses below


def init(key: jax.Array, inputs: jax.Array) -> jax.Array:
    return jax.random.normal(key, (inputs.shape[1], 3)) / 4


def apply(params: jax.Array, inputs: jax.Array, train: bool, key: Any) -> jax.Array:
    if train:
        inputs = jnp.where(jax.random.uniform(key, inputs.shape) < 0.9, inputs, 0)
    return inputs @ params


def helper(losses: jax.Array) -> jax.Array:
    return losses * SCALE


def loss(outputs: jax.Array, targets: jax.Array, h: Any) -> jax.Array:
    return helper(cross_entropy(outputs, targets, h))


def scaled(outputs: jax.Array, targets: jax.Array, h: Any, *, by: Any) -> jax.Array:
    return cross_entropy(outputs, targets, h) * by


def of_source(source: str) -> Callable[..., Any]:
    """A function ``f`` that a notebook's cell, or ``exec``, defines."""
    names: dict[str, Any] = {"cross_entropy": cross_entropy, "jnp": jnp, "jax": jax}
    exec(source, names)
    return names["f"]  # type: ignore[no-any-return]


def recipe(**changes: Any) -> dj.Recipe:
    options: dict[str, Any] = {
        "network": dj.Network(init, apply),
        "loss": loss,
        "metrics": {"margin": lambda outputs, targets: outputs.max(axis=1) - outputs.min(axis=1)},
        "optimizer": lambda h: optax.sgd(h["rate"], momentum=0.9),
        "batch_size": 8,
    }
    return dj.Recipe(**options | changes)


def train(folder: Path | None = None, runs: Any = RUNS, **options: Any) -> dj.CrossValidation:
    options = {"recipe": recipe(), "epochs": 1, "devices": jax.devices()[:1], **options}
    return dj.cross_validate(DATA, runs, checkpoints=folder, **options)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoints of one epoch."""
    folder = tmp_path_factory.mktemp("identity") / "saved"
    train(folder)
    return folder


@pytest.fixture(scope="module")
def whole() -> dj.CrossValidation:
    """Two epochs without interruption."""
    return train(epochs=2)


@pytest.fixture
def going_on(saved: Path, tmp_path: Path) -> Path:
    shutil.copytree(saved, tmp_path / "saved")
    return tmp_path / "saved"


def refused(folder: Path, **options: Any) -> str:
    """What a training that is refused says."""
    before = sorted(str(path) for path in folder.rglob("*"))
    with pytest.raises(CheckpointError) as caught:
        train(folder, resume=True, **{"epochs": 2, **options})
    message = str(caught.value)
    assert len(message) <= 300 and "\n" not in message
    assert sorted(str(path) for path in folder.rglob("*")) == before, "it is as it was"
    return message


# --- what goes on --------------------------------------------------------------------------------

F = "def f(outputs, targets, h):\n    "
SAME: dict[str, Callable[[], dict[str, Any]]] = {
    "a fresh lambda": lambda: {"optimizer": lambda h: optax.sgd(h["rate"], momentum=0.9)},
    "a cell run again": lambda: {
        "loss": of_source("# edited\n\n" + F + "return cross_entropy(outputs, targets, h) * 1.0")
    },
    "a partial": lambda: {"loss": functools.partial(scaled, by=SCALE)},
    "a closure": lambda: {"loss": lambda o, t, h, by=SCALE: scaled(o, t, h, by=by)},
    "a method": lambda: {"network": dj.Network(init=lambda *a: init(*a), apply=apply)},
    "more devices": lambda: {"devices": jax.devices()[:2]},
}


@pytest.mark.parametrize("name", SAME)
def test_the_same_arithmetic_goes_on(going_on: Path, whole: Any, name: str) -> None:
    options = SAME[name]()
    given = {key: options.pop(key) for key in ("devices", "epochs") if key in options}
    again = train(going_on, resume=True, recipe=recipe(**options), **{"epochs": 2, **given})
    jax.tree.map(np.testing.assert_array_equal, again.states, whole.states)
    assert again.history["loss"].shape == (2, 2)


SCRIPT = """
import sys, pathlib
import jax
jax.config.update("jax_num_cpu_devices", 2)
sys.path.insert(0, {tests!r})
import test_identity as t
t.apply.__qualname__ = t.apply.__name__ = "renamed"
again = t.recipe(loss=lambda *a: t.loss(*a))
t.train(pathlib.Path({folder!r}), resume=True, epochs=2, recipe=again)
"""


@pytest.mark.slow
def test_another_process_goes_on(going_on: Path) -> None:
    """Of another seed of hashes, without assertions, with other names of functions."""
    script = SCRIPT.format(tests=os.fspath(Path(__file__).parent), folder=os.fspath(going_on))
    done = subprocess.run(
        [sys.executable, "-O", "-c", script],
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert sorted(path.name for path in going_on.iterdir() if path.is_dir()) == ["1", "2"]


# --- what is refused -----------------------------------------------------------------------------


def _with_rule(factor: float) -> Callable[..., Any]:
    """A loss with a gradient rule of its own, whose value does not depend on the factor."""

    @jax.custom_vjp
    def same(x: jax.Array) -> jax.Array:
        return x * 1.0

    same.defvjp(lambda x: (x * 1.0, None), lambda _, ct: (ct * factor,))
    return lambda outputs, targets, h: same(cross_entropy(outputs, targets, h))


def noisier(params: jax.Array, inputs: jax.Array, train: bool, key: Any) -> jax.Array:
    if train:
        inputs = jnp.where(jax.random.uniform(key, inputs.shape) < 0.8, inputs, 0)
    return inputs @ params


OTHER: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "the sign of the loss": (
        lambda: {"loss": of_source(F + "return -cross_entropy(outputs, targets, h)")},
        "started with another loss (recipe.loss loss, now f)",
    ),
    "a constant of the loss": (
        lambda: {"loss": functools.partial(scaled, by=np.float32(1.5))},
        "started with another loss (recipe.loss loss, now partial)",
    ),
    "an initializer": (
        lambda: {"network": dj.Network(lambda k, x: init(k, x) * 2, apply)},
        "started with another network",
    ),
    "a rate of dropout": (
        lambda: {"network": dj.Network(init, noisier)},
        "started with another network in training",
    ),
    "a momentum": (
        lambda: {"optimizer": lambda h: optax.sgd(h["rate"], momentum=0.8)},
        "started with another optimizer",
    ),
    "a metric": (
        lambda: {"metrics": {"margin": lambda outputs, targets: outputs.max(axis=1)}},
        "started with another metric margin",
    ),
    "a new part": (
        lambda: {"augment": lambda key, x, y, h: (x + 1, y)},
        "started with another augment (recipe.augment none, now ",
    ),
    "the batch": (lambda: {"batch_size": 4}, "started with recipe.batch_size 8, now 4"),
    "the precision": (
        lambda: {"precision": "highest"},
        "started with another network (recipe.precision none, now highest)",
    ),
}


@pytest.mark.parametrize("name", OTHER)
def test_other_arithmetic_is_refused_by_the_name_of_the_part(saved: Path, name: str) -> None:
    change, message = OTHER[name]
    said = refused(saved, recipe=recipe(**change()))
    assert message in said and "choose another folder" in said


def test_a_helper_that_changed_is_refused(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "helper", lambda losses: losses**2)
    assert "another loss, whose program differs" in refused(saved)


def test_a_global_constant_that_changed_is_refused_and_trained_as_it_is(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """JAX itself would not see it: what it traced of a function, it keeps."""
    same = recipe()  # its lambdas made anew would be another recipe, of which nothing is kept
    train(tmp_path / "old", recipe=same)
    monkeypatch.setattr(sys.modules[__name__], "SCALE", 3.0)
    assert "another loss, whose program differs" in refused(saved)
    new = train(tmp_path / "new", recipe=same)
    expected = train(recipe=recipe(loss=functools.partial(scaled, by=3.0)))
    jax.tree.map(np.testing.assert_array_equal, new.states, expected.states)


def test_a_gradient_rule_that_changed_is_refused(tmp_path: Path) -> None:
    train(tmp_path, recipe=recipe(loss=_with_rule(1.0)))
    said = refused(tmp_path, recipe=recipe(loss=_with_rule(-1.0)))
    assert "started with another training step (the gradient rule of a part" in said


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            lambda: jax.threefry_partitionable(not jax.config.jax_threefry_partitionable),
            "another network (jax_threefry_partitionable true, now false)",
        ),
        (
            lambda: jax.default_matmul_precision("highest"),
            "another network (jax_default_matmul_precision none, now highest)",
        ),
        (lambda: jax.enable_x64(True), "another network (jax_enable_x64 false, now true)"),
    ],
)
def test_another_setting_of_jax_is_refused_by_name(
    saved: Path, setting: Callable[[], Any], message: str
) -> None:
    with setting():
        assert message in refused(saved)


@pytest.mark.parametrize(("module", "name"), [(jax, "JAX"), (flax, "Flax"), (optax, "optax")])
def test_another_version_is_refused_but_can_be_read(
    saved: Path, monkeypatch: pytest.MonkeyPatch, module: Any, name: str
) -> None:
    old = module.__version__
    monkeypatch.setattr(module, "__version__", "0.0.1")
    assert f"started with {name} {old}, now 0.0.1" in refused(saved)
    assert dj.load_states(saved, recipe=recipe()).states.step.tolist() == [2, 2]


def test_other_runs_are_refused(saved: Path) -> None:
    alone = dj.take_runs(RUNS, [0])
    assert "started with number of runs 2, now 1" in refused(saved, runs=alone)
    faster = dj.make_runs(RUNS.split, {"rate": [0.1, 0.2]})
    assert "hyperparameters.rate 0.10000000149011612 of run 2, now 0.2" in refused(
        saved, runs=faster
    )
    assert "other random keys" in refused(
        saved, runs=dj.make_runs(RUNS.split, {"rate": 0.1}, seed=1)
    )


def test_options_are_named_first_and_refuse_nothing_themselves(tmp_path: Path) -> None:
    train(tmp_path, about={"--repeats": 2, "--batch-size": 8})
    said = refused(tmp_path, recipe=recipe(batch_size=4), about={"--repeats": 2, "--batch-size": 4})
    assert "is of another training: started with --batch-size 8, now 4; " in said
    train(tmp_path, resume=True, about={"--repeats": 1})


def test_a_long_path_is_cut_at_its_beginning(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 40) / "saved"
    train(folder)
    said = refused(folder, identity={"a name that is long" * 20: "a value that is long" * 20})
    assert said.startswith("…") and "long/saved/1 is of another training" in said


# --- epochs --------------------------------------------------------------------------------------


def test_fewer_epochs_are_refused_and_more_go_on(going_on: Path, whole: Any) -> None:
    train(going_on, resume=True, epochs=2)
    said = refused(going_on, epochs=1)
    assert "was trained for 2 epochs already, more than the 1 asked for; give at least 2" in said
    train(going_on, resume=True, epochs=2)


def test_a_schedule_over_all_steps_is_refused_with_other_epochs(tmp_path: Path) -> None:
    def cosine(h: Any, steps: Any) -> optax.GradientTransformation:
        return optax.sgd(optax.cosine_decay_schedule(0.1, steps))

    own = recipe(optimizer=cosine)
    runs = RUNS._replace(hyperparameters={})
    train(tmp_path, runs, recipe=own, epochs=2)
    for epochs in (1, 3):
        said = refused(tmp_path, runs=runs, recipe=own, epochs=epochs)
        assert f"started for 4 steps, now {2 * epochs}: the optimizer's schedule depends on" in said
    train(tmp_path, runs, recipe=own, epochs=2, resume=True)


def test_epochs_of_a_call_that_do_not_divide_what_is_left_are_refused(going_on: Path) -> None:
    with pytest.raises(ValueError, match=r"epochs_per_call=2 must divide the 3 epochs .* left"):
        train(going_on, resume=True, epochs=4, epochs_per_call=2)
    train(going_on, resume=True, epochs=4, epochs_per_call=1)
    again = train(going_on, resume=True, epochs=8, epochs_per_call=2)
    assert again.history["loss"].shape == (2, 8)


# --- callbacks and old checkpoints ---------------------------------------------------------------


def test_a_recipe_that_calls_python_says_so_and_is_not_resumed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def printed(outputs: jax.Array, targets: jax.Array, h: Any) -> jax.Array:
        jax.debug.callback(lambda x: None, outputs)
        return cross_entropy(outputs, targets, h)

    with caplog.at_level(logging.WARNING, "digits_jax"):
        train(tmp_path, recipe=recipe(loss=printed), resume=True)  # there is nothing to resume
    why = "the loss calls Python while it runs (debug_callback)"
    assert f"{why}: this training can't be resumed" in caplog.text
    said = refused(tmp_path, recipe=recipe(loss=printed))
    assert why in said
    assert dj.load_states(tmp_path, recipe=recipe()).states.step.tolist() == [2, 2]


def test_an_earlier_checkpoint_is_refused_in_one_line(saved: Path, tmp_path: Path) -> None:
    with Checkpoints(saved, {}, read_only=True) as before:
        identity = {k: v for k, v in before.saved_identity().items() if k != "program"}
    states = dj.load_states(saved, recipe=recipe()).states
    tree = {"states": states, "history": {"loss": np.zeros((2, 1), np.float32)}}
    with Checkpoints(tmp_path, identity) as earlier:
        earlier.save(1, tree)
    message = "was written by an earlier digits_jax, which kept no digest of the program"
    assert message in refused(tmp_path)
    with pytest.raises(CheckpointError, match=message):
        dj.load_states(tmp_path, recipe=recipe())


# --- reading -------------------------------------------------------------------------------------


def test_reading_compares_what_predicts_alone(saved: Path) -> None:
    for harmless in (
        {"loss": of_source(F + "return -cross_entropy(outputs, targets, h)")},
        {"network": dj.Network(init, noisier), "batch_size": 4, "lowering": "none"},
    ):
        own = recipe(**harmless)
        assert dj.load_states(saved, recipe=own).recipe == own
    for name, other in {
        "network": {"network": dj.Network(init, lambda p, x: x @ p * 2)},
        "views": {"views": lambda x: jnp.stack([x, x + 1])},
    }.items():
        with pytest.raises(CheckpointError, match=f"the {name} of the one given computes"):
            dj.load_states(saved, recipe=recipe(**other))
    with pytest.raises(CheckpointError, match="of no recipe by name .*notebook, strong.*recipe="):
        dj.load_states(saved)


def identity_of(own: dj.Recipe, h: Any = None, data: Data = DATA) -> dict[str, Any]:
    """The identity of a training, without training."""
    runs = dj.make_runs(dj.kfold_splits(data.targets, 2), h)
    prepared, state = prepare(data, runs, own, 1)
    device = jax.devices()[0]
    return {
        **describe(data, runs, own),
        **describe_program(data, prepared, own, state, device=device),
    }


def test_a_recipe_of_the_same_shapes_is_not_taken_for_one_by_name() -> None:
    digits = Data(np.zeros((24, 8, 8), np.uint8), DATA.targets)
    named = identity_of(dj.Recipe(batch_size=7), data=digits)
    assert dj.trained_recipe(named) == dj.Recipe()
    network = dj.NetworkWithHyperparameters(dj.DigitsCNN(conv_activation=nn.gelu))
    with pytest.raises(CheckpointError, match="give the one that was trained, recipe="):
        dj.trained_recipe(identity_of(dj.Recipe(network=network), data=digits))


def test_lowering_changes_the_platforms_program_alone() -> None:
    class Small(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            return nn.Conv(3, (3, 3))(x.astype(jnp.float32)[..., None]).mean((1, 2))

    images = Data(np.zeros((24, 6, 6), np.uint8), DATA.targets)
    lowered, plain = (
        identity_of(dj.Recipe(network=Small(), lowering=lowering), data=images)
        for lowering in ("auto", "none")
    )
    assert lowered["program"]["jaxpr"] == plain["program"]["jaxpr"]
    message = r"started with another network \(recipe.lowering auto, now none\)"
    with pytest.raises(CheckpointError, match=message):
        refuse_other_training("saved", lowered, plain)
    with pytest.raises(CheckpointError, match="started with platform gpu, now cpu"):
        refuse_other_training("saved", {**lowered, "platform": "gpu"}, lowered)


# --- digests -------------------------------------------------------------------------------------


def _jaxpr(function: Callable[..., Any]) -> str:
    return digest_of_jaxpr(jax.make_jaxpr(function)(jnp.ones(3)))


def test_constants_inside_of_inner_programs_count() -> None:
    def of(inner: Any) -> list[str]:
        return [
            _jaxpr(lambda x: jax.jit(lambda x: x + inner)(x)),
            _jaxpr(lambda x: jax.lax.scan(lambda c, _: (c + inner, None), x, length=2)[0]),
            _jaxpr(lambda x: jax.lax.cond(x[0] > 0, lambda x: x + inner, lambda x: x, x)),
            _jaxpr(lambda x: jax.vmap(lambda y: y + inner)(x[None])),
            _jaxpr(lambda x: jax.nn.relu(x + inner)),
        ]

    one, again, other = of(np.ones(3)), of(jnp.ones(3) * 1), of(np.array([1, 1, 2.0]))
    assert one == again
    assert not {*one} & {*other}
    assert len({*one}) == 5


def test_names_do_not_count_and_literals_do() -> None:
    @jax.jit
    def one(x: jax.Array) -> jax.Array:
        return x * 2

    @jax.jit
    def two(y: jax.Array) -> jax.Array:
        return y * 2

    assert _jaxpr(lambda x: one(x)) == _jaxpr(lambda y: two(y))
    assert _jaxpr(lambda x: x * 0.0) != _jaxpr(lambda x: x * -0.0)
    assert _jaxpr(lambda x: x * 1) == _jaxpr(lambda x: x * 1.0)
    shared = jnp.arange(3.0)
    copies = jnp.arange(3.0), jnp.arange(3.0)
    assert _jaxpr(lambda x: x + shared + shared) == _jaxpr(lambda x: x + copies[0] + copies[1])


def test_stablehlo_without_names_of_functions() -> None:
    def text(name: str, factor: float, size: int = 3) -> str:
        def helper(x: jax.Array) -> jax.Array:
            return x * factor + jnp.asarray(np.arange(size) % 7, jnp.float32)

        helper.__name__ = helper.__qualname__ = name
        outer = jax.jit(lambda x: jax.jit(helper)(x) + jnp.sin(x))
        return str(outer.lower(jnp.ones(size)).as_text())

    assert text("one", 2) != text("two", 2)
    assert digest_of_stablehlo(text("one", 2)) == digest_of_stablehlo(text("two", 2))
    assert digest_of_stablehlo(text("one", 2)) != digest_of_stablehlo(text("one", 3))
    long = [np.arange(100_000) % 7, np.arange(100_000) % 7]
    long[1][50_000] += 1  # a long constant is not printed in an abridged form
    digests = [
        digest_of_stablehlo(jax.jit(lambda x, c=c: x + c.astype(np.float32)).lower(1.0).as_text())
        for c in long
    ]
    assert digests[0] != digests[1]


# --- more runs -----------------------------------------------------------------------------------


def equal(found: Any, expected: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.slow
def test_more_repeats_go_on_beside_those_that_are_saved(tmp_path: Path) -> None:
    """With a refit, whose draws don't depend on how many repeats there are."""

    def runs(repeats: int) -> dj.Run:
        folds = dj.kfold_splits(DATA.targets, 2, repeats=repeats)
        splits = dj.stack_splits(folds, dj.refit_split(DATA.targets))
        return dj.make_runs(splits, {"rate": 0.1}, members=2)

    train(tmp_path, runs(1), names=[f"run of one, {i}" for i in range(6)])
    seen = []
    found = train(
        tmp_path,
        runs(2),
        resume=True,
        epochs=2,
        names=[f"run of two, {i}" for i in range(10)],
        on_epoch=lambda progress: seen.append(progress.history["loss"][:, -1]),
    )
    expected = train(runs=runs(2), epochs=2)
    for name in ("states", "history", "scores", "outputs", "test_rows", "votes", "epochs"):
        equal(getattr(found, name), getattr(expected, name))
    assert len(seen) == 3, "an epoch of those that were saved, two of the new"
    assert sorted(np.isnan(losses).sum() for losses in seen) == [4, 6, 6]
    read = dj.load_states(tmp_path, recipe=recipe())
    assert [name[:10] for name in read.names] == ["run of two"] * 6 + ["run of two"] * 4
    order = [int(name.split()[-1]) for name in read.names]
    equal(read.states.params, expected.states.params[np.array(order)])
    train(tmp_path, runs(3), resume=True, epochs=2)
    again = train(tmp_path, runs(3), resume=True, epochs=2)
    equal(again.states, train(runs=runs(3), epochs=2).states)
    assert "holds runs that are not asked for now" in refused(tmp_path, runs=runs(2))


def test_more_values_of_a_grid_go_on(tmp_path: Path) -> None:
    def runs(*rates: float) -> dj.Run:
        return dj.make_runs(RUNS.split, configurations={"rate": list(rates)})

    train(tmp_path, runs(0.1, 0.3))
    trained = train(tmp_path, runs(0.1, 0.2, 0.3), resume=True)
    expected = train(runs=runs(0.1, 0.2, 0.3))
    equal(trained.states, expected.states)
    assert (
        trained.runs.hyperparameters["rate"].tolist()
        == expected.runs.hyperparameters["rate"].tolist()
    )


def test_what_nothing_reads_is_refused_among_added_runs_too(tmp_path: Path) -> None:
    def runs(*values: float) -> dj.Run:
        return dj.make_runs(RUNS.split, configurations={"rate": 0.1, "ratee": list(values)})

    train(tmp_path, runs(1.0))
    with pytest.raises(ValueError, match="the hyperparameter ratee varies between the runs"):
        train(tmp_path, runs(1.0, 2.0), resume=True)


def test_more_runs_of_another_program_are_refused(saved: Path) -> None:
    more = dj.make_runs(dj.kfold_splits(DATA.targets, 2, repeats=2), {"rate": 0.1})
    said = refused(saved, runs=more, recipe=recipe(batch_size=4))
    assert "started with recipe.batch_size 8, now 4" in said


def test_names_are_one_for_each_run() -> None:
    with pytest.raises(ValueError, match="names must be 2, one for each run, not 1"):
        train(names=["alone"])

"""All that the tools of this folder call of digits_jax: where it changes, only this file does.

Shapes: R runs, N rows, P parameters.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

import digits_jax as dj
from digits_jax import recipe as recipes
from digits_jax.networks import linen_module
from digits_jax.parallel.mesh import default_vmap_size, place, replicated, runs_sharding
from digits_jax.runs import programs
from digits_jax.runs.axis import pad_runs
from digits_jax.runs.checks import check_data
from digits_jax.runs.compiling import Compiling
from digits_jax.runs.lifted import lifted_programs
from digits_jax.runs.preparation import prepare, runs_take_all_steps
from digits_jax.runs.programs import compile_programs
from digits_jax.splits import index_runs

ROOT = Path(__file__).resolve().parents[2]
RECIPES: Sequence[str] = dj.RECIPES

# ------------------------------------------------------------------------------------------- jobs


class Job(NamedTuple):
    """R runs of a recipe, on the same five folds again and again.

    Attributes:
        inputs: images uint8 [N, 8, 8].
        targets: labels int32 [N].
        runs: leaves [R, ...].
        recipe: the static part.
        epochs: the recipe's own.
    """

    inputs: np.ndarray
    targets: np.ndarray
    runs: Any
    recipe: Any
    epochs: int


def data_source() -> str:
    """All 5620 rows, found as the tests find them; else those that come with scikit-learn."""
    file = Path(os.environ.get("DIGITS_JAX_DATA", ROOT.parent / "shared/data/optdigits.csv"))
    return os.fspath(file) if file.is_file() else "bundled"


def make_job(
    recipe: str,
    runs: int,
    *,
    data: str | None = None,
    rows: int | None = None,
    seed: int = 0,
    batch_size: int | None = None,
) -> Job:
    """R runs of a recipe.

    Args:
        recipe: its name.
        runs: R.
        data: what ``load_digits`` takes. Default: see ``data_source``.
        rows: only so many, the first ones. Default: all.
        seed: of the runs' keys; the folds are the same for all.
        batch_size: rows of a step. Default: the recipe's.
    """
    digits = dj.load_digits(data or data_source())
    images, labels = digits.images[:rows], digits.labels[:rows].astype(np.int32)
    folds = dj.kfold_splits(labels, folds=5)
    splits = index_runs(folds, np.arange(runs) % 5)
    named = dj.recipe_by_name(recipe, batch_size=batch_size)
    made = dj.make_runs(splits, named.hyperparameters, seed=seed)
    made, _ = prepare(check_data((images, labels)), made, named.recipe, named.epochs)
    return Job(images, labels, made, named.recipe, named.epochs)


def make_image_job(network: str, size: int, channels: int, runs: int) -> Job:
    """R runs of a network of ``experiments/peers``, on 5000 random images [S, S, C] float32."""
    from own_networks_flax import NETWORKS  # on the path of gpu_check.sh alone

    random = np.random.default_rng(0)
    images = random.random((5000, size, size, channels), np.float32)
    labels = random.integers(0, 10, 5000).astype(np.int32)
    splits = index_runs(dj.kfold_splits(labels, folds=5), np.arange(runs) % 5)
    recipe = dj.Recipe(network=NETWORKS[network](), remainder="dropped")
    made, _ = prepare(check_data((images, labels)), dj.make_runs(splits), recipe, 1)
    return Job(images, labels, made, recipe, 1)


class OwnNetwork(nn.Module):
    """A user's: Flax's own layers, with batch statistics and dropout."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, mask: jax.Array | None) -> jax.Array:
        """[B, H, W] to logits [B, 10]."""
        x = nn.Conv(8, (3, 3))(x[..., None] / 16)
        rows = None if mask is None else mask.reshape(-1, 1, 1, 1)
        x = nn.BatchNorm(use_running_average=not train)(x, mask=rows)
        x = nn.max_pool(nn.relu(x), (2, 2), (2, 2)).reshape(len(x), -1)
        return nn.Dense(10)(nn.Dropout(0.2, deterministic=not train)(x))


def with_an_own_network(job: Job) -> Job:
    """The same job, with a network and an optimizer that are not the library's."""

    def optimizer(h: Any) -> optax.GradientTransformation:
        rate = h.learning_rate
        return optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(rate, momentum=0.9))

    recipe = dj.Recipe(network=OwnNetwork(), optimizer=optimizer)
    made, _ = prepare(check_data((job.inputs, job.targets)), job.runs, recipe, job.epochs)
    return job._replace(recipe=recipe, runs=made)


def with_a_small_network(job: Job) -> Job:
    """The same job, quick to compile."""
    network = linen_module(job.recipe.network).clone(conv_features=(2,), dense_features=(4,))
    return job._replace(recipe=dataclasses.replace(job.recipe, network=network))


def train_rows(job: Job) -> list[np.ndarray]:
    """The rows that train each run, without padding: R arrays."""
    split = job.runs.split
    pairs = zip(np.asarray(split.train_rows), np.asarray(split.train_weights), strict=True)
    return [rows[weights > 0] for rows, weights in pairs]


def training_flops(job: Job) -> int | None:
    """Of one image, forward and backward: three times the layer table's; None without a table."""
    network = linen_module(job.recipe.network)
    if not isinstance(network, dj.DigitsCNN):
        return None
    return 3 * sum(layer.flops for layer in dj.layer_table(network))


# ---------------------------------------------------------------------------------------- programs


class Program(NamedTuple):
    """A function of the whole runs axis, and what it is compiled for.

    Attributes:
        function: pure.
        arguments: shapes, dtypes and shardings.
        donated: the positions of the arguments that it consumes.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    donated: tuple[int, ...] = ()

    def jitted(self) -> Any:
        """What ``lower`` and ``jax.export`` take."""
        return jax.jit(self.function, donate_argnums=self.donated)


class Plan(NamedTuple):
    """Where a job's runs go, and the three programs that ``cross_validate`` compiles for them.

    Attributes:
        programs: ``init``, ``train`` (the epochs of a call) and ``evaluate``, by name.
        mesh: of the devices that get runs.
        vmap_size: runs that a device advances side by side; None for all.
        runs_per_device: padding included.
    """

    programs: dict[str, Program]
    mesh: Mesh
    vmap_size: int | None
    runs_per_device: int


def plan(
    job: Job,
    devices: Sequence[Any] | None = None,
    *,
    vmap_size: int | None = None,
    epochs_per_call: int = 1,
    platform: str | None = None,
) -> Plan:
    """The programs, neither traced nor compiled; the devices may exist as a description alone.

    ``platform`` is that which they are for, by default that of the devices.
    """
    mesh, vmap_size, runs = _placing(job, devices, vmap_size)
    init, train, evaluate = lifted_programs(
        job.recipe,
        mesh=mesh,
        vmap_size=vmap_size,
        epochs_per_call=epochs_per_call,
        platform=platform,
        all_steps=runs_take_all_steps(runs, dj.Data(job.inputs, job.targets), job.recipe, mesh),
    )
    runs = _described(runs, runs_sharding(mesh))
    data = _described(dj.Data(job.inputs, job.targets), replicated(mesh))
    states = _described(jax.eval_shape(init, runs, data, None), runs_sharding(mesh))
    programs = {
        "init": Program(init, (runs, data, None)),
        "train": Program(train, (states, runs, data), donated=(0,)),
        "evaluate": Program(evaluate, (states, runs, data)),
    }
    return Plan(programs, mesh, vmap_size, len(runs.key) // mesh.size)


class Compiled(NamedTuple):
    """The programs as ``cross_validate`` compiles them, with their arguments on the devices.

    Attributes:
        init: ``init(runs, data, None)`` gives states.
        train: ``train(states, runs, data)`` gives states and the history of a call.
        evaluate: ``evaluate(states, runs, data)`` gives sums and logits.
        executable: of ``train``, as XLA has compiled it.
        arguments: runs and data.
        vmap_size: runs that a device advances side by side; None for all.
        seconds: to place the arguments and to compile.
    """

    init: Any
    train: Any
    evaluate: Any
    executable: Any
    arguments: tuple[Any, Any]
    vmap_size: int | None
    seconds: float


def compile_job(job: Job, *, vmap_size: int | None = None, epochs_per_call: int = 1) -> Compiled:
    """Compiles for all devices of this machine, by the project's own function."""
    began = time.perf_counter()
    mesh, vmap_size, runs = _placing(job, None, vmap_size)
    placed = place(runs, runs_sharding(mesh))
    data = place(dj.Data(job.inputs, job.targets), replicated(mesh))
    made = compile_programs(
        placed,
        data,
        recipe=job.recipe,
        mesh=mesh,
        vmap_size=vmap_size,
        epochs_per_call=epochs_per_call,
    )
    made.wait()
    if made.groups is not None:
        executable, vmap_size = made.groups.program(), made.groups.size
    else:
        executable = cast(Compiling, made.train).executable()
    seconds = time.perf_counter() - began
    return Compiled(
        made.init, made.train, made.evaluate, executable, (placed, data), vmap_size, seconds
    )


def losses_of(history: Any) -> np.ndarray:
    """The training losses of a call's history, [R, epochs]; waits for them."""
    return np.asarray(history["loss"])


def _placing(job: Job, devices: Any, vmap_size: int | None) -> tuple[Mesh, int | None, Any]:
    mesh = dj.runs_mesh(len(job.runs.key), devices)
    runs = job.runs._replace(split=job.runs.split._replace(kind=None))
    return mesh, vmap_size or default_vmap_size(mesh), pad_runs(runs, mesh.size)


def _described(tree: Any, sharding: Any) -> Any:
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
    )


# ------------------------------------------------------------------------------- training, results


class Scores(NamedTuple):
    """What training whole recipes gave, all float64.

    Attributes:
        accuracy: [R], of the test rows.
        loss: [R], of the test rows, nats.
        last_loss: [R], of the training rows in the last epoch, nats.
        seconds: by part.
    """

    accuracy: np.ndarray
    loss: np.ndarray
    last_loss: np.ndarray
    seconds: dict[str, float]


def cross_validate(job: Job, *, epochs: int, epochs_per_call: int = 1) -> Scores:
    """Trains and evaluates the job's runs."""
    result = dj.cross_validate(
        (job.inputs, job.targets),
        job.runs,
        recipe=job.recipe,
        epochs=epochs,
        epochs_per_call=epochs_per_call,
    )
    last = np.asarray(result.history["loss"][:, -1], np.float64)
    return Scores(result.scores["accuracy"], result.scores["loss"], last, result.seconds)


def train_alone(job: Job, device: Any, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """The job's first run, trained on a device with the first 128 rows as each step's batch.

    Returns:
        The losses [steps], and the weights after them, all in one array [P].
    """
    with jax.default_device(device):
        run = jax.tree.map(lambda leaf: jax.device_put(leaf, device), dj.take_run(job.runs, 0))
        images, labels = (jax.device_put(each[:128], device) for each in (job.inputs, job.targets))
        init = functools.partial(dj.init_state, recipe=job.recipe)
        step = jax.jit(functools.partial(dj.train_step, recipe=job.recipe))
        state, losses = jax.jit(init)(run, dj.Data(images, labels)), []
        batch = dj.Batch(images, labels, jnp.ones(128))
        for i in range(steps):
            key = jax.random.fold_in(run.key, i)
            state, sums = step(state, batch, run.hyperparameters, key, steps=run.steps)
            losses.append(float(sums.means()["loss"]))
        weights = [np.asarray(leaf).ravel() for leaf in jax.tree.leaves(state.params)]
    return np.array(losses), np.concatenate(weights)


# ----------------------------------------------------------------------- the script and its folder


def script(*options: str, data: str) -> list[str]:
    """The command line of the project's own cross-validation, from the project's root."""
    program = "experiments/cross_validate.py"
    return [sys.executable, program, "--data", data, "--quiet", *options]


def predict_again(folder: Path, data: str) -> tuple[np.ndarray, np.ndarray]:
    """Logits of fold 1's test rows: by its newest checkpoint on this device, and as saved.

    Args:
        folder: of the script's output.
        data: its ``--data``.
    """
    saved_states = dj.load_states(folder / "checkpoints")
    predict = functools.partial(dj.predict, recipe=saved_states.recipe)
    first, h = saved_states.run(0)
    with np.load(folder / "predictions.npz") as saved:
        rows, logits = saved["rows"][0], saved["logits"][0]
    real = rows >= 0
    again = np.asarray(jax.jit(predict)(first, dj.load_digits(data).images, h))
    return again[rows[real]], logits[real]


# --------------------------------------------------------------------------------- for variants.py


def use_forms(platform: str) -> None:
    """Brings every network into the forms of a platform, wherever it runs; "none": its own."""
    library: Any = recipes
    library.lower = lambda function, **_: dj.lower(function, platform=platform)
    programs.forget_programs()  # what was compiled in other forms
    jax.clear_caches()

"""Many runs at once: the functions of ``train.py`` under ``vmap``, on a leading runs axis R.

Folds, repeats, seeds and grids of hyperparameters are all just more entries on that axis. Only
this file and ``devices.py`` know that it exists.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import inspect
import json
import math
import operator
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, cast

import jax
import numpy as np
import numpy.typing as npt
from jax.sharding import Mesh

from digits_jax import devices as _devices
from digits_jax import presets, train, turns
from digits_jax.splits import Split, check_stacked
from digits_jax.train import Examples, Experiment, History, Hyperparameters, Run, Sums, TrainState

# Upper ends of hyperparameters that have one; all are 0 or more.
_BELOW = {"beta_1": 1, "beta_2": 1, "label_smoothing": 1, "dropout_rate": 1, "average_decay": 1}


class Progress(NamedTuple):
    """What ``cross_validate`` tells after each call of the compiled program.

    Attributes:
        epoch: epochs done.
        epochs: epochs to do in all.
        history: float32 [R, epoch], on the host.
    """

    epoch: int
    epochs: int
    history: History


class CrossValidation(NamedTuple):
    """The result of ``cross_validate``: NumPy arrays on the host, a leading axis R of runs.

    In a job of several processes each has all of it but the states. They stay on the devices,
    sharded over the processes: every leaf is a ``jax.Array`` [R + padding, ...].

    Attributes:
        states: every leaf [R, ...].
        history: float32 [R, E].
        loss: float64 [R], mean over the test rows, nats; NaN for a run without any.
        accuracy: float64 [R], share of the test rows; NaN for a run without any.
        test_rows: int32 [R, S], row numbers; -1 is padding.
        logits: float32 [R, S, K], of the test rows.
        seconds: compile, train (with checkpoints), evaluate.
    """

    states: TrainState
    history: History
    loss: npt.NDArray[np.float64]
    accuracy: npt.NDArray[np.float64]
    test_rows: npt.NDArray[np.int32]
    logits: npt.NDArray[np.float32]
    seconds: dict[str, float]

    @property
    def diverged(self) -> np.ndarray:
        """The epoch, from 1, since which each run's training has failed: int32 [R]; 0 for none.

        Failed is an epoch whose mean training loss is not finite, or above ``10 log(K)`` nats: ten
        times what an equal guess of all K classes costs (for losses other than cross-entropy that
        bound may mean nothing). A run that comes back below it is sound. So large a learning rate
        may leave all numbers finite: behind sigmoids nothing overflows. Logits that are not finite
        after the last epoch count for that epoch.
        """
        loss, epochs = self.history.loss, self.history.loss.shape[1]
        failed = ~(loss <= 10 * math.log(max(self.logits.shape[2], 2)))  # NaN fails, too
        failed[:, -1] |= ~np.isfinite(self.logits).all(axis=(1, 2))
        to_the_end = np.logical_and.accumulate(failed[:, ::-1], axis=1).sum(axis=1)
        return np.where(to_the_end, epochs + 1 - to_the_end, 0).astype(np.int32)


class Interrupted(Exception):
    """``on_epoch`` asked to stop; all that was trained is in the checkpoint, if there is one."""

    def __init__(self, epoch: int, epochs: int) -> None:
        super().__init__(f"stopped after {epoch} of {epochs} epochs")
        self.epoch = epoch


def make_runs(
    splits: Split, *, hyperparameters: Hyperparameters | None = None, seed: int = 0
) -> Run:
    """Stacked runs: one for each stacked split.

    Args:
        splits: leading axis R.
        hyperparameters: each number a scalar, for all runs, or an array [R], one for each.
            Default: ``Hyperparameters()``.
        seed: run r draws from ``fold_in(key(seed), r)``, whatever R is.

    Returns:
        A ``Run`` whose leaves are [R, ...].

    Raises:
        TypeError: `splits` is no Split, or `seed` no integer.
        ValueError: the splits are not stacked, a number has another length than R or is out of
            its range, or the seed is not 0 to 2**32 - 1.
    """
    check_stacked(splits)
    runs = len(splits.train_rows)
    if not 0 <= operator.index(seed) < 2**32:
        raise ValueError(f"seed must be 0 to 2**32 - 1, not {seed}")

    def spread(name: str, value: Any) -> Any:
        if value is None:
            return None
        value = np.asarray(value, np.float64)
        if value.shape not in ((), (runs,)):
            raise ValueError(f"{name} must be a number or have shape ({runs},), not {value.shape}")
        if not ((value >= 0) & (value < _BELOW.get(name, np.finfo(np.float32).max))).all():
            least = f"at least 0 and below {_BELOW[name]}" if name in _BELOW else "finite and >= 0"
            raise ValueError(f"{name} must be {least}, not {value}")
        return np.array(np.broadcast_to(value, (runs,)), np.float32)

    if hyperparameters is None:
        hyperparameters = Hyperparameters()
    numbers = {name: spread(name, value) for name, value in hyperparameters._asdict().items()}
    keys = _keys(*jax.device_put((np.uint32(seed), np.arange(runs, dtype=np.uint32))))
    return Run(splits, Hyperparameters(**numbers), keys)


@jax.jit
def _keys(seed: jax.Array, numbers: jax.Array) -> jax.Array:
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), numbers)


def cross_validate(
    data: Examples,
    runs: Run,
    *,
    experiment: Experiment | None = None,
    epochs: int = 100,
    states: TrainState | None = None,
    devices: Sequence[jax.Device] | None = None,
    at_once: int | None = None,
    epochs_per_call: int = 1,
    checkpoints: str | os.PathLike[str] | None = None,
    checkpoint_every: int | None = None,
    identity: Mapping[str, Any] | None = None,
    resume: bool = False,
    on_epoch: Callable[[Progress], bool | None] | None = None,
) -> CrossValidation:
    """Trains all runs at once and evaluates each on its own test rows.

    One program is compiled, whatever the number of runs, folds or epochs; R is sharded over the
    devices. Where the devices don't divide R, the last device gets runs that train nothing; CPU
    cores, which would wait for each other, take the runs in turns (see ``turns.py``).

    In a job of several processes (see ``devices.initialize_distributed``) each calls this with the
    same arguments and trains the runs on its own devices. They meet after each call of the
    program, to tell the history and whether to stop, and to save to a folder that all can reach.

    Args:
        data: images [N, H, W] or [N, H, W, C] and labels int [N].
        runs: see ``make_runs``.
        experiment: network, optimizer, loss, augmentation, views, batch size. Default: the
            notebook's.
        epochs: passes over the training rows, at least 1.
        states: of these runs after earlier epochs, [R, ...], to go on from; the history is that of
            the new epochs alone. Default: the initial weights that the keys draw.
        devices: default: all of ``jax.devices()``, those of all processes.
        at_once: runs that a device advances side by side; default: all, but one on a CPU (see
            ``devices.lanes_at_once``). The results are the same to float tolerance.
        epochs_per_call: epochs between two looks of Python at the runs; must divide ``epochs`` and
            ``checkpoint_every``.
        checkpoints: a folder, or None to save nothing.
        checkpoint_every: epochs between two checkpoints; default: a tenth of ``epochs``. The last
            epoch is always saved.
        identity: names and JSON values that a checkpoint must share to be resumed, beside what
            this function sees for itself (data, splits, numbers, keys, experiment).
        resume: go on from the newest checkpoint, if there is one, to the very numbers that an
            uninterrupted run gives on the same devices.
        on_epoch: called after each call of the program; True stops, after saving. Where it is
            True in one process, all stop.

    Returns:
        Scores, logits, history and states of all runs, and the seconds that each part took.

    Raises:
        TypeError: an argument is of another type than said.
        ValueError: an argument is out of range, or a split names a row that the data lack.
        CheckpointError: the checkpoints to resume are damaged or of another experiment, the folder
            holds some and ``resume`` is False, or they can't be written.
        FolderInUse: another process writes to the folder of the checkpoints.
        Interrupted: ``on_epoch`` asked to stop.
        ProcessLost: another process of the job ended.
        ProcessesDiffer: the processes of the job were given different arguments.

    Examples:
        >>> from digits_jax import kfold_splits, load_digits
        >>> digits = load_digits("bundled")
        >>> runs = make_runs(kfold_splits(digits.labels, folds=3))
        >>> data = Examples(digits.images, digits.labels)
        >>> result = cross_validate(data, runs, epochs=2)
        >>> result.accuracy.shape, result.history.loss.shape, result.logits.shape
        ((3,), (3, 2), (3, 599, 10))
    """
    experiment = Experiment() if experiment is None else experiment
    data = _checked(data, runs, experiment)
    _check_counts(epochs=epochs, checkpoint_every=checkpoint_every, epochs_per_call=epochs_per_call)
    _check_counts(at_once=at_once)
    every = checkpoint_every or max(1, epochs // (10 * epochs_per_call)) * epochs_per_call
    steps = epochs * -(-np.shape(runs.split.train_rows)[1] // experiment.batch_size)
    if steps >= 2**31:
        raise ValueError(f"{epochs} epochs make {steps} steps; an int32 counts to 2**31 - 1")
    if states is not None and checkpoints is not None:
        raise ValueError(
            "states and checkpoints exclude each other: a checkpoint starts at epoch 0"
        )
    if epochs % epochs_per_call or every % epochs_per_call:
        raise ValueError(
            f"epochs_per_call={epochs_per_call} must divide epochs={epochs} and "
            f"checkpoint_every={every}"
        )
    count = runs.key.shape[0]
    mesh = _devices.runs_mesh(count, devices)
    at_once = _devices.lanes_at_once(mesh) if at_once is None else at_once
    in_turns = _takes_turns(count, devices, at_once)
    if in_turns:
        mesh = _devices.runs_mesh(len(devices or jax.devices()), devices)

    described = {**describe(data, runs, experiment), **(identity or {})}
    if mesh.is_multi_process:
        _agree(described)
    elif checkpoints is not None and jax.process_count() > 1:
        raise ValueError("in a job of several processes, checkpoints need devices of all of them")
    with _open(checkpoints, described) as saved:
        resume = _resumes(saved, resume)  # or refuses, before anything is compiled

        started = time.perf_counter()
        shard, replicate = _devices.runs_sharding(mesh), _devices.replicated(mesh)
        placed = _devices.place(_padded(runs, mesh.size), shard)
        placed_data = _devices.place(data, replicate)
        program = _compile(
            placed,
            placed_data,
            experiment=experiment,
            mesh=mesh,
            at_once=at_once,
            epochs_per_call=epochs_per_call,
            in_turns=in_turns,
        )
        compiled = time.perf_counter()

        epoch, history = 0, _history(*(np.zeros((count, 0), np.float32) for _ in History._fields))
        if resume:
            one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), program.states)
            epoch, restored = saved.newest(
                lambda epoch: (epoch, saved.restore(_saved_like(one, count, epoch), epoch, shard))
            )
            states, history = restored["states"], _host(restored["history"], mesh, count)
        elif states is not None:
            states = _devices.place(_padded(states, mesh.size), shard)
        else:
            states = program.init(placed, placed_data)
        calls = (epochs - epoch) // epochs_per_call
        if in_turns:
            advance = _in_turns(program, states, runs, placed_data, mesh, calls)
        else:
            advance = _side_by_side(program, states, placed, placed_data, mesh, count, calls)
        for now, new in advance:
            epoch += epochs_per_call
            history = jax.tree.map(
                lambda old, part: np.concatenate([old, part], axis=1), history, new
            )
            stop = on_epoch is not None and bool(on_epoch(Progress(epoch, epochs, history)))
            if mesh.is_multi_process:
                stop = bool(_devices.gather_values(np.asarray(stop)).any())
            if saved is not None and (stop or epoch % every == 0 or epoch == epochs):
                kept = _devices.place(_padded(history, mesh.size), shard)
                saved.save(epoch, {"states": now(), "history": kept}, runs=count)
            if stop and epoch < epochs:
                raise Interrupted(epoch, epochs)
            if epoch == epochs:
                states = now()
    trained = time.perf_counter()

    sums, logits = _host(program.evaluate(states, placed, placed_data), mesh, count)
    rows = sums.rows.astype(np.float64)
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN for a run without test rows, as documented
        loss, accuracy = sums.loss / rows, sums.correct / rows
    return CrossValidation(
        states=states if mesh.is_multi_process else _host(states, mesh, count),
        history=history,
        loss=loss,
        accuracy=accuracy,
        test_rows=np.where(np.asarray(runs.split.test_weights) > 0, runs.split.test_rows, -1),
        logits=logits,
        seconds={
            "compile": compiled - started,
            "train": trained - compiled,
            "evaluate": time.perf_counter() - trained,
        },
    )


def load_states(
    folder: str | os.PathLike[str], *, experiment: Experiment | None = None
) -> tuple[TrainState, dict[str, Any]]:
    """The newest checkpoint that ``cross_validate`` wrote, to predict with.

    Args:
        folder: its ``checkpoints``.
        experiment: with the network that was trained. Default: see ``trained_experiment``.

    Returns:
        The states, every leaf a NumPy array [R, ...], and the identity of what was trained. Run i
        predicts with ``predict(jax.tree.map(lambda leaf: leaf[i], states), images,
        experiment=...)``.

    Raises:
        CheckpointError: there is none, it can't be read, or it is of another network.
    """
    from digits_jax.checkpoint import CheckpointError, Checkpoints

    if not os.path.isdir(folder):
        raise CheckpointError(f"no folder of checkpoints at {os.fspath(folder)}")

    def read(epoch: int) -> tuple[TrainState, dict[str, Any]]:
        identity, shapes = saved.saved_identity(epoch), saved.shapes(epoch)
        if "history/loss" not in shapes or "image_shape" not in identity:
            raise CheckpointError(f"the checkpoints in {saved.folder} are not cross_validate's")
        count, epochs = json.loads(shapes["history/loss"].removeprefix("float32"))
        dtype = np.dtype(identity.get("image_dtype", "uint8"))
        image: Any = jax.ShapeDtypeStruct((1, *identity["image_shape"]), dtype)
        no_split: Any = ()
        given = [n for n in Hyperparameters._fields if identity.get(f"hyperparameters.{n}")]
        numbers = Hyperparameters()._replace(**dict.fromkeys(given, 0.0))
        run = jax.eval_shape(lambda: Run(no_split, numbers, jax.random.key(0)))
        trained = trained_experiment(identity) if experiment is None else experiment
        init = functools.partial(train.init_state, experiment=trained)
        one = jax.eval_shape(init, run, Examples(image, 0))
        return saved.restore(_saved_like(one, count, epochs), epoch)["states"], identity

    with Checkpoints(folder, {}, read_only=True) as saved:
        return saved.newest(read)


def trained_experiment(identity: Mapping[str, Any]) -> Experiment:
    """The experiment of the preset whose network and optimizer an identity tells of.

    ``predict`` needs it. It is the notebook's where no preset fits.
    """
    for name in presets.PRESETS:
        experiment = presets.preset(name, train_rows=1).experiment
        described = {
            **_flat(experiment.network, "network"),
            **_flat(experiment.optimizer, "optimizer"),
        }
        if all(identity.get(f"experiment.{key}") == value for key, value in described.items()):
            return experiment
    return Experiment()


def _saved_like(one: TrainState, count: int, epochs: int) -> dict[str, Any]:
    """Shapes and dtypes of what is saved, from those of one run's state."""
    history = jax.ShapeDtypeStruct((count, epochs), np.float32)
    states = jax.tree.map(lambda x: jax.ShapeDtypeStruct((count, *x.shape), x.dtype), one)
    return {"states": states, "history": _history(history, history)}


def describe(data: Examples, runs: Run, experiment: Experiment) -> dict[str, Any]:
    """What is trained on what, as flat names and JSON values: the identity of its checkpoints."""
    described = {f"experiment.{name}": value for name, value in _flat(experiment).items()}
    for name, value in runs.hyperparameters._asdict().items():
        described[f"hyperparameters.{name}"] = None if value is None else np.asarray(value).tolist()
    described["image_shape"] = list(np.shape(data.images)[1:])
    described["image_dtype"] = str(np.asarray(data.images).dtype)
    keys = np.asarray(jax.random.key_data(runs.key))
    for name, arrays in {"data": data, "splits": runs.split, "keys": [keys]}.items():
        digest = hashlib.sha256()
        for array in map(np.ascontiguousarray, arrays):
            digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
        described[f"{name}.sha256"] = digest.hexdigest()
    return described


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """Fields of dataclasses, by dotted name; functions by where they are defined."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        described = {name or "type": type(value).__qualname__}
        for field in dataclasses.fields(value):
            if field.name not in ("parent", "name"):  # a Flax module's place, not its configuration
                inner = f"{name}.{field.name}" if name else field.name
                described |= _flat(getattr(value, field.name), inner)
        return described
    if isinstance(value, str | int | float | bool | None):
        return {name: value}
    return {name: _text(value)}


def _text(value: Any, within: tuple[int, ...] = ()) -> str:
    """A value in words that every process finds for an equal one: no address in memory.

    A function is told by where it is defined, and by what it is bound to or has closed over.
    """
    if id(value) in within:  # a function that calls itself
        return "..."
    text = functools.partial(_text, within=(*within, id(value)))

    def named(values: Mapping[str, Any]) -> str:
        return ", ".join(f"{name}={text(each)}" for name, each in values.items())

    if isinstance(value, functools.partial):
        bound = ", ".join([*map(text, value.args), named(value.keywords)])
        return f"{text(value.func)}({bound})"
    if isinstance(value, list | tuple):
        return f"({', '.join(map(text, value))})"
    if isinstance(value, np.ndarray | jax.Array) and isinstance(value.dtype, np.dtype):
        return f"{value.dtype}{list(value.shape)} {hashlib.sha256(bytes(value)).hexdigest()}"
    if callable(value) and hasattr(value, "__qualname__"):
        inner = inspect.getclosurevars(value).nonlocals if inspect.isfunction(value) else {}
        return f"{value.__module__}.{value.__qualname__}" + (f"[{named(inner)}]" if inner else "")
    if callable(value):
        return f"{type(value).__qualname__}({named(getattr(value, '__dict__', {}))})"
    return re.sub(" at 0x[0-9a-f]+", "", repr(value))


def _agree(described: Mapping[str, Any]) -> None:
    """Raises ProcessesDiffer unless all processes of the job were given the same to train."""
    hashes = ("data.sha256", "splits.sha256", "keys.sha256")
    configuration = {name: value for name, value in described.items() if name not in hashes}
    texts = [*(described[name] for name in hashes), json.dumps(configuration, sort_keys=True)]
    digests = [hashlib.sha256(text.encode()).digest() for text in texts]
    told = _devices.gather_values(np.array([list(digest) for digest in digests], np.uint8))
    for i, name in enumerate(("data", "splits", "keys", "configuration")):
        if (told[:, i] != told[0, i]).any():
            raise _devices.ProcessesDiffer(
                f"the processes of the job have different {name}; start all with the same "
                "arguments and data"
            )


@contextlib.contextmanager
def _open(folder: str | os.PathLike[str] | None, described: dict[str, Any]) -> Iterator[Any]:
    """The folder's ``Checkpoints``, or None; orbax is imported only where it is needed."""
    if folder is None:
        yield None
        return
    from digits_jax.checkpoint import Checkpoints

    with Checkpoints(folder, described) as checkpoints:
        yield checkpoints


def _resumes(saved: Any, resume: bool) -> bool:
    """Whether there is a checkpoint to go on from; one that is in the way is refused."""
    if saved is None or saved.latest is None:
        return False
    if not resume:
        from digits_jax.checkpoint import CheckpointError

        raise CheckpointError(
            f"{saved.folder} holds checkpoints of epoch {saved.latest} already; resume, or choose "
            "another folder"
        )
    saved.check_identity()
    return True


def _check_counts(**counts: int | None) -> None:
    for name, value in counts.items():
        if value is None:
            continue
        try:
            value = operator.index(value)
        except TypeError:
            raise TypeError(f"{name} must be an integer, not {value!r}") from None
        if value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")


def _checked(data: Examples, runs: Run, experiment: Experiment) -> Examples:
    """The data as host arrays that fit together and hold every row that the splits name."""
    if not isinstance(runs, Run) or not isinstance(experiment, Experiment):
        raise TypeError("runs must be a Run, as of make_runs, and experiment an Experiment")
    check_stacked(runs.split)
    for name, leaf in {**runs.hyperparameters._asdict(), "key": runs.key}.items():
        if leaf is not None and np.shape(leaf) != runs.split.train_rows.shape[:1]:
            raise ValueError(
                f"{name} must be [R], R = {len(runs.split.train_rows)} as in the splits, not "
                f"{list(np.shape(leaf))}"
            )
    images, labels = np.asarray(data.images), np.asarray(data.labels)
    if (
        images.ndim not in (3, 4)
        or labels.shape != images.shape[:1]
        or labels.dtype.kind not in "iu"
        or images.dtype.kind in "OSUMm"
        or not len(labels)
    ):
        raise ValueError(
            "data must be images [N, H, W] or [N, H, W, C] and integer labels [N], not "
            f"{images.dtype}{list(images.shape)} and {labels.dtype}{list(labels.shape)}"
        )
    if images.dtype.kind in "fc":
        bad = np.flatnonzero(~np.isfinite(images).all(axis=tuple(range(1, images.ndim))))
        if bad.size:
            raise ValueError(
                f"images must be finite; row {bad[0]} is not, the first of {bad.size}: leave these "
                "rows out, or fill in their pixels"
            )
    classes = getattr(experiment.network, "classes", np.inf)
    if not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(
            f"labels must be 0 to the network's classes - 1, {classes - 1}; they are "
            f"{labels.min()} to {labels.max()}"
        )
    for name in ("train_rows", "test_rows"):
        rows = np.asarray(getattr(runs.split, name))
        if rows.size and not 0 <= rows.min() <= rows.max() < len(labels):
            raise ValueError(
                f"{name} names rows {rows.min()} to {rows.max()}, but the data have rows 0 to "
                f"{len(labels) - 1}"
            )
    return Examples(images, labels.astype(np.int32))


def _padded(tree: Any, multiple: int) -> Any:
    """Leaves [R, ...] filled up to a multiple of R with copies of the last run."""
    count = jax.tree.leaves(tree)[0].shape[0]
    missing = -count % multiple
    if not missing:
        return tree
    index = np.minimum(np.arange(count + missing), count - 1)
    padded = jax.tree.map(lambda leaf: _taken(leaf, index), tree)
    if isinstance(padded, Run):  # a padding run has no rows, so that it trains nothing
        real = (np.arange(count + missing) < count)[:, None]
        split = padded.split
        padded = padded._replace(
            split=split._replace(
                train_weights=np.where(real, split.train_weights, 0).astype(np.float32),
                test_weights=np.where(real, split.test_weights, 0).astype(np.float32),
            )
        )
    return padded


def _taken(leaf: Any, index: np.ndarray) -> Any:
    """Entries of the runs axis; keys are on a device: they are moved, but not unasked."""
    if not jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return leaf[index]
    words = jax.device_get(jax.random.key_data(leaf))[index]
    return jax.random.wrap_key_data(jax.device_put(words), impl=jax.random.key_impl(leaf))


def _history(loss: Any, accuracy: Any) -> History:
    """A history of host arrays: JAX's and NumPy's arrays have no type in common."""
    return History(loss, accuracy)


def _host(tree: Any, mesh: Mesh, count: int) -> Any:
    """The first ``count`` runs as NumPy arrays, in each process."""
    return jax.tree.map(lambda leaf: leaf[:count], _devices.gather(tree, mesh))


def _takes_turns(count: int, devices: Sequence[jax.Device] | None, at_once: int | None) -> bool:
    """Whether the runs are dealt to the devices in turns: to CPU cores that would idle else."""
    devices = jax.devices() if devices is None else devices
    return (
        at_once == 1
        and devices[0].platform == "cpu"
        and jax.process_count() == 1
        and not _devices.debugging()
        and turns.pay(count, len(devices))
    )


def _side_by_side(
    program: _Program,
    states: TrainState,
    runs: Run,
    data: Examples,
    mesh: Mesh,
    count: int,
    calls: int,
) -> Iterator[tuple[Callable[[], TrainState], History]]:
    """After each call: how to get the states, until the next one, and the call's history.

    ``states``, ``runs`` and ``data`` lie on the devices, padded; ``count`` runs are real.
    """
    for _ in range(calls):
        states, new = program.train(states, runs, data)
        yield (lambda now=states: now), _host(new, mesh, count)  # type: ignore[misc]


def _in_turns(
    program: _Program, states: TrainState, runs: Run, data: Examples, mesh: Mesh, calls: int
) -> Iterator[tuple[Callable[[], TrainState], History]]:
    """As ``_side_by_side``, but each device trains whichever run is due; ``runs`` are as given."""
    count, shard = len(runs.key), _devices.runs_sharding(mesh)
    with_a_blank = _padded(runs, count + 1)

    def place(tree: Any) -> Any:
        return _devices.place(tree, shard)

    @functools.cache
    def dealt(turn: tuple[int, ...]) -> Run:
        of_turn = jax.tree.map(lambda leaf: _taken(leaf, np.array(turn)), with_a_blank)
        return cast(Run, place(of_turn))

    def train(states: TrainState, turn: tuple[int, ...]) -> tuple[TrainState, History]:
        return program.train(states, dealt(turn), data)

    first = _host(states, mesh, count)
    for states_of, new in turns.train_in_turns(train, first, mesh=mesh, calls=calls):
        yield functools.partial(lambda get: place(_padded(get(), mesh.size)), states_of), new


class _Program(NamedTuple):
    """The compiled programs of an experiment, of the whole runs axis."""

    init: Callable[..., TrainState]  # (runs, data)
    # (states, runs, data); it consumes the states, but for runs in turns, of one lane a device
    train: Callable[..., tuple[TrainState, History]]
    evaluate: Callable[..., tuple[Sums, jax.Array]]  # (states, runs, data)
    states: TrainState  # shapes and dtypes, with the runs axis


def _compile(
    runs: Run,
    data: Examples,
    *,
    experiment: Experiment,
    mesh: Mesh,
    at_once: int | None,
    epochs_per_call: int,
    in_turns: bool = False,
) -> _Program:
    """The programs for arrays like these; compiled once for each shape and configuration."""
    leaves, structure = jax.tree.flatten((runs, data))
    arrays = tuple((leaf.shape, leaf.dtype, leaf.sharding) for leaf in leaves)
    make = _compile_for.__wrapped__ if _devices.debugging() else _compile_for
    return make(arrays, structure, experiment, mesh, at_once, epochs_per_call, in_turns)


@functools.lru_cache(maxsize=16)
def _compile_for(
    arrays: tuple[Any, ...],
    structure: Any,
    experiment: Experiment,
    mesh: Mesh,
    at_once: int | None,
    epochs_per_call: int,
    in_turns: bool,
) -> _Program:
    leaves = [jax.ShapeDtypeStruct(shape, dtype, sharding=s) for shape, dtype, s in arrays]
    runs, data = jax.tree.unflatten(structure, leaves)
    lift = functools.partial(_devices.over_runs, mesh=mesh, at_once=at_once)

    def init(runs: Run, data: Examples) -> TrainState:
        lifted = lift(functools.partial(train.init_state, experiment=experiment))
        return cast(TrainState, lifted(runs, data))

    def train_(states: TrainState, runs: Run, data: Examples) -> tuple[TrainState, History]:
        one = functools.partial(train.train_epochs, experiment=experiment, epochs=epochs_per_call)
        lifted = lift(lambda lane, data: one(lane[0], lane[1], data))
        return cast(tuple[TrainState, History], lifted((states, runs), data))

    def evaluate(states: TrainState, runs: Run, data: Examples) -> tuple[Sums, jax.Array]:
        one = functools.partial(train.evaluate, experiment=experiment)
        lifted = lift(lambda lane, data: one(lane[0], lane[1], data))
        return cast(tuple[Sums, jax.Array], lifted((states, runs), data))

    sharding = _devices.runs_sharding(mesh)

    def lanes(tree: Any, lanes: int | None = None) -> Any:
        """The same arrays with another number of lanes, sharded."""
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(
                (lanes or leaf.shape[0], *leaf.shape[1:]), leaf.dtype, sharding=sharding
            ),
            tree,
        )

    if _devices.debugging():  # programs compiled ahead of time don't take part
        states = lanes(jax.eval_shape(init, runs, data))
        return _Program(jax.jit(init), jax.jit(train_), jax.jit(evaluate), states)
    traced_init = jax.jit(init).trace(runs, data)
    states = lanes(traced_init.out_info)
    if in_turns:
        turn = jax.jit(train_).lower(lanes(states, mesh.size), lanes(runs, mesh.size), data)
    else:
        turn = jax.jit(train_, donate_argnums=0).lower(states, runs, data)
    pool = ThreadPoolExecutor(2)  # XLA compiles outside Python's lock
    compiled_train = pool.submit(turn.compile)
    # Initial weights are drawn once: on a CPU their program is not worth 2 s of optimizing.
    cpu = mesh.devices.flat[0].platform == "cpu"
    quickly: Any = {"xla_backend_optimization_level": 0} if cpu else None
    compiled_init = pool.submit(traced_init.lower().compile, quickly)
    lowered_evaluate = jax.jit(evaluate).lower(states, runs, data)
    programs = cast(Any, compiled_init.result()), cast(Any, compiled_train.result())
    later = pool.submit(lowered_evaluate.compile)  # while the first epochs train

    def evaluate_(*arguments: Any) -> Any:
        return later.result()(*arguments)

    pool.shutdown(wait=False)
    return _Program(*programs, evaluate_, states)

"""Checkpoints of all runs in one, through ``orbax.checkpoint.v1``; the only file that knows orbax.

A folder of checkpoints holds one numbered folder for each saved epoch, the newest two. Each
carries the *identity* of what was trained, and is only restored into the same. It also carries a
checksum of each run's arrays and one of the identity, because orbax reads a flipped bit of an
array without a word.

In a job of several processes, all use the folder, which each must reach: process 0 locks it, and
each writes and reads the runs on its own devices.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint import v1 as ocp

from digits_jax.parallel.processes import ProcessLost, gather_values, reporting_lost_processes
from digits_jax.storage.errors import (
    CheckpointError,
    DamagedError,
    SaveError,
    refuse_difference,
)
from digits_jax.storage.locks import FolderLock

KEPT = 2  # the newest checkpoints that are kept

T = TypeVar("T")

logger: logging.Logger = logging.getLogger("digits_jax")


class Checkpoints:
    """The checkpoints of one recipe in one folder; use it in a ``with`` block.

    Args:
        folder: made if it is missing.
        identity: what is trained (configuration, data), as a flat mapping of JSON values; ``{}``
            restores anything whose shapes fit.
        read_only: change nothing, so that a folder can be read while another process writes it.
        refuse: ``refuse(where, saved, wanted)`` raises CheckpointError where two identities differ.
            Default: at any difference.

    Raises:
        FolderInUse: another process writes to the folder.
        OSError: the folder can't be made or written to.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        identity: Mapping[str, Any],
        *,
        read_only: bool = False,
        refuse: Callable[[Path, Mapping[str, Any], Mapping[str, Any]], None] | None = None,
    ) -> None:
        self._refuse = refuse or _refuse_any
        self.folder: Path = Path(folder).absolute()
        self.identity: dict[str, Any] = dict(identity)
        self._damaged: dict[int, str] = {}  # epoch: why
        self._pending: tuple[int, Any] | None = None  # the last save and orbax's answer
        writes = not read_only and jax.process_index() == 0
        self._lock = FolderLock(self.folder) if writes else None
        self._writer: Any = None  # orbax's, from the first save on

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        failed = error if isinstance(error, SaveError) else None
        lost = isinstance(error, ProcessLost)  # the last save would wait for it
        try:
            for end in () if lost else (self.wait, self._close):
                try:
                    end()
                except SaveError as later:
                    failed = failed or later  # the first one says why
        finally:
            if self._lock is not None:
                self._lock.release()
        if failed is not None and failed is not error:
            raise failed

    def _close(self) -> None:
        with _saving(self.folder):
            if self._writer is not None:
                self._writer.close()

    @property
    def epochs(self) -> list[int]:
        """The saved epochs that are not known to be damaged, the newest first."""
        # Orbax's own list is not to be had while the metadata of one checkpoint is damaged.
        names = os.listdir(self.folder) if self.folder.is_dir() else []
        saved = {int(name) for name in names if name.isascii() and name.isdecimal()}
        return sorted(saved - set(self._damaged), reverse=True)

    @property
    def latest(self) -> int | None:
        """The newest saved epoch, or None."""
        return next(iter(self.epochs), None)

    def save(self, epoch: int, tree: Any, *, runs: int | None = None) -> None:
        """Begins to save a pytree of arrays [R + padding, ...]; an earlier save is waited for.

        The arrays are copied before this returns, and written in the background.

        Args:
            epoch: its number.
            tree: NumPy arrays, or ``jax.Array``s of one sharding.
            runs: R. Default: there is no padding.

        Raises:
            SaveError: this checkpoint, or the one before it, can't be written.
        """
        self.wait()
        tree = jax.tree.map(_without_key, tree)
        record = {"identity": self.identity, "arrays": _shapes(tree, runs)}
        with _saving(self.folder / str(epoch)):
            if self._lock is not None and not self._lock.held:  # orbax would make it again
                raise FileNotFoundError("the folder was removed or replaced")
            if self._writer is None:
                self._writer = self._open_writer()
            if self.latest == epoch:
                return
            answer = self._writer.save_async(
                epoch,
                {"arrays": tree, "checksums": run_checksums(tree)},
                custom_metadata={**record, "crc32": _crc32(record), "kept": KEPT},
            )
        self._pending = epoch, answer

    def _open_writer(self) -> Any:
        """Orbax's writer of numbered checkpoints, after the damaged ones are deleted.

        It would not open beside damaged metadata, nor save an epoch that is there. It removes what
        a kill left of an unfinished save.
        """
        for epoch in self.epochs:
            self._sound(epoch, self._check_metadata)
        if self._damaged:
            if jax.process_index() == 0:
                for epoch in self._damaged:
                    shutil.rmtree(self.folder / str(epoch), ignore_errors=True)
            self._damaged.clear()
            _all_sound(0)  # the others wait here until they are gone
        return ocp.training.Checkpointer(
            self.folder,
            save_decision_policy=_Always(),
            preservation_policy=ocp.training.preservation_policies.LatestN(KEPT),
            cleanup_tmp_directories=True,
        )

    def wait(self) -> None:
        """Returns once all that was saved is on the disk.

        Raises:
            SaveError: it can't be written.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            epoch, answer = pending
            with _saving(self.folder / str(epoch)):
                answer.result()  # also ends the thread that orbax started for this save

    def newest(self, read: Callable[[int], T]) -> T:
        """``read(epoch)`` of the newest checkpoint that is not damaged.

        Those that are damaged are named in a warning of the logger ``digits_jax``.

        Args:
            read: raises DamagedError for a damaged one; any other error is passed on.

        Raises:
            CheckpointError: there is no checkpoint, or all are damaged.
        """
        for epoch in self.epochs:
            for found in self._sound(epoch, read):
                return found
        if self._damaged:
            raise DamagedError(
                f"no sound checkpoint is left: {'; '.join(self._damaged.values())}; delete "
                f"{self.folder} to start from the beginning"
            )
        raise CheckpointError(f"no checkpoint in {self.folder}; start without resuming")

    def _sound(self, epoch: int, read: Callable[[int], T]) -> list[T]:
        """``[read(epoch)]``, or ``[]`` and a warning for a checkpoint damaged in any process."""
        damage: DamagedError | None = None
        try:
            found = [read(epoch)]
        except DamagedError as error:
            damage = error
        if _all_sound(epoch, damage is None):
            return found
        where = self.folder / str(epoch)
        why = str(damage or f"checkpoint {where} is damaged where another process reads it")
        logger.warning("%s; it is not used", why)
        self._damaged[epoch] = why
        return []

    def saved_identity(self, epoch: int | None = None) -> dict[str, Any]:
        """The identity of what a saved epoch (default: the newest sound one) trained.

        Raises:
            CheckpointError: there is no such checkpoint, or it can't be read.
        """
        return dict(self._record(epoch)["identity"])

    def check_identity(self, epoch: int | None = None) -> None:
        """Raises CheckpointError unless a saved epoch (default: the newest) is of our identity."""
        if epoch is None:
            return self.newest(self.check_identity)
        if self.identity:
            saved = self.saved_identity(epoch)
            self._refuse(self.folder / str(epoch), saved, self.identity)

    def shapes(self, epoch: int | None = None) -> dict[str, str]:
        """The arrays of a saved epoch (default: the newest): path to ``float32[6, 10]``."""
        return dict(self._record(epoch)["arrays"])

    def _record(self, epoch: int | None) -> dict[str, Any]:
        """What was saved beside the arrays: identity and shapes."""
        if epoch is None:
            return self.newest(self._record)
        where = self.folder / str(epoch)
        with _reading(where):
            saved = json.loads((where / "_CHECKPOINT_METADATA").read_text())["custom_metadata"]
            record = {name: saved[name] for name in ("identity", "arrays")}
            if saved["crc32"] != _crc32(record):
                raise ValueError("its identity does not have the checksum that it was saved with")
            # Before orbax looks for the arrays: it would look for whatever is named there.
            strange = {"checksums", *(f"arrays/{name}" for name in record["arrays"])}
            strange ^= _named_arrays(where)
            if strange:
                raise ValueError(f"array {min(strange)!r} is in only one of its two lists")
            return record

    def _check_metadata(self, epoch: int) -> None:
        """Raises DamagedError for what would keep orbax's writer from opening."""
        self._record(epoch)
        with _reading(self.folder / str(epoch)):
            ocp.metadata(self.folder / str(epoch))

    def restore(
        self,
        like: Any,
        epoch: int | None = None,
        sharding: jax.sharding.NamedSharding | None = None,
    ) -> Any:
        """The arrays of a saved epoch (default: the newest), as NumPy arrays without padding.

        Args:
            like: a pytree of the same structure whose leaves have ``shape`` [R, ...] and
                ``dtype``.
            epoch: one of the saved epochs.
            sharding: gives ``jax.Array``s with their first axis so sharded instead, filled up
                with anything to a multiple of its devices; each process reads what its own hold.

        Raises:
            DamagedError: it is not what was saved.
            CheckpointError: there is none, it is of another identity, or its arrays differ in
                name, shape or dtype. Nothing is cast.
        """
        if epoch is None:
            return self.newest(lambda epoch: self.restore(like, epoch, sharding))
        where, wanted = self.folder / str(epoch), like
        like = jax.tree.map(_without_key, like)
        self.check_identity(epoch)
        refuse_difference(where, "array", self.shapes(epoch), _shapes(like))
        runs = jax.tree.leaves(like)[0].shape[0]

        def target(leaf: Any) -> Any:
            if sharding is None:
                return np.empty(leaf.shape, leaf.dtype)
            shape = (runs + -runs % sharding.mesh.size, *leaf.shape[1:])
            return jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=sharding)

        checksums = jax.ShapeDtypeStruct((runs,), np.uint32)
        with _reading(where), _alone():
            saved = ocp.load(where, jax.tree.map(target, {"arrays": like, "checksums": checksums}))
            found = run_checksums(saved["arrays"])
            for start, (mine, theirs) in _parts([found, saved["checksums"]]):
                bad = start + np.flatnonzero(mine != theirs)
                if bad.size and bad[0] < runs:
                    raise ValueError(
                        f"run {bad[0]} does not have the checksum that it was saved with"
                    )
        arrays = saved["arrays"]
        if sharding is None:
            arrays = jax.tree.map(lambda leaf: leaf[:runs], arrays)
        return jax.tree.map(_with_key, wanted, arrays)


def _refuse_any(where: Path, saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    refuse_difference(where, "configuration", saved, wanted)


def _is_key(leaf: Any) -> bool:
    return bool(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key))


def _without_key(leaf: Any) -> Any:
    """The words of random keys, and their shape and dtype where only these are given."""
    if not _is_key(leaf):
        return leaf
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.eval_shape(jax.random.key_data, leaf)
    return jax.random.key_data(leaf)


def _with_key(wanted: Any, leaf: Any) -> Any:
    """Random keys again, where they are wanted."""
    return jax.random.wrap_key_data(jnp.asarray(leaf)) if _is_key(wanted) else leaf


def run_checksums(tree: Any) -> Any:
    """The CRC-32 (zlib's) of each run's slices of all leaves, in the order of the tree.

    Args:
        tree: a pytree of arrays [R, ...]: NumPy arrays, or ``jax.Array``s of one sharding.

    Returns:
        uint32 [R], sharded as they are. That of a run does not depend on the others, nor on where
        they are.
    """
    parts = {}
    for start, leaves in _parts(tree):
        parts[start] = np.zeros(len(leaves[0]), np.uint32)
        for leaf in leaves:
            for run, values in enumerate(leaf):
                parts[start][run] = zlib.crc32(values.tobytes(), int(parts[start][run]))
    first = jax.tree.leaves(tree)[0]
    if not _sharded(tree):
        return parts[0]
    return jax.make_array_from_single_device_arrays(
        first.shape[:1],
        first.sharding,
        [
            jax.device_put(parts[_start(shard.index)], shard.device)
            for shard in first.addressable_shards
        ],
    )


def _parts(tree: Any) -> Iterator[tuple[int, list[np.ndarray]]]:
    """The leaves as host arrays, device by device of this process, each with its first run."""
    leaves = jax.tree.leaves(tree)
    if not _sharded(tree):
        yield 0, [np.asarray(leaf) for leaf in leaves]
        return
    for shards in zip(*(leaf.addressable_shards for leaf in leaves), strict=True):
        yield _start(shards[0].index), [np.asarray(shard.data) for shard in shards]


def _start(index: Any) -> int:
    """The first run of a device, from what JAX calls the index of its shard."""
    return index[0].start or 0


def _sharded(tree: Any) -> bool:
    return all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(tree))


def _all_sound(epoch: int, sound: bool = True) -> bool:
    """Whether an epoch's checkpoint is sound in all processes, which all must ask for at once."""
    if jax.process_count() == 1:
        return sound
    told = gather_values(np.array([epoch, sound]))
    if (told[:, 0] != epoch).any():
        raise CheckpointError(
            f"the processes see different checkpoints, {told[:, 0].tolist()}; give all the same "
            "folder, on a file system that they share"
        )
    return bool(told[:, 1].all())


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Lets orbax load without waiting for other processes, which may find damage and give up."""
    context = ocp.Context()
    # Of the padding alone: all other shapes were compared.
    context.array_options.loading.enable_padding_and_truncation = True
    if jax.process_count() > 1:
        mine = jax.process_index()
        context.multiprocessing_options.primary_host = mine
        context.multiprocessing_options.active_processes = {mine}
        context.multiprocessing_options.barrier_sync_key_prefix = f"process_{mine}"
    with context:
        yield


def _named_arrays(where: Path) -> set[str]:
    """The paths of the arrays that orbax would read, from its own list of them."""
    tree = json.loads((where / "state" / "_METADATA").read_text())["tree_metadata"]
    return {
        "/".join(key["key"] for key in entry["key_metadata"])
        for entry in tree.values()
        if not entry["value_metadata"]["skip_deserialize"]  # an empty part of the tree
    }


def _crc32(record: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(record, sort_keys=True).encode())


@contextlib.contextmanager
def _reading(where: Path) -> Iterator[None]:
    """Whatever goes wrong here is damage: it shows as any of a dozen exceptions."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        raise DamagedError(f"checkpoint {where} is damaged ({_reason(error)})") from error


@contextlib.contextmanager
def _saving(where: Path) -> Iterator[None]:
    """Whatever goes wrong here becomes a SaveError, if it is not another process."""
    try:
        with reporting_lost_processes():
            yield
    except (CheckpointError, ProcessLost):
        raise
    except Exception as error:
        raise SaveError(
            f"checkpoint {where} can't be written ({_reason(error)}); make room or make the folder "
            "writable, then resume: the checkpoints before it are intact"
        ) from error


def _reason(error: BaseException) -> str:
    """Why, in a few words: orbax and TensorStore add their whole configuration to a message."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    code = re.search(r"\[os_error_code='(\d+)'", str(error))
    if code is not None:
        return os.strerror(int(code[1]))
    text = " ".join(str(error).split("[tensorstore_spec")[0].split())
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__


class _Always:
    """The caller decides when to save."""

    def should_save(self, *args: Any, **kwargs: Any) -> bool:
        return True


def _shapes(tree: Any, runs: int | None = None) -> dict[str, str]:
    """A line for each array: its path, and its dtype and shape without padding."""
    leaves = jax.tree_util.tree_leaves_with_path(
        tree, is_leaf=lambda x: hasattr(x, "shape") and hasattr(x, "dtype")
    )
    return {
        "/".join(str(getattr(p, "name", getattr(p, "key", getattr(p, "idx", p)))) for p in path): (
            f"{np.dtype(leaf.dtype)}{[runs or leaf.shape[0], *leaf.shape[1:]]}"
        )
        for path, leaf in leaves
    }

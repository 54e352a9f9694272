"""Checkpoints of all runs in one.

A folder holds the newest two checkpoints. That of epoch 3 is the folder ``3``, which orbax writes,
and the file ``3.npz``, its record: what was trained, which arrays there are, and a checksum of each
run, because orbax reads a flipped bit of an array without a word. The record is whole before orbax
begins, and the folder gets its name when all is in it. So whenever a process is killed, a folder
without its record is damage, and a record without its folder is no checkpoint.

In a job of several processes, all use the folder, which each must reach: process 0 locks it and
writes the records, and each process writes and reads the runs on its own devices.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import jax
import numpy as np

from digits_jax.parallel.processes import ProcessLost, gather_values
from digits_jax.storage.errors import (
    CheckpointError,
    DamagedError,
    SaveError,
    refuse_difference,
    shortened_path,
)
from digits_jax.storage.files import remove_partial_files
from digits_jax.storage.locks import FolderLock
from digits_jax.storage.orbax_steps import (
    custom_metadata,
    load_arrays,
    open_writer,
    reading,
    saved_arrays,
    saving,
)
from digits_jax.storage.records import (
    Record,
    array_lines,
    read_record,
    record_of,
    run_checksums,
    with_keys,
    without_keys,
    write_record,
)

KEPT = 2  # the newest checkpoints that are kept

T = TypeVar("T")

logger: logging.Logger = logging.getLogger("digits_jax")


class Checkpoints:
    """The checkpoints of one recipe in one folder; use it in a ``with`` block.

    Args:
        folder: made if it is missing.
        identity: what is trained (configuration, data), as a flat mapping of JSON values; ``{}``
            restores anything whose shapes fit. Or a function that gives it once it is needed.
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
        identity: Mapping[str, Any] | Callable[[], Mapping[str, Any]],
        *,
        read_only: bool = False,
        refuse: Callable[[Path, Mapping[str, Any], Mapping[str, Any]], None] | None = None,
    ) -> None:
        self._refuse = refuse or _refuse_any
        self.folder: Path = Path(folder).expanduser().absolute()
        self._identity = identity
        self._damaged: dict[int, str] = {}  # epoch: why
        self._pending: tuple[int, Any] | None = None  # the last save and orbax's answer
        self._read_only = read_only
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

    @functools.cached_property
    def identity(self) -> dict[str, Any]:
        """What is trained."""
        return dict(self._identity() if callable(self._identity) else self._identity)

    def _close(self) -> None:
        with saving(self.folder):
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
        """Begins to save a pytree of arrays; an earlier save is waited for.

        The arrays are copied before this returns, and written in the background. An epoch that is
        saved already stays as it is.

        Args:
            epoch: its number.
            tree: arrays [R + padding, ...]: NumPy arrays, or ``jax.Array``s of one sharding.
            runs: R. Default: there is no padding.

        Raises:
            SaveError: this checkpoint, or the one before it, can't be written.
        """
        self.wait()
        tree = without_keys(tree)
        with saving(self.folder / str(epoch)):
            if self._lock is not None and not self._lock.held:  # orbax would make it again
                raise FileNotFoundError("the folder was removed or replaced")
            if self._writer is None:
                self._writer = self._open_writer()
            if epoch in self.epochs:
                return
            record = record_of(epoch, tree, self.identity, runs)
            if jax.process_index() == 0:
                write_record(self._record_path(epoch), record)
            answer = self._writer.save_async(epoch, {"arrays": tree})
        self._pending = epoch, answer

    def _record_path(self, epoch: int) -> Path:
        return self.folder / f"{epoch}.npz"

    def _open_writer(self) -> Any:
        """Orbax's writer of numbered checkpoints, after the damaged ones are deleted.

        It would not open beside damaged metadata, nor save an epoch that is there. What a kill left
        of an unfinished save is removed.
        """
        for epoch in self.epochs:
            self._intact(epoch, lambda epoch: self._check_arrays(epoch, self._record(epoch)))
        if jax.process_index() == 0:
            for epoch in self._damaged:
                with contextlib.suppress(FileNotFoundError):
                    shutil.rmtree(self.folder / str(epoch))
            remove_partial_files(self.folder)
            self._remove_unused_records()
        self._damaged.clear()
        _all_intact(0)  # the other processes wait here until the damaged ones are gone
        return open_writer(self.folder, KEPT)

    def _remove_unused_records(self) -> None:
        """Removes the records of checkpoints that are gone, or that never were complete."""
        for path in self.folder.glob("*.npz"):
            if path.stem.isdecimal() and not path.with_suffix("").exists():
                path.unlink()

    def wait(self) -> None:
        """Returns once all that was saved is on the disk.

        Raises:
            SaveError: it can't be written.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            epoch, answer = pending
            with saving(self.folder / str(epoch)):
                answer.result()  # also ends the thread that orbax started for this save
                if jax.process_index() == 0:
                    self._remove_unused_records()

    def newest(self, read: Callable[[int], T]) -> T:
        """``read(epoch)`` of the newest checkpoint that is not damaged.

        Those that are damaged are named in a warning of the logger ``digits_jax``.

        Args:
            read: raises DamagedError for a damaged one; any other error is passed on.

        Raises:
            CheckpointError: there is no checkpoint, or all are damaged.
        """
        for epoch in self.epochs:
            for found in self._intact(epoch, read):
                return found
        if self._damaged:
            raise DamagedError(
                f"all checkpoints are damaged: {'; '.join(self._damaged.values())}; delete "
                f"{self.folder} to start from the beginning"
            )
        remedy = "start without resuming"
        if self._read_only:
            remedy = "give the folder that cross_validate(checkpoints=) wrote"
        raise CheckpointError(f"no checkpoint in {self.folder}; {remedy}")

    def _intact(self, epoch: int, read: Callable[[int], T]) -> list[T]:
        """``[read(epoch)]``, or ``[]`` and a warning for a checkpoint damaged in any process."""
        damage: DamagedError | None = None
        try:
            found = [read(epoch)]
        except DamagedError as error:
            damage = error
        if _all_intact(epoch, damage is None):
            return found
        where = self.folder / str(epoch)
        why = str(damage or f"checkpoint {where} is damaged where another process reads it")
        logger.warning("%s; it is not used", why)
        self._damaged[epoch] = why
        return []

    def saved_identity(self, epoch: int | None = None) -> dict[str, Any]:
        """The identity of what a saved epoch (default: the newest undamaged one) trained.

        Raises:
            CheckpointError: there is no such checkpoint, or it can't be read.
        """
        return dict(self._record(epoch).identity)

    def check_identity(self, epoch: int | None = None) -> None:
        """Raises CheckpointError unless a saved epoch (default: the newest) is of our identity."""
        if epoch is None:
            return self.newest(self.check_identity)
        if self.identity:
            saved = self.saved_identity(epoch)
            self._refuse(self.folder / str(epoch), saved, self.identity)

    def shapes(self, epoch: int | None = None) -> dict[str, str]:
        """The arrays of a saved epoch (default: the newest): path to ``float32[6, 10]``."""
        return dict(self._record(epoch).arrays)

    def _record(self, epoch: int | None) -> Record:
        """What is recorded of a saved epoch (default: the newest)."""
        if epoch is None:
            return self.newest(self._record)
        where, path = self.folder / str(epoch), self._record_path(epoch)
        with reading(where):
            if path.exists():
                return read_record(path, epoch)
            if custom_metadata(where):  # where records once were
                raise CheckpointError(
                    f"checkpoint {shortened_path(where)} is of an earlier version of digits_jax, "
                    "and can't be read; start anew in another folder"
                )
            raise ValueError(f"{path.name} beside it is missing")

    def _check_arrays(self, epoch: int, record: Record) -> None:
        """Raises DamagedError unless orbax finds the recorded arrays, and those alone."""
        where = self.folder / str(epoch)
        with reading(where):
            tree = saved_arrays(where)
            if tree is None:
                raise ValueError("orbax can't read its list of arrays")
            if strange := array_lines(tree).keys() ^ {f"arrays/{name}" for name in record.arrays}:
                raise ValueError(f"array {min(strange)!r} is in only one of its two lists")

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
        like = without_keys(like)
        self.check_identity(epoch)
        record = self._record(epoch)
        self._check_arrays(epoch, record)  # orbax would look for whatever is named there
        refuse_difference(where, "array", record.arrays, array_lines(like))
        runs = len(record.checksums)

        def target(leaf: Any) -> Any:
            if sharding is None:
                return np.empty(leaf.shape, leaf.dtype)
            shape = (runs + -runs % sharding.mesh.size, *leaf.shape[1:])
            return jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=sharding)

        with reading(where):
            arrays = load_arrays(where, {"arrays": jax.tree.map(target, like)})["arrays"]
            for run, checksum in run_checksums(arrays).items():
                if run < runs and checksum != record.checksums[run]:
                    raise ValueError(f"run {run} does not have the checksum that it was saved with")
        if sharding is None:
            arrays = jax.tree.map(lambda leaf: leaf[:runs], arrays)
        return with_keys(wanted, arrays)


def _refuse_any(where: Path, saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    refuse_difference(where, "configuration", saved, wanted)


def _all_intact(epoch: int, intact: bool = True) -> bool:
    """Whether all processes of a job find an epoch's checkpoint intact; all must ask at once."""
    if jax.process_count() == 1:
        return intact
    by_process = gather_values(np.array([epoch, intact]))
    if (by_process[:, 0] != epoch).any():
        raise CheckpointError(
            f"the processes see different checkpoints, {by_process[:, 0].tolist()}; give all the "
            "same folder, on a file system that they share"
        )
    return bool(by_process[:, 1].all())

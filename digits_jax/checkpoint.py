"""Checkpoints of all runs in one, through ``orbax.checkpoint.v1``; the only file that knows orbax.

A folder of checkpoints holds one numbered folder for each saved epoch, the newest two. Each
carries the *identity* of what was trained, and is only restored into the same.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

KEPT = 2  # the newest checkpoints that are kept


class CheckpointError(Exception):
    """A checkpoint can't be used; the message says which, why, and what to do."""


class Checkpoints:
    """The checkpoints of one experiment in one folder; use it in a ``with`` block.

    Args:
        folder: made if it is missing.
        identity: what is trained (configuration, data), as a flat mapping of JSON values; ``{}``
            restores anything whose shapes fit.
    """

    def __init__(self, folder: str | os.PathLike[str], identity: Mapping[str, Any]) -> None:
        self.folder = Path(folder).absolute()
        self.identity = dict(identity)
        self._checkpointer = ocp.training.Checkpointer(
            self.folder,
            save_decision_policy=_Always(),
            preservation_policy=ocp.training.preservation_policies.LatestN(KEPT),
            cleanup_tmp_directories=True,  # what a kill in the middle of a save left behind
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._checkpointer.close()

    @property
    def latest(self) -> int | None:
        """The newest saved epoch, or None."""
        newest = self._checkpointer.latest
        return None if newest is None else int(newest.step)

    def save(self, epoch: int, tree: Any) -> None:
        """Begins to save a pytree of arrays; an earlier save is waited for first.

        The arrays are copied before this returns, and written in the background.
        """
        if self.latest == epoch:
            return
        self._checkpointer.save_async(
            epoch, tree, custom_metadata={"identity": self.identity, "kept": KEPT}
        )

    def wait(self) -> None:
        """Returns once all that was saved is on the disk."""
        self._checkpointer.wait()

    def saved_identity(self, epoch: int | None = None) -> dict[str, Any]:
        """The identity of what a saved epoch (default: the newest) trained.

        Raises:
            CheckpointError: there is no such checkpoint, or it can't be read.
        """
        return dict((self._metadata(epoch).custom_metadata or {}).get("identity", {}))

    def check_identity(self, epoch: int | None = None) -> None:
        """Raises CheckpointError unless a saved epoch (default: the newest) is of our identity."""
        saved = self.saved_identity(epoch)
        where = self.folder / str(self.latest if epoch is None else epoch)
        if self.identity:
            _refuse_difference(where, "configuration", saved, self.identity)

    def shapes(self, epoch: int | None = None) -> dict[str, str]:
        """The arrays of a saved epoch (default: the newest): path to ``float32[6, 10]``."""
        return _shapes(self._metadata(epoch).metadata)

    def _metadata(self, epoch: int | None) -> Any:
        epoch = self.latest if epoch is None else epoch
        if epoch is None:
            raise CheckpointError(f"no checkpoint in {self.folder}; start without resuming")
        try:
            return self._checkpointer.metadata(epoch)
        except (OSError, ValueError, KeyError) as error:
            where = self.folder / str(epoch)
            raise CheckpointError(f"checkpoint {where} can't be read ({error})") from error

    def restore(self, like: Any, epoch: int | None = None) -> Any:
        """The arrays of a saved epoch (default: the newest), as NumPy arrays.

        Args:
            like: a pytree of the same structure whose leaves have ``shape`` and ``dtype``.
            epoch: one of the saved epochs.

        Raises:
            CheckpointError: there is none, it is of another identity, or its arrays differ in
                name, shape or dtype. Nothing is cast, padded or cut.
        """
        self.check_identity(epoch)
        shapes = self.shapes(epoch)
        epoch = self.latest if epoch is None else epoch
        _refuse_difference(self.folder / str(epoch), "array", shapes, _shapes(like))
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        target = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), like
        )
        return jax.tree.map(np.asarray, self._checkpointer.load(epoch, target))


class _Always:
    """The caller decides when to save."""

    def should_save(self, *args: Any, **kwargs: Any) -> bool:
        return True


def _shapes(tree: Any) -> dict[str, str]:
    """A line for each array: its path, and its dtype and shape."""
    leaves = jax.tree_util.tree_leaves_with_path(
        tree, is_leaf=lambda x: hasattr(x, "shape") and hasattr(x, "dtype")
    )
    return {
        "/".join(str(getattr(p, "name", getattr(p, "key", getattr(p, "idx", p)))) for p in path): (
            f"{np.dtype(leaf.dtype)}{list(leaf.shape)}"
        )
        for path, leaf in leaves
    }


def _refuse_difference(
    where: Path, kind: str, saved: Mapping[str, Any], wanted: Mapping[str, Any]
) -> None:
    for name in [*wanted, *(name for name in saved if name not in wanted)]:
        if saved.get(name) != wanted.get(name):
            raise CheckpointError(
                f"checkpoint {where} is of another experiment: {kind} {name} is "
                f"{saved.get(name, 'missing')} there and {wanted.get(name, 'missing')} here; "
                "resume with the same configuration and data, or choose another folder"
            )

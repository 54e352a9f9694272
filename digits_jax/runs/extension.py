"""More runs than a folder of checkpoints holds: what is saved goes on, the others start beside it.

A folder holds the runs of its first call. Those that a later call adds, say more repeats or more
values of a grid, are trained on their own and saved in its folders ``more-1``, ``more-2``, …. So
are those that memory has no room for at once: the waves of one call.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from digits_jax.recipe import Recipe
from digits_jax.runs.axis import take
from digits_jax.runs.results import CrossValidation, Progress
from digits_jax.runs.votes import vote
from digits_jax.storage.errors import CheckpointError, shortened_path
from digits_jax.structures import Data, Run, TrainState

Part = tuple[Path, list[int]]  # a folder of checkpoints, and which runs are in it


def folders_of(folder: Path) -> list[Path]:
    """The folder, and those of the runs that were added to it, in their order."""
    folders = [folder]
    while _holds_checkpoints(more := folder / f"more-{len(folders)}"):
        folders.append(more)
    return folders


def _holds_checkpoints(folder: Path) -> bool:
    return folder.is_dir() and any(each.name.isdecimal() for each in folder.iterdir())


def saved_parts(
    folder: Path, digests: Sequence[str], saved_digests: Callable[[Path], Sequence[str]]
) -> list[Part] | None:
    """Where each run is saved or will be; None where the folder's own are just these, or others.

    Args:
        folder: of checkpoints.
        digests: of the runs that are asked for, as of ``run_digests``.
        saved_digests: gives those of the runs in a folder.

    Raises:
        CheckpointError: runs were added, and now not all of them are asked for.
    """
    if not _holds_checkpoints(folder):
        return None
    places: dict[str, list[int]] = {}
    for place, digest in enumerate(digests):
        places.setdefault(digest, []).append(place)
    parts: list[Part] = []
    folders = folders_of(folder)
    for each in folders:
        saved = saved_digests(each)
        index = [places[digest].pop(0) for digest in saved if places.get(digest)]
        if len(index) < len(saved):
            if len(folders) == 1:
                return None
            raise CheckpointError(
                f"{shortened_path(each)} holds runs that are not asked for now; ask for all that "
                "were trained, or choose another folder"
            )
        parts.append((each, index))
    rest = sorted(place for left in places.values() for place in left)
    if rest:
        parts.append((folder / f"more-{len(parts)}", rest))
    return parts if len(parts) > 1 else None


def in_waves(folder: Path, parts: list[Part] | None, count: int, size: int) -> list[Part]:
    """The parts, of which that without a checkpoint yet is cut into waves.

    Args:
        folder: of checkpoints.
        parts: as of ``saved_parts``.
        count: R.
        size: runs of a wave.
    """
    parts = parts or [(folder, list(range(count)))]
    *saved, (last, rest) = parts
    if _holds_checkpoints(last):
        return parts
    waves = [rest[start : start + size] for start in range(0, len(rest), size)]
    folders = [folder / f"more-{k}" if k else folder for k in range(len(saved) + len(waves))]
    return [*saved, *zip(folders[len(saved) :], waves, strict=True)]


def without_states(result: CrossValidation) -> CrossValidation:
    """The result of a wave, whose states are in its checkpoints."""
    empty: Any = TrainState(*[()] * len(TrainState._fields))  # type: ignore[arg-type]
    return dataclasses.replace(result, states=empty)


def as_of_all(
    on_epoch: Callable[[Progress], bool | None], index: Sequence[int], count: int
) -> Callable[[Progress], bool | None]:
    """``on_epoch`` of all runs, called with what a part of them reports; NaN for the others."""

    def on_epoch_of_part(progress: Progress) -> bool | None:
        history = {}
        for name, values in progress.history.items():
            history[name] = np.full((count, values.shape[1]), np.nan, np.float32)
            history[name][list(index)] = values
        return on_epoch(progress._replace(history=history))

    return on_epoch_of_part


def joined(
    results: Sequence[CrossValidation],
    indexes: Sequence[Sequence[int]],
    runs: Run,
    data: Data,
    recipe: Recipe,
) -> CrossValidation:
    """The result of all runs, from those of parts of them.

    Args:
        results: of each part.
        indexes: which runs are in it.
        runs: all, [R, ...].
        data: host arrays.
        recipe: the static part.
    """
    order = np.argsort(np.concatenate([np.asarray(index) for index in indexes]))

    def join(*leaves: Any) -> Any:
        if isinstance(leaves[0], jax.Array):  # keys
            return take(jnp.concatenate(leaves), order)
        return np.concatenate(leaves)[order]

    def of(name: str) -> Any:
        return jax.tree.map(join, *(getattr(result, name) for result in results))

    fields = {field.name for field in dataclasses.fields(CrossValidation)}
    found = {name: of(name) for name in fields - {"runs", "votes", "seconds"}}
    seconds = {name: sum(result.seconds[name] for result in results) for name in results[0].seconds}
    votes = vote(found["outputs"], data, runs, recipe)
    return CrossValidation(**found, runs=runs, votes=votes, seconds=seconds)

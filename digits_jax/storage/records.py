"""A tree as it is saved, and its record: identity, arrays, and a checksum of each run."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from digits_jax.parallel.processes import gather_values
from digits_jax.storage.files import DamagedFile, read_arrays, write_arrays


class Record(NamedTuple):
    """What is known of a saved tree without reading it.

    Attributes:
        epoch: its number.
        identity: what was trained, names and JSON values.
        arrays: path of each array to its dtype and shape, such as ``float32[6, 10]``.
        checksums: uint32 [R], CRC-32 of each run.
    """

    epoch: int
    identity: dict[str, Any]
    arrays: dict[str, str]
    checksums: np.ndarray


def write_record(path: Path, record: Record) -> None:
    """Writes a record; the file appears whole or not at all.

    Raises:
        OSError: the disk refuses.
    """
    about = record._asdict()
    write_arrays(path, {"checksums": about.pop("checksums")}, about)


def read_record(path: Path, epoch: int) -> Record:
    """Reads what ``write_record`` wrote.

    Raises:
        ValueError: its bytes are not those that were written, or it is of another epoch.
        OSError: it can't be read at all.
    """
    try:
        arrays, about = read_arrays(path)
    except DamagedFile:
        raise ValueError(f"the bytes of {path.name} are not those that were written") from None
    record = Record(**about, checksums=arrays["checksums"])
    if record.epoch != epoch:
        raise ValueError(f"{path.name} is of epoch {record.epoch}")
    return record


def record_of(
    epoch: int, tree: Any, identity: Mapping[str, Any], runs: int | None = None
) -> Record:
    """The record of a tree, which all processes of a job ask for at once.

    Args:
        epoch: its number.
        tree: a pytree of arrays [R + padding, ...]: NumPy arrays, or ``jax.Array``s of one
            sharding.
        identity: what was trained, names and JSON values.
        runs: R. Default: there is no padding.

    Raises:
        ProcessLost: another process ended.
    """
    checksums = np.zeros(jax.tree.leaves(tree)[0].shape[0], np.uint32)
    for run, checksum in run_checksums(tree).items():
        checksums[run] = checksum
    if jax.process_count() > 1:
        checksums = gather_values(checksums).max(axis=0)  # 0 where a run is another process's
    return Record(epoch, dict(identity), array_lines(tree, runs), checksums[:runs])


def run_checksums(tree: Any) -> dict[int, int]:
    """The CRC-32 (zlib's) of each run's slices of all leaves, in the order of the tree.

    That of a run does not depend on the others, nor on where they are.

    Args:
        tree: a pytree of arrays [R, ...]: NumPy arrays, or ``jax.Array``s of one sharding.

    Returns:
        Run to checksum, for the runs that this process holds.
    """
    checksums: dict[int, int] = {}
    for start, leaves in _blocks(jax.tree.leaves(tree)):
        for leaf in leaves:
            for run, values in enumerate(leaf, start):
                checksums[run] = zlib.crc32(values.tobytes(), checksums.get(run, 0))
    return checksums


def array_lines(tree: Any, runs: int | None = None) -> dict[str, str]:
    """Path of each array to its dtype and shape.

    Args:
        tree: leaves have ``shape`` [R + padding, ...] and ``dtype``.
        runs: R, which is named instead of the first axis. Default: there is no padding.
    """
    leaves = jax.tree_util.tree_leaves_with_path(
        tree, is_leaf=lambda x: hasattr(x, "shape") and hasattr(x, "dtype")
    )
    return {
        "/".join(str(getattr(p, "name", getattr(p, "key", getattr(p, "idx", p)))) for p in path): (
            f"{np.dtype(leaf.dtype)}{[runs or leaf.shape[0], *leaf.shape[1:]]}"
        )
        for path, leaf in leaves
    }


def without_keys(tree: Any) -> Any:
    """A tree of arrays or their shapes, random keys as their words, uint32."""

    def words(leaf: Any) -> Any:
        if not _is_key(leaf):
            return leaf
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return jax.eval_shape(jax.random.key_data, leaf)
        return jax.random.key_data(leaf)

    return jax.tree.map(words, tree)


def with_keys(wanted: Any, tree: Any) -> Any:
    """The tree with random keys again, where the wanted tree has some."""
    return jax.tree.map(
        lambda like, leaf: jax.random.wrap_key_data(jnp.asarray(leaf)) if _is_key(like) else leaf,
        wanted,
        tree,
    )


def _is_key(leaf: Any) -> bool:
    return bool(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key))


def _blocks(leaves: list[Any]) -> Iterator[tuple[int, list[np.ndarray]]]:
    """The leaves as host arrays, device by device of this process, each with its first run."""
    if not all(isinstance(leaf, jax.Array) for leaf in leaves):
        yield 0, [np.asarray(leaf) for leaf in leaves]
        return
    for shards in zip(*(leaf.addressable_shards for leaf in leaves), strict=True):
        yield shards[0].index[0].start or 0, [np.asarray(shard.data) for shard in shards]

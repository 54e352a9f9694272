"""The runs axis: making runs, taking some of them, filling their number up.

Shapes: R runs; F splits, C configurations, R = C * F.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from digits_jax.optimizers import Hyperparameters
from digits_jax.parallel.processes import gather
from digits_jax.runs.draws import fold_keys, keys_of_draws
from digits_jax.splits import Split, SplitKind, check_stacked, index_runs, kinds
from digits_jax.structures import Run

UINT32_MAX = 2**32 - 1


@dataclasses.dataclass(frozen=True)
class Shared:
    """A vector or a matrix that is one hyperparameter of every run; see ``shared``."""

    value: Any


def shared(value: Any) -> Shared:
    """Marks an array as one value for all runs, where ``make_runs`` would take one entry a run.

    Examples:
        >>> shared([0.1, 0.2, 0.7])
        Shared(value=[0.1, 0.2, 0.7])
    """
    return Shared(value)


def make_runs(
    splits: Split,
    h: Any = None,
    *,
    configurations: Any = None,
    members: int = 1,
    seed: int = 0,
    draws: Mapping[str, Any] | None = None,
) -> Run:
    """Stacked runs: one for each stacked split, or one for each configuration and split.

    Args:
        splits: leading axis F.
        h: hyperparameters, any pytree (a NamedTuple, a dict, a registered dataclass). A leaf is a
            number, for all runs, or an array or list with one entry a run, [R]; an array for all
            runs is ``shared(v)``. Default: ``Hyperparameters()``.
        configurations: instead of h: hyperparameters each of whose leaves is a number or an array
            [C], as from ``grid``. The runs are every configuration on every split, configuration
            by configuration; those of one split share its key, so that two configurations differ
            in their hyperparameters alone.
        members: M networks of each run, with other keys, that vote together: M times the runs,
            member by member.
        seed: split f draws from ``fold_in(key(seed), f)``, whatever F is; a refit, one for all
            repeats, from ``fold_in(key(seed), 2**32 - 1)``; member m > 0 of either folds m in, too.
        draws: which draw of a source of chance each run takes, integers [R] or one for all, by the
            names of ``Keys``: "weights", "order", "dropout", "augment". Draw n of a source is what
            split n of this seed has. Runs of equal numbers share it, so that designs can cross the
            sources; see ``crossed``. A source that isn't named draws from the run's own key.

    Returns:
        A ``Run`` whose leaves are [R, ...].

    Raises:
        TypeError: `splits` is no Split, or `seed` no integer.
        ValueError: the splits are not stacked, a leaf has another length than R or is out of its
            range, h and configurations are both given, draws have another length than R, or are
            given beside members, or the seed is not 0 to 2**32 - 1.

    Examples:
        >>> from digits_jax import kfold_splits
        >>> splits = kfold_splits([0, 1] * 5, folds=2)
        >>> make_runs(splits, {"learning_rate": [0.1, 0.2]}).hyperparameters["learning_rate"]
        array([0.1, 0.2], dtype=float32)
        >>> runs = make_runs(splits, configurations={"learning_rate": [0.1, 0.2, 0.3]})
        >>> runs.hyperparameters["learning_rate"]
        array([0.1, 0.1, 0.2, 0.2, 0.3, 0.3], dtype=float32)
    """
    check_stacked(splits)
    if draws is not None:
        if members != 1:
            raise ValueError("give draws or members, not both: members differ in all of their keys")
        one = make_runs(splits, h, configurations=configurations, seed=seed)
        return one._replace(keys=keys_of_draws(draws, one.key, operator.index(seed)))
    if members != 1:
        return _members(splits, h, configurations, operator.index(members), seed)
    folds = len(splits.train_rows)
    try:
        seed = operator.index(seed)
    except TypeError:
        raise TypeError(f"seed must be an integer, not {seed!r}") from None
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must be 0 to 2**32 - 1, not {seed}")
    numbers = np.arange(folds, dtype=np.uint32)
    refits = np.flatnonzero(kinds(splits) == SplitKind.REFIT)
    numbers[refits] = UINT32_MAX - np.arange(len(refits))  # the same for any number of repeats
    keys = fold_keys(*jax.device_put((np.uint32(seed), numbers)))
    if configurations is None:
        h = Hyperparameters() if h is None else h
        return Run(splits, _one_entry_a_run(h, folds), keys)
    if h is not None:
        raise ValueError("give h or configurations, not both")
    count = _configurations(configurations)
    each = _one_entry_a_run(configurations, count, "C configurations")
    fold = np.tile(np.arange(folds), count)
    configuration = np.repeat(np.arange(count), folds)
    return Run(
        index_runs(splits, fold),
        jax.tree.map(lambda leaf: leaf[configuration], each),
        take(keys, fold),
    )


def _members(splits: Split, h: Any, configurations: Any, members: int, seed: int) -> Run:
    """The runs of each member, member by member; those of the first are as without members."""
    if members < 1:
        raise ValueError(f"members must be at least 1, not {members}")
    one = make_runs(splits, h, configurations=configurations, seed=seed)
    count = len(one.key)
    member, base = np.divmod(np.arange(members * count, dtype=np.int32), np.int32(count))
    runs: Run = take_runs(one, base)
    key = _member_keys(runs.key, *jax.device_put((member.astype(np.uint32),)))
    return runs._replace(key=key, member=member)


@jax.jit
def _member_keys(keys: jax.Array, member: jax.Array) -> jax.Array:
    """Of the first member those that are given."""
    folded = jax.random.key_data(jax.vmap(jax.random.fold_in)(keys, member))
    words = jnp.where((member == 0)[:, None], jax.random.key_data(keys), folded)
    wrapped: jax.Array = jax.random.wrap_key_data(words, impl=jax.random.key_impl(keys))
    return wrapped


def _is_leaf(value: Any) -> bool:
    return isinstance(value, list | Shared)


def _configurations(configurations: Any) -> int:
    """C: the length of the leaves that have one."""
    lengths = {
        len(leaf)
        for leaf in jax.tree.leaves(configurations, is_leaf=_is_leaf)
        if not isinstance(leaf, Shared) and np.ndim(leaf)
    }
    if len(lengths) > 1:
        raise ValueError(f"the configurations' leaves have different lengths, {sorted(lengths)}")
    return lengths.pop() if lengths else 1


def _one_entry_a_run(h: Any, runs: int, what: str = "R runs") -> Any:
    """Every leaf as an array [R, ...]: floats and integers as JAX holds them."""
    check = getattr(h, "check", None)
    if callable(check):
        check()
    ours = isinstance(h, Hyperparameters)  # float32 also where JAX would hold 64 bits

    def one(path: Any, leaf: Any) -> Any:
        name = leaf_name(path)
        value = np.asarray(leaf.value if isinstance(leaf, Shared) else leaf)
        if value.dtype.kind not in "biuf" and not jnp.issubdtype(value.dtype, jnp.floating):
            raise TypeError(f"hyperparameter {name} must be numbers, not {value.dtype}")
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise ValueError(f"hyperparameter {name} must be finite, not {value}")
        narrow = ours and value.dtype.kind == "f"
        held = value.astype(np.float32 if narrow else jax.dtypes.canonicalize_dtype(value.dtype))
        if value.dtype.kind in "iu" and (held != value).any():
            raise ValueError(f"hyperparameter {name}: {value} does not fit {held.dtype}")
        if isinstance(leaf, Shared) or value.ndim == 0:
            return np.array(np.broadcast_to(held, (runs, *value.shape)))
        if len(value) != runs:
            raise ValueError(
                f"{name} must be a number or have shape ({runs}, ...), one entry for each of the "
                f"{what}, not {value.shape}; an array for all runs is shared(v)"
            )
        return held

    return jax.tree_util.tree_map_with_path(one, h, is_leaf=_is_leaf)


def leaf_name(path: Any) -> str:
    """The name of a leaf of h, from its path in the tree: ``learning_rate``, ``layers.0.rate``."""
    names = (str(getattr(p, "name", getattr(p, "key", getattr(p, "idx", p)))) for p in path)
    return ".".join(names) or "h"


def with_leaves(h: Any, values: Mapping[str, Any]) -> Any:
    """Hyperparameters with some of them replaced.

    Args:
        h: a dict, NamedTuple or dataclass, or nested ones; it stays as it is.
        values: the new ones by their names, dotted as of ``leaf_name``.

    Raises:
        ValueError: there is none of a name.

    Examples:
        >>> with_leaves({"layer": {"rate": 0.1, "width": 3.0}}, {"layer.rate": 0.2})
        {'layer': {'rate': 0.2, 'width': 3.0}}
    """
    for name, value in values.items():
        h = _with_leaf(h, name, value)
    return h


def _with_leaf(h: Any, name: str, value: Any) -> Any:
    head, _, rest = name.partition(".")
    known: dict[str, Any] = {}
    if isinstance(h, Mapping):
        known = dict(h)
    elif dataclasses.is_dataclass(h):
        known = {field.name: getattr(h, field.name) for field in dataclasses.fields(h)}
    elif hasattr(h, "_asdict"):
        known = h._asdict()
    if head not in known:
        raise ValueError(
            f"there is no hyperparameter {head!r}; there are {', '.join(known) or 'none'}"
        )
    new = _with_leaf(known[head], rest, value) if rest else value
    if isinstance(h, Mapping):
        return {**known, head: new}
    if hasattr(h, "_asdict"):
        return h._replace(**{head: new})
    return dataclasses.replace(h, **{head: new})


def take_run(tree: Any, index: int) -> Any:
    """One run of stacked runs or states: every leaf [R, ...] at ``index``."""
    return jax.tree.map(lambda leaf: leaf[index], tree)


def take_runs(tree: Any, index: Any) -> Any:
    """Some runs of a tree of arrays [R, ...], in the order of ``index``, int [r]."""
    return jax.tree.map(lambda leaf: take(leaf, np.asarray(index)), tree)


def put_runs(tree: Any, index: Any, some: Any) -> Any:
    """A copy of a tree of host arrays [R, ...] whose runs ``index`` [r] are those of ``some``."""

    def one(leaf: Any, values: Any) -> Any:
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        whole, new = (
            np.array(jax.device_get(jax.random.key_data(each) if is_key else each))
            for each in (leaf, values)
        )
        whole[np.asarray(index)] = new
        if not is_key:
            return whole
        return jax.random.wrap_key_data(jax.device_put(whole), impl=jax.random.key_impl(leaf))

    return jax.tree.map(one, tree, some)


def take(leaf: Any, index: np.ndarray) -> Any:
    """Entries of a leaf's runs axis; keys are on a device: they are moved, but not unasked."""
    if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return leaf[index]
    words = jax.device_get(jax.random.key_data(leaf))[index]
    return jax.random.wrap_key_data(jax.device_put(words), impl=jax.random.key_impl(leaf))


def pad_runs(tree: Any, multiple: int) -> Any:
    """Leaves [R, ...] filled up to a multiple of R with copies of the last run.

    The runs that fill up a ``Run`` have no rows, so that they train nothing.
    """
    leaves = jax.tree.leaves(tree)
    count = leaves[0].shape[0] if leaves else 0
    missing = -count % multiple
    if not missing:
        return tree
    padded = take_runs(tree, np.minimum(np.arange(count + missing), count - 1))
    if isinstance(padded, Run):
        real = (np.arange(count + missing) < count)[:, None]
        split = padded.split
        weights: dict[str, Any] = {
            name: np.where(real, value, 0).astype(np.float32)
            for name, value in split._asdict().items()
            if name.endswith("_weights") and value is not None
        }
        padded = padded._replace(split=split._replace(**weights))
    return padded


def to_host(tree: Any, mesh: Mesh, count: int) -> Any:
    """The first ``count`` runs as NumPy arrays (keys as JAX arrays), in each process."""
    return jax.tree.map(lambda leaf: leaf[:count], gather(tree, mesh))

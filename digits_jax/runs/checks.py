"""What a user gives is checked before anything is trained: data, splits, and the recipe's parts.

Shapes: N rows of the data set, B rows of a batch.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from digits_jax.augment import Jitter
from digits_jax.evaluation import predict
from digits_jax.losses import accuracy, check_class_targets, cross_entropy
from digits_jax.networks import named_arguments, with_mask
from digits_jax.recipe import Recipe
from digits_jax.runs.axis import leaf_name, take_run
from digits_jax.splits import check_stacked
from digits_jax.structures import Data, Run

CLASS_FUNCTIONS = (cross_entropy, accuracy)  # whose rows are known to be apart
TRIAL_ROWS = 6


def check_counts(**counts: int | None) -> None:
    """Checks that numbers are integers of at least 1; None passes."""
    for name, value in counts.items():
        if value is None:
            continue
        try:
            value = operator.index(value)
        except TypeError:
            raise TypeError(f"{name} must be an integer, not {value!r}") from None
        if value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")


def check_data(data: Any) -> Data:
    """The data as host arrays in the dtypes that JAX will hold.

    Args:
        data: (inputs, targets) or (inputs, targets, weights): arrays or pytrees of arrays [N, ...]
            of any byte order; weights [N].

    Raises:
        TypeError: it is no such tuple, or an array is not of numbers.
        ValueError: the numbers of rows differ, a value is not finite or does not fit, or a weight
            is negative.
    """
    if not isinstance(data, tuple | list) or len(data) not in (2, 3):
        hint = "; give its .data" if hasattr(data, "data") else ""
        raise TypeError(
            "data must be a tuple (inputs, targets) or (inputs, targets, weights), not "
            f"{type(data).__name__}{hint}"
        )
    weights = data[2] if len(data) == 3 else None
    absent = None
    if weights is not None:
        weights = _numbers(weights, "weights").astype(np.float32)
        if weights.ndim != 1 or not (weights >= 0).all() or not np.isfinite(weights).all():
            raise ValueError(
                "weights must be [N], finite and at least 0; they are "
                f"{list(weights.shape)}, {np.min(weights, initial=0)} to "
                f"{np.max(weights, initial=0)}"
            )
        absent = weights == 0
    inputs = _arrays(data[0], "inputs", absent)
    targets = _arrays(data[1], "targets", absent)
    targets = jax.tree.map(
        lambda leaf: leaf.astype(np.int32) if leaf.dtype.kind in "iu" else leaf, targets
    )
    leaves = [*jax.tree.leaves((inputs, targets)), *([] if weights is None else [weights])]
    rows = {leaf.shape[0] if leaf.ndim else 0 for leaf in leaves}
    if len(rows) != 1 or rows == {0}:
        shapes = ", ".join(str(list(leaf.shape)) for leaf in leaves)
        raise ValueError(
            f"inputs [N, ...], targets [N, ...] and weights [N] must have the same N, at least 1; "
            f"their shapes are {shapes}"
        )
    return Data(inputs, targets, weights)


def _arrays(tree: Any, what: str, absent: np.ndarray | None) -> Any:
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: isinstance(x, list))
    if not leaves:
        raise TypeError(f"{what} hold no array")

    def one(path: Any, leaf: Any) -> np.ndarray:
        name = f"{what}.{leaf_name(path)}" if path else what
        array = _numbers(leaf, name)
        if absent is not None and array.ndim and len(array) == len(absent) and absent.any():
            # A row of weight 0 is absent, whatever it holds: 0 * NaN would be NaN.
            array = array.copy()
            array[absent] = 0
        return _held(array, name)

    return jax.tree_util.tree_map_with_path(one, tree, is_leaf=lambda x: isinstance(x, list))


def _numbers(value: Any, name: str) -> np.ndarray:
    """A host array of numbers in native byte order."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            f"{name} is a masked array; fill in its values, or give these rows weight 0"
        )
    if isinstance(value, jax.Array) and not value.is_fully_addressable:
        raise TypeError(f"{name} lies on devices of other processes; give a NumPy array")
    array = np.asarray(value)
    if array.dtype.kind in "OSUTMm":
        remedy = "; np.unique(labels, return_inverse=True) gives integers and what they stand for"
        raise TypeError(f"{name} must be numbers, not {array.dtype}{remedy}")
    if array.dtype.kind == "c":
        raise TypeError(f"{name} is complex; give its real and imaginary parts as channels")
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:  # long double, which JAX has not
        with np.errstate(over="ignore"):  # what becomes infinite is refused
            array = array.astype(np.float64)
    return array


def _held(array: np.ndarray, name: str) -> np.ndarray:
    """The array in the dtype that JAX holds; refuses what would change."""
    held = np.dtype(jax.dtypes.canonicalize_dtype(array.dtype))
    if array.dtype.kind in "iu" and held != array.dtype and array.size:
        low, high = int(array.min()), int(array.max())
        limits = np.iinfo(held)
        if low < limits.min or high > limits.max:
            raise ValueError(
                f"{name} hold integers {low} to {high}, which do not fit {held}; scale them, give "
                "floats, or set jax_enable_x64"
            )
    if array.dtype.kind in "iu" and name.startswith("targets") and array.size:
        if int(array.min()) < -(2**31) or int(array.max()) >= 2**31:
            raise ValueError(f"{name} hold integers beyond int32")
    result = _aligned(array.shape, held)
    with np.errstate(over="ignore"):
        np.copyto(result, array, casting="unsafe")
    if jnp.issubdtype(held, jnp.floating):
        bad = ~np.isfinite(result.astype(np.float32) if held.kind == "V" else result)
        if bad.any():
            rows = np.flatnonzero(bad.reshape(len(result), -1).any(axis=1)) if result.ndim else [0]
            why = "finite" if not np.isfinite(array.astype(np.float64)).all() else f"within {held}"
            raise ValueError(
                f"{name} must be {why}; row {rows[0]} is not, the first of {len(rows)}: leave "
                "these rows out, or fill in their values"
            )
    return result


def _aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """An array that begins at 64 bytes, so that CPU devices share it and make no copies."""
    size = math.prod(shape) * dtype.itemsize
    raw = np.empty(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)


def check_runs(runs: Any, rows: int) -> None:
    """Checks that runs are stacked, and that their splits name rows that exist."""
    if not isinstance(runs, Run):
        raise TypeError(f"runs must be a Run, as of make_runs, not {type(runs).__name__}")
    check_stacked(runs.split)
    count = len(runs.split.train_rows)
    leaves = jax.tree_util.tree_leaves_with_path(runs.hyperparameters)
    keys = [("key", runs.key), *((runs.keys and runs.keys._asdict()) or {}).items()]
    for name, leaf in [*((leaf_name(path), leaf) for path, leaf in leaves), *keys]:
        if np.shape(leaf)[:1] != (count,):
            raise ValueError(
                f"{name} must be [R, ...], R = {count} as in the splits, not "
                f"{list(np.shape(leaf))}; make_runs spreads hyperparameters over the runs"
            )
    for name, values in runs.split._asdict().items():
        if values is None:
            continue
        values = np.asarray(values)
        if name.endswith("_rows") and values.size:
            if not 0 <= values.min() <= values.max() < rows:
                raise ValueError(
                    f"{name} names rows {values.min()} to {values.max()}, but the data have rows 0 "
                    f"to {rows - 1}"
                )
        if name.endswith("_weights") and not (np.isfinite(values) & (values >= 0)).all():
            raise ValueError(f"{name} must be finite and at least 0")


def check_parts(recipe: Recipe, data: Data, runs: Run, state: Any) -> None:
    """Checks on shapes, and in a trial on a few rows, that the recipe's parts keep rows apart.

    Args:
        recipe: whose loss, metrics, augmentation and views are tried.
        data: host arrays.
        runs: stacked; the first one's hyperparameters are tried.
        state: shapes and dtypes of one run's state.

    Raises:
        TypeError: a part can't be called as the recipe says.
        ValueError: a part gives another shape than [B], or mixes rows.
    """
    h = take_run(runs.hyperparameters, 0)
    rows = _trial_rows(data)
    inputs, targets = jax.tree.map(lambda leaf: leaf[rows], (data.inputs, data.targets))
    key = jax.random.key(0)
    if recipe.augment is not None:
        _check_augment(recipe, key, inputs, targets, h)
    outputs = _output_shapes(recipe, state, inputs, h)
    for leaf in jax.tree.leaves(outputs):
        if leaf.shape[:1] != (len(rows),):
            raise ValueError(
                f"the network gives outputs {list(leaf.shape)} for a trial batch of {len(rows)} "
                "rows; their first axis must be the rows"
            )
    check_one = functools.partial(_check_row_function, recipe, outputs, data, rows)
    check_one("loss", recipe.loss, (h,))
    for name, metric in (recipe.metrics or {}).items():
        check_one(f"metrics[{name!r}]", metric, ())
    try:
        jax.eval_shape(
            lambda o, t: recipe.loss(o, t, None, **_masks(recipe.loss, t)), outputs, targets
        )
    except (AttributeError, TypeError, KeyError) as error:
        raise TypeError(
            f"loss(outputs, targets, None) fails ({type(error).__name__}: {error}); scores call "
            "the loss with h=None, for its value without regularisation: let it handle None"
        ) from error


def _masks(function: Callable[..., Any], targets: Any) -> Any:
    rows = len(jax.tree.leaves(targets)[0])
    return with_mask(function, jnp.ones(rows, bool))


def _trial_rows(data: Data) -> np.ndarray:
    """A few rows, among them those with the smallest and the largest integer targets."""
    count = len(jax.tree.leaves(data.inputs)[0])
    rows = []
    for leaf in jax.tree.leaves(data.targets):
        if leaf.dtype.kind in "iu" and leaf.ndim == 1:
            rows += [int(leaf.argmin()), int(leaf.argmax())]
    rows += np.linspace(0, count - 1, TRIAL_ROWS).astype(int).tolist()
    return np.asarray(rows[:TRIAL_ROWS])


def _output_shapes(recipe: Recipe, state: Any, inputs: Any, h: Any) -> Any:
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), (inputs, h))
    return jax.eval_shape(functools.partial(predict, recipe=recipe), state, *one)


def _check_row_function(
    recipe: Recipe,
    outputs: Any,
    data: Data,
    rows: np.ndarray,
    name: str,
    function: Callable[..., Any],
    more: tuple[Any, ...],
) -> None:
    """One value a row, from that row alone; see ``check_parts``."""
    if function in CLASS_FUNCTIONS and _is_array(outputs) and _is_array(data.targets):
        shape = (len(data.targets), *outputs.shape[1:])
        check_class_targets(jax.ShapeDtypeStruct(shape, outputs.dtype), data.targets)
        return
    targets = jax.tree.map(lambda leaf: jnp.asarray(leaf[rows]), data.targets)
    masks = _masks(function, targets)
    shape = jax.eval_shape(lambda o, t: function(o, t, *more, **masks), outputs, targets)
    got = list(shape.shape) if _is_array(shape) else str(jax.tree.map(lambda s: s.shape, shape))
    if got != [len(rows)]:
        remedy = "give each row's value, not their mean" if got == [] else "give one value a row"
        if got == [len(rows), 1]:
            remedy = "take its last axis away ([:, 0]); it would broadcast into a wrong number"
        raise ValueError(
            f"{name} gives {got} for a trial batch of {len(rows)} rows, and must give "
            f"[{len(rows)}]: {remedy}"
        )
    random = np.random.default_rng(0)

    def drawn(leaf: Any) -> jax.Array:
        values = random.normal(size=leaf.shape)
        return jnp.asarray(values, leaf.dtype)

    given = jax.tree.map(drawn, outputs)
    # With values, so that a loss around cross_entropy refuses labels that have no logit.
    before = np.asarray(function(given, targets, *more, **masks), np.float64)
    if recipe.remainder == "dropped" or named_arguments(function, mask=None):
        return
    changed = jax.tree.map(lambda leaf: leaf.at[2].set(leaf[3] * 2 + 1), given)
    other = jax.tree.map(lambda leaf: leaf.at[2].set(leaf[0]), targets)
    after = np.asarray(function(changed, other, *more), np.float64)
    _refuse_mixing(name, before, after)


def _refuse_mixing(name: str, before: np.ndarray, after: np.ndarray) -> None:
    """Row 2 was changed: no other row's value may have."""
    rest = np.arange(len(before)) != 2
    if not np.allclose(before[rest], after[rest], rtol=1e-5, atol=1e-6, equal_nan=True):
        raise ValueError(
            f"{name} mixes rows: a change of one row changed the value of another. Often an array "
            "[B, 1] meets one of shape [B], or a mean is taken over the batch. If it is meant, let "
            'the function take mask, or set remainder="dropped"'
        )


def _check_augment(recipe: Recipe, key: jax.Array, inputs: Any, targets: Any, h: Any) -> None:
    augment: Any = recipe.augment
    masks = _masks(augment, targets)

    def call(inputs: Any, targets: Any) -> Any:
        return augment(key, inputs, targets, h, **masks)

    made = jax.eval_shape(call, inputs, targets)
    if not isinstance(made, tuple) or len(made) != 2:
        raise TypeError("augment(key, inputs, targets, h) must give (inputs, targets)")
    rows = len(jax.tree.leaves(inputs)[0])
    if any(leaf.shape[:1] != (rows,) for leaf in jax.tree.leaves(made)):
        raise ValueError(f"augment must give {rows} rows for a trial batch of {rows} rows")
    mixing_is_meant = recipe.remainder == "dropped" or named_arguments(augment, mask=None)
    if mixing_is_meant or isinstance(augment, Jitter):
        return
    tried = jax.jit(call)

    def flat(tree: Any) -> np.ndarray:
        leaves = [np.asarray(leaf, np.float64).reshape(rows, -1) for leaf in jax.tree.leaves(tree)]
        return np.concatenate(leaves, axis=1)

    def changed(leaf: np.ndarray) -> np.ndarray:
        leaf = leaf.copy()
        leaf[2] = leaf[0] if not np.array_equal(leaf[2], leaf[0]) else leaf[-1]
        return leaf

    before = flat(tried(inputs, targets))
    after = flat(tried(*jax.tree.map(changed, (inputs, targets))))
    _refuse_mixing("augment", before, after)


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")

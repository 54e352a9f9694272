"""Arrays in any byte order, layout and dtype, with 64 bits or without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import digits_jax as dj
from digits_jax.runs.checks import check_data

ROWS = np.arange(24, dtype=np.float32).reshape(4, 3, 2)
TARGETS = np.array([0, 1, 2, 1], np.int32)


@pytest.mark.parametrize(
    "inputs",
    [
        ROWS.astype(">f4"),
        ROWS.astype("<f8"),
        ROWS.astype(np.float16),
        ROWS.astype(np.longdouble),
        np.asfortranarray(ROWS),
        np.repeat(ROWS, 2, axis=0)[::2],
        ROWS[::-1][::-1],
        np.broadcast_to(ROWS, (1, *ROWS.shape))[0],
        ROWS.tolist(),
        jax.numpy.asarray(ROWS),
    ],
    ids=["big-endian", "float64", "float16", "long double", "Fortran"]
    + ["strided", "reversed twice", "read-only", "lists", "JAX"],
)
def test_layouts_hold_the_same_values(inputs: Any) -> None:
    data = check_data((inputs, TARGETS))
    assert data.inputs.dtype in (np.float32, np.float16)
    assert data.inputs.flags.c_contiguous and data.inputs.ctypes.data % 64 == 0
    np.testing.assert_array_equal(data.inputs, ROWS)


@pytest.mark.parametrize("dtype", [">i8", "u1", "i1", ">u4", "u8"])
def test_integers_of_any_width_are_labels(dtype: str) -> None:
    data = check_data((ROWS, TARGETS.astype(dtype)))
    assert data.targets.dtype == np.int32
    np.testing.assert_array_equal(data.targets, TARGETS)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ((ROWS, TARGETS.astype(np.uint32) + 2**31), ValueError, "beyond int32"),
        ((ROWS, TARGETS.astype(np.int64) + 2**40), ValueError, "do not fit int32"),
        ((TARGETS.astype(np.uint64) + 2**63, TARGETS), ValueError, "do not fit uint32"),
        ((ROWS * 1j, TARGETS), TypeError, "inputs is complex"),
        ((np.ma.masked_array(ROWS, ROWS > 3), TARGETS), TypeError, "masked array"),
        ((np.where(ROWS == 9, np.nan, ROWS), TARGETS), ValueError, "finite; row 1 is not"),
        ((ROWS.astype(np.float64) * 1e300, TARGETS), ValueError, "within float32"),
        ((ROWS.astype(np.longdouble) * np.longdouble(10) ** 400, TARGETS), ValueError, "finite"),
        ((ROWS.astype(object), TARGETS), TypeError, "must be numbers, not object"),
        ((ROWS, ROWS.astype(str)[:, 0, 0]), TypeError, "must be numbers, not <U"),
    ],
)
def test_what_would_change_is_refused_by_name(
    data: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        check_data(data)


@pytest.mark.slow
def test_with_64_bits_the_recipes_stay_as_they_are(tmp_path: Path) -> None:
    """Weights of the notebook's network, hyperparameters and draws are those of 32 bits."""
    digits = dj.load_digits("bundled")
    split = dj.holdout_split(digits.labels[:60])

    def trained(name: str, **options: Any) -> Any:
        recipe = dj.recipe_by_name(name, epochs=1, batch_size=24)
        runs = dj.make_runs(split, recipe.hyperparameters)
        data = (digits.images[:60], digits.labels[:60])
        return dj.cross_validate(data, runs, recipe=recipe.recipe, epochs=1, **options)

    expected = trained("notebook", checkpoints=tmp_path)
    with jax.enable_x64(True):
        found = trained("notebook")
        saved = dj.load_states(tmp_path)  # of 32 bits
    assert saved.recipe == dj.recipe_by_name("notebook").recipe
    np.testing.assert_array_equal(
        jax.tree.leaves(saved.states.params)[0], jax.tree.leaves(expected.states.params)[0]
    )
    for one, other in zip(
        jax.tree.leaves(expected.states), jax.tree.leaves(found.states), strict=True
    ):
        if not jax.dtypes.issubdtype(one.dtype, jax.dtypes.prng_key):
            assert one.dtype == other.dtype
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(expected.outputs, found.outputs, rtol=1e-4, atol=1e-5)

"""Jitter and views: nothing where their numbers are zero, exact where they can be, in range."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from digits_jax.augment import Jitter, ShiftedViews, warp

IMAGES = np.random.default_rng(0).integers(0, 17, (6, 8, 8)).astype(np.uint8)
STILL = Jitter()
EYE = jnp.broadcast_to(jnp.eye(2), (6, 2, 2))


def _jitted(jitter: Jitter, seed: int, images: jax.Array) -> jax.Array:
    """The changed images."""
    changed, _ = jax.jit(jitter)(jax.random.key(seed), images, jnp.zeros(len(images), int))
    return changed  # type: ignore[no-any-return]


def test_no_jitter_is_the_identity() -> None:
    labels = jnp.arange(6)
    changed, targets = STILL(jax.random.key(0), jnp.asarray(IMAGES), labels)
    assert targets is labels
    assert (changed.shape, changed.dtype) == ((6, 8, 8), jnp.float32)
    np.testing.assert_array_equal(changed, IMAGES)


@pytest.mark.parametrize(("down", "across"), [(1, 0), (0, -2), (-1, 3)])
def test_a_shift_by_whole_pixels_is_exact(down: int, across: int) -> None:
    shift = jnp.broadcast_to(jnp.array([down, across], jnp.float32), (6, 1, 1, 2))
    expected = [ndimage.shift(image, (down, across), order=0) for image in IMAGES]
    np.testing.assert_array_equal(warp(jnp.asarray(IMAGES), EYE, shift), expected)


def test_a_quarter_turn_is_exact() -> None:
    turn = jnp.broadcast_to(jnp.array([[0.0, 1.0], [-1.0, 0.0]]), (6, 2, 2))
    turned = warp(jnp.asarray(IMAGES), turn, jnp.zeros((6, 1, 1, 2)))
    np.testing.assert_allclose(turned, np.rot90(IMAGES, axes=(1, 2)), atol=1e-5)


def test_a_warp_is_that_of_scipy() -> None:
    rng = np.random.default_rng(1)
    matrices = (np.eye(2) + rng.normal(0, 0.2, (6, 2, 2))).astype(np.float32)
    shifts = rng.normal(0, 1, (6, 2)).astype(np.float32)
    got = warp(jnp.asarray(IMAGES), jnp.asarray(matrices), jnp.asarray(shifts)[:, None, None])
    for image, matrix, shift, ours in zip(IMAGES, matrices, shifts, got, strict=True):
        offset = 3.5 - matrix @ [3.5, 3.5] - shift
        theirs = ndimage.affine_transform(
            image.astype(np.float64), matrix, offset, order=1, mode="grid-constant"
        )
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize(
    "jitter",
    [
        Jitter(rotation=30),
        Jitter(scale=0.3),
        Jitter(shear=0.3),
        Jitter(shift=1),
        Jitter(elastic=1),
        Jitter(ink=0.5),
    ],
)
def test_each_number_changes_each_image_its_own_way_within_the_range(jitter: Jitter) -> None:
    same = jnp.asarray(np.repeat(IMAGES[:1], 50, axis=0))
    changed = np.asarray(_jitted(jitter, 0, same))
    assert len(np.unique(changed, axis=0)) == 50
    assert changed.min() >= 0 and changed.max() <= IMAGES[0].max() + 1e-4
    np.testing.assert_array_equal(changed, _jitted(jitter, 0, same))
    assert not np.array_equal(changed, _jitted(jitter, 1, same))


def test_numbers_are_the_largest_change_to_either_side() -> None:
    ramp = jnp.broadcast_to(jnp.arange(8.0).reshape(8, 1), (2000, 8, 8))
    jitter = Jitter(shift=0.5)
    moved = 3.0 - np.asarray(_jitted(jitter, 0, ramp))[:, 3, 3]  # a ramp tells where from
    assert -0.5 <= moved.min() < -0.49 and 0.49 < moved.max() <= 0.5
    assert abs(moved.mean()) < 0.03
    jitter = Jitter(scale=0.2)
    size = 0.5 / (3.5 - np.asarray(_jitted(jitter, 0, ramp))[:, 3, 3])
    assert 0.8 <= size.min() < 0.81 and 1.19 < size.max() <= 1.2001


def test_ink_is_a_power_of_the_share_of_the_darkest() -> None:
    same = jnp.asarray(np.repeat(IMAGES[:1], 500, axis=0))
    inked = np.asarray(_jitted(Jitter(ink=0.5), 0, same))
    share = IMAGES[0] / IMAGES[0].max()
    some = (share > 0) & (share < 1)
    powers = np.log(inked[:, some] / IMAGES[0].max()) / np.log(share[some])
    np.testing.assert_allclose(powers, np.repeat(powers[:, :1], some.sum(), axis=1), rtol=1e-3)
    assert np.exp(-0.5) <= powers.min() < 0.62 and 1.62 < powers.max() <= np.exp(0.5) + 1e-3
    np.testing.assert_array_equal(inked[:, share == 0], 0)
    blank = jnp.zeros((2, 8, 8))
    np.testing.assert_array_equal(_jitted(Jitter(ink=0.5), 0, blank), 0)


def test_runs_under_vmap_equal_each_alone() -> None:
    jitter, keys = (
        Jitter(rotation=10, scale=0.1, shift=0.7, elastic=0.5, ink=0.3),
        jax.random.split(jax.random.key(0), 3),
    )
    images, labels = jnp.asarray(IMAGES), jnp.arange(6)
    together, _ = jax.jit(jax.vmap(jitter, (0, None, None)))(keys, images, labels)
    for run, key in zip(together, keys, strict=True):
        np.testing.assert_allclose(run, jax.jit(jitter)(key, images, labels)[0], atol=1e-5)


def test_all_channels_of_an_image_move_together() -> None:
    jitter = Jitter(rotation=10, scale=0.1, shear=0.1, shift=0.7, elastic=0.5, ink=0.3)
    images = jnp.asarray(IMAGES)
    three = jnp.stack([images, 2 * images, images[::-1]], axis=-1)
    changed = np.asarray(_jitted(jitter, 0, three))
    assert changed.shape == (6, 8, 8, 3)
    for channel in range(3):
        alone = _jitted(jitter, 0, three[..., channel])
        np.testing.assert_allclose(changed[..., channel], alone, atol=1e-4)
    views = ShiftedViews(distance=0.5)
    assert views(three).shape == (5, 6, 8, 8, 3)
    np.testing.assert_allclose(views(three)[..., 1], views(three[..., 1]), atol=1e-5)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"rotation": -1.0}, "rotation must be a number of at least 0, not -1.0"),
        ({"shift": float("nan")}, "shift must be a number of at least 0, not nan"),
        ({"scale": 1.0}, "scale must be below 1, not 1.0"),
    ],
)
def test_numbers_out_of_range_are_refused(numbers: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Jitter(**numbers)


def test_shifted_views_are_the_image_and_its_four_shifts() -> None:
    views = ShiftedViews(distance=1.0)(jnp.asarray(IMAGES))
    assert (views.shape, views.dtype) == ((5, 6, 8, 8), jnp.float32)
    for view, shift in zip(views, [(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)], strict=True):
        expected = [ndimage.shift(image, shift, order=0) for image in IMAGES]
        np.testing.assert_array_equal(view, expected)
    near = ShiftedViews(distance=0.25)(jnp.asarray(IMAGES))
    np.testing.assert_allclose(near, 0.25 * views + 0.75 * views[:1], atol=1e-5)


@pytest.mark.parametrize("distance", [0.0, -1.0, float("nan"), float("inf")])
def test_views_at_no_distance_are_refused(distance: float) -> None:
    with pytest.raises(ValueError, match=f"distance must be a number above 0, not {distance}"):
        ShiftedViews(distance=distance)

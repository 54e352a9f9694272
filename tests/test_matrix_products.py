"""Convolutions as matrix products, the form of a GPU: the same values and gradients as XLA's."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from digits_jax import lower
from digits_jax.lowering import matrix_products

on_gpu = functools.partial(lower, platform="gpu")
RUNS = 3


def normal(seed: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


def convolve(x: jax.Array, kernel: jax.Array, **options: Any) -> jax.Array:
    space = "HWD"[: x.ndim - 2]
    options = {"window_strides": (1,) * (x.ndim - 2), "padding": "SAME"} | options
    numbers = (f"N{space}C", f"{space}IO", f"N{space}C")
    return lax.conv_general_dilated(x, kernel, dimension_numbers=numbers, **options)


def with_gradients(function: Callable[..., jax.Array], *arguments: jax.Array) -> Any:
    y, pull = jax.vjp(function, *arguments)
    return y, pull(jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))


CASES: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "one channel": ((4, 8, 8, 1), (3, 3, 1, 6), {}),
    "few pixels": ((4, 2, 2, 5), (3, 3, 5, 4), {}),
    "many pixels": ((4, 9, 7, 4), (3, 2, 4, 5), {}),
    "valid": ((2, 9, 7, 3), (5, 3, 3, 4), {"padding": "VALID"}),
    "strided, dilated": (
        (2, 9, 8, 3),
        (3, 2, 3, 4),
        {"window_strides": (2, 1), "rhs_dilation": (1, 2), "padding": ((2, 0), (-1, 3))},
    ),
    "transposed": (
        (2, 5, 4, 3),
        (3, 3, 3, 4),
        {"lhs_dilation": (2, 2), "padding": ((2, 2), (1, 0))},
    ),
    "depthwise": ((2, 6, 6, 4), (3, 3, 1, 8), {"feature_group_count": 4}),
    "groups": ((2, 6, 6, 4), (3, 3, 2, 6), {"feature_group_count": 2}),
    "one axis": ((3, 12, 2), (4, 2, 5), {}),
    "three axes": ((2, 4, 3, 5, 2), (2, 3, 3, 2, 3), {}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_convolution_of_each_run(case: str) -> None:
    """Under ``vmap`` with a kernel for each run, which XLA makes a convolution in groups of."""
    image, kernel, options = CASES[case]
    function = functools.partial(convolve, **options)
    arguments = normal(0, RUNS, *image), normal(1, RUNS, *kernel)

    def both() -> Any:
        each = (on_gpu(function), function)
        return [jax.vmap(functools.partial(with_gradients, f))(*arguments) for f in each]

    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), *jax.jit(both)()
    )
    text = jax.jit(jax.vmap(on_gpu(function))).lower(*arguments).as_text()
    assert "stablehlo.convolution" not in text


def test_windows_that_take_too_much_memory_stay_a_convolution(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(matrix_products, "PATCH_BYTES", 10_000)
    small, large = ((normal(0, 2, n, n, 4), normal(1, 3, 3, 4, 8)) for n in (3, 32))
    text = [jax.jit(on_gpu(convolve)).lower(*each).as_text() for each in (small, large)]
    assert ["stablehlo.convolution" in each for each in text] == [False, True]


class Network(nn.Module):
    """Two convolutions and pools."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, 1] to [B, 3]."""
        for features in (4, 6):
            x = nn.max_pool(nn.relu(nn.Conv(features, (3, 3))(x)), (2, 2), (2, 2))
        return nn.Dense(3)(x.mean((1, 2)))


def test_a_network_trains_the_same() -> None:
    """Inside of a loop, with pools, differentiated there."""
    images = normal(0, 16, 8, 8, 1)
    networks = jax.vmap(lambda key: Network().init(key, images))(
        jax.random.split(jax.random.key(1), RUNS)
    )

    def trained(apply: Callable[..., Any], variables: Any) -> Any:
        def step(variables: Any, _: None) -> Any:
            gradient = jax.grad(lambda v: (apply(v, images) ** 2).mean())(variables)
            return jax.tree.map(lambda v, g: v - 0.1 * g, variables, gradient), None

        return lax.scan(step, variables, length=5)[0]

    @jax.jit
    def both(networks: Any) -> Any:
        each = (on_gpu(Network().apply), Network().apply)
        return [jax.vmap(functools.partial(trained, apply))(networks) for apply in each]

    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), *both(networks))

"""Small images that are held with the batch last: the function's values and gradients, always."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from jax import lax
from test_lowering import QUICK, assert_close, normal

from digits_jax.lowering import batch_last, jaxprs, small_images
from digits_jax.lowering.jaxprs import lower
from digits_jax.lowering.random_numbers import bits_of_rows

B = small_images.FEWEST
few = hypothesis.settings(max_examples=8, phases=[hypothesis.Phase.generate])
jit = functools.partial(jax.jit, compiler_options=QUICK)


@pytest.fixture(autouse=True)
def any_ranks() -> Iterator[None]:
    """As in people's networks."""
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the operations that kept the layout."""
    names: list[str] = []
    original = jaxprs._in_layout

    def recorded(equation: Any, inputs: Any, layout: Any, jaxpr: Any) -> Any:
        outputs = original(equation, inputs, layout, jaxpr)
        if outputs is not None:
            names.append(equation.primitive.name)
        return outputs

    monkeypatch.setattr(jaxprs, "_in_layout", recorded)
    return names


def conv(x: jax.Array, kernel: jax.Array, padding: Any = "SAME") -> jax.Array:
    return lax.conv_general_dilated(
        x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def max_pool(x: jax.Array) -> jax.Array:
    return nn.max_pool(x, (2, 2), (2, 2))


def scalar_of(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """A sum of what it gives, each entry with another weight."""

    def scalar(*arguments: jax.Array) -> jax.Array:
        y = function(*arguments)
        return jnp.sum(y * jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape))

    return scalar


def assert_equal_values_and_gradients(
    function: Callable[..., jax.Array], *arguments: jax.Array
) -> None:
    """Of the lowered function beside the function itself."""

    def both(function: Callable[..., jax.Array]) -> Any:
        places = tuple(range(len(arguments)))
        gradient = jax.grad(scalar_of(function), places)
        return jit(lambda *a: (function(*a), gradient(*a)))(*arguments)

    assert_close(both(lower(function, platform="cpu")), both(function))


@st.composite
def small_convolutions(draw: Callable[..., Any]) -> dict[str, Any]:
    taps = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    space = draw(st.tuples(st.integers(2, 8), st.integers(2, 8)))
    ends = st.integers(0, 2)
    padding = draw(st.tuples(st.tuples(ends, ends), st.tuples(ends, ends)))
    hypothesis.assume(
        all(n + sum(pad) - t >= 1 for n, t, pad in zip(space, taps, padding, strict=True))
    )
    same = draw(st.booleans())
    return {
        "space": space,
        "taps": (3, 3) if same else taps,
        "padding": ((1, 1), (1, 1)) if same else padding,
        "channels": draw(st.integers(1, 7)),
        "features": draw(st.integers(1, 5)),
        "pool": draw(st.sampled_from(["max", "sum"])),
    }


@few
@hypothesis.given(small_convolutions())
def test_convolutions_that_are_pooled(options: dict[str, Any]) -> None:
    space, taps, channels = options["space"], options["taps"], options["channels"]

    def function(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
        y = nn.relu(conv(x, kernel, options["padding"]) + bias)
        return max_pool(y) if options["pool"] == "max" else nn.avg_pool(y, (2, 2), (2, 2))

    kernel = normal(1, *taps, channels, options["features"])
    bias = normal(2, options["features"])
    assert_equal_values_and_gradients(function, normal(0, B, *space, channels), kernel, bias)


@pytest.mark.parametrize("space", [(1, 1), (2, 2), (3, 4), (4, 3), (4, 4), (2, 4)])
def test_filtered_convolutions_of_a_held_image(space: tuple[int, int], held: list[str]) -> None:
    height, width = space

    def function(x: jax.Array, first: jax.Array, second: jax.Array) -> jax.Array:
        return conv(max_pool(conv(x, first)), second)

    first, second = normal(1, 3, 3, 2, 9), normal(2, 3, 3, 9, 5)
    x = normal(0, B, 2 * height, 2 * width, 2)
    assert_equal_values_and_gradients(function, x, first, second)
    assert held.count("conv_general_dilated") == 4


# Each follows a convolution of [B, 8, 8, 1] that is pooled to [B, 4, 4, 6].
FOLLOWING: dict[str, Callable[[jax.Array], jax.Array]] = {
    "sigmoid": nn.sigmoid,
    "gelu": nn.gelu,
    "softmax over channels": nn.softmax,
    "layer norm": lambda x: (x - x.mean((1, 2, 3), keepdims=True)) * 2.0,
    "batch statistics": lambda x: (x - x.mean((0, 1, 2))) / jnp.sqrt(x.var((0, 1, 2)) + 1e-3),
    "mean of the pixels": lambda x: x.mean((1, 2)),
    "mean of the rows": lambda x: x.mean(0),
    "largest of all": lambda x: x.max(),
    "channels first": lambda x: x.transpose(0, 3, 1, 2),
    "another transposition": lambda x: x.transpose(1, 0, 2, 3),
    "rows flattened": lambda x: x.reshape(B, -1),
    "all flattened": lambda x: x.reshape(-1, 6),
    "one axis more": lambda x: x[:, None] * 2,
    "concatenated": lambda x: jnp.concatenate([x, 2 * x], -1),
    "rows concatenated": lambda x: jnp.concatenate([x, 2 * x], 0),
    "padded": lambda x: jnp.pad(x, ((0, 0), (1, 0), (0, 2), (0, 0))),
    "rows padded": lambda x: jnp.pad(x, ((0, 1), (0, 0), (0, 0), (0, 0))),
    "cropped": lambda x: x[:, 1:, ::2],
    "some rows": lambda x: x[3:],
    "weights of the rows": lambda x: x * jnp.arange(B, dtype=x.dtype)[:, None, None, None],
    "a constant image": lambda x: x + jnp.arange(16, dtype=x.dtype).reshape(4, 4, 1),
    "overlapping pool": lambda x: nn.max_pool(x, (3, 3), (1, 1), "SAME"),
    "average pool": lambda x: nn.avg_pool(x, (2, 2), (2, 2)),
    "where": lambda x: jnp.where(x > 0.1, x, -1.0),
    "a loop": lambda x: lax.scan(lambda c, _: (c * 1.1, None), x, None, length=2)[0],
    "remat": jax.checkpoint(lambda x: jnp.sin(x) * x),
    "condition": lambda x: lax.cond(x.sum() > 0, lambda x: x, lambda x: 2 * x, x),
    "inner jit": lambda x: jax.jit(lambda x: nn.relu(x) + 1)(x),
    "sorted": lambda x: jnp.sort(x, axis=1),
    "used twice": lambda x: x * nn.relu(x) + x,
}


@pytest.mark.parametrize("part", range(3))
def test_what_follows(part: int, held: list[str]) -> None:
    functions = {name: FOLLOWING[name] for name in list(FOLLOWING)[part::3]}

    def all_of(lowered: bool) -> Any:
        def found(x: jax.Array, kernel: jax.Array) -> Any:
            results = {}
            for name, following in functions.items():

                def apply(x: jax.Array, kernel: jax.Array, f: Any = following) -> jax.Array:
                    return f(max_pool(conv(x, kernel)))

                y = lower(apply, platform="cpu") if lowered else apply
                results[name] = y(x, kernel), jax.grad(scalar_of(y), (0, 1))(x, kernel)
            return results

        return jit(found)(normal(0, B, 8, 8, 1), normal(1, 3, 3, 1, 6))

    assert_close(all_of(True), all_of(False))
    assert held.count("conv_general_dilated") >= len(functions)


@pytest.mark.parametrize("activation", [nn.relu, nn.sigmoid, nn.tanh, nn.relu6, nn.gelu, jnp.abs])
def test_a_pool_comes_before_an_activation_only_if_it_may(activation: Any) -> None:
    """And the gradient goes where it went: to the first of equal values."""

    def function(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
        return max_pool(activation(conv(x, kernel) + bias))

    x = jnp.round(normal(0, B, 8, 8, 1))  # with equal values
    kernel = jnp.round(2 * normal(1, 3, 3, 1, 4))
    assert_equal_values_and_gradients(function, x, kernel, jnp.array([-3.0, -1.0, 0.0, 2.0]))


def test_a_rule_of_ones_own_is_no_relu(held: list[str]) -> None:
    """Its value is relu's, its gradient a leaky one; it is the own one that counts."""

    @jax.custom_jvp
    def leaky(x: jax.Array) -> jax.Array:
        return jnp.maximum(x, 0.0)

    leaky.defjvp(lambda p, t: (leaky(p[0]), jnp.where(p[0] > 0, t[0], 0.3 * t[0])))
    for own, times in ((leaky, 0), (nn.relu, 2)):
        held.clear()
        assert_equal_values_and_gradients(
            lambda x, k, own=own: max_pool(own(conv(x, k))),
            normal(0, B, 8, 8, 1),
            normal(1, 3, 3, 1, 4),
        )
        assert held.count("custom_jvp_call") == times


def test_not_a_number_stays_one() -> None:
    x = normal(0, B, 8, 8, 1).at[3, 2, 2, 0].set(jnp.nan)
    kernel = normal(1, 3, 3, 1, 4)

    def function(x: jax.Array) -> jax.Array:
        return max_pool(nn.relu(conv(x, kernel)))

    y, expected = jit(lower(function, platform="cpu"))(x), jit(function)(x)
    assert np.isnan(y)[np.isnan(expected)].all()
    others = np.arange(B) != 3  # of its own row, products of whole cells reach more pixels
    np.testing.assert_array_equal(np.isnan(y)[others], False)


class Net(nn.Module):
    """All that a small network may have."""

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        x = max_pool(nn.relu(nn.Conv(9, (3, 3))(x)))
        norm = nn.BatchNorm(use_running_average=False)
        x = x + nn.Conv(9, (3, 3))(norm(x, mask=mask[:, None, None, None]))
        x = nn.GroupNorm(3)(nn.gelu(x))
        x = max_pool(nn.Conv(12, (2, 2), padding="VALID")(x))
        x = nn.sigmoid(nn.Dense(7)(x.reshape(len(x), -1)))
        return nn.Dense(3)(nn.LayerNorm()(x))


@pytest.mark.parametrize("around", ["alone", "vmap", "forward", "second derivative", "scan"])
def test_a_whole_network(around: str) -> None:
    x, mask = normal(0, B, 8, 8, 2), jnp.arange(B) < B - 3
    params = jit(Net().init)(jax.random.key(0), x, mask)["params"]

    def apply(params: Any, x: jax.Array) -> jax.Array:
        y, _ = Net().apply({"params": params}, x, mask, mutable=["batch_stats"])
        return jnp.sum(jnp.sin(y))

    def found(apply: Callable[..., jax.Array]) -> Any:
        if around == "vmap":
            two = jax.tree.map(lambda leaf: jnp.stack([leaf, 1.1 * leaf]), params)
            return jit(jax.vmap(jax.value_and_grad(apply), (0, None)))(two, x)
        if around == "forward":
            return jit(lambda p: jax.jvp(lambda p: apply(p, x), (p,), (p,)))(params)
        if around == "second derivative":

            def along(s: jax.Array) -> jax.Array:
                return apply(jax.tree.map(lambda leaf: leaf * s, params), x)

            return jit(jax.grad(jax.grad(along)))(jnp.float32(1.0))
        if around == "scan":

            def step(p: Any, _: Any) -> Any:
                value, gradient = jax.value_and_grad(apply)(p, x)
                return jax.tree.map(lambda a, b: a - 0.01 * b, p, gradient), value

            return jit(lambda p: lax.scan(step, p, None, length=3))(params)
        return jit(jax.value_and_grad(apply))(params, x)

    lowered = lower(apply, platform="cpu")
    assert_close(found(lowered), found(apply), 2e-5 if around != "second derivative" else 1e-4)


@pytest.mark.parametrize(
    ("keep", "law"), [(0.75, 0.75), (0.9, 0.9), (0.5, 0.5), (1 / 256, 1 / 256), (0.0, 0.0)]
)
def test_dropout_has_its_law_in_other_draws(keep: float, law: float, held: list[str]) -> None:
    def function(x: jax.Array, kernel: jax.Array, key: jax.Array) -> jax.Array:
        y = max_pool(conv(x, kernel))
        return jnp.where(jax.random.bernoulli(key, keep, y.shape), jnp.ones_like(y), 0.0)

    x, kernel = jnp.ones((1024, 8, 8, 1)), normal(1, 3, 3, 1, 16)
    masks = [
        np.asarray(jit(lower(function, platform="cpu"))(x, kernel, jax.random.key(seed)))
        for seed in (0, 1)
    ]
    sd = np.sqrt(max(law * (1 - law), 1e-12) / masks[0].size)
    for mask in masks:
        assert abs(mask.mean() - law) <= 4.5 * sd
        across_rows, across_units = mask.mean(0), mask.reshape(1024, -1).mean(1)
        assert abs(across_rows - law).max() <= 5.5 * np.sqrt(256) * sd
        assert abs(across_units - law).max() <= 5.5 * np.sqrt(1024) * sd
    if 0.01 < law < 0.99:
        agree = (masks[0] == masks[1]).mean()
        assert abs(agree - (law**2 + (1 - law) ** 2)) < 0.01, "two keys are independent"
    assert "random_bits" in held or keep in (0.75, 0.5, 1 / 256)


@pytest.mark.parametrize("count", [2, 34_816])
def test_words_are_those_of_threefry(count: int) -> None:
    """JAX's own, where it uses both words of a block."""
    keys = jax.random.split(jax.random.key(5), 3)
    words = jax.jit(jax.vmap(lambda key: bits_of_rows(key, 32, (count // 2, 2))))(keys)
    with jax.threefry_partitionable(False):
        for got, key in zip(words, keys, strict=True):
            expected = jax.random.bits(key, (count,), jnp.uint32)
            np.testing.assert_array_equal(got.reshape(-1), expected)
    assert bits_of_rows(jax.random.key(5, impl="rbg"), 32, (2, 2)) is None


@pytest.mark.parametrize("precision", ["highest", "default"])
def test_a_precision_changes_nothing_on_a_cpu(precision: str) -> None:
    """All are float32 there: the same layout, and so the same draws of dropout, and bits."""
    images, kernel, matrix = normal(0, B, 8, 8, 1), normal(1, 3, 3, 1, 4), normal(2, 4, 3)

    def function(x: jax.Array, kernel: jax.Array, matrix: jax.Array) -> jax.Array:
        y = max_pool(conv(x, kernel)).max((1, 2))
        return jax.random.bernoulli(jax.random.key(0), 0.5, y.shape) * y @ matrix

    apply = lower(function, platform="cpu")
    without = jit(lambda *a: apply(*a))(images, kernel, matrix)
    with jax.default_matmul_precision(precision):
        np.testing.assert_array_equal(jit(lambda *a: apply(*a))(images, kernel, matrix), without)


def test_what_is_large_or_rare_is_left_to_the_other_forms(held: list[str]) -> None:
    cases = {
        "large images": (B, 16, 16, 1),
        "many channels": (B, 8, 8, 16),
        "few rows": (B - 1, 8, 8, 1),
    }
    for shape in cases.values():
        jax.make_jaxpr(lower(lambda x, k: max_pool(conv(x, k)), platform="cpu"))(
            normal(0, *shape), normal(1, 3, 3, shape[-1], 4)
        )
    not_pooled = lower(lambda x, k: jnp.sum(conv(x, k)), platform="cpu")
    skipped = lower(lambda x, k: (max_pool(conv(x, k)), conv(conv(x, k), k)), platform="cpu")
    for function in (not_pooled, skipped):
        jax.make_jaxpr(function)(normal(0, B, 8, 8, 1), normal(1, 3, 3, 1, 1))
    assert held.count("conv_general_dilated") == 1, "that of the last whose result is pooled"
    assert batch_last.SMALL < 16


def test_windows_are_bounded(held: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    x, kernel = normal(0, B, 8, 8, 2), normal(1, 3, 3, 2, 4)
    needed = B * 2 * 16 * 16 * 4  # 4x4 cells, each of 4x4 pixels
    for most, times in ((needed, 1), (needed - 1, 0)):
        held.clear()
        monkeypatch.setattr(small_images, "PATCH_BYTES", most)
        jax.make_jaxpr(lower(lambda x, k: max_pool(conv(x, k)), platform="cpu"))(x, kernel)
        assert held.count("conv_general_dilated") == times

"""A lowered function has the values, the gradients and the effects of the function itself."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from jax import lax
from jax.extend import core

from digits_jax.lowering.jaxprs import fast, lower

few = hypothesis.settings(max_examples=8, phases=[hypothesis.Phase.generate])
on_cpu = functools.partial(lower, platform="cpu")
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
jit = functools.partial(jax.jit, compiler_options=QUICK)  # compiles in half the time


def normal(seed: int, *shape: int, dtype: Any = np.float32) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def assert_close(actual: Any, expected: Any, tolerance: float = 1e-5) -> None:
    """Equal up to a share of the array's largest magnitude."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.dtype == e.dtype and a.shape == e.shape
        a, e = np.asarray(a, np.float64), np.asarray(e, np.float64)
        finite = np.isfinite(e)
        np.testing.assert_array_equal(a[~finite], e[~finite])
        largest = abs(e[finite]).max(initial=1e-30)
        np.testing.assert_allclose(a[finite], e[finite], rtol=0, atol=tolerance * largest)


def primitives(jaxpr: Any) -> set[str]:
    """The names of all operations of a jaxpr, inner ones too."""
    names = set()
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        name = equation.primitive.name
        if name == "conv_general_dilated":
            numbers = equation.params["dimension_numbers"]
            last, axes = len(numbers.lhs_spec) - 1, range(1, len(numbers.lhs_spec) - 1)
            images = numbers.lhs_spec == numbers.out_spec == (0, last, *axes)
            if not images or numbers.rhs_spec[:2] != (last, last - 1):
                name += " in another order"
        names.add(name)
        for inner in core.jaxprs_in_params(equation.params):
            names |= primitives(inner)
    return names


def with_derivatives(function: Callable[..., jax.Array], *arguments: jax.Array) -> list[Any]:
    """The result, its gradients and a forward derivative, for weights drawn at random."""

    def all_of(*arguments: jax.Array) -> list[Any]:
        y, backward = jax.vjp(function, *arguments)
        tangents = tuple(normal(7 + i, *a.shape, dtype=a.dtype) for i, a in enumerate(arguments))
        forward = jax.jvp(function, arguments, tangents)[1]
        return [y, backward(normal(5, *y.shape, dtype=y.dtype)), forward]

    results: list[Any] = jit(all_of)(*arguments)
    return results


def convolution_in_numpy(
    x: Any,
    kernel: Any,
    strides: tuple[int, ...],
    padding: list[tuple[int, int]],
    x_dilation: tuple[int, ...],
    kernel_dilation: tuple[int, ...],
    groups: int,
) -> Any:
    """The definition, in float64: images [B, *space, C], kernels [*window, C / G, F]."""
    x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
    axes = len(strides)
    spread = np.zeros(
        (
            len(x),
            *((n - 1) * d + 1 for n, d in zip(x.shape[1:-1], x_dilation, strict=True)),
            x.shape[-1],
        )
    )
    spread[(slice(None), *(slice(None, None, d) for d in x_dilation))] = x
    for axis, (low, high) in enumerate(padding, 1):
        width = [(0, 0)] * x.ndim
        width[axis] = (max(low, 0), max(high, 0))
        spread = np.pad(spread, width)
        keep = slice(max(-low, 0), spread.shape[axis] - max(-high, 0))
        spread = spread[(slice(None),) * axis + (keep,)]
    reach = [(w - 1) * d for w, d in zip(kernel.shape[:axes], kernel_dilation, strict=True)]
    count = [
        (n - r - 1) // s + 1 for n, r, s in zip(spread.shape[1:-1], reach, strides, strict=True)
    ]
    y = np.zeros((len(x), *count, kernel.shape[-1]))
    features = kernel.shape[-1] // groups
    for tap in itertools.product(*map(range, kernel.shape[:axes])):
        places = zip(tap, kernel_dilation, strides, count, strict=True)
        seen = spread[
            (slice(None), *(slice(t * d, t * d + (m - 1) * s + 1, s) for t, d, s, m in places))
        ]
        for g in range(groups):
            part = seen[..., g * kernel.shape[-2] : (g + 1) * kernel.shape[-2]]
            out = slice(g * features, (g + 1) * features)
            y[..., out] += part @ kernel[tap][:, out]
    return y


@st.composite
def convolutions(draw: Any) -> dict[str, Any]:
    """Shapes and options of a convolution that has at least one output."""
    axes = draw(st.integers(1, 3))
    each = lambda low, high: draw(st.tuples(*[st.integers(low, high)] * axes))  # noqa: E731
    space, window, kernel_dilation = each(3, 6), each(1, 3), each(1, 2)
    transposed = draw(st.booleans())
    lowest = draw(st.sampled_from([0, 0, -1]))
    padding = [
        (draw(st.integers(max(lowest, 0), 2)) + (w - 1) * d, draw(st.integers(lowest, 2)))
        for w, d in zip(window, kernel_dilation, strict=True)
    ]
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    return {
        "batch": draw(st.sampled_from([2, 16])),
        "space": space,
        "window": window,
        "strides": (1,) * axes if transposed else each(1, 3),
        "padding": padding,
        "x_dilation": each(1, 3) if transposed else (1,) * axes,
        "kernel_dilation": kernel_dilation,
        "groups": groups,
        "channels": groups * draw(st.sampled_from([1, 3, 16])),
        "features": groups * draw(st.sampled_from([1, 2, 16])),
    }


@pytest.mark.parametrize("padding", ["SAME", "VALID", ((2, 0), (3, 1))])
@pytest.mark.parametrize(
    ("width", "channels", "features", "taps"),
    [
        (9, 1, 6, 5),  # four results beside one another, the last of them half outside
        (12, 3, 16, 3),  # with a channel of zeros
        (11, 6, 12, 3),  # two results
        (10, 16, 6, 5),
        (9, 17, 9, 3),  # one, with a channel of zeros
        (8, 1, 5, 3),  # a row at once
    ],
)
def test_few_features(width: int, channels: int, features: int, taps: int, padding: Any) -> None:
    x, kernel = normal(0, 4, 7, width, channels), normal(1, 3, taps, channels, features)

    def both(convolve: Callable[..., jax.Array]) -> Any:
        y = convolve(x, kernel)
        dy = normal(2, *y.shape)
        return y, jax.grad(lambda *a: jnp.sum(convolve(*a) * dy), (0, 1))(x, kernel)

    def plain(x: jax.Array, kernel: jax.Array) -> jax.Array:
        numbers = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=numbers)

    assert_close(*jit(lambda: (both(on_cpu(plain)), both(plain)))())


@few
@hypothesis.given(convolutions(), st.sampled_from(["channels last", "channels first"]))
def test_convolutions(options: dict[str, Any], layout: str) -> None:
    space, window, groups = options["space"], options["window"], options["groups"]
    x = normal(0, options["batch"], *space, options["channels"])
    kernel = normal(1, *window, options["channels"] // groups, options["features"])
    expected = convolution_in_numpy(
        x,
        kernel,
        *(options[n] for n in ("strides", "padding", "x_dilation", "kernel_dilation")),
        groups,
    )
    letters = "HWD"[: len(space)]
    numbers = f"N{letters}C", f"{letters}IO", f"N{letters}C"
    if layout == "channels first":
        numbers = f"NC{letters}", f"OI{letters}", f"NC{letters}"
        x, kernel = jnp.moveaxis(x, -1, 1), jnp.moveaxis(kernel, (-1, -2), (0, 1))
        expected = np.moveaxis(expected, -1, 1)

    def function(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(
            x,
            kernel,
            options["strides"],
            options["padding"],
            options["x_dilation"],
            options["kernel_dilation"],
            numbers,
            groups,
        )

    actual = with_derivatives(on_cpu(function), x, kernel)
    assert_close(np.asarray(actual[0], np.float64), expected)
    assert_close(actual, with_derivatives(function, x, kernel))


@st.composite
def pools(draw: Any) -> dict[str, Any]:
    axes = draw(st.integers(1, 3))
    each = lambda low, high: draw(st.tuples(*[st.integers(low, high)] * axes))  # noqa: E731
    window = each(1, 3)
    apart = draw(st.booleans())
    return {
        "kind": draw(st.sampled_from(["max", "max", "min", "sum"])),
        "space": each(5, 7),
        "window": window,
        "strides": window if apart else each(1, 3),
        "padding": draw(st.tuples(*[st.tuples(st.integers(0, 1), st.integers(0, 2))] * axes)),
        "levels": draw(st.sampled_from([2, 1000])),  # 2: most values of a window are equal
    }


@few
@hypothesis.given(pools())
def test_pools(options: dict[str, Any]) -> None:
    initial, combine = {
        "max": (-jnp.inf, lax.max),
        "min": (jnp.inf, lax.min),
        "sum": (0.0, lax.add),
    }[options["kind"]]

    def function(x: jax.Array) -> jax.Array:
        return lax.reduce_window(
            x,
            initial,
            combine,
            (1, *options["window"], 1),
            (1, *options["strides"], 1),
            ((0, 0), *options["padding"], (0, 0)),
        )

    x = jnp.round(normal(0, 2, *options["space"], 3) * options["levels"])
    lowered = on_cpu(function)
    assert_close(with_derivatives(lowered, x), with_derivatives(function, x))
    names = primitives(jax.make_jaxpr(jax.grad(lambda x: lowered(x).sum()))(x).jaxpr)
    assert not {name for name in names if "window" in name or "select_and" in name}


def test_dilated_pools() -> None:
    def function(x: jax.Array) -> jax.Array:
        window = (1, 2, 3, 1), (1, 2, 1, 1), "VALID"
        return lax.reduce_window(x, -jnp.inf, lax.max, *window, window_dilation=(1, 2, 2, 1))

    x = normal(0, 2, 6, 7, 3)
    np.testing.assert_array_equal(on_cpu(function)(x), function(x))


@pytest.mark.parametrize("window", [(3, 3), (2, 2)])
def test_first_of_equal_values_gets_the_gradient(window: tuple[int, int]) -> None:
    def gradient(lowered: Any) -> jax.Array:
        pool = lowered(lambda x: nn.max_pool(x, window, (2, 2), "SAME"))
        x = jnp.zeros((1, 4, 4, 1)).at[0, 1, :2].set(1.0)
        return jax.grad(lambda x: pool(x).sum())(x)[0, :, :, 0]

    np.testing.assert_array_equal(gradient(on_cpu), gradient(lambda pool: pool))
    assert gradient(on_cpu)[1, 0] == 1 and gradient(on_cpu)[1, 1] == 0


def test_not_a_number_and_infinity_pass_through_a_pool() -> None:
    x = jnp.asarray([jnp.nan, 1, 2, jnp.nan, -jnp.inf, -jnp.inf, jnp.inf, 0]).reshape(1, 8, 1)
    actual = on_cpu(lambda x: nn.max_pool(x, (2,), (2,)))(x)
    np.testing.assert_array_equal(actual.ravel(), [np.nan, np.nan, -np.inf, np.inf])


class LeNet(nn.Module):
    """5x5 convolutions and average pools."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.avg_pool(nn.tanh(nn.Conv(6, (5, 5))(x)), (2, 2), (2, 2))
        x = nn.avg_pool(nn.tanh(nn.Conv(16, (5, 5), padding="VALID")(x)), (2, 2), (2, 2))
        return nn.Dense(10)(nn.tanh(nn.Dense(20)(x.reshape(len(x), -1))))


class VGG(nn.Module):
    """Pairs of 3x3 convolutions, then a pool."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for features in (8, 16):
            x = nn.relu(nn.Conv(features, (3, 3))(x))
            x = nn.relu(nn.Conv(features, (3, 3))(x))
            x = nn.max_pool(x, (2, 2), (2, 2))
        return nn.Dense(10)(x.reshape(len(x), -1))


class ResNet(nn.Module):
    """Strides, 1x1 convolutions, overlapping pools and batch normalisation."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.max_pool(nn.Conv(8, (3, 3), use_bias=False)(x), (3, 3), (2, 2), "SAME")
        for features, stride in ((8, 1), (16, 2)):
            y = nn.Conv(features, (3, 3), stride, use_bias=False)(x)
            y = nn.relu(nn.BatchNorm(use_running_average=False)(y))
            y = nn.Conv(features, (3, 3), use_bias=False)(y)
            y = nn.BatchNorm(use_running_average=False)(y)
            x = nn.relu(y + nn.Conv(features, (1, 1), stride, use_bias=False)(x))
        return nn.Dense(10)(x.mean((1, 2)))


class Separable(nn.Module):
    """Depthwise and 1x1 convolutions."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Conv(8, (3, 3))(x)
        for features, stride in ((16, 2), (16, 1)):
            x = nn.Conv(x.shape[-1], (3, 3), stride, feature_group_count=x.shape[-1])(x)
            x = nn.gelu(nn.Conv(features, (1, 1))(nn.swish(x)))
        return nn.Dense(10)(x.mean((1, 2)))


class UNet(nn.Module):
    """Transposed convolutions."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        a = nn.relu(nn.Conv(8, (3, 3))(x))
        b = nn.relu(nn.Conv(16, (3, 3))(nn.max_pool(a, (2, 2), (2, 2))))
        c = nn.relu(nn.Conv(16, (3, 3))(nn.max_pool(b, (2, 2), (2, 2))))
        c = jnp.concatenate([nn.ConvTranspose(16, (2, 2), (2, 2))(c), b], -1)
        c = jnp.concatenate([nn.ConvTranspose(8, (3, 3), (2, 2))(nn.relu(c)), a], -1)
        return nn.Conv(1, (1, 1))(nn.relu(c)).mean(-1).reshape(len(x), -1)


class WaveNet(nn.Module):
    """Dilated convolutions in one dimension."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Conv(8, (1,))(x.reshape(len(x), -1, 1))
        for dilation in (1, 2, 4):
            gates = nn.Conv(16, (2,), kernel_dilation=dilation, padding="CAUSAL")(x)
            a, b = jnp.split(gates, 2, -1)
            x = x + nn.Conv(8, (1,))(nn.tanh(a) * nn.sigmoid(b))
        return x.mean((1, 2))[:, None]


NETWORKS = [LeNet, VGG, ResNet, Separable, UNet, WaveNet]


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.__name__)
def test_whole_networks(network: type[nn.Module]) -> None:
    images = normal(0, 3, 12, 12, 1)
    variables = network().init(jax.random.key(0), images)

    def loss(apply: Any, variables: Any, images: jax.Array) -> tuple[jax.Array, Any]:
        outputs, updates = apply(variables, images, mutable=["batch_stats"])
        return jnp.sum(outputs * normal(1, *outputs.shape)), (outputs, updates)

    def both(variables: Any, images: jax.Array) -> list[Any]:
        applies = on_cpu(network().apply), network().apply
        return [jax.grad(loss, (1, 2), has_aux=True)(a, variables, images) for a in applies]

    assert_close(*jit(both)(variables, images))
    gradient = jax.grad(functools.partial(loss, on_cpu(network().apply)), has_aux=True)
    names = primitives(jax.make_jaxpr(gradient)(variables, images).jaxpr)
    assert not {name for name in names if "window" in name or "select_and" in name}
    assert "digits_product" in names and "conv_general_dilated in another order" not in names


def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers)


IMAGE, KERNEL = normal(0, 2, 4, 4, 2), normal(1, 3, 3, 2, 2) / 4


def scanned(x: jax.Array, kernel: jax.Array) -> jax.Array:
    def step(carry: tuple[jax.Array, jax.Array], k: jax.Array) -> tuple[Any, jax.Array]:
        x, count = carry
        return (convolve(x, k), count + 1), x.sum()

    (x, count), sums = lax.scan(step, (x, 0), jnp.stack([kernel, 2 * kernel]), reverse=True)
    return x * count + sums.sum()


def looped(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.fori_loop(0, 2, lambda i, x: convolve(x, kernel) + i, x)


def while_looped(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.while_loop(lambda c: c[0] < 2, lambda c: (c[0] + 1, convolve(c[1], kernel)), (0, x))[
        1
    ]


def conditional(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.cond(x[0, 0, 0, 0] > 0, convolve, lambda x, kernel: x, x, kernel)


def switched(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.switch(jnp.uint8(7), [lambda x: x, lambda x: convolve(x, kernel)], x)


def rematerialized(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jnp.sin(jax.checkpoint(lambda x: jnp.sin(convolve(jnp.sin(x), kernel)))(x))


def jitted(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jax.jit(convolve)(x, kernel) ** 2


@pytest.mark.parametrize(
    "function", [scanned, looped, while_looped, conditional, switched, rematerialized, jitted]
)
def test_inside_of(function: Callable[..., jax.Array]) -> None:
    lowered = on_cpu(function)
    if function is while_looped:  # has no gradient
        assert_close(lowered(IMAGE, KERNEL), function(IMAGE, KERNEL))
    else:
        expected = with_derivatives(function, IMAGE, KERNEL)
        assert_close(with_derivatives(lowered, IMAGE, KERNEL), expected)
    names = primitives(jax.make_jaxpr(lowered)(IMAGE, KERNEL).jaxpr)
    assert "conv_general_dilated" not in names and "digits_product" in names


def test_a_choice_by_platform_stays_one() -> None:
    def chosen(x: jax.Array) -> jax.Array:
        forms = {"tpu": lambda x: 2 * convolve(x, KERNEL), "cpu": lambda x: convolve(x, KERNEL)}
        return lax.platform_dependent(x, **forms)

    one, other = (jit(function).lower(IMAGE).as_text() for function in (on_cpu(chosen), chosen))
    assert one == other  # with the branch of the platform alone


def test_checkpoint_still_computes_again() -> None:
    gradient = jax.make_jaxpr(jax.grad(lambda x: on_cpu(rematerialized)(x, KERNEL).sum()))(IMAGE)
    plain = jax.make_jaxpr(jax.grad(lambda x: rematerialized(x, KERNEL).sum()))(IMAGE)
    assert str(gradient).count("= sin ") == str(plain).count("= sin ") > 3
    assert {"checkpoint", "remat2"} & primitives(gradient.jaxpr)


def test_own_gradient_rules_stay_in_force() -> None:
    backward = jax.custom_vjp(lambda x: convolve(x, KERNEL))
    backward.defvjp(lambda x: (backward(x), None), lambda _, dy: (42 * dy,))
    forward = jax.custom_jvp(lambda x: convolve(x, KERNEL))
    forward.defjvp(lambda x, t: (forward(*x), 17 * t[0]))
    for function, factor in ((backward, 42), (forward, 17)):
        gradient = jax.grad(lambda x, f=function: on_cpu(f)(x).sum())(IMAGE)
        np.testing.assert_array_equal(gradient, jnp.full_like(IMAGE, factor))


@pytest.mark.parametrize("around", ["jit", "vmap", "vmap kernel", "grad of vmap", "scan", "map"])
def test_under(around: str) -> None:
    def loss(function: Any, x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jnp.sum(jnp.sin(function(x, kernel)))

    def run(function: Any) -> Any:
        gradient = jax.grad(loss, (1, 2))
        x, kernel = jnp.stack([IMAGE, 2 * IMAGE]), jnp.stack([KERNEL, KERNEL + 0.1])
        if around == "jit":
            return jax.jit(functools.partial(gradient, function))(IMAGE, KERNEL)
        if around == "vmap":
            return jax.vmap(functools.partial(gradient, function))(x, kernel)
        if around == "vmap kernel":
            return jax.vmap(functools.partial(gradient, function), (None, 0))(IMAGE, kernel)
        if around == "grad of vmap":
            mapped = jax.vmap(function, (0, None), 1)
            return gradient(mapped, x, KERNEL)
        if around == "map":
            return lax.map(lambda pair: gradient(function, *pair), (x, kernel))
        step = lambda k, _: (k - 0.01 * gradient(function, IMAGE, k)[1], None)  # noqa: E731
        return lax.scan(step, KERNEL, length=3)[0]

    assert_close(*jit(lambda: [run(on_cpu(convolve)), run(convolve)])())


def test_inside_of_shard_map() -> None:
    mesh = jax.make_mesh((2,), ("runs",), axis_types=(jax.sharding.AxisType.Auto,))
    runs, everywhere = jax.sharding.PartitionSpec("runs"), jax.sharding.PartitionSpec()

    def gradients(function: Any) -> Any:
        def of_shard(kernel: jax.Array, x: jax.Array) -> jax.Array:
            loss = lambda kernel: jnp.sum(jnp.sin(function(x[0], kernel)))  # noqa: E731
            return jax.grad(loss)(kernel)

        shards = jax.shard_map(
            of_shard, mesh=mesh, in_specs=(everywhere, runs), out_specs=everywhere
        )
        return jit(shards)(KERNEL, jnp.stack([IMAGE, 2 * IMAGE]))

    assert_close(gradients(on_cpu(convolve)), gradients(convolve))


def test_second_derivatives() -> None:
    def function(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jnp.sum(
            jnp.tanh(nn.max_pool(convolve(jnp.tanh(convolve(x, kernel)), kernel), (2, 2)))
        )

    def products(function: Any) -> list[Any]:
        gradient = jax.grad(function, (0, 1))
        tangents = normal(3, *IMAGE.shape), normal(4, *KERNEL.shape)
        forward = jax.jvp(gradient, (IMAGE, KERNEL), tangents)[1]

        def inner(*arguments: jax.Array) -> jax.Array:
            (dx, dkernel), (x, kernel) = gradient(*arguments), tangents
            return jnp.vdot(dx, x) + jnp.vdot(dkernel, kernel)

        return [forward, jax.grad(inner, (0, 1))(IMAGE, KERNEL)]

    assert_close(*jit(lambda: [products(on_cpu(function)), products(function)])())


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("bfloat16", 2e-2), ("float16", 2e-3), ("float64", 1e-13)]
)
def test_types(dtype: str, tolerance: float) -> None:
    with jax.enable_x64(dtype == "float64"):
        x, kernel = normal(0, 2, 6, 6, 8, dtype=dtype), normal(1, 3, 3, 8, 2, dtype=dtype)

        def function(x: jax.Array, kernel: jax.Array) -> jax.Array:
            return nn.max_pool(convolve(x, kernel), (2, 2), (2, 2))

        wide = [a.astype("float64" if dtype == "float64" else "float32") for a in (x, kernel)]
        actual, expected = [
            jax.vjp(f, *a) for f, a in ((on_cpu(function), (x, kernel)), (function, wide))
        ]
        assert actual[0].dtype == jnp.dtype(dtype)
        actual, expected = [(y, *vjp(jnp.ones_like(y))) for y, vjp in (actual, expected)]
        assert {a.dtype for a in actual} == {jnp.dtype(dtype)}
        assert_close([a.astype(wide[0].dtype) for a in actual], list(expected), tolerance)


def test_integers_run_as_they_are() -> None:
    x, kernel = (10 * IMAGE).astype(jnp.int32), (10 * KERNEL).astype(jnp.int32)
    function = lambda x, kernel: nn.max_pool(convolve(x, kernel), (2, 2))  # noqa: E731
    np.testing.assert_array_equal(on_cpu(function)(x, kernel), function(x, kernel))


def test_accumulation_type_is_kept() -> None:
    def function(x: jax.Array, kernel: jax.Array) -> jax.Array:
        numbers = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(
            x,
            kernel,
            (1, 1),
            "SAME",
            dimension_numbers=numbers,
            preferred_element_type=jnp.float32,
        )

    arguments = IMAGE.astype(jnp.bfloat16), KERNEL.astype(jnp.bfloat16)
    assert_close(on_cpu(function)(*arguments), function(*arguments))


def test_arguments_and_results_of_any_kind() -> None:
    def function(
        x: jax.Array, options: dict[str, Any], *, train: bool, key: jax.Array, then: Any
    ) -> Any:
        assert train is True and options["name"] == "a" and options["none"] is None
        bits = jax.random.bits(key, (2,))
        return {
            "y": then(convolve(x, KERNEL)) * options["factor"],
            "name": "b",
            "bits": (bits, key),
        }

    arguments = IMAGE, {"name": "a", "none": None, "factor": 2.0}
    keywords = {"train": True, "key": jax.random.key(3), "then": jnp.tanh}
    actual = on_cpu(function)(*arguments, **keywords)
    expected = function(*arguments, **keywords)
    assert actual["name"] == "b"
    assert_close(actual["y"], expected["y"])
    np.testing.assert_array_equal(actual["bits"][0], expected["bits"][0])
    assert actual["bits"][1] == expected["bits"][1]


def test_effects_survive() -> None:
    seen = []

    def function(x: jax.Array, kernel: jax.Array) -> jax.Array:
        y = convolve(x, kernel)
        jax.debug.callback(lambda y: seen.append(float(y)), y.sum())
        number = jax.experimental.io_callback(
            lambda: np.float32(2), jax.ShapeDtypeStruct((), jnp.float32), ordered=True
        )
        return y * number

    actual = jax.jit(on_cpu(function))(IMAGE, KERNEL)
    jax.effects_barrier()
    assert_close(actual, 2 * convolve(IMAGE, KERNEL))
    assert len(seen) == 1


def test_closed_over_tracers() -> None:
    gradient = jax.jit(jax.grad(lambda k: on_cpu(lambda x: convolve(x, k))(IMAGE).sum()))(KERNEL)
    assert_close(gradient, jax.grad(lambda k: convolve(IMAGE, k).sum())(KERNEL))


def test_patches_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    x, kernel = normal(0, 2, 6, 6, 1), normal(1, 3, 3, 1, 2)
    few_patches = jax.make_jaxpr(lambda x: jax.jit(on_cpu(convolve))(x, kernel))(x)
    text = lambda: jax.jit(lambda x: on_cpu(convolve)(x, kernel)).lower(x).as_text()  # noqa: E731
    assert "stablehlo.convolution" not in text()
    monkeypatch.setattr("digits_jax.lowering.convolutions.PATCH_BYTES", 100)
    assert "stablehlo.convolution" in text()
    assert "digits_product" in primitives(few_patches.jaxpr)


@pytest.mark.parametrize("batch", [16, 11])
def test_gradient_to_a_kernel_of_many_images(batch: int) -> None:
    x, kernel = normal(0, batch, 8, 8, 16), normal(1, 3, 3, 16, 16)
    gradient = lambda function: jax.grad(lambda k: jnp.sum(function(x, k) ** 2))(kernel)  # noqa: E731
    assert_close(*jit(lambda: [gradient(on_cpu(convolve)), gradient(convolve)])())


def test_other_platforms_keep_the_function() -> None:
    assert lower(convolve, platform="tpu") is convolve
    assert lower(convolve, platform="abacus") is convolve  # a plug-in's own name


def test_shapes_that_are_symbols_are_left_as_they_are() -> None:
    shapes = jax.export.symbolic_shape("rows, 8, 8, 3")
    x, kernel = jax.ShapeDtypeStruct(shapes, jnp.float32), normal(1, 3, 3, 3, 4)
    exported = jax.export.export(jax.jit(lambda x: on_cpu(convolve)(x, kernel)))(x)
    images = normal(0, 5, 8, 8, 3)
    assert_close(exported.call(images), convolve(images, kernel))


def test_fast_lowers_for_the_default_backend() -> None:
    names = primitives(jax.make_jaxpr(fast(convolve))(IMAGE, KERNEL).jaxpr)
    assert ("digits_product" in names) == (jax.default_backend() == "cpu")


@pytest.mark.parametrize("implementation", ["threefry2x32", "rbg"])
def test_random_numbers_stay_the_same(implementation: str) -> None:
    def draw(key: jax.Array) -> list[jax.Array]:
        key = jax.random.fold_in(key, 2711844646)
        bits = [jax.random.bits(key, (5,), kind) for kind in ("uint8", "uint32")]
        return [jax.random.bernoulli(key, 0.75, (3, 5)), *bits, jax.random.key_data(key)]

    keys = jax.random.split(jax.random.key(3, impl=implementation), 2)

    def all_of(draw: Any) -> Any:
        return draw(keys[0]), jax.vmap(draw)(keys)

    actual, expected = jit(lambda: (all_of(on_cpu(draw)), all_of(draw)))()
    jax.tree.map(np.testing.assert_array_equal, actual, expected)
    drawn = "random_bits" in primitives(jax.make_jaxpr(on_cpu(draw))(keys[0]).jaxpr)
    assert drawn == (implementation == "rbg")

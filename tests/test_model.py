"""The network against ``nn.Conv``, against NumPy in float64, and against Keras's layer table."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import correlate
from scipy.special import expit

from digits_jax.model import (
    BatchNorm,
    Conv3x3,
    DigitsCNN,
    Dropout,
    _random_words,
    conv3x3,
    conv3x3_by_pixels,
    layer_table,
    max_of_cells,
)

SIZES = [(8, 8), (4, 4), (2, 2), (2, 4), (5, 7), (3, 3)]


def _normal(seed: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


def _flax_conv(x: jax.Array, kernel: jax.Array, *, pool: bool) -> jax.Array:
    """nn.Conv on [H, W, C, B], for comparison."""
    conv = nn.Conv(kernel.shape[-1], (3, 3), use_bias=False)
    images = jnp.moveaxis(x, -1, 0)
    y = conv.apply({"params": {"kernel": kernel}}, images)
    if pool:
        y = nn.max_pool(y, (2, 2), (2, 2))
    return jnp.moveaxis(y, 0, -1)


@pytest.mark.parametrize("conv", [conv3x3, conv3x3_by_pixels])
@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_conv_equals_flax_conv_forward_and_backward(
    size: tuple[int, int], pool: bool, conv: Any
) -> None:
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(*size, 5, 3)), rng.normal(size=(3, 3, 5, 7))
    x, kernel = x.astype(np.float32), kernel.astype(np.float32)
    out = tuple(n // 2 for n in size) if pool else size
    dy = rng.normal(size=(*out, 7, 3)).astype(np.float32)

    def forward_and_backward(conv: Any) -> Any:
        y, backward = jax.vjp(functools.partial(conv, pool=pool), x, kernel)
        return y, *backward(dy)

    ours = jax.jit(functools.partial(forward_and_backward, conv))()
    theirs = jax.jit(functools.partial(forward_and_backward, _flax_conv))()
    for got, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=2e-5)


def test_conv_under_vmap_equals_conv_alone() -> None:
    x, kernel = _normal(0, 4, 8, 8, 2, 3), _normal(1, 4, 3, 3, 2, 6)
    together, alone = jax.jit(jax.vmap(conv3x3))(x, kernel), jax.jit(conv3x3)
    for i in range(4):
        np.testing.assert_allclose(together[i], alone(x[i], kernel[i]), rtol=1e-5, atol=1e-5)


def test_the_gradient_of_a_pool_goes_to_the_first_of_equal_values() -> None:
    cells = jnp.array([[1.0, 2, 3, 0], [1, 2, 0, 0], [1, 0, 3, 5], [1, 2, 3, 5]]).reshape(2, 2, 4)
    gradient = jax.grad(lambda cells: max_of_cells(cells).sum())(cells)
    expected = [[1, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]]
    np.testing.assert_array_equal(gradient.reshape(4, 4), expected)


def _numpy_forward(params: Any, images: np.ndarray) -> np.ndarray:
    """The notebook's network in float64, written down once more: logits [B, K]."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    logits = []
    for image in np.asarray(images, np.float64):
        x = image[:, :, np.newaxis]
        for i in (1, 2, 3):
            kernel, bias = p[f"conv_{i}"]["kernel"], p[f"conv_{i}"]["bias"]
            padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
            planes = [correlate(padded, kernel[..., f], "valid")[..., 0] for f in range(len(bias))]
            x = np.maximum(np.stack(planes, -1) + bias, 0)
            h, w, c = x.shape
            x = x.reshape(h // 2, 2, w // 2, 2, c).max((1, 3))
        x = x.reshape(-1)
        for name in ("dense_1", "dense_2"):
            x = expit(x @ p[name]["kernel"] + p[name]["bias"])
        logits.append(x @ p["logits"]["kernel"] + p["logits"]["bias"])
    return np.stack(logits)


def _trained_like(network: DigitsCNN) -> Any:
    """Variables whose biases are not zero, as after training."""
    variables = jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, 8, 8)))
    rng = np.random.default_rng(7)
    return jax.tree.map(
        lambda leaf: leaf + 0.1 * rng.normal(size=leaf.shape).astype(np.float32), variables
    )


def test_forward_equals_numpy_float64() -> None:
    network = DigitsCNN()
    variables = _trained_like(network)
    images = np.random.default_rng(0).integers(0, 17, (6, 8, 8), dtype=np.uint8)
    expected = _numpy_forward(variables["params"], images)
    np.testing.assert_allclose(
        jax.jit(network.apply)(variables, images), expected, rtol=1e-5, atol=1e-5
    )


def test_gradient_equals_finite_differences_of_numpy_float64() -> None:
    network = DigitsCNN()
    variables = _trained_like(network)
    images = np.random.default_rng(0).integers(0, 17, (3, 8, 8), dtype=np.uint8)
    params = variables["params"]

    @jax.jit
    def gradient(params: Any) -> Any:
        return jax.grad(lambda p: jnp.sum(network.apply({"params": p}, images)[:, 0]))(params)

    rng = np.random.default_rng(1)

    def value(layer: str, name: str, step: np.ndarray) -> float:
        moved = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
        moved[layer][name] += step
        return float(_numpy_forward(moved, images)[:, 0].sum())

    for layer, leaves in gradient(params).items():
        for name, slope in leaves.items():
            step = 1e-9 * rng.normal(size=slope.shape)
            difference = value(layer, name, step) - value(layer, name, -step)
            expected = 2 * np.sum(np.asarray(slope, np.float64) * step)
            scale = 2e-9 * np.linalg.norm(slope)
            assert scale > 0, (layer, name)
            assert abs(difference - expected) < 1e-3 * scale, (layer, name)


def _norm_variables(channels: int) -> Any:
    """Parameters and running statistics of a BatchNorm."""
    rng = np.random.default_rng(1)
    params = {"scale": rng.normal(size=channels), "bias": rng.normal(size=channels)}
    params = jax.tree.map(jnp.float32, params)
    stats = {"mean": jnp.full(channels, 0.5), "var": jnp.full(channels, 2.0)}
    return params, stats


def test_batch_norm_is_that_of_flax_with_its_mask() -> None:
    x = 3 * _normal(0, 4, 4, 3, 7) + 1
    mask = jnp.arange(7) < 5
    params, stats = _norm_variables(3)
    dy = _normal(2, *x.shape) * mask.reshape(1, 1, 1, -1)

    def ours(params: Any, x: Any, train: bool) -> Any:
        variables = {"params": params, "batch_stats": stats}
        return BatchNorm().apply(variables, x, train=train, mask=mask, mutable=["batch_stats"])

    def flaxs(params: Any, x: Any, train: bool) -> Any:
        norm = nn.BatchNorm(not train, axis=2, momentum=0.9)
        variables = {"params": params, "batch_stats": stats}
        return norm.apply(variables, x, mask=mask.reshape(1, 1, 1, -1), mutable=["batch_stats"])

    @functools.partial(jax.jit, static_argnums=(0, 1))
    def both_ways(norm: Any, train: bool) -> Any:
        y, backward, new = jax.vjp(functools.partial(norm, train=train), params, x, has_aux=True)
        return y, new["batch_stats"], backward(dy)

    for train in (True, False):
        results = [both_ways(norm, train) for norm in (ours, flaxs)]
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=2e-5), *results)
        assert np.array_equal(results[0][1]["mean"], stats["mean"]) != train


def test_batch_norm_leaves_padding_rows_out() -> None:
    x = _normal(0, 2, 2, 3, 6)
    mask = jnp.arange(6) < 4
    params, stats = _norm_variables(3)

    @jax.jit
    def norm(x: Any, mask: Any) -> Any:
        variables = {"params": params, "batch_stats": stats}
        return BatchNorm().apply(variables, x, train=True, mask=mask, mutable=["batch_stats"])

    y, new = norm(x, mask)
    other, same = norm(x.at[..., 4:].multiply(100.0), mask)
    np.testing.assert_array_equal(y[..., :4], other[..., :4])
    jax.tree.map(np.testing.assert_array_equal, new, same)
    alone, alike = norm(x[..., :4], None)
    np.testing.assert_allclose(y[..., :4], alone, rtol=1e-5, atol=1e-6)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), new, alike)
    expected = 0.9 * 0.5 + 0.1 * np.asarray(x[..., :4]).mean((0, 1, 3))
    np.testing.assert_allclose(new["batch_stats"]["mean"], expected, rtol=1e-5, atol=1e-6)


WIDE = DigitsCNN(
    conv_features=((3, 4), (5, 6)), dense_features=(), batch_norm=True, conv_activation=nn.gelu
)


def test_a_network_of_stages_equals_flax_layers() -> None:
    images = np.random.default_rng(0).integers(0, 17, (5, 8, 8)).astype(np.uint8)
    variables = jax.jit(WIDE.init)(jax.random.key(1), images)
    names = ("conv_1_1", "conv_1_2", "conv_2_1", "conv_2_2")
    assert set(variables["params"]) == {*names, "logits"}

    @jax.jit
    def ours(variables: Any) -> Any:
        network = WIDE.clone(dropout_rate=0.0)
        return network.apply(variables, images, train=True, mutable=["batch_stats"])

    @jax.jit
    def flaxs(variables: Any) -> Any:
        x, new = jnp.asarray(images, jnp.float32)[..., None], {}
        for name in names:
            kernel = variables["params"][name]["kernel"]
            conv = nn.Conv(kernel.shape[-1], (3, 3), use_bias=False)
            x = conv.apply({"params": {"kernel": kernel}}, x)
            if name.endswith("_2"):
                x = nn.max_pool(x, (2, 2), (2, 2))
            norm = nn.BatchNorm(use_running_average=False, momentum=0.9)
            own = {"params": variables["params"][name]["norm"]}
            own["batch_stats"] = variables["batch_stats"][name]["norm"]
            x, stats = norm.apply(own, x, mutable=["batch_stats"])
            x, new[name] = nn.gelu(x), {"norm": stats["batch_stats"]}
        dense = variables["params"]["logits"]
        logits = x.reshape(5, -1) @ dense["kernel"] + dense["bias"].reshape(1, -1)
        return logits, {"batch_stats": new}

    close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-3)
    jax.tree.map(close, ours(variables), flaxs(variables))


def test_layer_table_counts_normalised_stages() -> None:
    table = {layer.name: layer for layer in layer_table(WIDE)}
    assert [name for name in table if name.startswith(("conv", "pool"))] == [
        "conv_1_1",
        "conv_1_2",
        "pool_1_2",
        "conv_2_1",
        "conv_2_2",
        "pool_2_2",
    ]
    second = table["conv_1_2"]
    assert (second.kind, second.output_shape) == ("NormedConv3x3", (8, 8, 4))
    assert (second.parameters, second.flops) == (9 * 3 * 4 + 2 * 4, 2 * 9 * 3 * 4 * 64)


def test_layer_table_is_that_of_keras() -> None:
    table = layer_table(DigitsCNN())
    assert [(layer.name, layer.output_shape, layer.parameters) for layer in table] == [
        ("conv_1", (8, 8, 16), 160),
        ("pool_1", (4, 4, 16), 0),
        ("dropout_1", (4, 4, 16), 0),
        ("conv_2", (4, 4, 32), 4640),
        ("pool_2", (2, 2, 32), 0),
        ("dropout_2", (2, 2, 32), 0),
        ("conv_3", (2, 2, 64), 18496),
        ("pool_3", (1, 1, 64), 0),
        ("dropout_3", (1, 1, 64), 0),
        ("flatten", (64,), 0),
        ("dense_1", (128,), 8320),
        ("dropout_4", (128,), 0),
        ("dense_2", (512,), 66048),
        ("dropout_5", (512,), 0),
        ("logits", (10,), 5130),
    ]
    assert sum(layer.parameters for layer in table) == 102_794


def test_layer_table_counts_two_flops_a_multiply_add() -> None:
    assert {layer.name: layer.flops for layer in layer_table(DigitsCNN()) if layer.flops} == {
        "conv_1": 2 * (8 * 8) * (3 * 3 * 1 * 16),
        "conv_2": 2 * (4 * 4) * (3 * 3 * 16 * 32),
        "conv_3": 2 * (2 * 2) * (3 * 3 * 32 * 64),
        "dense_1": 2 * 64 * 128,
        "dense_2": 2 * 128 * 512,
        "logits": 2 * 512 * 10,
    }
    wide = layer_table(DigitsCNN(conv_features=(4,)), (6, 10, 3))
    assert [layer.flops for layer in wide[:2]] == [2 * (6 * 10) * (3 * 3 * 3 * 4), 0]


def test_initial_weights_are_those_of_keras() -> None:
    params = jax.jit(DigitsCNN().init)(jax.random.key(0), jnp.zeros((1, 8, 8)))["params"]
    for name, layer in params.items():
        *window, fan_in, fan_out = layer["kernel"].shape
        area = int(np.prod(window))
        limit = np.sqrt(6 / (area * fan_in + area * fan_out))  # Glorot and Bengio 2010, eq. 16
        assert 0.9 * limit < np.abs(layer["kernel"]).max() <= limit, name
        np.testing.assert_array_equal(layer["bias"], 0)


def test_intermediates_hold_the_activations_before_each_pool() -> None:
    network = DigitsCNN()
    variables = _trained_like(network)
    images = np.random.default_rng(0).integers(0, 17, (2, 8, 8), dtype=np.uint8)
    capture = jax.jit(functools.partial(network.apply, capture_intermediates=True))
    logits, captured = capture(variables, images)
    plain = jax.jit(network.apply)(variables, images)
    np.testing.assert_allclose(logits, plain, rtol=1e-5, atol=1e-5)
    for i, size in ((1, 8), (2, 4), (3, 2)):
        layer = captured["intermediates"][f"conv_{i}"]
        (before,), (after,) = layer["before_pool"], layer["__call__"]
        assert before.shape == (size, size, 8 * 2**i, 2)
        cells = before.reshape(size // 2, 2, size // 2, 2, *before.shape[2:])
        np.testing.assert_allclose(cells.max((1, 3)), after, rtol=1e-5, atol=1e-5)


def test_width_activation_and_depth_are_fields() -> None:
    half = DigitsCNN(width=0.5, classes=3, dense_features=(20,))
    assert [layer.parameters for layer in layer_table(half) if layer.parameters] == [
        9 * 8 + 8,
        9 * 8 * 16 + 16,
        9 * 16 * 32 + 32,
        32 * 10 + 10,
        10 * 3 + 3,
    ]
    variables = _trained_like(DigitsCNN())
    images = jnp.ones((1, 8, 8))
    tanh = jax.jit(DigitsCNN(dense_activation=jnp.tanh).apply)(variables, images)
    assert not np.allclose(tanh, jax.jit(DigitsCNN().apply)(variables, images))


@pytest.mark.parametrize("rate", [0.0, 0.25, 0.5])
def test_dropout_keeps_the_mean_and_the_rate(rate: float) -> None:
    x = jnp.ones((512, 512))
    random_bytes = jax.random.bits(jax.random.key(0), x.shape, jnp.uint8)
    y = np.asarray(Dropout(rate).apply({}, x, random_bytes))
    assert set(np.unique(y)) <= {np.float32(0), np.float32(1 / (1 - rate))}
    assert abs((y == 0).mean() - rate) < 4 * np.sqrt(0.25 / x.size)
    assert abs(y.mean() - 1) < 0.01


@pytest.mark.parametrize("count", [2, 34_816, 7])
def test_random_words_are_those_of_jax(count: int) -> None:
    keys = jax.random.split(jax.random.key(5), 3)
    words = jax.jit(jax.vmap(lambda key: _random_words(key, count)))(keys)
    with jax.threefry_partitionable(False):
        for got, key in zip(words, keys, strict=True):
            expected = jax.random.bits(key, (count + count % 2,), jnp.uint32)
            np.testing.assert_array_equal(got, expected[:count])
    other = jax.random.key(5, impl="rbg")
    np.testing.assert_array_equal(
        _random_words(other, count), jax.random.bits(other, (count,), jnp.uint32)
    )


def test_dropout_differs_between_rows_layers_and_keys_and_is_off_by_default() -> None:
    network = DigitsCNN(conv_features=(4,), dense_features=(64, 64))
    variables = _trained_like(network)
    images = jnp.ones((2, 8, 8))
    apply = jax.jit(functools.partial(network.apply, train=True, capture_intermediates=True))

    def dropped(seed: int) -> Any:
        _, captured = apply(variables, images, rngs={"dropout": jax.random.key(seed)})
        layers = captured["intermediates"]
        return [np.asarray(layers[f"dropout_{i}"]["__call__"][0]) == 0 for i in (2, 3)]

    first, second = dropped(1)
    assert (first[:, 0] != first[:, 1]).any(), "two rows share a mask"
    assert (first != second).any(), "two layers share a mask"
    assert (first != dropped(2)[0]).any(), "two keys give the same mask"
    assert (first == dropped(1)[0]).all()
    without = jax.jit(functools.partial(network.apply, capture_intermediates=True))
    kept = without(variables, images)[1]["intermediates"]["dropout_2"]["__call__"][0]
    assert (np.asarray(kept) != 0).all(), "dropout is on outside training"


def test_conv_without_pool_keeps_the_image() -> None:
    conv = Conv3x3(4, nn.relu)
    x = _normal(0, 8, 8, 1, 2)
    y = conv.apply(conv.init(jax.random.key(0), x), x)
    assert y.shape == (8, 8, 4, 2)
    assert (np.asarray(y) >= 0).all()

"""The network against NumPy in float64, and against Keras's layer table."""

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

from digits_jax.model import ByteDropout, DigitsCNN, layer_table


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


WIDE = DigitsCNN(
    conv_features=((3, 4), (5, 6)), dense_features=(), batch_norm=True, conv_activation=nn.gelu
)


def test_a_network_of_stages_pools_before_it_normalises_and_padding_counts_nothing() -> None:
    network = WIDE.clone(dropout_rate=0.0)
    images = np.random.default_rng(0).integers(0, 17, (5, 8, 8)).astype(np.uint8)
    mask = np.arange(5) < 4
    variables = jax.jit(network.init)(jax.random.key(1), images)
    stages = ("1_1", "1_2", "2_1", "2_2")
    assert set(variables["params"]) == {f"{k}_{n}" for k in ("conv", "norm") for n in stages} | {
        "logits"
    }

    @jax.jit
    def ours(variables: Any, images: Any) -> Any:
        apply = functools.partial(network.apply, train=True, mutable=["batch_stats"])
        return apply(variables, images, mask=mask)

    x = np.asarray(images[mask], np.float64)[..., np.newaxis]
    for n in stages:
        kernel = np.asarray(variables["params"][f"conv_{n}"]["kernel"], np.float64)
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        features = range(kernel.shape[-1])
        x = np.stack(
            [[correlate(p, kernel[..., f], "valid")[..., 0] for f in features] for p in padded]
        ).transpose(0, 2, 3, 1)
        if n.endswith("_2"):
            b, h, w, f = x.shape
            x = x.reshape(b, h // 2, 2, w // 2, 2, f).max((2, 4))
        x = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5)
        x = np.asarray(jax.jit(nn.gelu)(x.astype(np.float32)), np.float64)
    dense = variables["params"]["logits"]
    expected = x.reshape(4, -1) @ np.asarray(dense["kernel"], np.float64)
    logits, new = ours(variables, images)
    np.testing.assert_allclose(logits[:4], expected, rtol=2e-4, atol=2e-4)
    other, same = ours(variables, np.where(mask[:, None, None], images, 16))
    np.testing.assert_array_equal(logits[:4], other[:4])
    jax.tree.map(np.testing.assert_array_equal, new, same)


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
    assert (second.kind, second.output_shape) == ("Conv", (8, 8, 4))
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
@pytest.mark.parametrize("traced", [False, True])
def test_dropout_keeps_the_mean_and_the_rate(rate: float, traced: bool) -> None:
    x = jnp.ones((512, 512))

    def dropped(rate: Any) -> jax.Array:
        key = {"dropout": jax.random.key(0)}
        found: jax.Array = ByteDropout(rate).apply({}, x, train=True, rngs=key)
        return found

    y = np.asarray(jax.jit(dropped)(rate) if traced else dropped(rate))
    assert set(np.unique(y)) <= {np.float32(0), np.float32(1 / (1 - rate))}
    assert abs((y == 0).mean() - rate) < 4 * np.sqrt(0.25 / x.size)
    assert abs(y.mean() - 1) < 0.01


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

"""The pure functions in loops of one's own: gradients through training, batches that change."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import digits_jax as dj

# Compiled: operation by operation they take longer.
init_state = jax.jit(dj.init_state, static_argnames="recipe")
train_step = jax.jit(dj.train_step, static_argnames="recipe")
train_epoch = jax.jit(dj.train_epoch, static_argnames="recipe")


class Linear(nn.Module):
    """Three logits of the inputs."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(3, name="logits")(x)


def _data(rows: int = 60) -> dj.Data:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(rows, 4)).astype(np.float32)
    targets = inputs[:, :3].argmax(1).astype(np.int32)
    return dj.Data(jnp.asarray(inputs), jnp.asarray(targets))


def _run(rows: int, h: Any, seed: int = 0) -> dj.Run:
    split = dj.refit_split(np.arange(rows) % 3)
    return dj.take_run(dj.make_runs(split, h, seed=seed), 0)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_gradient_through_ten_steps_of_training(optimizer: str) -> None:
    """The validation loss by the learning rate, against finite differences."""
    data = _data()

    def make(h: Any) -> optax.GradientTransformation:
        if optimizer == "sgd":
            return optax.sgd(h["rate"])
        return dj.adam(dj.Hyperparameters(learning_rate=h["rate"]), eps_root=1e-8)

    recipe = dj.Recipe(network=Linear(), optimizer=make)
    key = jax.random.key(1)
    train, validation = data.inputs[:40], data.inputs[40:]

    @jax.jit
    def validation_loss(rate: jax.Array) -> jax.Array:
        h = {"rate": rate}
        run = _run(60, {"rate": 0.1})._replace(hyperparameters=h)
        state = dj.init_state(run, data, recipe=recipe)
        batch = dj.Batch(train, data.targets[:40], jnp.ones(40))
        for i in range(10):
            step_key = jax.random.fold_in(key, i)
            state, _ = dj.train_step(state, batch, h, step_key, recipe=recipe)
        rest = dj.Batch(validation, data.targets[40:], jnp.ones(20))
        return dj.eval_step(state, rest, h, recipe=recipe).means()["loss"]

    rate, width = 0.1, 0.01
    gradient = float(jax.grad(validation_loss)(rate))
    difference = float(validation_loss(rate + width) - validation_loss(rate - width)) / (2 * width)
    assert gradient == pytest.approx(difference, rel=0.02) and abs(gradient) > 1e-2


def test_adam_without_eps_root_has_no_gradient_through_dead_inputs() -> None:
    """As its docstring says: the second moment of such a weight stays 0."""

    def loss(rate: Any, eps_root: float) -> jax.Array:
        h = dj.Hyperparameters(learning_rate=rate)
        optimizer = dj.adam(h, eps_root=eps_root)
        params = {"w": jnp.ones(2)}
        state = optimizer.init(params)
        for _ in range(2):
            grads = jax.grad(lambda p: jnp.sum((p["w"] * jnp.array([1.0, 0.0])) ** 2))(params)
            updates, state = optimizer.update(grads, state, params)
            params = optax.apply_updates(params, updates)
        return jnp.sum(params["w"] ** 2)

    assert not np.isfinite(jax.grad(loss)(0.1, 0.0))
    assert np.isfinite(jax.grad(loss)(0.1, 1e-8))


def test_another_batch_size_goes_on_where_the_epochs_were() -> None:
    """The state counts its epochs itself."""
    data, run = _data(), _run(60, dj.Hyperparameters())
    first, second = (dj.Recipe(network=Linear(), batch_size=size) for size in (10, 30))
    state = init_state(run, data, recipe=first)
    state, _ = train_epoch(state, run, data, recipe=first)
    assert (int(state.epoch), int(state.step)) == (1, 6)
    state, _ = train_epoch(state, run, data, recipe=second)
    assert (int(state.epoch), int(state.step)) == (2, 8)
    fresh = state._replace(epoch=jnp.asarray(1, jnp.int32))
    again, _ = train_epoch(fresh, run, data, recipe=second)
    later, _ = train_epoch(state, run, data, recipe=second)
    assert not np.allclose(again.params["logits"]["kernel"], later.params["logits"]["kernel"])


class Normed(nn.Module):
    """Logits behind a batch normalisation that leaves padding out."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, mask: Any = None) -> jax.Array:
        mask = None if mask is None else mask.reshape(-1, 1)
        x = nn.BatchNorm(use_running_average=not train, momentum=0.5)(nn.Dense(8)(x), mask=mask)
        return nn.Dense(3)(nn.relu(x))


class Unmasked(nn.Module):
    """The same, and sees the padding."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(8)(x))
        return nn.Dense(3)(nn.relu(x))


@pytest.mark.parametrize(
    ("network", "rows", "steps"),
    [
        (Normed(), 32, 2),
        (Normed(), 33, 2),  # one row would spoil the running statistics
        (Normed(), 34, 3),  # two rows are enough
        (Unmasked(), 47, 2),  # full batches only
        (Linear(), 33, 3),
    ],
)
def test_few_rows_that_remain_do_no_harm(network: nn.Module, rows: int, steps: int) -> None:
    data, run = _data(), _run(rows, dj.Hyperparameters())
    recipe = dj.Recipe(network=network, batch_size=16)
    state = init_state(run, data, recipe=recipe)
    state, sums = train_epoch(state, run, data, recipe=recipe)
    assert int(state.step) == steps
    assert float(sums.weight) == (rows if steps == 3 else 32)


def test_full_batches_alone_are_said_and_too_few_rows_refused(
    caplog: pytest.LogCaptureFixture,
) -> None:
    data = _data()
    recipe = dj.Recipe(network=Unmasked(), batch_size=16)
    splits = dj.kfold_splits(data.targets, 3)
    dj.cross_validate(data[:2], dj.make_runs(splits), recipe=recipe, epochs=1)
    assert "trained on full batches only" in caplog.text
    few = dj.Recipe(network=Linear(), batch_size=64, remainder="dropped")
    short = dj.stack_splits(splits, dj.refit_split(np.arange(60) % 3))
    with pytest.raises(ValueError, match="run 0 trains on 40 rows, fewer than a batch of 64"):
        dj.cross_validate(data[:2], dj.make_runs(short), recipe=few, epochs=1)


class Attention(nn.Module):
    """Self-attention over tokens, with a mask of its own for empty places."""

    @nn.compact
    def __call__(self, tokens: jax.Array, *, deterministic: bool) -> jax.Array:
        x = nn.Embed(12, 8)(tokens)
        seen = (tokens > 0)[:, None, None, :]
        attend = nn.MultiHeadDotProductAttention(2, dropout_rate=0.1, deterministic=deterministic)
        x = x + attend(x, x, mask=seen)
        return nn.Dense(2)(x.mean(axis=1))


def test_an_attention_network_equals_a_loop() -> None:
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 12, (48, 6)).astype(np.int32)
    targets = (tokens == 3).any(axis=1).astype(np.int32)
    recipe = dj.Recipe(network=Attention(), optimizer=lambda h: optax.sgd(h["rate"]), batch_size=64)
    data = dj.Data(jnp.asarray(tokens), jnp.asarray(targets))
    run = _run(48, {"rate": 0.5})
    state = init_state(run, data, recipe=recipe)
    step = functools.partial(train_step, recipe=recipe)
    batch = dj.Batch(data.inputs, data.targets, jnp.ones(48))
    params = state.params

    @jax.jit
    def plain(params: Any, key: jax.Array) -> Any:
        def loss(params: Any) -> jax.Array:
            logits = Attention().apply(
                {"params": params}, data.inputs, deterministic=False, rngs={"dropout": key}
            )
            return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, data.targets))

        return jax.tree.map(lambda p, g: p - 0.5 * g, params, jax.grad(loss)(params))

    for i in range(5):
        key = jax.random.fold_in(run.key, i)
        state, _ = step(state, batch, run.hyperparameters, key)
        params = plain(params, jax.random.split(key)[0])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), state.params, params
    )


def test_mixup_equals_a_loop_where_rows_are_meant_to_mix() -> None:
    def mixup(key: jax.Array, inputs: Any, targets: Any, h: Any) -> Any:
        order, share = jax.random.permutation(key, len(inputs)), h["mix"]
        soft = jax.nn.one_hot(targets, 3)
        return (
            (1 - share) * inputs + share * inputs[order],
            (1 - share) * soft + share * soft[order],
        )

    data, h = _data(), {"rate": 0.3, "mix": 0.25}
    options: Any = {"optimizer": lambda h: optax.sgd(h["rate"]), "batch_size": 60}
    runs = dj.make_runs(dj.refit_split(np.arange(60) % 3), h)
    with pytest.raises(ValueError, match="augment mixes rows"):
        dj.cross_validate(
            data[:2], runs, recipe=dj.Recipe(network=Linear(), augment=mixup, **options), epochs=1
        )
    recipe = dj.Recipe(network=Linear(), augment=mixup, remainder="dropped", **options)
    run = dj.take_run(runs, 0)
    state = init_state(run, data, recipe=recipe)
    batch, params = dj.Batch(data.inputs, data.targets, jnp.ones(60)), state.params

    @jax.jit
    def plain(params: Any, key: jax.Array) -> Any:
        x, soft = mixup(key, data.inputs, data.targets, h)

        def loss(params: Any) -> jax.Array:
            logits = Linear().apply({"params": params}, x)
            return jnp.mean(optax.softmax_cross_entropy(logits, soft))

        return jax.tree.map(lambda p, g: p - 0.3 * g, params, jax.grad(loss)(params))

    for i in range(4):
        key = jax.random.fold_in(run.key, i)
        state, _ = train_step(state, batch, h, key, recipe=recipe)
        params = plain(params, jax.random.split(key)[1])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), state.params, params
    )
    assert dj.cross_validate(data[:2], runs, recipe=recipe, epochs=1).epochs.tolist() == [1]


@pytest.mark.parametrize("h", [{"dropout_rate": 0.5}, dj.Hyperparameters(dropout_rate=0.5)])
def test_a_field_is_read_from_a_key_or_an_attribute(h: Any) -> None:
    network = dj.NetworkWithHyperparameters(dj.DigitsCNN())
    made: Any = network(h)
    assert made.dropout_rate == 0.5
    unset: Any = network({"learning_rate": 1e-3})
    assert unset.dropout_rate == 0.25 and network(None) == dj.DigitsCNN()

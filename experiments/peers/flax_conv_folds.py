"""The same network as a plain Flax program with ``nn.Conv``: an epoch is one jitted scan.

Variants: ``one-by-one`` (fold after fold) and ``vmapped`` (all folds together). JAX's shapes are
static, so the last batch of an epoch is filled up with rows of weight 0.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import protocol
from jax import lax

OPTIMIZER = optax.adam(
    protocol.LEARNING_RATE, b1=protocol.BETAS[0], b2=protocol.BETAS[1], eps=protocol.EPSILON
)


class Network(nn.Module):
    """The notebook's network: [B, 8, 8, 1] to logits [B, 10]."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Convolutions, then dense layers; each with dropout behind it."""
        glorot = nn.initializers.glorot_uniform()
        for features in (16, 32, 64):
            x = nn.relu(nn.Conv(features, (3, 3), kernel_init=glorot)(x))
            x = nn.max_pool(x, (2, 2), strides=(2, 2))
            x = nn.Dropout(protocol.DROPOUT_RATE, deterministic=not train)(x)
        x = x.reshape(x.shape[0], -1)
        for features in (128, 512):
            x = nn.sigmoid(nn.Dense(features, kernel_init=glorot)(x))
            x = nn.Dropout(protocol.DROPOUT_RATE, deterministic=not train)(x)
        return nn.Dense(10, kernel_init=glorot)(x)


class State(NamedTuple):
    """What training changes."""

    params: Any
    opt_state: Any
    key: jax.Array


def init(key: jax.Array) -> State:
    """A new network."""
    key, init_key = jax.random.split(key)
    params = Network().init(init_key, jnp.zeros((1, 8, 8, 1)), train=False)["params"]
    return State(params, OPTIMIZER.init(params), key)


def train_epoch(
    state: State, rows: jax.Array, weights: jax.Array, images: jax.Array, labels: jax.Array
) -> tuple[State, jax.Array]:
    """One pass over rows [T] of weight 1, reshuffled. Gives the accuracy, too."""
    key, shuffle_key, dropout_key = jax.random.split(state.key, 3)
    draw = jnp.where(weights > 0, jax.random.uniform(shuffle_key, rows.shape), 2)
    order = jnp.argsort(draw)  # rows of weight 0 stay behind
    missing = -len(rows) % protocol.BATCH_SIZE
    shape = (-1, protocol.BATCH_SIZE)
    batched_rows = jnp.pad(rows[order], (0, missing)).reshape(shape)
    batched_weights = jnp.pad(weights[order], (0, missing)).reshape(shape)

    def step(carry: tuple[Any, Any], batch: Any) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
        params, opt_state = carry
        i, rows, weights = batch
        x, y = images[rows], labels[rows]

        def mean_loss(params: Any) -> tuple[jax.Array, jax.Array]:
            rngs = {"dropout": jax.random.fold_in(dropout_key, i)}
            logits: Any = Network().apply({"params": params}, x, train=True, rngs=rngs)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
            correct = jnp.sum((jnp.argmax(logits, axis=-1) == y) * weights)
            return jnp.sum(losses * weights) / jnp.sum(weights), correct

        (loss, correct), grads = jax.value_and_grad(mean_loss, has_aux=True)(params)
        updates, opt_state = OPTIMIZER.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), (loss, correct)

    batches = (jnp.arange(len(batched_rows)), batched_rows, batched_weights)
    carry, (_, correct) = lax.scan(step, (state.params, state.opt_state), batches)
    return State(*carry, key), jnp.sum(correct) / jnp.sum(weights)


def train(task: protocol.Task, clock: protocol.Clock, variant: str) -> None:
    """Trains the folds one by one, or under ``vmap``."""
    images = jnp.asarray(task.images, jnp.float32)[..., None]
    labels = jnp.asarray(task.labels)
    keys = jax.random.split(jax.random.key(0), len(task.train_rows))
    if variant == "vmapped":
        start = jax.jit(jax.vmap(init))
        epoch = jax.jit(jax.vmap(train_epoch, in_axes=(0, 0, 0, None, None)), donate_argnums=0)
        jobs: list[tuple[Any, Any, Any]] = [(keys, task.train_rows, task.train_weights)]
    else:
        start, epoch = jax.jit(init), jax.jit(train_epoch, donate_argnums=0)
        jobs = list(zip(keys, task.train_rows, task.train_weights, strict=True))
    for key, rows, weights in jobs:
        clock.fold()
        state = start(key)
        rows, weights = jnp.asarray(rows), jnp.asarray(weights)
        for _ in range(task.epochs):
            state, accuracy = epoch(state, rows, weights, images, labels)
            clock.epoch(float(np.mean(accuracy)))
    steps = optax.tree_utils.tree_get(state.opt_state, "count")
    clock.note(steps=int(np.ravel(steps)[0]))
    runs = len(task.train_rows) if variant == "vmapped" else 1
    clock.parameters(sum(leaf.size for leaf in jax.tree.leaves(state.params)) // runs)


if __name__ == "__main__":
    protocol.run_peer(train, packages=("jax", "jaxlib", "flax", "optax"))

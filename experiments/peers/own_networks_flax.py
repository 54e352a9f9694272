"""Networks as users write them, in plain Flax, and their training in plain JAX, run after run.

Variants: a network's name, then ``step`` (a jitted step in a Python loop) or ``scan`` (an epoch is
one jitted ``lax.scan``), as in ``"vgg scan"``. All networks take [B, S, S, C] to logits [B, 10].
"""

from __future__ import annotations

import math
import time
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import protocol
from jax import lax
from jax.extend import core

OPTIMIZER = optax.adam(
    protocol.LEARNING_RATE, b1=protocol.BETAS[0], b2=protocol.BETAS[1], eps=protocol.EPSILON
)


class LeNet(nn.Module):
    """5x5 convolutions and average pools; LeCun et al. 1998, with padding for small images."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[B, S, S, C] to [B, 10]."""
        for features in (6, 16):
            x = nn.avg_pool(nn.tanh(nn.Conv(features, (5, 5))(x)), (2, 2), (2, 2))
        x = x.reshape(x.shape[0], -1)
        for features in (120, 84):
            x = nn.tanh(nn.Dense(features)(x))
        return nn.Dense(10)(x)


class VGG(nn.Module):
    """Pairs of 3x3 convolutions, a max-pool after each, dropout; after Simonyan, Zisserman 2014."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[B, S, S, C] to [B, 10]."""
        for features in (16, 32, 64):
            for _ in range(2):
                x = nn.relu(nn.Conv(features, (3, 3))(x))
            x = nn.max_pool(x, (2, 2), (2, 2))
        x = nn.relu(nn.Dense(128)(x.reshape(x.shape[0], -1)))
        return nn.Dense(10)(nn.Dropout(0.5, deterministic=not train)(x))


class ResNet(nn.Module):
    """Residual blocks with batch normalisation, two of them with strides; He et al. 2015."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[B, S, S, C] to [B, 10]."""

        def normed(x: jax.Array, features: int, taps: int, stride: int = 1) -> jax.Array:
            x = nn.Conv(features, (taps, taps), stride, use_bias=False)(x)
            x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
            return x

        x = nn.relu(normed(x, 16, 3))
        for features, stride in ((16, 1), (32, 2), (64, 2)):
            y = nn.relu(normed(x, features, 3, stride))
            y = normed(y, features, 3)
            x = nn.relu(y + (x if stride == 1 else normed(x, features, 1, stride)))
        return nn.Dense(10)(x.mean((1, 2)))


class Separable(nn.Module):
    """Depthwise and 1x1 convolutions; after Howard et al. 2017."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[B, S, S, C] to [B, 10]."""
        x = nn.relu(nn.Conv(16, (3, 3))(x))
        for features, stride in ((32, 2), (64, 2), (64, 1)):
            channels = x.shape[-1]
            x = nn.relu(nn.Conv(channels, (3, 3), stride, feature_group_count=channels)(x))
            x = nn.relu(nn.Conv(features, (1, 1))(x))
        return nn.Dense(10)(x.mean((1, 2)))


class UNet(nn.Module):
    """Down and up again with transposed convolutions; Ronneberger et al. 2015.

    The pixels' logits are averaged, so that it learns what the other networks do.
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[B, S, S, C] to [B, 10]."""
        seen = []
        for features in (16, 32):
            x = nn.relu(nn.Conv(features, (3, 3))(x))
            seen.append(x)
            x = nn.max_pool(x, (2, 2), (2, 2))
        x = nn.relu(nn.Conv(64, (3, 3))(x))
        for features in (32, 16):
            x = nn.ConvTranspose(features, (2, 2), (2, 2))(x)
            x = nn.relu(nn.Conv(features, (3, 3))(jnp.concatenate([x, seen.pop()], -1)))
        return nn.Conv(10, (1, 1))(x).mean((1, 2))


class WaveNet(nn.Module):
    """Gated, dilated, causal convolutions over the pixels in a row; van den Oord et al. 2016."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[B, S, S, C] to [B, 10]."""
        x = nn.Conv(16, (1,))(x.reshape(x.shape[0], -1, x.shape[-1]))
        for dilation in (1, 2, 4, 8, 16, 32):
            gates = nn.Conv(32, (2,), kernel_dilation=dilation, padding="CAUSAL")(x)
            a, b = jnp.split(gates, 2, -1)
            x = x + nn.Conv(16, (1,))(nn.tanh(a) * nn.sigmoid(b))
        return nn.Dense(10)(nn.relu(x).mean(1))


NETWORKS: dict[str, type[nn.Module]] = {
    "lenet": LeNet,
    "vgg": VGG,
    "resnet": ResNet,
    "separable": Separable,
    "unet": UNet,
    "wavenet": WaveNet,
}


def forward_flop(network: nn.Module, shape: tuple[int, ...]) -> int:
    """Floating-point operations of an image of this shape, forward: of convolutions and products.

    Two for each multiply-add, taps on the padding included, those on the zeros that a transposed
    convolution puts between its pixels not.
    """
    x = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    key = jax.ShapeDtypeStruct((), jax.random.key(0).dtype)
    variables = jax.eval_shape(lambda key, x: network.init(key, x, train=False), key, x)
    return _flop(jax.make_jaxpr(lambda v, x: network.apply(v, x, train=False))(variables, x))


def _flop(jaxpr: Any) -> int:
    total = 0
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        outputs = sum(variable.aval.size for variable in equation.outvars)
        x, *others = (variable.aval for variable in equation.invars)
        if equation.primitive.name == "conv_general_dilated":
            features = others[0].shape[equation.params["dimension_numbers"].rhs_spec[0]]
            zeros = math.prod(equation.params["lhs_dilation"])
            total += 2 * outputs * others[0].size // features // zeros
        elif equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            total += 2 * outputs * math.prod(x.shape[axis] for axis in contracted)
        for inner in core.jaxprs_in_params(equation.params):
            total += _flop(inner)
    return total


class State(NamedTuple):
    """What training changes."""

    variables: Any  # params and, where there are any, batch_stats
    opt_state: Any
    correct: jax.Array  # right answers of this epoch


def train(task: protocol.Task, clock: protocol.Clock, variant: str) -> None:
    """Trains the runs one by one; the programs are compiled for the first."""
    name, form = variant.split()
    network = NETWORKS[name]()
    images, labels = jnp.asarray(task.images, jnp.float32) / 255, jnp.asarray(task.labels)
    key, one = jax.random.key(0), images[:1]

    def init(key: jax.Array) -> State:
        variables = network.init(key, one, train=False)
        return State(variables, OPTIMIZER.init(variables["params"]), jnp.zeros((), jnp.int32))

    def step(
        state: State, batch: jax.Array, images: jax.Array, labels: jax.Array, key: jax.Array
    ) -> State:
        x, y = images[batch], labels[batch]
        params, collections = state.variables["params"], dict(state.variables)
        del collections["params"]
        steps = optax.tree_utils.tree_get(state.opt_state, "count")

        def mean_loss(params: Any) -> tuple[jax.Array, Any]:
            logits, changed = network.apply(
                {"params": params, **collections},
                x,
                train=True,
                mutable=list(collections),
                rngs={"dropout": jax.random.fold_in(key, steps)},
            )
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
            return losses.mean(), (changed, jnp.sum(jnp.argmax(logits, -1) == y))

        grads, (changed, correct) = jax.grad(mean_loss, has_aux=True)(params)
        updates, opt_state = OPTIMIZER.update(grads, state.opt_state, params)
        variables = {"params": optax.apply_updates(params, updates), **changed}
        return State(variables, opt_state, state.correct + correct)

    def epoch(
        state: State, batches: jax.Array, images: jax.Array, labels: jax.Array, key: jax.Array
    ) -> State:
        return lax.scan(lambda s, b: (step(s, b, images, labels, key), None), state, batches)[0]

    batches = task.train_rows[0].reshape(-1, protocol.BATCH_SIZE)
    started = time.perf_counter()
    start = jax.jit(init).lower(key).compile()
    jitted = jax.jit(epoch if form == "scan" else step, donate_argnums=0)
    each = batches if form == "scan" else batches[0]
    advance = jitted.lower(start(key), each, images, labels, key).compile()
    clock.note(compile_seconds=time.perf_counter() - started)
    random = np.random.default_rng(0)
    for i, rows in enumerate(task.folds()):
        clock.fold()
        run_key = jax.random.fold_in(key, i)
        state = start(run_key)
        for _ in range(task.epochs):
            batches = random.permutation(rows).reshape(-1, protocol.BATCH_SIZE)
            state = state._replace(correct=jnp.zeros((), jnp.int32))
            for batch in [batches] if form == "scan" else batches:
                state = advance(state, batch, images, labels, run_key)
            clock.epoch(int(state.correct) / len(rows))
    clock.parameters(sum(leaf.size for leaf in jax.tree.leaves(state.variables["params"])))
    clock.note(steps=int(optax.tree_utils.tree_get(state.opt_state, "count")))


if __name__ == "__main__":
    protocol.run_peer(train, packages=("jax", "jaxlib", "flax", "optax"))

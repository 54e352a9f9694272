"""Every transformation of optax and optax.contrib trains here as in a plain loop, or says why not.

All rows are one batch, so that the plain loop needs no shuffling: after some steps the weights must
be equal. A few run always; the whole table is marked slow.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

from digits_jax.optimizers import Hyperparameters
from digits_jax.recipe import Recipe
from digits_jax.splits import Split
from digits_jax.structures import Data, Run
from digits_jax.train import init_state, train_epochs

STEPS, RATE = 5, 0.05
QUICK: Any = {"xla_backend_optimization_level": 0}

# Those whose arguments have no defaults but the learning rate.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "adaptive_grad_clip": {"clipping": 0.1},
    "add_noise": {"eta": 0.1, "gamma": 0.5, "key": 0},
    "noisy_sgd": {"key": 0},
    "clip": {"max_delta": 0.1},
    "clip_by_block_rms": {"threshold": 0.1},
    "clip_by_global_norm": {"max_norm": 0.1},
    "ema": {"decay": 0.9},
    "scale": {"step_size": -0.1},
    "scale_by_backtracking_linesearch": {"max_backtracking_steps": 5},
    "scale_by_schedule": {"step_size_fn": optax.cosine_decay_schedule(-0.1, 10)},
    "scale_by_zoom_linesearch": {"max_linesearch_steps": 5},
    "trace": {"decay": 0.9},
}
# Those that wrap another one, or take a tree.
WRAPPED: dict[str, Callable[[], optax.GradientTransformation]] = {
    "apply_if_finite": lambda: optax.apply_if_finite(optax.sgd(RATE), 3),
    "chain": lambda: optax.chain(optax.clip(0.1), optax.sgd(RATE)),
    "conditionally_mask": lambda: optax.conditionally_mask(
        optax.sgd(RATE), lambda step, *_, **__: step % 2 == 0
    ),
    "conditionally_transform": lambda: optax.conditionally_transform(
        optax.sgd(RATE), lambda step, *_, **__: step % 2 == 0
    ),
    "flatten": lambda: optax.flatten(optax.adam(RATE)),
    "freeze": lambda: optax.chain(optax.sgd(RATE), optax.freeze({"bias": True, "kernel": False})),
    "inject_hyperparams": lambda: optax.inject_hyperparams(optax.adam)(learning_rate=RATE),
    "inject_stateful_hyperparams": lambda: optax.inject_stateful_hyperparams(optax.adam)(
        learning_rate=RATE
    ),
    "masked": lambda: optax.masked(optax.sgd(RATE), {"bias": True, "kernel": False}),
    "multi_transform": lambda: optax.multi_transform(
        {"a": optax.sgd(RATE), "b": optax.adam(RATE)}, {"bias": "a", "kernel": "b"}
    ),
    "named_chain": lambda: optax.named_chain(("clip", optax.clip(0.1)), ("sgd", optax.sgd(RATE))),
    "partition": lambda: optax.partition(
        {"a": optax.sgd(RATE), "b": optax.adam(RATE)}, {"bias": "a", "kernel": "b"}
    ),
    "selective_transform": lambda: optax.selective_transform(
        optax.sgd(RATE), freeze_mask={"bias": True, "kernel": False}
    ),
    "stateless": lambda: optax.stateless(lambda g, p: jax.tree.map(lambda g: -RATE * g, g)),
    "stateless_with_tree_map": lambda: optax.stateless_with_tree_map(lambda g, p: -RATE * g),
    "with_extra_args_support": lambda: optax.with_extra_args_support(optax.sgd(RATE)),
    "mechanize": lambda: contrib.mechanize(optax.sgd(RATE)),
    "sam": lambda: contrib.sam(optax.sgd(RATE), optax.sgd(0.01), sync_period=2),
    "sam_opaque": lambda: contrib.sam(
        optax.sgd(RATE), optax.chain(contrib.normalize(), optax.sgd(0.01)), opaque_mode=True
    ),
    "schedule_free": lambda: contrib.schedule_free(optax.sgd(RATE), RATE),
    "split_real_and_imaginary": lambda: contrib.split_real_and_imaginary(optax.sgd(RATE)),
    "reduce_on_plateau": lambda: optax.chain(
        optax.sgd(RATE), contrib.reduce_on_plateau(patience=1, factor=0.5)
    ),
    "lbfgs": lambda: optax.lbfgs(),
    "polyak_sgd": lambda: optax.polyak_sgd(),
}
# What stays out, with the reason; the docs have the same list.
LEFT_OUT = {
    "differentially_private_aggregate": "needs the gradient of each example",
    "dpsgd": "needs the gradient of each example",
    "lookahead": "trains a pair of parameters (fast and slow)",
    "scale_by_galore": "a part of galore, which is in the table",
    "scale_by_muon": "a part of muon, which is in the table",
    "sophia": "needs obj_fn, which line searches would refuse",
    "measure_with_ema": "measures, and changes no update",
    "snapshot": "measures, and changes no update",
}
ALWAYS = ("sgd", "adam", "muon", "lbfgs", "sam_opaque", "reduce_on_plateau", "schedule_free_sgd")


def _factories() -> dict[str, Callable[[], optax.GradientTransformation]]:
    """All that optax and optax.contrib offer, by name, as functions without arguments."""
    found = dict(WRAPPED)
    for module in (optax, contrib):
        for name in dir(module):
            function = getattr(module, name)
            if name.startswith("_") or inspect.isclass(function) or not callable(function):
                continue
            try:
                signature = inspect.signature(function)
            except ValueError:
                continue
            if "Transformation" not in str(signature.return_annotation):
                continue
            if name in found or name in LEFT_OUT:
                continue
            given = dict(ARGUMENTS.get(name, {}))
            if "learning_rate" in signature.parameters:
                given.setdefault("learning_rate", RATE)
            made = functools.partial(function, **given)
            # A direction alone takes a step of its own size uphill.
            is_direction = name.startswith("scale_by_") and "linesearch" not in name
            found[name] = functools.partial(_downhill, made) if is_direction else made
    return found


def _downhill(make: Callable[[], Any]) -> optax.GradientTransformation:
    return optax.chain(make(), optax.scale(-0.01))


FACTORIES = _factories()
TABLE = [
    pytest.param(name, marks=() if name in ALWAYS else pytest.mark.slow)
    for name in sorted(FACTORIES)
]


def _data() -> Data:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(12, 4)).astype(np.float32)
    return Data(jnp.asarray(inputs), jnp.asarray(rng.integers(0, 3, 12).astype(np.int32)))


class Layer(nn.Module):
    """One dense layer, whose parameters are not nested."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (4, 3))
        bias = self.param("bias", nn.initializers.zeros, (3,))
        return x @ kernel + bias.reshape(1, -1)


def _extra(name: str, optimizer: Any, value_fn: Any, value: Any, grads: Any) -> dict[str, Any]:
    """The extra arguments of a plain loop, as optax's documentation gives them."""
    if not isinstance(optimizer, optax.GradientTransformationExtraArgs):
        return {}
    if name == "sam":
        return {}
    if name == "sam_opaque":
        return {"grad_fn": lambda params, *_: jax.grad(value_fn)(params)}
    return {
        "value": value,
        "grad": grads,
        "value_fn": value_fn,
    }


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:Specifying a key")
@pytest.mark.parametrize("name", TABLE)
def test_a_transformation_trains_as_in_a_plain_loop(name: str) -> None:
    make, data = FACTORIES[name], _data()
    recipe = Recipe(network=Layer(), optimizer=lambda h: make(), batch_size=64)
    rows = np.arange(12, dtype=np.int32)
    ones = np.ones(12, np.float32)
    run = Run(Split(rows, ones, rows[:1], ones[:1]), Hyperparameters(), jax.random.key(0))

    def loss(params: Any) -> jax.Array:
        logits = Layer().apply({"params": params}, data.inputs)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, data.targets))

    @functools.partial(jax.jit, compiler_options=QUICK)
    def ours(run: Run) -> Any:
        state = init_state(run, data, recipe=recipe)
        return state.params, train_epochs(state, run, data, recipe=recipe, epochs=STEPS)[0]

    @functools.partial(jax.jit, compiler_options=QUICK)
    def step(params: Any, state: Any) -> Any:
        optimizer = make()
        value, grads = jax.value_and_grad(loss)(params)
        extra = _extra(name, optimizer, loss, value, grads)
        updates, state = optimizer.update(grads, state, params, **extra)
        return optax.apply_updates(params, updates), state

    with jax.numpy_rank_promotion("allow"):  # of optax's own
        params, trained = ours(run)
        start, state = params, make().init(params)
        for _ in range(STEPS):
            params, state = step(params, state)
    # The subspace of galore is that of a singular value decomposition, which rounding turns.
    if name != "galore":
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6),
            trained.params,
            params,
        )
    moved = any(
        not np.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(start), jax.tree.leaves(params), strict=True)
    )
    assert moved or name in ("set_to_zero", "apply_every")
    assert np.isfinite(np.concatenate([np.ravel(x) for x in jax.tree.leaves(params)])).all()


def test_what_stays_out_is_said_where_a_user_looks() -> None:
    documented = Recipe.__doc__ or ""
    for name in ("DP-SGD", "lookahead"):
        assert name in documented


def test_the_table_is_whole() -> None:
    assert len(FACTORIES) >= 72

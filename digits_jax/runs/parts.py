"""What the parts of a recipe compute: their programs on abstract shapes, as digests.

A part is identified by two digests. That of its jaxprs, before the network is lowered for a
platform, is the same on every platform: who reads a checkpoint compares it. That of its StableHLO,
on the platform that trains, also sees JAX's settings: who resumes compares both, and the digest of
a whole epoch's jaxpr on that platform, where alone a part's own gradient rule shows.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from digits_jax import train
from digits_jax.lowering.jaxprs import lowers_on
from digits_jax.networks import Variables, as_network, with_mask
from digits_jax.parallel.mesh import debugging
from digits_jax.recipe import Recipe, on_platform
from digits_jax.runs.checks import TRIAL_ROWS
from digits_jax.runs.digests import callbacks_in, digest_of_jaxpr, digest_of_stablehlo
from digits_jax.structures import Best, Data, Run, TrainState
from digits_jax.watch import Watch

EPOCH = "epoch"  # the name of the whole, beside the parts
PREDICTING = ("network", "views", "combine", "eval_params")


def program_digests(
    recipe: Recipe,
    run: Run,
    data: Data,
    state: TrainState,
    *,
    device: jax.Device,
    steps: int | None = None,
    watch: Watch | None = None,
) -> dict[str, Any]:
    """The digests of all parts and of an epoch, and the callbacks to Python in them.

    Args:
        recipe: the static part.
        run: one run; its shapes count.
        data: its shapes count.
        state: of the run; its shapes count.
        device: of the platform that trains.
        steps: of the whole training, where the optimizer asks for them.
        watch: see ``train.train_epochs``.

    Returns:
        ``jaxpr`` and ``stablehlo``, each the SHA-256 by the name of the part; ``callbacks``, the
        names of operations by the name of the part.
    """
    run, data, state = _abstract_run(run), _abstract(data), _abstract(state._replace(best=()))
    digests = _Digests(device, recipe.lowering != "none")

    def epoch(state: TrainState, run: Run, data: Data) -> Any:
        run = run._replace(steps=steps)
        return train.train_epochs(state, run, data, recipe=recipe, epochs=1, watch=watch)

    with _tracing(device):
        _add_predicting(digests, recipe, state, run, data.inputs)
        _add_training(digests, recipe, state, run, data, steps)
        if watch is not None:
            weights = ("params", "collections", "average") if watch.keep_best else ()
            kept = {name: getattr(state, name) for name in weights}
            state = state._replace(best=Best(state.initial_loss, state.epoch, kept))
        digests.add(EPOCH, epoch, state, run, data)
    return digests.joined()


def reading_digests(recipe: Recipe, run: Run, inputs: Any) -> dict[str, str]:
    """The digests of the jaxprs of those parts that predict, by the name of the part.

    Args:
        recipe: the static part.
        run: one run; the shapes of its key and hyperparameters count.
        inputs: rows [1, ...], whose shapes count.
    """
    run, inputs = _abstract_run(run), _abstract(inputs)
    digests = _Digests(None, recipe.lowering != "none")
    with _tracing(None):
        state = _abstract(train.state_shapes(run, Data(inputs, ()), recipe=recipe))
        _add_predicting(digests, recipe, state, run, inputs)
    jaxprs: dict[str, str] = digests.joined()["jaxpr"]
    return jaxprs


class _Digests:
    """Collects the digests of a recipe's parts.

    Args:
        device: for whose platform they are lowered; None: they are not.
        lowers: whether the recipe lowers its network.
    """

    def __init__(self, device: jax.Device | None, lowers: bool) -> None:
        self._device = device
        self._lowers = lowers and device is not None and lowers_on(device.platform)
        self._jaxprs: dict[str, list[str]] = {}
        self._texts: dict[str, list[str]] = {}
        self._callbacks: dict[str, set[str]] = {}

    def add(
        self,
        part: str,
        function: Callable[..., Any],
        *shapes: Any,
        lowered: Callable[..., Any] | None = None,
    ) -> Any:
        """Adds a function to a part, and gives the shapes of its results.

        Args:
            part: its name.
            function: of arrays.
            *shapes: of its arguments.
            lowered: the function with the network lowered for the platform, if it applies it.
        """
        traced = jax.jit(function).trace(*shapes)
        found = callbacks_in(traced.jaxpr.jaxpr)
        if found:
            self._callbacks.setdefault(part, set()).update(found)
        digest, results = digest_of_jaxpr(traced.jaxpr), traced.out_info
        if part == EPOCH:  # of the platform that trains: its network is lowered
            self._texts[part] = [digest]
            return results
        self._jaxprs.setdefault(part, []).append(digest)
        if self._device is not None:
            if lowered is not None and self._lowers:
                traced = jax.jit(lowered).trace(*shapes)
            digest = digest_of_stablehlo(traced.lower().as_text())
            self._texts.setdefault(part, []).append(digest)
        return _abstract(results)

    def joined(self) -> dict[str, Any]:
        """The digests; see ``program_digests``."""

        def by_part(digests: dict[str, list[str]]) -> dict[str, str]:
            return {
                part: hashlib.sha256(" ".join(each).encode()).hexdigest()
                for part, each in digests.items()
            }

        return {
            "jaxpr": by_part(self._jaxprs),
            "stablehlo": by_part(self._texts),
            "callbacks": {part: sorted(names) for part, names in self._callbacks.items()},
        }


@contextlib.contextmanager
def _tracing(device: jax.Device | None) -> Iterator[None]:
    """Programs are traced for a device, also while JAX is asked to run operation by operation."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.transfer_guard("allow"))  # constants are looked at on the host
        # Each setting only where it changes something: JAX keeps what it traces by its settings,
        # and training traces much of it again.
        if debugging():
            stack.enter_context(jax.disable_jit(False))
        if device is not None:
            if device.platform != jax.default_backend():
                stack.enter_context(jax.default_device(device))
            stack.enter_context(on_platform(device.platform))
        yield


def _add_predicting(
    digests: _Digests, recipe: Recipe, state: TrainState, run: Run, inputs: Any
) -> None:
    """What ``predict`` calls: network, views and what combines them, ``eval_params``."""
    h, batch = run.hyperparameters, _rows(inputs, TRIAL_ROWS)
    variables = Variables(state.params, state.collections)

    def init(key: jax.Array, inputs: Any, h: Any) -> Any:
        with recipe.in_precision():
            return as_network(recipe.network, h).init(key, inputs, h)

    def outputs_of(recipe: Recipe) -> Callable[..., Any]:
        def outputs(variables: Variables, inputs: Any, h: Any) -> Any:
            with recipe.in_precision():
                network = as_network(recipe.network, h)
                return recipe.applied(network)(variables, inputs, h, train=False)[0]

        return outputs

    def views_of(inputs: Any) -> Any:
        with recipe.in_precision():
            return recipe.views(inputs) if recipe.views is not None else None

    def combined(outputs: Any) -> Any:
        with recipe.in_precision():
            return recipe.combined(outputs)

    digests.add("network", init, run.key, _rows(inputs, 1), h)
    outputs = digests.add(
        "network",
        outputs_of(_not_lowered(recipe)),
        variables,
        batch,
        h,
        lowered=outputs_of(recipe),
    )
    if recipe.views is not None:
        views = digests.add("views", views_of, batch)
        count = jax.tree.leaves(views)[0].shape[0]
        several = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((count, *leaf.shape), leaf.dtype), outputs
        )
        digests.add("combine", combined, several)
    if recipe.eval_params is not None:
        digests.add("eval_params", recipe.eval_params, state.opt_state, state.params, h)


def _add_training(
    digests: _Digests,
    recipe: Recipe,
    state: TrainState,
    run: Run,
    data: Data,
    steps: int | None,
) -> None:
    """What a step calls beside."""
    h = run.hyperparameters
    inputs, targets = _rows((data.inputs, data.targets), TRIAL_ROWS)
    variables = Variables(state.params, state.collections)
    mask = jax.ShapeDtypeStruct((TRIAL_ROWS,), bool)
    augmented = inputs, targets
    if recipe.augment is not None:
        given = recipe.augment

        def augment(key: Any, inputs: Any, targets: Any, h: Any, mask: Any) -> Any:
            with recipe.in_precision():
                return given(key, inputs, targets, h, **with_mask(given, mask))

        augmented = digests.add("augment", augment, run.key, inputs, targets, h, mask)

    def forward_of(recipe: Recipe) -> Callable[..., Any]:
        def forward(variables: Variables, inputs: Any, h: Any, mask: Any, key: Any) -> Any:
            with recipe.in_precision():
                apply = recipe.applied(as_network(recipe.network, h))
                return apply(variables, inputs, h, train=True, mask=mask, key=key)

        return forward

    outputs, _ = digests.add(
        "network in training",
        forward_of(_not_lowered(recipe)),
        variables,
        augmented[0],
        h,
        mask,
        run.key,
        lowered=forward_of(recipe),
    )

    def loss(outputs: Any, targets: Any, h: Any, mask: Any) -> Any:
        with recipe.in_precision():
            return recipe.loss(outputs, targets, h, **with_mask(recipe.loss, mask))

    def scored(outputs: Any, targets: Any, mask: Any) -> Any:
        return recipe.loss(outputs, targets, None, **with_mask(recipe.loss, mask))

    digests.add("loss", loss, outputs, augmented[1], h, mask)
    digests.add("loss", scored, outputs, targets, mask)
    for name, metric in (recipe.metrics or {}).items():

        def measured(outputs: Any, targets: Any, mask: Any, metric: Any = metric) -> Any:
            return metric(outputs, targets, **with_mask(metric, mask))

        digests.add(f"metric {name}", measured, outputs, targets, mask)
    _add_optimizer(digests, recipe, state, h, steps)
    if recipe.average is not None:
        digests.add("average", recipe.average, h)


def _add_optimizer(
    digests: _Digests, recipe: Recipe, state: TrainState, h: Any, steps: int | None
) -> None:
    def init(params: Any, h: Any) -> Any:
        return recipe.make_optimizer(h, steps).init(params)

    def value_fn(params: Any) -> jax.Array:
        """Some function of the parameters, for a line search: the loss is a part of its own."""
        sums = [jnp.sum(leaf**2).astype(jnp.float32) for leaf in jax.tree.leaves(params)]
        return sum(sums, jnp.zeros(()))

    def update(grads: Any, opt_state: Any, params: Any, h: Any) -> Any:
        optimizer = recipe.make_optimizer(h, steps)
        extra = train.extra_arguments(optimizer, value_fn(params), grads, value_fn)
        with recipe.in_precision():
            return optimizer.update(grads, opt_state, params, **extra)

    digests.add("optimizer", init, state.params, h)
    digests.add("optimizer", update, state.params, state.opt_state, state.params, h)


def _not_lowered(recipe: Recipe) -> Recipe:
    return dataclasses.replace(recipe, lowering="none")


def _rows(tree: Any, count: int) -> Any:
    """Shapes and dtypes of some rows of a data set."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((count, *leaf.shape[1:]), leaf.dtype), tree
    )


def _abstract(tree: Any) -> Any:
    """Shapes and dtypes alone, as JAX holds them."""

    def one(leaf: Any) -> jax.ShapeDtypeStruct:
        dtype = leaf.dtype
        if not jnp.issubdtype(dtype, jax.dtypes.prng_key):
            dtype = jax.dtypes.canonicalize_dtype(dtype)
        return jax.ShapeDtypeStruct(leaf.shape, dtype)

    return jax.tree.map(one, tree)


def _abstract_run(run: Run) -> Run:
    """The shapes of one run; scalar floats of h as weakly typed as training has them."""
    split = run.split._replace(kind=None) if run.split else run.split
    run = run._replace(split=split, steps=None, member=None)
    abstract: Run = _abstract(run)

    def weak(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        is_number = leaf.shape == () and jnp.issubdtype(leaf.dtype, jnp.floating)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, weak_type=bool(is_number))

    return abstract._replace(hyperparameters=jax.tree.map(weak, abstract.hyperparameters))

"""Evaluates a function's jaxpr with other operations where a rule has a faster form."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core

from digits_jax.lowering.convolutions import convolution
from digits_jax.lowering.pools import pool
from digits_jax.lowering.random_numbers import fold_in, random_bits

P = ParamSpec("P")
T = TypeVar("T")


def lower(function: Callable[P, T], *, platform: str | None = None) -> Callable[P, T]:
    """The same function, in the operations that are fastest on a platform.

    On a CPU, convolutions and pools are re-expressed, also inside of ``jit``, ``scan``,
    ``while_loop``, ``cond`` and ``checkpoint``. Functions with a gradient rule of their own
    (``custom_jvp``, ``custom_vjp``) keep it, and run as they are, and so do those whose shapes are
    symbols (of ``jax.export``). On any other platform nothing changes.

    The result can be jitted, mapped and differentiated, forward and backward, as often as the
    function itself. Apply ``lower`` first, and ``vmap`` or ``grad`` to what it returns: under
    ``vmap`` a convolution with several kernels is slow already.

    Args:
        function: takes and returns pytrees. Arrays among the arguments are traced. Other leaves
            (numbers, strings, functions) are passed on as they are, so that flags such as
            ``train=True`` work; inside of ``jit`` they too are traced, unless closed over.
        platform: as JAX names it, such as "cpu", "gpu" or "tpu"; None: JAX's default backend.

    Returns:
        A function of the same arguments and results.

    Examples:
        >>> import flax.linen as nn
        >>> network = nn.Conv(features=4, kernel_size=(3, 3))
        >>> images = jnp.ones((2, 8, 8, 1))
        >>> params = network.init(jax.random.key(0), images)
        >>> apply = lower(network.apply, platform="cpu")
        >>> bool(jnp.allclose(apply(params, images), network.apply(params, images), atol=1e-6))
        True
    """
    platform = jax.default_backend() if platform is None else platform
    if platform != "cpu":
        return function

    @functools.wraps(function)
    def lowered(*args: P.args, **kwargs: P.kwargs) -> T:
        leaves, structure = jax.tree.flatten((args, kwargs))
        traced = [i for i, leaf in enumerate(leaves) if isinstance(leaf, jax.Array | np.ndarray)]
        results: Any = None

        def of_arrays(*arrays: jax.Array) -> list[Any]:
            nonlocal results
            filled = list(leaves)
            for i, array in zip(traced, arrays, strict=True):
                filled[i] = array
            positional, named = jax.tree.unflatten(structure, filled)
            flat, results_structure = jax.tree.flatten(function(*positional, **named))
            arrays_out = [isinstance(leaf, jax.Array) for leaf in flat]
            # Without the arrays: they are traced here, and must not outlive the tracing.
            others = [
                None if is_array else leaf for leaf, is_array in zip(flat, arrays_out, strict=True)
            ]
            results = results_structure, others, arrays_out
            return [leaf for leaf, is_array in zip(flat, arrays_out, strict=True) if is_array]

        arrays = [leaves[i] for i in traced]
        closed = jax.make_jaxpr(of_arrays)(*arrays)
        outputs = iter(_evaluate(closed.jaxpr, closed.consts, arrays))
        results_structure, flat, arrays_out = results
        flat = [
            next(outputs) if is_array else leaf
            for leaf, is_array in zip(flat, arrays_out, strict=True)
        ]
        lowered_results: T = jax.tree.unflatten(results_structure, flat)
        return lowered_results

    return lowered


def fast(apply: Callable[P, T]) -> Callable[P, T]:
    """The same function, in the operations that are fastest where JAX runs; see ``lower``.

    For a training loop of one's own: only the function that applies the network changes.

    Examples:
        >>> import flax.linen as nn
        >>> network = nn.Sequential([nn.Conv(4, (3, 3)), nn.relu, lambda x: x.mean((1, 2, 3))])
        >>> images, targets = jnp.ones((2, 8, 8, 1)), jnp.zeros(2)
        >>> params = network.init(jax.random.key(0), images)
        >>> apply = fast(network.apply)
        >>> def loss(params):
        ...     return jnp.mean((apply(params, images) - targets) ** 2)
        >>> def step(params, _):
        ...     gradients = jax.grad(loss)(params)
        ...     return jax.tree.map(lambda p, g: p - 0.1 * g, params, gradients), None
        >>> trained, _ = jax.lax.scan(step, params, length=10)
        >>> bool(loss(trained) < loss(params))
        True
    """
    return lower(apply)


def _evaluate(
    jaxpr: core.Jaxpr, consts: Sequence[Any], arguments: Sequence[Any]
) -> list[jax.Array]:
    """The results of a jaxpr, with other operations where there is a rule."""
    values: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
    values.update(zip(jaxpr.invars, arguments, strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else values[atom]

    for equation in jaxpr.eqns:
        inputs, primitive = [read(atom) for atom in equation.invars], equation.primitive
        outputs = None
        if primitive.name in _RULES and all(map(_has_known_shape, inputs)):
            output = _RULES[primitive.name](*inputs, **equation.params)
            outputs = None if output is None else [output]
        elif primitive.name in _DESCENTS and _has_rules(equation):
            outputs = _DESCENTS[primitive.name](inputs, equation.params)
        if outputs is None:
            outputs = primitive.bind(*inputs, **primitive.get_bind_params(equation.params))
            outputs = outputs if primitive.multiple_results else [outputs]
        values.update(zip(equation.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _has_known_shape(value: Any) -> bool:
    """Whether a rule can count its pixels; a shape that is to be exported may have symbols."""
    return all(isinstance(n, int) for n in jnp.shape(value))


def _has_rules(equation: core.JaxprEqn) -> bool:
    """Whether a rule may apply to the equation, or somewhere inside of it."""
    if equation.primitive.name in _RULES:
        return True
    if equation.primitive.name not in _DESCENTS:
        return False
    inner = core.jaxprs_in_params(equation.params)
    return any(_has_rules(each) for jaxpr in inner for each in jaxpr.eqns)


def _function(closed: Any) -> Callable[..., list[jax.Array]]:
    """A closed jaxpr as a function of arrays, evaluated with the rules."""
    return lambda *arguments: _evaluate(closed.jaxpr, closed.consts, arguments)


def _call(inputs: list[Any], params: dict[str, Any]) -> list[jax.Array]:
    return _function(params["jaxpr"] if "jaxpr" in params else params["call_jaxpr"])(*inputs)


def _checkpoint(inputs: list[Any], params: dict[str, Any]) -> list[jax.Array] | None:
    if params["differentiated"]:  # its gradient has been taken, so there is no effect to keep
        return None
    inner = params["jaxpr"]
    function = jax.checkpoint(
        lambda *arguments: _evaluate(inner, (), arguments),
        prevent_cse=params["prevent_cse"],
        policy=params["policy"],
    )
    outputs: list[jax.Array] = function(*inputs)
    return outputs


def _scan(inputs: list[Any], params: dict[str, Any]) -> list[jax.Array]:
    body, consts = _function(params["jaxpr"]), params["num_consts"]
    end = consts + params["num_carry"]

    def step(carry: list[Any], x: list[Any]) -> tuple[list[Any], list[Any]]:
        outputs = body(*inputs[:consts], *carry, *x)
        return outputs[: end - consts], outputs[end - consts :]

    options = {name: params[name] for name in ("length", "reverse", "unroll")}
    carry, y = lax.scan(step, inputs[consts:end], inputs[end:], **options)
    return [*carry, *y]


def _while(inputs: list[Any], params: dict[str, Any]) -> list[jax.Array]:
    condition, body = _function(params["cond_jaxpr"]), _function(params["body_jaxpr"])
    first, end = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
    outputs: list[jax.Array] = lax.while_loop(
        lambda carry: condition(*inputs[:first], *carry)[0],
        lambda carry: body(*inputs[first:end], *carry),
        inputs[end:],
    )
    return outputs


def _cond(inputs: list[Any], params: dict[str, Any]) -> list[jax.Array]:
    branches = [_function(branch) for branch in params["branches"]]
    outputs: list[jax.Array] = lax.switch(inputs[0].astype(jnp.int32), branches, *inputs[1:])
    return outputs


_DESCENTS: dict[str, Callable[[list[Any], dict[str, Any]], list[jax.Array] | None]] = {
    "jit": _call,
    "pjit": _call,
    "closed_call": _call,
    "core_call": _call,
    "checkpoint": _checkpoint,
    "remat2": _checkpoint,
    "scan": _scan,
    "while": _while,
    "cond": _cond,
}


_RULES: dict[str, Callable[..., jax.Array | None]] = {
    "conv_general_dilated": convolution,
    "reduce_window_max": functools.partial(pool, kind="max"),
    "reduce_window_min": functools.partial(pool, kind="min"),
    "reduce_window_sum": functools.partial(pool, kind="sum"),
    "random_bits": random_bits,
    "random_fold_in": fold_in,
}

"""Evaluates a function's jaxpr with other operations where a rule has a faster form."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core

from digits_jax.lowering import batch_last, small_images
from digits_jax.lowering.batch_last import Last, is_pooled, is_relu, plain, relu, shape_of
from digits_jax.lowering.convolutions import convolution
from digits_jax.lowering.matrix_products import MatrixProduct
from digits_jax.lowering.pools import POOLS, pool
from digits_jax.lowering.random_numbers import bernoulli, bits_of_rows, fold_in, random_bits

P = ParamSpec("P")
T = TypeVar("T")


def lower(function: Callable[P, T], *, platform: str | None = None) -> Callable[P, T]:
    """The same function, in the operations that are fastest on a platform.

    On a CPU, convolutions and pools are re-expressed, also inside of ``jit``, ``scan``,
    ``while_loop``, ``cond`` and ``checkpoint``. Functions with a gradient rule of their own
    (``custom_jvp``, ``custom_vjp``) keep it, and run as they are, and so do those whose shapes are
    symbols (of ``jax.export``). A network of small images that are pooled is held with the batch
    last (see ``batch_last``): its dropout has other draws than JAX's, of the same law. On a GPU,
    convolutions of small images become matrix products, and pools are unrolled. On any other
    platform nothing changes.

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
    rules = _rules_of(jax.default_backend() if platform is None else platform)
    if rules is None:
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
        outputs = iter(_evaluate(closed.jaxpr, closed.consts, arrays, rules))
        results_structure, flat, arrays_out = results
        flat = [
            next(outputs) if is_array else leaf
            for leaf, is_array in zip(flat, arrays_out, strict=True)
        ]
        lowered_results: T = jax.tree.unflatten(results_structure, flat)
        return lowered_results

    return lowered


def lowers_on(platform: str) -> bool:
    """Whether ``lower`` changes anything on a platform."""
    return _rules_of(platform) is not None


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


class _Rules(NamedTuple):
    """What a platform computes otherwise; ``of`` is by primitive, and a rule may give None."""

    of: Mapping[str, Callable[..., jax.Array | None]]
    batch_last: bool = False  # whether networks of small images are held so


@dataclasses.dataclass
class _Layout:
    """What one evaluation knows of values that are held with the batch last."""

    rules: _Rules
    batch: int | None = None  # B, once there is one


def _evaluate(
    jaxpr: core.Jaxpr, consts: Sequence[Any], arguments: Sequence[Any], rules: _Rules
) -> list[jax.Array]:
    """The results of a jaxpr, with other operations where there is a rule."""
    return [plain(value) for value in _held(jaxpr, consts, arguments, _Layout(rules))]


def _held(
    jaxpr: core.Jaxpr, consts: Sequence[Any], arguments: Sequence[Any], layout: _Layout
) -> list[Any]:
    """The results of a jaxpr, some of them ``Last``."""
    values: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
    values.update(zip(jaxpr.invars, arguments, strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else values[atom]

    for equation in jaxpr.eqns:
        inputs = [read(atom) for atom in equation.invars]
        outputs = _in_layout(equation, inputs, layout, jaxpr) if layout.rules.batch_last else None
        if outputs is None:
            outputs = _outputs(equation, [plain(value) for value in inputs], layout.rules)
        values.update(zip(equation.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _in_layout(
    equation: core.JaxprEqn, inputs: list[Any], layout: _Layout, jaxpr: core.Jaxpr
) -> list[Any] | None:
    """The results of an equation where it can be held with the batch last; else None."""
    name, params = equation.primitive.name, equation.params
    if name == "conv_general_dilated":
        if not all(map(_has_known_shape, equation.invars)):
            return None
        x, kernel = inputs
        image = small_images.convolution(
            x, kernel, lambda: is_pooled(jaxpr, equation.outvars[0]), **params
        )
        if image is None:
            return None
        layout.batch = image.shape[0]
        return [image]
    if layout.batch is None:
        return None
    if name in ("jit", "pjit"):
        if params.get("name") == "_bernoulli":
            mask = _mask(equation, inputs, layout.batch)
            if mask is not None:
                return [mask]
        held = any(isinstance(each, Last) for each in inputs)
        if not held and not _has_rules(equation, layout.rules):
            return None
        inner = params["jaxpr"]
        return _held(inner.jaxpr, inner.consts, inputs, layout)
    if name == "random_bits":
        shape = params["shape"]
        if len(shape) < 2 or shape[0] != layout.batch:
            return None
        drawn = bits_of_rows(inputs[0], params["bit_width"], (*shape[1:], shape[0]))
        return None if drawn is None else [Last(drawn)]
    if name == "dot_general":
        result = small_images.dense(*inputs, **params)
        return None if result is None else [result]
    if name == "custom_jvp_call":
        is_held = len(inputs) == 1 and isinstance(inputs[0], Last)
        return [relu(inputs[0])] if is_held and is_relu(equation) else None
    return batch_last.evaluate(equation, inputs, layout.batch)


def _mask(equation: core.JaxprEqn, inputs: list[Any], batch: int) -> Last | None:
    """The mask that ``jax.random.bernoulli`` draws for rows of the batch, in other draws."""
    shape = shape_of(equation.outvars[0])
    key, *keep = inputs
    if (
        len(keep) != 1
        or not isinstance(keep[0], float | np.ndarray | np.generic)
        or np.ndim(keep[0])
    ):
        return None
    if len(shape) < 2 or shape[0] != batch:
        return None
    drawn = bernoulli(key, float(keep[0]), (*shape[1:], batch))
    return None if drawn is None else Last(drawn)


def _outputs(equation: core.JaxprEqn, inputs: list[Any], rules: _Rules) -> list[Any]:
    """The results of an equation, of arrays as they are."""
    primitive = equation.primitive
    if primitive.name in rules.of and all(map(_has_known_shape, inputs)):
        output = rules.of[primitive.name](*inputs, **equation.params)
        if output is not None:
            return [output]
    elif primitive.name in _DESCENTS and _has_rules(equation, rules):
        outputs = _DESCENTS[primitive.name](inputs, equation.params, rules)
        if outputs is not None:
            return outputs
    outputs = primitive.bind(*inputs, **primitive.get_bind_params(equation.params))
    return outputs if primitive.multiple_results else [outputs]


def _has_known_shape(value: Any) -> bool:
    """Whether a rule can count its pixels; a shape that is to be exported may have symbols."""
    shape = value.aval.shape if hasattr(value, "aval") else jnp.shape(value)
    return all(isinstance(n, int) for n in shape)


def _has_rules(equation: core.JaxprEqn, rules: _Rules) -> bool:
    """Whether a rule may apply to the equation, or somewhere inside of it."""
    if equation.primitive.name in rules.of:
        return True
    if equation.primitive.name not in _DESCENTS:
        return False
    inner = core.jaxprs_in_params(equation.params)
    return any(_has_rules(each, rules) for jaxpr in inner for each in jaxpr.eqns)


def _function(closed: Any, rules: _Rules) -> Callable[..., list[jax.Array]]:
    """A closed jaxpr as a function of arrays, evaluated with the rules."""
    return lambda *arguments: _evaluate(closed.jaxpr, closed.consts, arguments, rules)


def _call(inputs: list[Any], params: dict[str, Any], rules: _Rules) -> list[jax.Array]:
    return _function(params["jaxpr"] if "jaxpr" in params else params["call_jaxpr"], rules)(*inputs)


def _checkpoint(inputs: list[Any], params: dict[str, Any], rules: _Rules) -> list[jax.Array] | None:
    if params["differentiated"]:  # its gradient has been taken, so there is no effect to keep
        return None
    inner = params["jaxpr"]
    function = jax.checkpoint(
        lambda *arguments: _evaluate(inner, (), arguments, rules),
        prevent_cse=params["prevent_cse"],
        policy=params["policy"],
    )
    outputs: list[jax.Array] = function(*inputs)
    return outputs


def _scan(inputs: list[Any], params: dict[str, Any], rules: _Rules) -> list[jax.Array]:
    if "ft_in" in params:  # since JAX 0.12
        consts, carried, _ = map(len, params["ft_in"].unpack())
    else:
        consts, carried = params["num_consts"], params["num_carry"]
    body, end = _function(params["jaxpr"], rules), consts + carried

    def step(carry: list[Any], x: list[Any]) -> tuple[list[Any], list[Any]]:
        outputs = body(*inputs[:consts], *carry, *x)
        return outputs[: end - consts], outputs[end - consts :]

    options = {name: params[name] for name in ("length", "reverse", "unroll")}
    carry, y = lax.scan(step, inputs[consts:end], inputs[end:], **options)
    return [*carry, *y]


def _while(inputs: list[Any], params: dict[str, Any], rules: _Rules) -> list[jax.Array]:
    condition = _function(params["cond_jaxpr"], rules)
    body = _function(params["body_jaxpr"], rules)
    first, end = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
    outputs: list[jax.Array] = lax.while_loop(
        lambda carry: condition(*inputs[:first], *carry)[0],
        lambda carry: body(*inputs[first:end], *carry),
        inputs[end:],
    )
    return outputs


def _cond(inputs: list[Any], params: dict[str, Any], rules: _Rules) -> list[jax.Array] | None:
    if params.get("branches_platforms") is not None:  # platform_dependent: its author has chosen
        return None
    branches = [_function(branch, rules) for branch in params["branches"]]
    outputs: list[jax.Array] = lax.switch(inputs[0].astype(jnp.int32), branches, *inputs[1:])
    return outputs


_DESCENTS: dict[str, Callable[[list[Any], dict[str, Any], _Rules], list[jax.Array] | None]] = {
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


_POOLS = {f"reduce_window_{kind}": functools.partial(pool, kind=kind) for kind in POOLS}
_RULES = {  # by platform, as JAX names it
    "cpu": _Rules(
        {
            "conv_general_dilated": convolution,
            **_POOLS,
            "random_bits": random_bits,
            "random_fold_in": fold_in,
        },
        batch_last=True,
    ),
    "gpu": _Rules(
        {"conv_general_dilated": functools.partial(convolution, kind=MatrixProduct), **_POOLS}
    ),
}


def _rules_of(platform: str) -> _Rules | None:
    return _RULES.get("gpu" if platform in ("cuda", "rocm") else platform)

"""One way to call any network: linen modules, nnx classes, pairs of pure functions.

``as_network`` gives each the same two functions. A network is called as it is written: of
``train``, ``training``, ``deterministic`` and ``mask`` it gets those that its signature names.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

Params = Any  # a pytree of arrays
Inputs = Any  # an array or a pytree of arrays, leading axis B
Outputs = Any  # an array or a pytree of arrays, leading axis B


class Network(NamedTuple):
    """A network as two pure functions.

    Attributes:
        init: ``init(key, inputs)`` gives the parameters, a pytree of arrays.
        apply: ``apply(params, inputs)`` gives the outputs. Of ``train``, ``training``,
            ``deterministic`` (bool), ``mask`` (bool [B], False for padding), ``key`` (or ``rng``)
            and ``h`` (the hyperparameters) it gets those that its signature names, by name.
    """

    init: Callable[..., Params]
    apply: Callable[..., Outputs]


class Variables(NamedTuple):
    """What a network needs beside its inputs.

    Attributes:
        params: what the optimizer trains, a pytree of arrays.
        collections: what a forward pass in training changes, e.g. batch statistics; {} for none.
    """

    params: Params
    collections: Any


class Callee(Protocol):
    """What ``as_network`` gives."""

    @property
    def takes_mask(self) -> bool:
        """Whether the network asks which rows are padding."""

    def init(self, key: jax.Array, inputs: Inputs, h: Any) -> Variables:
        """The initial variables. ``inputs`` give shapes; ``h`` are the hyperparameters."""

    def apply(
        self,
        variables: Variables,
        inputs: Inputs,
        h: Any,
        *,
        train: bool,
        mask: jax.Array | None = None,
        key: jax.Array | None = None,
    ) -> tuple[Outputs, Any]:
        """Outputs, leading axis B, and the new collections (those given where not training)."""


@dataclasses.dataclass(frozen=True)
class NetworkWithHyperparameters:
    """A linen module some of whose fields are hyperparameters: a function of h for ``Recipe``.

    Attributes:
        network: the module; a field keeps its value where the hyperparameter is None or h is.
        fields: of the module; attributes or keys of h by the same names.
    """

    network: nn.Module
    fields: tuple[str, ...] = ("dropout_rate",)

    def __call__(self, h: Any) -> nn.Module:
        """The module with its fields from the hyperparameters."""
        read = h.get if isinstance(h, Mapping) else functools.partial(getattr, h)
        given: dict[str, Any] = {name: read(name, None) for name in self.fields}
        given = {name: value for name, value in given.items() if value is not None}
        return self.network.clone(**given) if given else self.network


def linen_module(network: Any) -> nn.Module:
    """The linen module of a recipe's network, its fields as they were given.

    Raises:
        TypeError: there is none.
    """
    if isinstance(network, NetworkWithHyperparameters):
        return network.network
    if isinstance(network, nn.Module):
        return network
    raise TypeError(f"the recipe's network is no linen module, but {type(network).__name__}")


def as_network(network: Any, h: Any = None) -> Callee:
    """The network behind one way of calling.

    Args:
        network: a linen module, an ``nnx.Module`` class (or a ``functools.partial`` of one),
            anything with ``init`` and ``apply`` (a ``Network``), or a function of the
            hyperparameters that gives one of these.
        h: the hyperparameters, for such a function.

    Raises:
        TypeError: it is none of these; names the remedy.
    """
    if isinstance(network, nn.Module):
        return _Linen(network)
    if _is_nnx_class(network):
        return _Nnx(network)
    if not inspect.isclass(network) and callable(getattr(network, "init", None)):
        if callable(getattr(network, "apply", None)):
            return _Pure(network)
    check_network(network)
    return as_network(network(h))


def check_network(network: Any) -> None:
    """Raises TypeError, with the remedy, unless ``as_network`` knows the network's form."""
    if isinstance(network, nn.Module):
        for field in dataclasses.fields(network):
            value = getattr(network, field.name, None)
            if field.name not in ("parent", "name") and isinstance(value, list | dict | set):
                kind = type(value).__name__
                raise TypeError(
                    f"network: the field {field.name} of {type(network).__name__} is a {kind}; "
                    "give a tuple, which can be hashed"
                )
    elif isinstance(network, nnx.Module):
        name = type(network).__name__
        raise TypeError(
            f"network is an instance of the nnx.Module {name}; give the class, network={name} "
            f"(functools.partial({name}, ...) gives it arguments)"
        )
    elif inspect.isclass(network) and issubclass(network, nn.Module):
        raise TypeError(
            f"network is the class {network.__name__}; give an instance, {network.__name__}(...)"
        )
    elif inspect.isclass(network) and not _is_nnx_class(network):
        raise TypeError(f"network is the class {network.__name__}, which is no nnx.Module")
    elif not callable(network) and not all(
        callable(getattr(network, name, None)) for name in ("init", "apply")
    ):
        raise TypeError(
            "network must be a flax.linen module, an nnx.Module class, a Network(init, apply), or "
            f"a function of the hyperparameters that gives one, not {type(network).__name__}"
        )


def named_arguments(function: Callable[..., Any], **known: Any) -> dict[str, Any]:
    """Of the arguments ``known``, those that the function's signature names."""
    try:
        names = inspect.signature(function).parameters
    except (TypeError, ValueError):  # a builtin
        return {}
    return {name: value for name, value in known.items() if name in names}


def _flags(function: Callable[..., Any], train: bool, mask: Any) -> dict[str, Any]:
    """How a forward pass in training or in evaluation is asked for."""
    return named_arguments(
        function, train=train, training=train, deterministic=not train, mask=mask
    )


@dataclasses.dataclass(frozen=True)
class _Linen:
    module: nn.Module

    @property
    def takes_mask(self) -> bool:
        return "mask" in inspect.signature(type(self.module).__call__).parameters

    def init(self, key: jax.Array, inputs: Inputs, h: Any) -> Variables:
        del h
        flags = _flags(type(self.module).__call__, False, None)
        variables = dict(self.module.init(key, inputs, **flags))
        params = variables.pop("params", {})
        if variables:
            # What a module sows grows with each call, so it is no state.
            _, after = jax.eval_shape(
                functools.partial(self._call, train=True, names=tuple(variables)),
                Variables(params, variables),
                inputs,
                None,
                key,
            )
            variables = {
                name: value
                for name, value in variables.items()
                if _same_shapes(value, after.get(name))
            }
        return Variables(params, variables)

    def _call(
        self,
        variables: Variables,
        inputs: Inputs,
        mask: jax.Array | None,
        key: jax.Array | None,
        *,
        train: bool,
        names: tuple[str, ...] = (),
    ) -> tuple[Outputs, Any]:
        flags = _flags(type(self.module).__call__, train, mask)
        # A module that draws in evaluation, too, draws the same each time.
        key = jax.random.key(0) if key is None else key
        # Flax draws any other stream that is asked for from "params".
        rngs = {"dropout": key, "params": jax.random.fold_in(key, 0)}
        held = {"params": variables.params, **variables.collections}
        if not train:
            return self.module.apply(held, inputs, **flags, rngs=rngs), variables.collections
        outputs, collections = self.module.apply(
            held, inputs, **flags, rngs=rngs, mutable=list(names)
        )
        return outputs, dict(collections)

    def apply(
        self,
        variables: Variables,
        inputs: Inputs,
        h: Any,
        *,
        train: bool,
        mask: jax.Array | None = None,
        key: jax.Array | None = None,
    ) -> tuple[Outputs, Any]:
        del h
        names = tuple(variables.collections)
        return self._call(variables, inputs, mask, key, train=train, names=names)


@dataclasses.dataclass(frozen=True)
class _Nnx:
    make: Any  # an nnx.Module class, or a partial of one

    @property
    def takes_mask(self) -> bool:
        return "mask" in inspect.signature(_class_of(self.make).__call__).parameters

    def _model(self, key: jax.Array) -> nnx.Module:
        init = _class_of(self.make).__init__  # the class's own signature is its metaclass's
        return cast(nnx.Module, self.make(**named_arguments(init, rngs=nnx.Rngs(key))))

    def init(self, key: jax.Array, inputs: Inputs, h: Any) -> Variables:
        del inputs, h
        _, params, _, rest = _split(self._model(key))
        return Variables(nnx.to_pure_dict(params), nnx.to_pure_dict(rest))

    def apply(
        self,
        variables: Variables,
        inputs: Inputs,
        h: Any,
        *,
        train: bool,
        mask: jax.Array | None = None,
        key: jax.Array | None = None,
    ) -> tuple[Outputs, Any]:
        del h
        abstract = nnx.eval_shape(lambda: self._model(jax.random.key(0)))
        graph, params, rngs, rest = _split(abstract)
        nnx.replace_by_pure_dict(params, variables.params)
        nnx.replace_by_pure_dict(rest, variables.collections)
        key = jax.random.key(0) if key is None else key
        paths = jax.tree.leaves(rngs)
        fresh = [
            jax.random.fold_in(key, i)
            if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
            else jnp.zeros(leaf.shape, leaf.dtype)
            for i, leaf in enumerate(paths)
        ]
        rngs = jax.tree.unflatten(jax.tree.structure(rngs), fresh)
        model = nnx.merge(graph, params, rngs, rest, copy=True)
        model.train() if train else model.eval()
        call = cast(Any, model)
        outputs = call(inputs, **_flags(type(model).__call__, train, mask))
        if not train:
            return outputs, variables.collections
        return outputs, nnx.to_pure_dict(_split(model)[3])


def _split(model: nnx.Module) -> tuple[Any, Any, Any, Any]:
    """Graph, parameters, random streams, and all other state."""
    split: Any = nnx.split
    return cast(tuple[Any, Any, Any, Any], split(model, nnx.Param, nnx.RngState, ...))


@dataclasses.dataclass(frozen=True)
class _Pure:
    pair: Any  # has init and apply

    @property
    def takes_mask(self) -> bool:
        return bool(named_arguments(self.pair.apply, mask=None))

    def init(self, key: jax.Array, inputs: Inputs, h: Any) -> Variables:
        return Variables(self.pair.init(key, inputs, **named_arguments(self.pair.init, h=h)), {})

    def apply(
        self,
        variables: Variables,
        inputs: Inputs,
        h: Any,
        *,
        train: bool,
        mask: jax.Array | None = None,
        key: jax.Array | None = None,
    ) -> tuple[Outputs, Any]:
        known = {**_flags(self.pair.apply, train, mask)}
        known |= named_arguments(self.pair.apply, h=h, key=key, rng=key)
        return self.pair.apply(variables.params, inputs, **known), {}


def _class_of(network: Any) -> Any:
    """What a ``functools.partial`` calls in the end."""
    while isinstance(network, functools.partial):
        network = network.func
    return network


def _is_nnx_class(network: Any) -> bool:
    network = _class_of(network)
    return inspect.isclass(network) and issubclass(network, nnx.Module)


def _same_shapes(a: Any, b: Any) -> bool:
    def shapes(tree: Any) -> Any:
        leaves, structure = jax.tree.flatten(tree)
        return [(tuple(leaf.shape), leaf.dtype) for leaf in leaves], structure

    return bool(shapes(a) == shapes(b))


class Dropout(nn.Module):
    """Dropout whose rate may be traced, so that it can be a hyperparameter.

    A layer of your own network: ``dj.Dropout(h.dropout_rate)(x, deterministic=not train)``.
    Flax's own ``nn.Dropout`` tests its rate in Python, and so needs a plain number.

    Attributes:
        rate: fraction of the units that are set to zero in training; [0, 1). A number, or traced.
    """

    rate: float | jax.Array

    @nn.compact
    def __call__(self, x: jax.Array, *, deterministic: bool) -> jax.Array:
        """Gives x, of any shape, with some units zero and the others scaled so that the mean stays.

        Args:
            x: float, any shape.
            deterministic: True leaves x as it is; else the random stream ``dropout`` is used.
        """
        if deterministic:
            return x
        keep = 1 - jnp.asarray(self.rate, x.dtype)
        kept = jax.random.uniform(self.make_rng("dropout"), x.shape) < keep.astype(jnp.float32)
        return jnp.where(kept, x / keep, jnp.zeros_like(x))


def with_mask(function: Callable[..., Any], mask: Any) -> Mapping[str, Any]:
    """``{"mask": mask}`` for a function that names it, else nothing."""
    return named_arguments(function, mask=mask)

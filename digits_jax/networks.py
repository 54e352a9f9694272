"""One way to call any network: linen modules, nnx classes, pairs of pure functions.

``as_network`` gives each the same two functions. A network is called as it is written: of
``train``, ``training``, ``deterministic`` and ``mask`` it gets those that its signature names.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

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


class _Pass(NamedTuple):
    """How a forward pass is made."""

    flags: dict[str, Any]  # what the network's signature names
    h: Any
    key: jax.Array | None
    train: bool


class Callee(abc.ABC):
    """What ``as_network`` gives."""

    @property
    @abc.abstractmethod
    def function(self) -> Callable[..., Any]:
        """The forward pass as it was written; its signature names what it gets."""

    @property
    def takes_mask(self) -> bool:
        """Whether the network asks which rows are padding."""
        return bool(named_arguments(self.function, mask=None))

    @abc.abstractmethod
    def init(self, key: jax.Array, inputs: Inputs, h: Any) -> Variables:
        """The initial variables.

        Args:
            key: a random key.
            inputs: give shapes and dtypes, leading axis B.
            h: the hyperparameters.
        """

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
        """A forward pass.

        Args:
            variables: as from ``init``.
            inputs: leading axis B.
            h: the hyperparameters.
            train: whether it is in training.
            mask: bool [B], False for padding.
            key: a random key, for what the network draws.

        Returns:
            The outputs, leading axis B, and the new collections: those given, where not training.
        """
        how = _Pass(_flags(self.function, train, mask), h, key, train)
        outputs, collections = self._call(variables, inputs, how)
        return outputs, collections if train else variables.collections

    @abc.abstractmethod
    def _call(self, variables: Variables, inputs: Inputs, how: _Pass) -> tuple[Outputs, Any]:
        """Outputs and new collections; what it returns of these counts in training only."""


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
    if _is_pair(network):
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
    elif not callable(network) and not _is_pair(network):
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


def _key_or_constant(how: _Pass) -> jax.Array:
    """The key; without one, what draws in evaluation draws the same each time."""
    return jax.random.key(0) if how.key is None else how.key


@dataclasses.dataclass(frozen=True)
class _Linen(Callee):
    module: nn.Module

    @property
    def function(self) -> Callable[..., Any]:
        return type(self.module).__call__

    def init(self, key: jax.Array, inputs: Inputs, h: Any) -> Variables:
        variables = dict(self.module.init(key, inputs, **_flags(self.function, False, None)))
        params = variables.pop("params", {})
        if variables:
            # What a module sows grows with each call, so it is no state.
            call = functools.partial(self.apply, h=h, train=True)
            _, after = jax.eval_shape(call, Variables(params, variables), inputs, key=key)
            variables = {
                name: value
                for name, value in variables.items()
                if _same_shapes(value, after.get(name))
            }
        return Variables(params, variables)

    def _call(self, variables: Variables, inputs: Inputs, how: _Pass) -> tuple[Outputs, Any]:
        key = _key_or_constant(how)
        # Flax draws any other stream that is asked for from "params".
        rngs = {"dropout": key, "params": jax.random.fold_in(key, 0)}
        apply: Callable[..., Any] = functools.partial(self.module.apply, rngs=rngs, **how.flags)
        held = {"params": variables.params, **variables.collections}
        if not how.train:
            return apply(held, inputs), {}
        outputs, after = apply(held, inputs, mutable=list(variables.collections))
        return outputs, dict(after)


@dataclasses.dataclass(frozen=True)
class _Nnx(Callee):
    make: Any  # an nnx.Module class, or a partial of one

    @property
    def function(self) -> Callable[..., Any]:
        return cast(Callable[..., Any], _class_of(self.make).__call__)

    def _model(self, key: jax.Array) -> nnx.Module:
        init = _class_of(self.make).__init__  # the class's own signature is its metaclass's
        return cast(nnx.Module, self.make(**named_arguments(init, rngs=nnx.Rngs(key))))

    def init(self, key: jax.Array, inputs: Inputs, h: Any) -> Variables:
        _, params, _, rest = _split(self._model(key))
        return Variables(nnx.to_pure_dict(params), nnx.to_pure_dict(rest))

    def _call(self, variables: Variables, inputs: Inputs, how: _Pass) -> tuple[Outputs, Any]:
        abstract = nnx.eval_shape(lambda: self._model(jax.random.key(0)))
        graph, params, rngs, rest = _split(abstract)
        nnx.replace_by_pure_dict(params, variables.params)
        nnx.replace_by_pure_dict(rest, variables.collections)
        key = _key_or_constant(how)
        fresh = [
            jax.random.fold_in(key, i)
            if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
            else jnp.zeros(leaf.shape, leaf.dtype)
            for i, leaf in enumerate(jax.tree.leaves(rngs))
        ]
        rngs = jax.tree.unflatten(jax.tree.structure(rngs), fresh)
        model = cast(Any, nnx.merge(graph, params, rngs, rest, copy=True))
        model.train() if how.train else model.eval()
        outputs = model(inputs, **how.flags)
        return outputs, nnx.to_pure_dict(_split(model)[3]) if how.train else {}


def _split(model: nnx.Module) -> tuple[Any, Any, Any, Any]:
    """Graph, parameters, random streams, and all other state."""
    split: Any = nnx.split
    return cast(tuple[Any, Any, Any, Any], split(model, nnx.Param, nnx.RngState, ...))


@dataclasses.dataclass(frozen=True)
class _Pure(Callee):
    pair: Any  # has init and apply

    @property
    def function(self) -> Callable[..., Any]:
        return cast(Callable[..., Any], self.pair.apply)

    def init(self, key: jax.Array, inputs: Inputs, h: Any) -> Variables:
        return Variables(self.pair.init(key, inputs, **named_arguments(self.pair.init, h=h)), {})

    def _call(self, variables: Variables, inputs: Inputs, how: _Pass) -> tuple[Outputs, Any]:
        known = named_arguments(self.function, h=how.h, key=how.key, rng=how.key)
        return self.function(variables.params, inputs, **how.flags, **known), {}


def _class_of(network: Any) -> Any:
    """What a ``functools.partial`` calls in the end."""
    while isinstance(network, functools.partial):
        network = network.func
    return network


def _is_nnx_class(network: Any) -> bool:
    network = _class_of(network)
    return inspect.isclass(network) and issubclass(network, nnx.Module)


def _is_pair(network: Any) -> bool:
    functions = (getattr(network, name, None) for name in ("init", "apply"))
    return not inspect.isclass(network) and all(map(callable, functions))


def _same_shapes(a: Any, b: Any) -> bool:
    def shapes(tree: Any) -> Any:
        leaves, structure = jax.tree.flatten(tree)
        return [(tuple(leaf.shape), leaf.dtype) for leaf in leaves], structure

    return bool(shapes(a) == shapes(b))


def with_mask(function: Callable[..., Any], mask: Any) -> Mapping[str, Any]:
    """``{"mask": mask}`` for a function that names it, else nothing."""
    return named_arguments(function, mask=mask)

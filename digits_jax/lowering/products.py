"""A product of two arrays with gradients of its own, which can be differentiated again."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core
from jax.interpreters import ad, batching, mlir


@dataclasses.dataclass(frozen=True)
class Product(abc.ABC):
    """A bilinear function of an image and a kernel, and its two gradients.

    Unlike ``jax.custom_vjp``, it can be differentiated forward and as often as one likes.
    """

    takes_leading_axes: ClassVar[bool] = False  # as many as there are, before its own

    @abc.abstractmethod
    def apply(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """The product."""

    @abc.abstractmethod
    def to_image(self, dy: jax.Array, kernel: jax.Array) -> jax.Array:
        """The gradient of the image, from that of the product."""

    @abc.abstractmethod
    def to_kernel(self, dy: jax.Array, x: jax.Array) -> jax.Array:
        """The gradient of the kernel, from that of the product."""


@dataclasses.dataclass(frozen=True)
class _Batched(Product):
    """A product under ``vmap``: one after the other, since XLA would make a grouped one of them.

    Attributes:
        product: of one image and kernel.
        x_axis: the mapped axis of the image; None if it has none. So for the kernel.
    """

    product: Product
    x_axis: int | None
    kernel_axis: int | None

    def apply(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        return _each(self.product.apply, (x, self.x_axis), (kernel, self.kernel_axis))

    def to_image(self, dy: jax.Array, kernel: jax.Array) -> jax.Array:
        dx = _each(self.product.to_image, (dy, 0), (kernel, self.kernel_axis))
        return dx.sum(0) if self.x_axis is None else jnp.moveaxis(dx, 0, self.x_axis)

    def to_kernel(self, dy: jax.Array, x: jax.Array) -> jax.Array:
        dkernel = _each(self.product.to_kernel, (dy, 0), (x, self.x_axis))
        if self.kernel_axis is None:
            return dkernel.sum(0)
        return jnp.moveaxis(dkernel, 0, self.kernel_axis)


def _each(
    function: Callable[[jax.Array, jax.Array], jax.Array], *mapped: tuple[jax.Array, int | None]
) -> jax.Array:
    """A function of two arrays, over their mapped axes (None: none), one after the other."""
    arrays = [array if axis is None else jnp.moveaxis(array, axis, 0) for array, axis in mapped]
    (a, a_axis), (b, b_axis) = zip(arrays, [axis for _, axis in mapped], strict=True)
    if b_axis is None:
        results: jax.Array = lax.map(lambda a: function(a, b), a)
    elif a_axis is None:
        results = lax.map(lambda b: function(a, b), b)
    else:
        results = lax.map(lambda pair: function(*pair), (a, b))
    return results


_product_p = core.Primitive("digits_product")


def multiply(x: jax.Array, kernel: jax.Array, product: Product) -> jax.Array:
    """The product of an image and a kernel, which has the gradients that the product says."""
    axes = [frozenset(getattr(jax.typeof(array), "vma", ())) for array in (x, kernel)]
    if axes[0] != axes[1]:  # inside of shard_map: both must vary over the same mesh axes
        x = lax.pcast(x, tuple(axes[1] - axes[0]), to="varying") if axes[1] - axes[0] else x
        if axes[0] - axes[1]:
            kernel = lax.pcast(kernel, tuple(axes[0] - axes[1]), to="varying")
    result: jax.Array = _product_p.bind(x, kernel, product=product)
    return result


def _abstract(x: Any, kernel: Any, *, product: Product) -> Any:
    shape = jax.eval_shape(
        product.apply, *(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in (x, kernel))
    )
    return x.update(shape=shape.shape, dtype=shape.dtype, weak_type=False)


def _apply(x: jax.Array, kernel: jax.Array, *, product: Product) -> jax.Array:
    return product.apply(x, kernel)


def _batch(
    arrays: tuple[jax.Array, jax.Array], axes: tuple[int | None, int | None], *, product: Product
) -> tuple[jax.Array, int]:
    if product.takes_leading_axes:
        size = next(a.shape[i] for a, i in zip(arrays, axes, strict=True) if i is not None)
        x, kernel = (
            jnp.broadcast_to(a, (size, *a.shape)) if i is None else jnp.moveaxis(a, i, 0)
            for a, i in zip(arrays, axes, strict=True)
        )
        return multiply(x, kernel, product), 0
    return multiply(*arrays, _Batched(product, *axes)), 0


_product_p.def_impl(_apply)
_product_p.def_abstract_eval(_abstract)
mlir.register_lowering(_product_p, mlir.lower_fun(_apply, multiple_results=False))
batching.primitive_batchers[_product_p] = _batch
ad.defbilinear(
    _product_p,
    lambda dy, x, kernel, *, product: product.to_image(dy, kernel),
    lambda dy, x, kernel, *, product: product.to_kernel(dy, x),
)

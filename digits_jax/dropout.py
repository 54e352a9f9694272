"""Dropout whose rate may be traced."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp


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

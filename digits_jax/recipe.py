"""A recipe: the static part of a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax
import optax

from digits_jax.losses import cross_entropy
from digits_jax.model import DigitsCNN
from digits_jax.optimizers import Hyperparameters, adam


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """The static part of a run: what changes shapes or code. Hashable, so that jit can cache on it.

    Attributes:
        network: a Flax module that is called as ``network(images, train=..., mask=...)`` and gives
            logits [B, K]; its random stream for training is ``dropout``.
        optimizer: makes the optax transformation, inside the traced step, from (traced) numbers.
        loss: the loss of each row; see ``cross_entropy``.
        augment: ``augment(key, images) -> images``, applied to training batches, or None.
        views: test-time augmentation, ``views(images) -> [V, B, ...]``, V views of each image; see
            ``predict``. None: the image as it is.
        batch_size: rows of a step; the last step of an epoch takes what is left. More than there
            are rows is one step an epoch.

    Raises:
        TypeError: the network is no Flax module, another part no function, the size no integer.
        ValueError: ``batch_size`` is out of range.
    """

    network: nn.Module = DigitsCNN()
    optimizer: Callable[[Hyperparameters], optax.GradientTransformation] = adam
    loss: Callable[[jax.Array, jax.Array, Hyperparameters | None], jax.Array] = cross_entropy
    augment: Callable[[jax.Array, jax.Array], jax.Array] | None = None
    views: Callable[[jax.Array], jax.Array] | None = None
    batch_size: int = 128

    def __post_init__(self) -> None:
        if not isinstance(self.network, nn.Module):
            raise TypeError(f"network must be a flax.linen Module, not {self.network!r}")
        for name in ("optimizer", "loss", "augment", "views"):
            value = getattr(self, name)
            optional = name in ("augment", "views")
            if not callable(value) and not (optional and value is None):
                raise TypeError(f"{name} must be a function, not {value!r}")
        if not isinstance(self.batch_size, int):
            raise TypeError(f"batch_size must be an integer, not {self.batch_size!r}")
        if not 1 <= self.batch_size < 2**31:
            raise ValueError(f"batch_size must be 1 to 2^31 - 1, not {self.batch_size}")

"""Optimizers whose learning rate follows a schedule, for the ``optimizer`` of an ``Experiment``."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from digits_jax.train import Hyperparameters, adam


@dataclasses.dataclass(frozen=True, kw_only=True)
class OneCycleAdam:
    """Adam (or AdamW) under a one-cycle learning rate: half a cosine up to the peak, half one down.

    The peak is ``Hyperparameters.learning_rate``; the cycle ends after
    ``Hyperparameters.schedule_steps`` optimizer steps, a number of each run: a run that trains on
    more rows takes more steps an epoch. Both may be traced.

    Smith and Topin, "Super-Convergence: Very Fast Training of Neural Networks Using Large Learning
    Rates", 2018, arXiv:1708.07120; with cosines, as in PyTorch's ``OneCycleLR``.

    Attributes:
        warmup: share of the steps that go up; in [0, 1). 0: a cosine decay from the peak.
        start: the first step's learning rate, a share of the peak.
        end: the learning rate after the last step, a share of the peak.
    """

    warmup: float = 0.3
    start: float = 0.04
    end: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup must be in [0, 1), not {self.warmup}")
        if not (0 <= self.start <= 1 and 0 <= self.end <= 1):
            raise ValueError(f"start and end must be in [0, 1], not {self.start} and {self.end}")

    def __call__(self, hyperparameters: Hyperparameters) -> optax.GradientTransformation:
        """The optax transformation of a run.

        Raises:
            ValueError: ``hyperparameters.schedule_steps`` is None.
        """
        steps = hyperparameters.schedule_steps
        if steps is None:
            raise ValueError("OneCycleAdam needs hyperparameters.schedule_steps, a number of steps")
        return adam(hyperparameters, schedule=functools.partial(self.share, steps=steps))

    def share(self, count: ArrayLike, steps: ArrayLike) -> jax.Array:
        """The learning rate of the step after ``count`` steps, as a share of the peak: float32."""
        done = jnp.asarray(count, jnp.float32) / jnp.asarray(steps, jnp.float32)
        up = jnp.clip(done / self.warmup, 0, 1) if self.warmup else jnp.ones(())
        down = jnp.clip((done - self.warmup) / (1 - self.warmup), 0, 1)
        rising = self.start + (1 - self.start) * (1 - jnp.cos(jnp.pi * up)) / 2
        falling = self.end + (1 - self.end) * (1 + jnp.cos(jnp.pi * down)) / 2
        return jnp.where(done < self.warmup, rising, falling)

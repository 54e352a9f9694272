"""The hyperparameters of a run, and the optimizers that read them: Adam and one-cycle Adam."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

Params = Any  # a pytree of arrays


class Hyperparameters(NamedTuple):
    """The numbers of a run that are traced, so that a grid of them trains in one program.

    Each is a number, or an array [R] with one for each run. An optimizer of your own may give the
    first five another meaning.

    Attributes:
        learning_rate: of Adam, a step; Keras's default, as are the next three.
        beta_1: decay of Adam's first moment, a step.
        beta_2: decay of Adam's second moment, a step.
        epsilon: added to the root of Adam's second moment.
        weight_decay: decoupled, as in AdamW: times the learning rate, a step.
        label_smoothing: fraction of a label that is spread over all classes; [0, 1).
        dropout_rate: None: the network's own; else replaces its field.
        schedule_steps: of the learning rate's schedule; see ``optimizers.py``.
        average_decay: of the averaged weights, a step; None: no averaging.
    """

    learning_rate: ArrayLike = 1e-3
    beta_1: ArrayLike = 0.9
    beta_2: ArrayLike = 0.999
    epsilon: ArrayLike = 1e-7
    weight_decay: ArrayLike = 0.0
    label_smoothing: ArrayLike = 0.0
    dropout_rate: ArrayLike | None = None
    schedule_steps: ArrayLike | None = None
    average_decay: ArrayLike | None = None


def adam(
    hyperparameters: Hyperparameters, *, schedule: Callable[[Any], jax.Array] | None = None
) -> optax.GradientTransformation:
    """Optax's Adam with Keras's epsilon; with decoupled weight decay where that is not zero.

    ``schedule`` gives, from the number of steps before a step, its fraction of the learning rate.

    Keras adds epsilon to the root of the second moment *before* its bias is corrected ("epsilon
    hat" in the paper), optax after. While gradients are small, as behind this network's sigmoids,
    36 steps already tell the two apart: weights differ by 2e-2, where with this epsilon Keras's
    and ours stay within 4e-4.

    Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, arXiv:1412.6980;
    Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019, arXiv:1711.05101.
    """
    h = hyperparameters

    def scheduled(count: Any) -> Any:
        return h.learning_rate * cast(Any, schedule)(count)

    rate: Any = h.learning_rate if schedule is None else scheduled

    def with_epsilon(epsilon: ArrayLike) -> optax.GradientTransformation:
        return optax.adamw(rate, b1=h.beta_1, b2=h.beta_2, eps=epsilon, weight_decay=h.weight_decay)

    def update(grads: Params, state: optax.OptState, params: Params = None) -> Any:
        steps = state[0].count + 1
        epsilon = h.epsilon / jnp.sqrt(1 - jnp.asarray(h.beta_2) ** steps)
        return with_epsilon(epsilon).update(grads, state, params)

    # One vector instead of a leaf for each layer: as fast, and 1.5 s less to compile.
    return optax.flatten(optax.GradientTransformation(with_epsilon(h.epsilon).init, update))


@dataclasses.dataclass(frozen=True, kw_only=True)
class OneCycleAdam:
    """Adam (or AdamW) under a one-cycle learning rate: half a cosine up to the peak, half one down.

    The peak is ``Hyperparameters.learning_rate``; the cycle ends after
    ``Hyperparameters.schedule_steps`` optimizer steps, a number of each run: a run that trains on
    more rows takes more steps an epoch. Both may be traced.

    Smith and Topin, "Super-Convergence: Very Fast Training of Neural Networks Using Large Learning
    Rates", 2018, arXiv:1708.07120; with cosines, as in PyTorch's ``OneCycleLR``.

    Attributes:
        warmup: fraction of the steps that go up; in [0, 1). 0: a cosine decay from the peak.
        start: the first step's learning rate, a fraction of the peak.
        end: the learning rate after the last step, a fraction of the peak.
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
        return adam(hyperparameters, schedule=functools.partial(self.rate_fraction, steps=steps))

    def rate_fraction(self, count: ArrayLike, steps: ArrayLike) -> jax.Array:
        """The learning rate after ``count`` steps, as a fraction of the peak: float32."""
        done = jnp.asarray(count, jnp.float32) / jnp.asarray(steps, jnp.float32)
        up = jnp.clip(done / self.warmup, 0, 1) if self.warmup else jnp.ones(())
        down = jnp.clip((done - self.warmup) / (1 - self.warmup), 0, 1)
        rising = self.start + (1 - self.start) * (1 - jnp.cos(jnp.pi * up)) / 2
        falling = self.end + (1 - self.end) * (1 + jnp.cos(jnp.pi * down)) / 2
        return jnp.where(done < self.warmup, rising, falling)

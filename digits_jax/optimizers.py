"""The hyperparameters of a run, and the optimizers that read them: Adam and one-cycle Adam."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

Params = Any  # a pytree of arrays


class Hyperparameters(NamedTuple):
    """The hyperparameters of the digits' recipes. They are traced: one program trains a grid.

    Each is a number, or an array [R] with one for each run. Your own recipe may have any other
    pytree of numbers instead.

    Attributes:
        learning_rate: of Adam, a step; Keras's default, as are the next three.
        beta_1: decay of Adam's first moment, a step; [0, 1).
        beta_2: decay of Adam's second moment, a step; [0, 1).
        epsilon: added to the root of Adam's second moment.
        weight_decay: decoupled, as in AdamW: times the learning rate, a step.
        label_smoothing: fraction of a label that is spread over all classes; [0, 1).
        dropout_rate: None: the network's own; else replaces its field; [0, 1).
        average_decay: of the averaged weights, a step; [0, 1). None: no averaging.
    """

    learning_rate: ArrayLike = 1e-3
    beta_1: ArrayLike = 0.9
    beta_2: ArrayLike = 0.999
    epsilon: ArrayLike = 1e-7
    weight_decay: ArrayLike = 0.0
    label_smoothing: ArrayLike = 0.0
    dropout_rate: ArrayLike | None = None
    average_decay: ArrayLike | None = None

    def check(self) -> None:
        """Raises ValueError that names a number out of its range."""
        for name, value in self._asdict().items():
            if value is None:
                continue
            values = np.asarray(value, np.float64)
            below = BELOW_ONE.get(name, np.finfo(np.float32).max)
            if not ((values >= 0) & (values < below)).all():
                rule = "at least 0 and below 1" if name in BELOW_ONE else "finite and >= 0"
                raise ValueError(f"{name} must be {rule}, not {value}")


# Hyperparameters that must be below 1.
BELOW_ONE = dict.fromkeys(
    ("beta_1", "beta_2", "label_smoothing", "dropout_rate", "average_decay"), 1
)


def adam(
    h: Any,
    *,
    schedule: Callable[[Any], jax.Array] | None = None,
    eps_root: float = 0.0,
) -> optax.GradientTransformation:
    """Optax's Adam with Keras's epsilon; with decoupled weight decay where that is not zero.

    Keras adds epsilon to the root of the second moment *before* its bias is corrected ("epsilon
    hat" in the paper), optax after. While gradients are small, as behind the notebook's sigmoids,
    36 steps already tell the two apart: weights differ by 2e-2, where with this epsilon Keras's
    and ours stay within 4e-4.

    Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, arXiv:1412.6980;
    Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019, arXiv:1711.05101.

    Args:
        h: gives learning_rate, and where it has them beta_1, beta_2, epsilon and weight_decay, as
            attributes or keys. Default: those of ``Hyperparameters``.
        schedule: gives, from the number of steps before a step, the fraction of the learning rate.
        eps_root: added to the second moment under the root. Differentiating *through* training
            (meta-gradients) needs it above 0, say 1e-8: the root's slope is infinite at 0, which is
            the second moment of a weight behind pixels that are always zero.

    Raises:
        TypeError: h has no learning_rate.
    """
    ours = _of_adam(h)

    def scheduled(count: Any) -> Any:
        return ours.learning_rate * cast(Any, schedule)(count)

    rate: Any = ours.learning_rate if schedule is None else scheduled

    def with_epsilon(epsilon: ArrayLike) -> optax.GradientTransformation:
        return optax.scale_by_adam(b1=ours.beta_1, b2=ours.beta_2, eps=epsilon, eps_root=eps_root)

    def update(grads: Params, state: optax.OptState, params: Params = None) -> Any:
        steps = state.count + 1
        epsilon = ours.epsilon / jnp.sqrt(1 - jnp.asarray(ours.beta_2) ** steps)
        return with_epsilon(epsilon).update(grads, state, params)

    # One vector instead of a leaf for each layer: as fast, and 1.5 s less to compile. Not for the
    # weights themselves: an accelerator could not update them in their place.
    return optax.chain(
        optax.flatten(optax.GradientTransformation(with_epsilon(ours.epsilon).init, update)),
        optax.add_decayed_weights(ours.weight_decay),
        optax.scale_by_learning_rate(rate),
    )


def _of_adam(h: Any) -> Hyperparameters:
    """Those that Adam reads, of any h; see ``adam``."""
    if isinstance(h, Hyperparameters):
        return h
    read = h.get if isinstance(h, Mapping) else functools.partial(getattr, h)
    names = ("learning_rate", "beta_1", "beta_2", "epsilon", "weight_decay")
    given: dict[str, Any] = {name: read(name, None) for name in names}
    if given["learning_rate"] is None:  # one by another name would be ignored without a word
        raise TypeError(
            "the recipe's optimizer is Adam, and the hyperparameters have no learning_rate; give "
            'one, as {"learning_rate": 1e-3}, or an optimizer= that reads yours'
        )
    return Hyperparameters(**{name: each for name, each in given.items() if each is not None})


@dataclasses.dataclass(frozen=True, kw_only=True)
class OneCycleAdam:
    """Adam (or AdamW) under a one-cycle learning rate: half a cosine up to the peak, half one down.

    The peak is ``Hyperparameters.learning_rate``; the cycle ends with the last step of the whole
    training. Both may be traced: a run that trains on more rows takes more steps.

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

    def __call__(self, h: Any, steps: ArrayLike) -> optax.GradientTransformation:
        """The optax transformation of a run.

        Args:
            h: see ``adam``.
            steps: optimizer steps of the whole training.
        """
        return adam(h, schedule=functools.partial(self.rate_fraction, steps=steps))

    def rate_fraction(self, count: ArrayLike, steps: ArrayLike) -> jax.Array:
        """The learning rate after ``count`` steps, as a fraction of the peak: float32."""
        done = jnp.asarray(count, jnp.float32) / jnp.asarray(steps, jnp.float32)
        up = jnp.clip(done / self.warmup, 0, 1) if self.warmup else jnp.ones((), jnp.float32)
        down = jnp.clip((done - self.warmup) / (1 - self.warmup), 0, 1)
        rising = self.start + (1 - self.start) * (1 - jnp.cos(jnp.pi * up)) / 2
        falling = self.end + (1 - self.end) * (1 + jnp.cos(jnp.pi * down)) / 2
        return jnp.where(done < self.warmup, rising, falling)

"""A recipe: the static part of a run, how one network trains."""

from __future__ import annotations

import contextlib
import contextvars
import copyreg
import dataclasses
import inspect
import operator
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
import optax
from flax.core import FrozenDict

from digits_jax.losses import accuracy, cross_entropy
from digits_jax.lowering.jaxprs import lower
from digits_jax.model import DigitsCNN
from digits_jax.networks import (
    Callee,
    NetworkWithHyperparameters,
    check_network,
    named_arguments,
)
from digits_jax.optimizers import adam

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one run trains: all that changes shapes or code. Hashable, so that jit can cache on it.

    ``h`` stands for the run's hyperparameters, any pytree of numbers. A function gets ``mask``
    (bool [B], False for padding) if its signature names it.

    Attributes:
        network: a linen module, an ``nnx.Module`` class, a ``Network(init, apply)``, or a function
            of h that gives one of these; see ``as_network``.
        loss: ``loss(outputs, targets, h) -> [B]``, what training minimizes. Scores call it with
            ``h=None``, for the loss without regularisation.
        metrics: names and functions ``(outputs, targets) -> [B]``. Default: ``accuracy`` where the
            loss is ``cross_entropy``, else none. The name "loss" is taken.
        optimizer: a function of h that gives an optax transformation, or of (h, steps): the
            optimizer steps of the whole training, an int where all runs take equally many, else
            traced. Updates that take extra arguments get ``value``, ``grad`` and ``value_fn``,
            and ``grad_fn`` if they name it. Not for DP-SGD, which needs the gradient of each
            example, nor lookahead, which trains a pair of parameters.
        augment: ``augment(key, inputs, targets, h) -> (inputs, targets)`` for training batches, or
            None.
        views: test-time augmentation, ``views(inputs) -> [V, B, ...]``, V views of each row, or
            None: the inputs as they are.
        combine: ``combine(outputs [V, B, ...]) -> [B, ...]``, of V views. Default: the logarithm of
            the mean class probability where the loss is ``cross_entropy``, else the mean.
        average: a function of h that gives the decay of an exponential moving average of params and
            collections, which then predicts; or None.
        eval_params: ``eval_params(opt_state, params, h) -> params`` to predict with, for optimizers
            that train elsewhere (schedule-free, SAM); or None.
        monitor: what chooses the best epoch: "loss", or (name of a metric, "max" or "min").
        batch_size: rows of a step. More than there are rows is one step an epoch.
        remainder: "masked": the last batch of an epoch is padded with rows of weight 0. "dropped":
            only full batches train. A network that has collections and takes no mask is trained
            with "dropped", since its batch statistics would see the padding.
        precision: of matrix products, as in ``jax.default_matmul_precision``; None: JAX's setting,
            by which NVIDIA's newer GPUs round factors to TF32, and TPUs to bfloat16. "highest" is
            float32 on all. A training goes on in the precision that it began with.
        lowering: "auto": the network's convolutions and pools run in the operations that the
            platform is fast in, with the same values up to rounding; see ``lower``. "none": as
            they are written.

    Raises:
        TypeError: a field is of another type; says what to give.
        ValueError: a field is out of its range.
    """

    network: Any = NetworkWithHyperparameters(DigitsCNN())
    loss: Callable[..., jax.Array] = cross_entropy
    metrics: Mapping[str, Callable[..., jax.Array]] | None = None
    optimizer: Callable[..., optax.GradientTransformation] = adam
    augment: Callable[..., tuple[Any, Any]] | None = None
    views: Callable[..., Any] | None = None
    combine: Callable[..., Any] | None = None
    average: Callable[..., Any] | None = None
    eval_params: Callable[..., Any] | None = None
    monitor: str | tuple[str, str] = "loss"
    batch_size: int = 128
    remainder: Literal["masked", "dropped"] = "masked"
    precision: str | None = None
    lowering: Literal["auto", "none"] = "auto"

    def __post_init__(self) -> None:
        check_network(self.network)
        if isinstance(self.optimizer, optax.GradientTransformation):
            raise TypeError(
                "optimizer is an optax transformation; give a function of the hyperparameters that "
                "makes it: optimizer=lambda h: optax.adam(h.learning_rate)"
            )
        optional = ("augment", "views", "combine", "average", "eval_params")
        for name in ("loss", "optimizer", *optional):
            value = getattr(self, name)
            if not callable(value) and not (name in optional and value is None):
                raise TypeError(f"{name} must be a function, not {value!r}")
            if value is not None:
                _check_arguments(name, value)
        self._set("metrics", FrozenDict(self._checked_metrics()))
        self._check_monitor()
        try:
            self._set("batch_size", operator.index(self.batch_size))
        except TypeError:
            raise TypeError(f"batch_size must be an integer, not {self.batch_size!r}") from None
        if not 1 <= self.batch_size < 2**31:
            raise ValueError(f"batch_size must be 1 to 2^31 - 1, not {self.batch_size}")
        for name, choices in {
            "remainder": ("masked", "dropped"),
            "lowering": ("auto", "none"),
        }.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {choices}, not {getattr(self, name)!r}")
        if self.average is not None and self.eval_params is not None:
            raise ValueError("average and eval_params exclude each other: each says what predicts")

    def __deepcopy__(self, memo: Any) -> Recipe:
        # Nothing in it changes; and a copy of its functions would be compiled anew.
        return self

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _checked_metrics(self) -> dict[str, Callable[..., jax.Array]]:
        if self.metrics is None:
            return {"accuracy": accuracy} if self.loss is cross_entropy else {}
        if not isinstance(self.metrics, Mapping):
            raise TypeError(
                f"metrics must be a dict of names and functions, not {type(self.metrics).__name__}"
            )
        for name, metric in self.metrics.items():
            if not isinstance(name, str) or not callable(metric):
                raise TypeError(f"metrics[{name!r}] must be a function, named by a string")
            _check_arguments("metrics", metric, shown=f"metrics[{name!r}]")
            if name == "loss" or name.startswith("validation_"):
                raise ValueError(f'metrics: the name "{name}" is taken; choose another')
        return dict(self.metrics)

    def _check_monitor(self) -> None:
        if self.monitor == "loss":
            return
        if isinstance(self.monitor, str):
            raise ValueError(
                f'monitor="{self.monitor}" does not say which way is better; give '
                f'("{self.monitor}", "max") or ("{self.monitor}", "min")'
            )
        known = ["loss", *(self.metrics or {})]
        if (
            not isinstance(self.monitor, tuple)
            or len(self.monitor) != 2
            or self.monitor[0] not in known
            or self.monitor[1] not in ("max", "min")
        ):
            raise ValueError(
                f'monitor must be "loss" or (name, "max" or "min"), the name one of '
                f"{', '.join(known)}; not {self.monitor!r}"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """The names of history and scores: "loss" and those of the metrics."""
        return ("loss", *(self.metrics or {}))

    @property
    def takes_steps(self) -> bool:
        """Whether the optimizer asks for the steps of the whole training."""
        return takes_steps(self.optimizer)

    def make_optimizer(self, h: Any, steps: Any = None) -> optax.GradientTransformation:
        """The optax transformation of a run.

        Args:
            h: the run's hyperparameters.
            steps: optimizer steps of the whole training, an int or traced.

        Raises:
            TypeError: the optimizer asks for steps and there are none, it gives no optax
                transformation, or it needs a plain number where one is traced.
        """
        try:
            if not self.takes_steps:
                made = self.optimizer(h)
            elif steps is None:
                raise TypeError(
                    "the recipe's optimizer takes (h, steps), but no number of steps is known; "
                    "give steps=, the optimizer steps of the whole training"
                )
            else:
                made = self.optimizer(h, steps)
        except (
            jax.errors.ConcretizationTypeError,
            jax.errors.TracerIntegerConversionError,
        ) as error:
            raise TypeError(
                "the optimizer tests a hyperparameter or the steps in Python, and they are traced; "
                "make that number static (a constant in the function). Steps are a plain int only "
                "where all runs take equally many; the schedules of digits_jax take both"
            ) from error
        if not isinstance(made, optax.GradientTransformation):
            raise TypeError(
                f"the recipe's optimizer gave a {type(made).__name__}, not an optax transformation"
            )
        return made

    def applied(self, network: Callee) -> Callable[..., tuple[Any, Any]]:
        """The network's ``apply``, as the platform likes it; see ``lowering``."""
        if self.lowering == "none":
            return network.apply
        return lower(network.apply, platform=_PLATFORM.get())

    @contextlib.contextmanager
    def in_precision(self) -> Iterator[None]:
        """Matrix products that are traced in this block have the recipe's precision."""
        if self.precision is None:
            yield
            return
        with jax.default_matmul_precision(self.precision):
            yield

    def combined(self, outputs: Any) -> Any:
        """Outputs [V, B, ...] of V views (or members) as one [B, ...]; see ``combine``."""
        if self.combine is not None:
            return self.combine(outputs)
        if self.loss is cross_entropy:
            return mean_log_probability(outputs)
        return jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), outputs)


# What each function of a recipe is called with, and its mask if it names one.
_ARGUMENTS: dict[str, tuple[str, ...]] = {
    "loss": ("outputs", "targets", "h"),
    "metrics": ("outputs", "targets"),
    "optimizer": ("h",),
    "augment": ("key", "inputs", "targets", "h"),
    "views": ("inputs",),
    "combine": ("outputs",),
    "average": ("h",),
    "eval_params": ("opt_state", "params", "h"),
}


def _check_arguments(field: str, function: Callable[..., Any], shown: str = "") -> None:
    """Raises TypeError unless the signature of a recipe's function takes what it is called with."""
    given = _ARGUMENTS[field]
    if field == "optimizer" and takes_steps(function):
        given = ("h", "steps")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # a builtin
        return
    try:
        signature.bind(*given, **named_arguments(function, mask=None))
    except TypeError:
        wanted = "(h) or (h, steps)" if field == "optimizer" else f"({', '.join(given)})"
        raise TypeError(
            f"{shown or field} must take {wanted}, not ({', '.join(signature.parameters)})"
        ) from None


def _by_name(function: Any) -> Any:
    """Pickles ``jax.nn.relu``, ``jax.nn.silu`` and the like by name, as other functions are.

    JAX wraps them in objects, which pickle would take apart, and fail. One that can't be imported
    by its name goes that way all the same.
    """
    found: Any = sys.modules.get(getattr(function, "__module__", ""))
    name = getattr(function, "__qualname__", "")
    for part in name.split("."):
        found = getattr(found, part, None)
    return name if found is function else function.__reduce_ex__(_PROTOCOL)


_PROTOCOL = 4  # of pickle, which every Python of today reads
# So that a recipe can be pickled whose network has one, say for its activation.
for _kind in (jax.custom_jvp, type(jax.nn.sigmoid)):
    copyreg.pickle(_kind, _by_name)


@contextlib.contextmanager
def on_platform(platform: str) -> Iterator[None]:
    """Networks that are traced in this block are lowered for a platform, not for JAX's default."""
    token = _PLATFORM.set(platform)
    try:
        yield
    finally:
        _PLATFORM.reset(token)


_PLATFORM: contextvars.ContextVar[str | None] = contextvars.ContextVar("platform", default=None)


def takes_steps(optimizer: Callable[..., Any]) -> bool:
    """Whether an optimizer's second positional argument, if it has one, is the number of steps."""
    try:
        parameters = list(inspect.signature(optimizer).parameters.values())
    except (TypeError, ValueError):  # a builtin
        return False
    positional = [
        each
        for each in parameters
        if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)
    ]
    return len(positional) > 1 and (
        positional[1].name == "steps" or positional[1].default is inspect.Parameter.empty
    )


def mean_log_probability(logits: jax.Array) -> jax.Array:
    """The logarithm of the mean class probability: [V, B, K] logits give [B, K]."""
    count = logits.shape[0]
    log_probabilities = jax.nn.log_softmax(logits)
    return jax.nn.logsumexp(log_probabilities, axis=0) - jnp.log(count)

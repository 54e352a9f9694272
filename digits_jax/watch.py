"""What training watches on the validation rows: the best epoch, and when to stop."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from digits_jax.recipe import Recipe
from digits_jax.structures import Best, TrainState


class Watch(NamedTuple):
    """What training watches on the validation rows. Static.

    Attributes:
        keep_best: keep the weights of the best epoch by the recipe's monitor.
        patience: epochs without a better one after which the run stops; None: it never does.
    """

    keep_best: bool = False
    patience: int | None = None


def weights_of(state: TrainState) -> dict[str, Any]:
    """What predicts, by the names of the state's fields."""
    return {name: getattr(state, name) for name in ("params", "collections", "average")}


def with_best_weights(state: TrainState) -> TrainState:
    """The state with the weights of its best epoch, where they were kept."""
    if not isinstance(state.best, Best) or not state.best.weights:
        return state
    return state._replace(**state.best.weights)


def has_stopped(state: TrainState, watch: Watch) -> jax.Array:
    """Whether the run's best epoch is so long ago that it trains no more: bool, [] or [R]."""
    waited: jax.Array = state.epoch - state.best.epoch
    return waited >= (watch.patience or 0)


def watched(
    state: TrainState, history: dict[str, jax.Array], has_rows: jax.Array, recipe: Recipe
) -> TrainState:
    """The state with its best epoch brought up to date."""
    name, best = (recipe.monitor, "min") if isinstance(recipe.monitor, str) else recipe.monitor
    value = history[f"validation_{name}"] * (-1 if best == "max" else 1)
    # A run without validation rows (a refit) has no best epoch: its last one counts.
    is_better = (value < state.best.value) | ~has_rows
    old = state.best
    new = Best(value, state.epoch, weights_of(state) if old.weights else {})
    return state._replace(best=jax.tree.map(lambda a, b: jnp.where(is_better, a, b), new, old))

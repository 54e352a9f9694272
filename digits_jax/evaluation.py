"""Predicting with a trained run, and scoring its test or validation rows.

Shapes: B rows of a batch, S rows of a split, V views.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from digits_jax.networks import Variables, as_network, with_mask
from digits_jax.recipe import Recipe
from digits_jax.structures import (
    Batch,
    Data,
    Run,
    Sums,
    TrainState,
    check_batch,
    check_run,
    gather,
    in_batches,
    without_absent,
)


def predict(state: TrainState, inputs: Any, h: Any = None, *, recipe: Recipe) -> Any:
    """Outputs of a trained network, dropout off.

    The averaged weights predict where the state has them, else those of ``Recipe.eval_params``,
    else the last ones. Where the recipe has ``views``, the outputs of a row's views are combined.

    Args:
        state: of one run.
        inputs: [B, ...], an array or a pytree of arrays.
        h: the run's hyperparameters, if the network or ``eval_params`` reads them.
        recipe: that trained it.

    Returns:
        The outputs, leading axis B: for class logits [B, K].

    Raises:
        ValueError: `state` is that of many runs.
    """
    if jnp.ndim(state.step):
        raise ValueError(
            f"state is that of {len(state.step)} runs; take one of them, with result.state(i) or "
            "take_run(states, i)"
        )
    variables = Variables(state.params, state.collections)
    if state.average:
        variables = Variables(**state.average)
    elif recipe.eval_params is not None:
        params = recipe.eval_params(state.opt_state, state.params, h)
        variables = variables._replace(params=params)
    network = as_network(recipe.network, h)

    def outputs_of(inputs: Any) -> Any:
        return recipe.applied(network)(variables, inputs, h, train=False)[0]

    inputs = jax.tree.map(jnp.asarray, inputs)
    with recipe.in_precision():
        if recipe.views is None:
            return outputs_of(inputs)
        views = recipe.views(inputs)
        count, rows = jax.tree.leaves(views)[0].shape[:2]
        flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), views)
        outputs = jax.tree.map(
            lambda leaf: leaf.reshape(count, rows, *leaf.shape[1:]), outputs_of(flat)
        )
        return recipe.combined(outputs)


def eval_step(state: TrainState, batch: Batch, h: Any = None, *, recipe: Recipe) -> Sums:
    """Sums of loss (without regularisation) and metrics over a batch, dropout off."""
    check_batch(batch)
    batch = without_absent(batch)
    return score(predict(state, batch.inputs, h, recipe=recipe), batch, recipe)


def score(outputs: Any, batch: Batch, recipe: Recipe) -> Sums:
    """Sums of loss (without regularisation) and metrics of a batch's outputs."""
    weights = batch.weights
    losses = recipe.loss(outputs, batch.targets, None, **with_mask(recipe.loss, weights > 0))
    loss = jnp.sum(jnp.where(weights > 0, losses.astype(jnp.float32), 0.0) * weights)
    totals = {"loss": loss, **metric_totals(recipe, outputs, batch.targets, weights)}
    return Sums(totals, jnp.sum(weights))


def metric_totals(recipe: Recipe, outputs: Any, targets: Any, weights: Any) -> dict[str, Any]:
    """Weighted sums of the recipe's metrics, by name."""
    totals = {}
    for name, metric in (recipe.metrics or {}).items():
        values = metric(outputs, targets, **with_mask(metric, weights > 0))
        totals[name] = jnp.sum(jnp.where(weights > 0, values.astype(jnp.float32), 0) * weights)
    return totals


def evaluate(
    state: TrainState, run: Run, data: Data, *, recipe: Recipe, part: str = "test"
) -> tuple[Sums, Any]:
    """Scores a split's test rows (or its validation rows), dropout off.

    Returns:
        The sums over the rows, and the outputs of each, leading axis S (padding included).
    """
    check_run(run)
    rows = jnp.asarray(getattr(run.split, f"{part}_rows"))
    weights = jnp.asarray(getattr(run.split, f"{part}_weights"))
    count = rows.shape[0]

    def step(_: None, batch: tuple[jax.Array, jax.Array]) -> tuple[None, tuple[Sums, Any]]:
        gathered = gather(data, *batch)
        outputs = predict(state, gathered.inputs, run.hyperparameters, recipe=recipe)
        return None, (score(outputs, gathered, recipe), outputs)

    _, (sums, outputs) = lax.scan(step, None, in_batches(rows, weights, recipe.batch_size))
    outputs = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:count], outputs)
    return jax.tree.map(jnp.sum, sums), outputs

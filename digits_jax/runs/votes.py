"""Networks that vote: the outputs of the members of a run, combined and scored."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from digits_jax.evaluation import score
from digits_jax.recipe import Recipe
from digits_jax.structures import Batch, Data, Run


def vote(outputs: Any, data: Data, runs: Run, recipe: Recipe) -> dict[str, np.ndarray] | None:
    """Scores of the members' combined outputs, float64 [R / M] by name; None without members.

    Args:
        outputs: of the test rows, [R, S, ...], member by member.
        data: host arrays.
        runs: with ``member``, as of ``make_runs(..., members=M)``.
        recipe: whose ``combine``, loss and metrics are used.
    """
    if runs.member is None:
        return None
    members = int(np.max(runs.member)) + 1
    count = len(runs.member) // members
    scores: dict[str, list[float]] = {name: [] for name in recipe.names}
    for run in range(count):
        of_members = jax.tree.map(lambda leaf, run=run: jnp.asarray(leaf[run::count]), outputs)
        rows = np.asarray(runs.split.test_rows)[run]
        weights = np.asarray(runs.split.test_weights)[run]
        if data.weights is not None:
            weights = weights * data.weights[rows]
        targets = jax.tree.map(lambda leaf, rows=rows: jnp.asarray(leaf[rows]), data.targets)
        sums = score(recipe.combined(of_members), Batch((), targets, jnp.asarray(weights)), recipe)
        total = float(sums.weight)
        for name in scores:
            scores[name].append(float(sums.totals[name]) / total if total else np.nan)
    return {name: np.asarray(values) for name, values in scores.items()}

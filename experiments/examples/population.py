"""Population-based training: now and then the worst networks copy the best, and vary their rate.

    python experiments/examples/population.py

Jaderberg et al., "Population Based Training of Neural Networks", 2017, arXiv:1711.09846.
"""

from __future__ import annotations

import os

import numpy as np
import tyro

import digits_jax as dj


def main(rounds: int = 6, epochs: int = 3, population: int = 8) -> dj.CrossValidation:
    """Trains a population on one split; validation rows decide, test rows score.

    Args:
        rounds: Between which networks copy one another.
        epochs: Passes over the training rows. Of each round.
        population: Networks.
    """
    digits, rng = dj.load_digits("bundled"), np.random.default_rng(0)
    holdout = dj.holdout_split(digits.labels, test_size=0.2)
    splits = dj.stack_splits(*[dj.with_validation(holdout, 0.2)] * population)
    rates, states = 10 ** rng.uniform(-4, -1.5, population), None
    for number in range(rounds):
        runs = dj.make_runs(splits, dj.Hyperparameters(learning_rate=rates))
        result = dj.cross_validate(digits.data, runs, epochs=epochs, states=states)
        losses = result.history["validation_loss"][:, -1]
        order, quarter = np.argsort(losses), population // 4
        best, worst = order[:quarter], order[-quarter:]
        print(f"round {number + 1}: best validation loss {losses[best[0]]:.3f}", end=", ")
        print(f"rates {rates.min():.1e} to {rates.max():.1e}")
        source = np.arange(population)
        source[worst] = best
        states = dj.take_runs(result.states, source)
        rates = rates[source]
        rates[worst] *= rng.choice([0.8, 1.25], quarter)
    print(f"test accuracy of the best: {100 * result.scores['accuracy'][order[0]]:.2f} %")
    return result


if __name__ == "__main__":
    dj.use_all_cpu_cores()
    try:
        tyro.cli(main, description=__doc__)
    except BrokenPipeError:  # who read the output, such as head, has seen enough
        os._exit(1)

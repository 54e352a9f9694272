"""An optimizer, a schedule and a loss of your own, and whether they beat Adam on equal folds.

    python experiments/examples/own_optimizer.py

An optimizer is a plain function from ``Hyperparameters`` to any optax transformation. It runs
inside the traced step, so hyperparameters may differ from run to run; what is not traced, such as
the length of a schedule, is bound with ``functools.partial``. A loss is a plain function that
gives one value a row. Both recipes train on the same folds, and the corrected resampled t-test
compares them.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import tyro

import digits_jax as dj


def nesterov(
    hyperparameters: dj.Hyperparameters, *, steps: int, clip: float = 1.0
) -> optax.GradientTransformation:
    """Clipped gradients, Nesterov momentum, and a rate that warms up and falls to zero.

    ``beta_1`` is the momentum: a field means what the optimizer makes of it.
    """
    share = optax.warmup_cosine_decay_schedule(0.0, 1.0, steps // 10, steps)  # of the peak's rate
    return optax.chain(
        optax.clip_by_global_norm(clip),
        optax.trace(hyperparameters.beta_1, nesterov=True),
        optax.scale_by_schedule(share),
        optax.scale_by_learning_rate(hyperparameters.learning_rate),
    )


def focal_loss(
    logits: jax.Array, labels: jax.Array, hyperparameters: dj.Hyperparameters | None
) -> jax.Array:
    """Cross-entropy that weighs sure rows less: logits [B, K], labels [B], nats [B].

    Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, arXiv:1708.02002, gamma = 2.
    In evaluation (``hyperparameters`` is None) it is the plain cross-entropy, which other
    recipes' losses can be compared with.
    """
    losses = dj.cross_entropy(logits, labels, hyperparameters)
    if hyperparameters is None:
        return losses
    return losses * (1 - jnp.exp(-losses)) ** 2


def main(
    epochs: int = 20, folds: int = 5, checkpoints: Path | None = None
) -> dict[str, dj.CrossValidation]:
    """Cross-validates two recipes on the bundled digits and compares them.

    Args:
        epochs: Passes over the training rows.
        folds: Parts of the rows; each is the test set of one run.
        checkpoints: Folder that keeps the states of all runs. Default: none is kept.
    """
    digits = dj.load_digits("bundled")
    data = digits.data
    splits = dj.stack_splits(dj.kfold_splits(digits.labels, folds), dj.refit_split(digits.labels))
    network = dj.DigitsCNN(conv_features=(), dense_activation=nn.relu, pixel_scale=1 / 16)
    batch_size = 64
    steps = epochs * -(-splits.train_rows.shape[1] // batch_size)
    recipes = {
        "adam": (dj.Recipe(network=network, batch_size=batch_size), dj.Hyperparameters()),
        "nesterov": (
            dj.Recipe(
                network=network,
                optimizer=functools.partial(nesterov, steps=steps),
                loss=focal_loss,
                metrics={"accuracy": dj.accuracy},
                batch_size=batch_size,
            ),
            dj.Hyperparameters(learning_rate=0.3, beta_1=0.9),
        ),
    }
    results = {
        name: dj.cross_validate(
            data,
            dj.make_runs(splits, hyperparameters),
            recipe=recipe,
            epochs=epochs,
            checkpoints=None if checkpoints is None else checkpoints / name,
        )
        for name, (recipe, hyperparameters) in recipes.items()
    }

    for name, result in results.items():
        scores = result.summary("accuracy")
        print(f"{name}: {100 * scores.mean:.2f} ± {100 * scores.sd:.2f} %")
    test = dj.corrected_resampled_ttest(
        results["nesterov"].scores["accuracy"][:folds],
        results["adam"].scores["accuracy"][:folds],
        train_rows=len(digits.labels) * (folds - 1) / folds,
        test_rows=len(digits.labels) / folds,
    )
    print(f"difference: {100 * test.mean_difference:+.2f} points, p = {test.p_value:.3f}")
    return results


if __name__ == "__main__":
    dj.use_all_cpu_cores()
    try:
        tyro.cli(main, description=__doc__)
    except BrokenPipeError:  # who read the output, such as head, has seen enough
        os._exit(1)

"""A network of your own: any Flax module, here a perceptron with batch normalisation.

    python experiments/examples/own_network.py

``cross_validate`` calls the module as ``network(images, train=..., mask=...)`` and takes
logits [B, K] from it. Its random stream is ``dropout``; whatever it keeps beside its
parameters (here ``batch_stats``) is trained, checkpointed and restored with them. Five folds and
a refit on all rows train at once; the refit is then loaded from its checkpoint and reads a digit.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import tyro

import digits_jax as dj


class NormedPerceptron(nn.Module):
    """A hidden layer with batch normalisation and dropout."""

    classes: int = 10
    features: int = 128
    dropout_rate: float = 0.2

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool = False, mask: jax.Array | None = None
    ) -> jax.Array:
        """Logits [B, K] of images [B, H, W]; ``mask`` [B] is False where a row is padding."""
        x = images.reshape(len(images), -1).astype(jnp.float32)
        x = nn.Dense(self.features, use_bias=False, name="hidden")(x)
        # The last batch of an epoch is filled up: those rows must not touch the statistics.
        rows = None if mask is None else mask[:, jnp.newaxis]
        norm = nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")
        x = nn.relu(norm(x, mask=rows))
        x = nn.Dropout(self.dropout_rate, deterministic=not train, name="dropout")(x)
        return nn.Dense(self.classes, name="logits")(x)


def main(
    epochs: int = 20, folds: int = 5, checkpoints: Path | None = None
) -> tuple[dj.CrossValidation, dj.ScoreSummary]:
    """Cross-validates the network on the bundled digits.

    Args:
        epochs: Passes over the training rows.
        folds: Parts of the rows; each is the test set of one run.
        checkpoints: Folder that keeps the states of all runs. Default: a temporary one.
    """
    digits = dj.load_digits("bundled")
    splits = dj.stack_splits(dj.kfold_splits(digits.labels, folds), dj.refit_split(digits.labels))
    recipe = dj.Recipe(network=NormedPerceptron())
    with tempfile.TemporaryDirectory() as temporary:
        folder = checkpoints or Path(temporary)
        result = dj.cross_validate(
            digits.data,
            dj.make_runs(splits),
            recipe=recipe,
            epochs=epochs,
            checkpoints=folder,
        )
        saved = dj.load_states(folder, recipe=recipe)

    scores = result.summary("accuracy")  # of the folds: the refit has no test rows
    low, high = scores.ci95
    print(f"accuracy of {folds} folds: {100 * scores.mean:.2f} ± {100 * scores.sd:.2f} %")
    print(f"95 % interval of the mean: {100 * low:.2f} to {100 * high:.2f} %")

    refit, h = saved.run(-1)  # the last run: all rows trained it
    logits = dj.predict(refit, digits.images[:1], h, recipe=recipe)
    print(f"row 0 is a {digits.labels[0]}; the refit reads {logits.argmax()}")
    return result, scores


if __name__ == "__main__":
    dj.use_all_cpu_cores()
    try:
        tyro.cli(main, description=__doc__)
    except BrokenPipeError:  # who read the output, such as head, has seen enough
        os._exit(1)

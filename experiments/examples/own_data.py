"""Data of your own: here colour images of 10x12 pixels in four classes, made on the spot.

    python experiments/examples/own_data.py

The data are a tuple of arrays (inputs [N, ...], targets [N]); tell the network how many classes
there are. Everything else is the same call: folds, a refit on all rows, checkpoints, and scores
from the predictions of the folds.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import flax.linen as nn
import numpy as np
import numpy.typing as npt
import tyro

import digits_jax as dj

CLASSES = ("red row", "red column", "blue row", "blue column")


def stripes(rows: int, seed: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """A bright line in noise: images float32 [rows, 10, 12, 3], of 0 to 1, and labels [rows]."""
    rng = np.random.default_rng(seed)
    images = rng.uniform(0, 0.5, (rows, 10, 12, 3)).astype(np.float32)
    labels = rng.integers(0, len(CLASSES), rows)
    for image, label in zip(images, labels, strict=True):
        is_column, channel = label % 2, 0 if label < 2 else 2
        line = image[:, rng.integers(12)] if is_column else image[rng.integers(10)]
        line[:, channel] += 0.5
    return images, labels


def main(
    epochs: int = 15, folds: int = 5, checkpoints: Path | None = None
) -> tuple[dj.CrossValidation, npt.NDArray[np.int64]]:
    """Cross-validates a small CNN on the stripes.

    Args:
        epochs: Passes over the training rows.
        folds: Parts of the rows; each is the test set of one run.
        checkpoints: Folder that keeps the states of all runs. Default: a temporary one.
    """
    images, labels = stripes(rows=1000, seed=0)
    splits = dj.stack_splits(dj.kfold_splits(labels, folds), dj.refit_split(labels))
    recipe = dj.Recipe(
        network=dj.DigitsCNN(
            classes=len(CLASSES),
            conv_features=(8,),
            dense_features=(32,),
            dense_activation=nn.relu,
            dropout_rate=0.1,
        ),
        batch_size=50,
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = checkpoints or Path(temporary)
        result = dj.cross_validate(
            (images, labels),
            dj.make_runs(splits, dj.Hyperparameters(learning_rate=1e-2)),
            recipe=recipe,
            epochs=epochs,
            checkpoints=folder,
        )
        saved = dj.load_states(folder, recipe=recipe)

    scores = result.summary("accuracy")  # of the folds: the refit has no test rows
    print(f"accuracy of {folds} folds: {100 * scores.mean:.2f} ± {100 * scores.sd:.2f} %")
    rows, probabilities = dj.metrics.pooled_predictions(
        result.test_rows[:folds], result.outputs[:folds]
    )
    confusion = dj.metrics.confusion(labels[rows], probabilities.argmax(1), classes=len(CLASSES))
    print("each class, and how often it is taken for", ", ".join(CLASSES))
    for name, counts in zip(CLASSES, confusion, strict=True):
        print(f"{name:>12}", counts)

    refit, h = saved.run(-1)  # the last run: all rows trained it
    new_images, new_labels = stripes(rows=200, seed=1)
    predicted = np.asarray(dj.predict(refit, new_images, h, recipe=recipe)).argmax(1)
    print(f"the refit has {np.sum(predicted == new_labels)} of {len(new_labels)} new images right")
    return result, confusion


if __name__ == "__main__":
    dj.use_all_cpu_cores()
    try:
        tyro.cli(main, description=__doc__)
    except BrokenPipeError:  # who read the output, such as head, has seen enough
        os._exit(1)

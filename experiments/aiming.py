"""Other programs that aim at the goal of ``speedrun.py``, by its recipe and on its folds."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import digits_jax as dj
from common import console, progress
from programs import Peer, installed, run_program

sys.path.insert(0, str(Path(__file__).parent / "peers"))
import goal

TIMEOUT = 1800.0  # seconds of a program


def _keras(title: str, variant: str) -> Peer:
    return Peer(
        title=f"Keras, {title}",
        program="keras_goal.py",
        variant=variant,
        needs=("keras", "tensorflow"),
        environment={"KERAS_BACKEND": "tensorflow"},
    )


PEERS = {
    "torch": Peer(title="PyTorch, a process a core", program="torch_goal.py", needs=("torch",)),
    "keras": _keras("TensorFlow", "recipe"),
    "keras-notebook": _keras("the notebook's protocol", "notebook"),
}


def train_peers(
    dataset: dj.Dataset, splits: Sequence[dj.Split], least: float, **recipe: Any
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """What other programs take, those that are installed, and why others are left out.

    Args:
        dataset: the digits.
        splits: of each repeat, [F, ...].
        least: the mean accuracy to reach.
        **recipe: epochs, batch_size, learning_rate and label_smoothing of ``goal.Task``.

    Returns:
        By name: ``title``; the ``accuracies`` of repeats, means of their folds; the ``seconds`` of
        each. Of the notebook's protocol, which has one repeat: ``accuracies`` after each epoch,
        ``seconds`` until then, and ``epochs``, the first after which the mean is at least
        ``least`` (None: none).
    """
    task = goal.Task(
        images=(dataset.images / 16).astype(np.float32),
        labels=dataset.labels.astype(np.int32),
        train_rows=np.stack([np.where(s.train_weights > 0, s.train_rows, -1) for s in splits]),
        test_rows=np.stack([np.where(s.test_weights > 0, s.test_rows, -1) for s in splits]),
        **recipe,
    )
    names, left_out = installed(PEERS, PEERS)
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="digits_jax_speedrun_") as folder:
        file = Path(folder) / "task.npz"
        goal.write(file, task)
        for name in names:
            if name not in PEERS:  # this project's own
                continue
            with progress.waiting(PEERS[name].title):
                try:
                    result = run_program(PEERS[name], file, TIMEOUT)
                except RuntimeError as error:
                    left_out[name] = f"failed: {error}"
                    console.say(f"{PEERS[name].title} failed: {error}", console.errors)
                    continue
            found[name] = {"title": PEERS[name].title, **_summed(name, result, least)}
    return found, left_out


def _summed(name: str, result: Mapping[str, Any], least: float) -> dict[str, Any]:
    accuracies = np.asarray(result["accuracies"])
    if name != "keras-notebook":
        return {"accuracies": accuracies.mean(axis=1).tolist(), "seconds": result["seconds"]}
    means = accuracies.mean(axis=0)
    reached = np.flatnonzero(means >= least)
    return {
        "accuracies": means.tolist(),
        "seconds": np.cumsum(np.sum(result["seconds"], axis=0)).tolist(),
        "epochs": int(reached[0]) + 1 if len(reached) else None,
    }


def in_words(peer: Mapping[str, Any]) -> str:
    """What a program reached, and in how many seconds."""
    accuracies, seconds = np.asarray(peer["accuracies"]), np.asarray(peer["seconds"])
    if "epochs" not in peer:
        return (
            f"{100 * accuracies.mean():.2f} %, mean of {len(accuracies)} repeats, in "
            f"{np.median(seconds):.1f} s each"
        )
    if peer["epochs"] is None:
        best = 100 * accuracies.max()
        return (
            f"not reached in {len(accuracies)} epochs ({seconds[-1]:.0f} s): {best:.2f} % at best"
        )
    at = peer["epochs"] - 1
    return (
        f"{100 * accuracies[at]:.2f} % after {at + 1} epochs of {len(accuracies)}, in "
        f"{seconds[at]:.0f} s of training"
    )

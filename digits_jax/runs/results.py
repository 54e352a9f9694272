"""What training many runs gives: progress, an interruption, the result."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from digits_jax.train import History, TrainState


class Progress(NamedTuple):
    """What ``cross_validate`` tells after each call of the compiled program.

    Attributes:
        epoch: epochs done.
        epochs: epochs to do in all.
        history: float32 [R, epoch], on the host.
    """

    epoch: int
    epochs: int
    history: History


class CrossValidation(NamedTuple):
    """The result of ``cross_validate``: NumPy arrays on the host, a leading axis R of runs.

    In a job of several processes each has all of it but the states. They stay on the devices,
    sharded over the processes: every leaf is a ``jax.Array`` [R + padding, ...].

    Attributes:
        states: every leaf [R, ...].
        history: float32 [R, E].
        loss: float64 [R], mean over the test rows, nats; NaN for a run without any.
        accuracy: float64 [R], share of the test rows; NaN for a run without any.
        test_rows: int32 [R, S], row numbers; -1 is padding.
        logits: float32 [R, S, K], of the test rows.
        seconds: compile, train (with checkpoints), evaluate.
    """

    states: TrainState
    history: History
    loss: npt.NDArray[np.float64]
    accuracy: npt.NDArray[np.float64]
    test_rows: npt.NDArray[np.int32]
    logits: npt.NDArray[np.float32]
    seconds: dict[str, float]

    @property
    def diverged(self) -> np.ndarray:
        """The epoch, from 1, since which each run's training has failed: int32 [R]; 0 for none.

        Failed is an epoch whose mean training loss is not finite, or above ``10 log(K)`` nats: ten
        times what an equal guess of all K classes costs (for losses other than cross-entropy that
        bound may mean nothing). A run that comes back below it is sound. So large a learning rate
        may leave all numbers finite: behind sigmoids nothing overflows. Logits that are not finite
        after the last epoch count for that epoch.
        """
        loss, epochs = self.history.loss, self.history.loss.shape[1]
        failed = ~(loss <= 10 * math.log(max(self.logits.shape[2], 2)))  # NaN fails, too
        failed[:, -1] |= ~np.isfinite(self.logits).all(axis=(1, 2))
        to_the_end = np.logical_and.accumulate(failed[:, ::-1], axis=1).sum(axis=1)
        return np.where(to_the_end, epochs + 1 - to_the_end, 0).astype(np.int32)


class Interrupted(Exception):
    """``on_epoch`` asked to stop; all that was trained is in the checkpoint, if there is one."""

    def __init__(self, epoch: int, epochs: int) -> None:
        super().__init__(f"stopped after {epoch} of {epochs} epochs")
        self.epoch = epoch


def host_history(loss: Any, accuracy: Any) -> History:
    """A history of host arrays: JAX's and NumPy's arrays have no type in common."""
    return History(loss, accuracy)

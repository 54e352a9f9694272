"""PyTorch, fold after fold. Variants: ``eager``, ``compile`` (``torch.compile``), ``processes``.

``processes`` is the eager form with a process on each core, folds dealt to them.
"""

from __future__ import annotations

import functools

import protocol
import torch
from torch_network import images_of, make_network
from torch_training import Forward, in_processes, loss_and_correct, train_runs


def train(task: protocol.Task, clock: protocol.Clock, variant: str) -> None:
    """Trains the folds one by one, or dealt to processes."""
    if variant == "processes":
        return in_processes(task, clock, train_folds)
    torch.set_num_threads(protocol.cores())
    # Two shapes, of a full and of the last batch: each gets code of its own.
    compiled = functools.partial(torch.compile, dynamic=False)
    forward = compiled(loss_and_correct) if variant == "compile" else loss_and_correct
    train_folds(task, clock, range(len(task.folds())), forward)


def train_folds(
    task: protocol.Task,
    clock: protocol.Clock,
    numbers: range,
    forward: Forward = loss_and_correct,
) -> None:
    """Trains the folds of these numbers, one by one."""
    train_runs(task, clock, numbers, images_of(task), make_network, forward)


if __name__ == "__main__":
    protocol.run_peer(train, packages=("torch",))

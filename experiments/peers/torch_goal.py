"""PyTorch towards ``speedrun.py``'s goal: its recipe, cross-validation after cross-validation.

The same network, batches, one-cycle Adam, label smoothing and folds; a process on each core.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import goal
import protocol
import torch
from torch import nn


def make_network() -> nn.Sequential:
    """[B, 1, 8, 8], scaled to 0..1, to logits [B, 10]; Keras's initial weights."""
    layers: list[nn.Module] = []
    for channels, features in zip((1, 16, 32), (16, 32, 64), strict=True):
        layers += [nn.Conv2d(channels, features, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Flatten(), nn.Linear(64, 10)]
    for layer in layers:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)


def train_folds(task: goal.Task, seed: int, folds: Sequence[int]) -> list[float]:
    """The test accuracies of these folds of a repeat, trained one by one."""
    images, labels = torch.from_numpy(task.images)[:, None], torch.from_numpy(task.labels).long()
    accuracies = []
    for fold in folds:
        torch.manual_seed(1000 * seed + fold)
        rows, test = map(torch.from_numpy, task.fold(seed, fold))
        network = make_network().to(memory_format=torch.channels_last).train()
        adam = torch.optim.Adam(network.parameters(), eps=protocol.EPSILON, fused=True)
        steps = task.epochs * -(-len(rows) // task.batch_size)
        cycle = torch.optim.lr_scheduler.OneCycleLR(
            adam, task.learning_rate, steps, pct_start=0.3, div_factor=10, cycle_momentum=False,
            final_div_factor=100,
        )  # fmt: skip
        for _ in range(task.epochs):
            order = rows[torch.randperm(len(rows))].split(task.batch_size)
            for batch in order:
                adam.zero_grad()
                logits = network(images[batch].contiguous(memory_format=torch.channels_last))
                nn.functional.cross_entropy(
                    logits, labels[batch], label_smoothing=task.label_smoothing
                ).backward()
                adam.step()
                cycle.step()
        with torch.no_grad():
            right = network.eval()(images[test]).argmax(1) == labels[test]
        accuracies.append(right.float().mean().item())
    return accuracies


def cross_validate(task: goal.Task, pool: Executor, workers: int, seed: int) -> list[float]:
    """The test accuracy of each fold of a repeat; the folds are dealt to the processes."""
    shares = [range(worker, task.folds, workers) for worker in range(workers)]
    dealt = pool.map(functools.partial(train_folds, task, seed), shares)
    return [accuracy for share in dealt for accuracy in share]


def main(task: goal.Task) -> dict[str, Any]:
    """Trains all repeats."""
    workers = min(protocol.cores(), task.folds)
    threads = max(1, protocol.cores() // workers)
    with ProcessPoolExecutor(
        workers, get_context("spawn"), torch.set_num_threads, (threads,)
    ) as pool:
        list(pool.map(time.sleep, [0.1] * workers))  # they have begun, and imported PyTorch
        return goal.timed(task, functools.partial(cross_validate, task, pool, workers))


if __name__ == "__main__":
    protocol.run_task(lambda path: main(goal.read(path)), packages=("torch",))

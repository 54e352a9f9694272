"""PyTorch on the folds of the notebook's recipe, for the step ``peers`` of gpu_steps.py.

Fold by fold, as a loop of one's own; and all folds at once, by ``torch.func``.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

import library
import numpy as np
import torch
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch_network import DEVICE, make_adam, make_network

Report = Callable[..., None]
ON_GPU = DEVICE.type == "cuda"
BATCH_SIZE = 128


def run(which: str, report: Report, *, smoke: bool) -> None:
    """Times the peers, and reports an epoch's seconds of each.

    Args:
        which: eager or compile.
        report: takes a result as keyword arguments.
        smoke: few rows and epochs.
    """
    torch.set_float32_matmul_precision("high")  # TF32, as JAX's default on a GPU
    torch.backends.cudnn.allow_tf32 = True
    if smoke:
        torch.set_num_threads(1)
    folds = Folds(smoke)

    def attempt(
        timed: Callable[..., tuple[float, float]], name: str, runs: int, *rest: Any
    ) -> None:
        try:
            epoch, first = timed(folds, *rest)
            rows = sum(len(folds.rows[i % 5]) for i in range(runs))
            peak = torch.cuda.max_memory_allocated() / 1e9 if ON_GPU else None
            seconds = {"epoch_s": epoch, "first_epoch_s": first}
            report(peer=name, runs=runs, **seconds, images_per_s=rows / epoch, peak_GB=peak)
        except Exception as error:  # the other peers are still worth a try
            report(peer=name, runs=runs, error=f"{type(error).__name__}: {str(error)[:300]}")
        finally:
            if ON_GPU:
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()

    if which == "eager":
        attempt(fold_by_fold, "torch eager, fold by fold", 5, _loss_and_correct, 2 if smoke else 4)
        for count in (5,) if smoke else (5, 50, 500, 2000):
            epochs = 2 if smoke or count > 500 else 3
            attempt(all_at_once, "torch.func vmap", count, count, epochs, False)
    else:
        forward = torch.compile(_loss_and_correct, dynamic=False)
        attempt(fold_by_fold, "torch.compile, fold by fold", 5, forward, 3)
        forward = torch.compile(_loss_and_correct, dynamic=False, mode="reduce-overhead")
        attempt(fold_by_fold, "torch.compile reduce-overhead, fold by fold", 5, forward, 4)
        for count in (5,) if smoke else (5, 500):
            attempt(all_at_once, "torch.compile of torch.func vmap", count, count, 3, True)


class Folds:
    """All images and labels on the device, and the rows that train each of five folds."""

    def __init__(self, smoke: bool) -> None:
        job = library.make_job("notebook", 5)
        rows = [torch.from_numpy(each).long() for each in library.train_rows(job)]
        self.rows = [(each[:300] if smoke else each).to(DEVICE) for each in rows]
        self.images = torch.from_numpy(job.inputs).float().unsqueeze(1).to(DEVICE)
        self.labels = torch.from_numpy(job.targets).long().to(DEVICE)


def fold_by_fold(folds: Folds, forward: Callable[..., Any], epochs: int) -> tuple[float, float]:
    """Seconds of an epoch of five folds, and of the first, which compiles; fold 1 is timed."""
    network = make_network().to(memory_format=torch.channels_last).train()
    optimizer, times = make_adam(list(network.parameters())), []
    for _ in range(epochs):
        _wait()
        began = time.perf_counter()
        order = folds.rows[0][torch.randperm(len(folds.rows[0]), device=DEVICE)]
        x = folds.images[order].contiguous(memory_format=torch.channels_last)
        correct = torch.zeros((), dtype=torch.int64, device=DEVICE)
        batches = zip(x.split(BATCH_SIZE), folds.labels[order].split(BATCH_SIZE), strict=True)
        for batch, target in batches:
            optimizer.zero_grad()
            loss, right = forward(network, batch, target)
            loss.backward()
            optimizer.step()
            correct += right
        float(correct)
        _wait()
        times.append(time.perf_counter() - began)
    again = float(np.median(times[1:]))
    return 5 * again, times[0] + 4 * again


def all_at_once(folds: Folds, count: int, epochs: int, compiles: bool) -> tuple[float, float]:
    """Seconds of an epoch of so many runs, and of the first."""
    skeleton = copy.deepcopy(make_network()).to("meta")
    networks = [make_network().train() for _ in range(min(count, 8))]
    parameters, _ = stack_module_state([networks[i % len(networks)] for i in range(count)])
    optimizer, times = make_adam(list(parameters.values())), []

    def loss(p: Any, x: Any, y: Any, w: Any) -> Any:
        logits = functional_call(skeleton, p, (x,))
        losses = nn.functional.cross_entropy(logits, y, reduction="none")
        return (losses * w).sum() / w.sum(), ((logits.argmax(1) == y) * w).sum()

    gradient = vmap(grad(loss, has_aux=True), randomness="different")
    if compiles:
        gradient = torch.compile(gradient, dynamic=False)
    longest = max(len(rows) for rows in folds.rows)
    for _ in range(epochs):
        _wait()
        began = time.perf_counter()
        order = torch.zeros(count, longest, dtype=torch.int64, device=DEVICE)
        weights = torch.zeros(count, longest, device=DEVICE)
        for fold, rows in enumerate(folds.rows):  # runs of one fold share an order: cheaper
            order[fold::5, : len(rows)] = rows[torch.randperm(len(rows), device=DEVICE)]
            weights[fold::5, : len(rows)] = 1
        correct = torch.zeros(count, device=DEVICE)
        batches = zip(order.split(BATCH_SIZE, 1), weights.split(BATCH_SIZE, 1), strict=True)
        for rows, w in batches:
            grads, right = gradient(parameters, folds.images[rows], folds.labels[rows], w)
            for key, parameter in parameters.items():
                parameter.grad = grads[key]
            optimizer.step()
            correct += right
        correct.sum().item()
        _wait()
        times.append(time.perf_counter() - began)
    return float(np.median(times[1:])), times[0]


def _loss_and_correct(network: Any, x: Any, y: Any) -> Any:
    logits = network(x)
    return nn.functional.cross_entropy(logits, y), (logits.argmax(1) == y).sum()


def _wait() -> None:
    if ON_GPU:
        torch.cuda.synchronize()

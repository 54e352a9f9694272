"""PyTorch, all folds together: ``torch.func`` with stacked networks, fused Adam."""

from __future__ import annotations

import copy

import protocol
import torch
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch_network import images_of, make_network
from torch_training import DEVICE, make_adam


def train(task: protocol.Task, clock: protocol.Clock, variant: str) -> None:
    """Trains all folds in each step; Adam works element by element, so stacking changes nothing."""
    torch.set_num_threads(protocol.cores())
    torch.manual_seed(0)
    images = images_of(task).to(DEVICE)
    labels = torch.from_numpy(task.labels).long().to(DEVICE)
    folds = [torch.from_numpy(rows).long().to(DEVICE) for rows in task.folds()]
    counts = torch.tensor([len(rows) for rows in folds], device=DEVICE)
    clock.fold()
    networks = [make_network().to(DEVICE).train() for _ in folds]
    skeleton = copy.deepcopy(networks[0]).to("meta")
    params, _ = stack_module_state(networks)
    optimizer = make_adam(list(params.values()))

    def loss(
        params: dict[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor, weights: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        logits = functional_call(skeleton, params, (x,))
        losses = nn.functional.cross_entropy(logits, y, reduction="none")
        correct = (logits.argmax(dim=1) == y) * weights
        return (losses * weights).sum() / weights.sum(), correct.sum()

    gradient = vmap(grad(loss, has_aux=True), randomness="different")
    for _ in range(task.epochs):
        order, weights = shuffle(folds)
        x, y = images[order], labels[order]
        correct = torch.zeros(len(folds), device=DEVICE)
        size = protocol.BATCH_SIZE
        for batch in zip(x.split(size, 1), y.split(size, 1), weights.split(size, 1), strict=True):
            grads, right = gradient(params, *batch)
            for name, parameter in params.items():
                parameter.grad = grads[name]
            optimizer.step()
            correct += right
        clock.epoch((correct / counts).mean().item())
    clock.note(steps=int(next(iter(optimizer.state.values()))["step"].item()))
    clock.parameters(sum(parameter[0].numel() for parameter in params.values()))


def shuffle(folds: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Each fold's rows in a new order, and weights, both [R, T]; shorter folds are padded."""
    length = max(len(rows) for rows in folds)
    order = torch.zeros(len(folds), length, dtype=torch.int64, device=DEVICE)
    weights = torch.zeros(len(folds), length, device=DEVICE)
    for i, rows in enumerate(folds):
        order[i, : len(rows)] = rows[torch.randperm(len(rows), device=DEVICE)]
        weights[i, : len(rows)] = 1
    return order, weights


if __name__ == "__main__":
    protocol.run_peer(train, packages=("torch",))

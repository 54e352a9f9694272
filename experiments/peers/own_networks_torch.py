"""The networks of ``own_networks_flax.py`` in PyTorch, eager; the variant is a network's name.

Runs are dealt to processes, one a core. A run alone has all cores. Written to be fast: all data as
one tensor, an epoch's rows gathered at once, channels last, fused Adam, and no wait for a number
before the epoch's end.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import protocol
import torch
from torch import nn
from torch.nn import functional as F


class LeNet(nn.Sequential):
    """5x5 convolutions and average pools."""

    def __init__(self, size: int, channels: int) -> None:
        layers: list[nn.Module] = []
        for inputs, features in ((channels, 6), (6, 16)):
            layers += [nn.Conv2d(inputs, features, 5, padding=2), nn.Tanh(), nn.AvgPool2d(2)]
        layers.append(nn.Flatten())
        for inputs, features in ((16 * (size // 4) ** 2, 120), (120, 84)):
            layers += [nn.Linear(inputs, features), nn.Tanh()]
        super().__init__(*layers, nn.Linear(84, 10))


class VGG(nn.Sequential):
    """Pairs of 3x3 convolutions, a max-pool after each, dropout."""

    def __init__(self, size: int, channels: int) -> None:
        layers: list[nn.Module] = []
        for features in (16, 32, 64):
            for inputs in (channels, features):
                layers += [nn.Conv2d(inputs, features, 3, padding=1), nn.ReLU()]
            layers.append(nn.MaxPool2d(2))
            channels = features
        layers += [nn.Flatten(), nn.Linear(64 * (size // 8) ** 2, 128), nn.ReLU()]
        super().__init__(*layers, nn.Dropout(0.5), nn.Linear(128, 10))


def _normed(inputs: int, features: int, taps: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, features, taps, stride, padding=taps // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(features))


class Residual(nn.Module):
    """One block of ``ResNet``."""

    def __init__(self, inputs: int, features: int, stride: int) -> None:
        super().__init__()
        first, second = _normed(inputs, features, 3, stride), _normed(features, features, 3)
        self.long = nn.Sequential(first, nn.ReLU(), second)
        self.short = nn.Identity() if stride == 1 else _normed(inputs, features, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, C, H, W] to [B, F, H', W']."""
        return F.relu(self.long(x) + self.short(x))


class ResNet(nn.Sequential):
    """Residual blocks with batch normalisation, two of them with strides."""

    def __init__(self, size: int, channels: int) -> None:
        blocks = [Residual(16, 16, 1), Residual(16, 32, 2), Residual(32, 64, 2)]
        head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)]
        super().__init__(_normed(channels, 16, 3), nn.ReLU(), *blocks, *head)


class Separable(nn.Sequential):
    """Depthwise and 1x1 convolutions."""

    def __init__(self, size: int, channels: int) -> None:
        layers: list[nn.Module] = [nn.Conv2d(channels, 16, 3, padding=1), nn.ReLU()]
        for inputs, features, stride in ((16, 32, 2), (32, 64, 2), (64, 64, 1)):
            depthwise = nn.Conv2d(inputs, inputs, 3, stride, padding=1, groups=inputs)
            layers += [depthwise, nn.ReLU(), nn.Conv2d(inputs, features, 1), nn.ReLU()]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


class UNet(nn.Module):
    """Down and up again with transposed convolutions."""

    def __init__(self, size: int, channels: int) -> None:
        super().__init__()
        pairs = ((channels, 16), (16, 32))
        self.down = nn.ModuleList([nn.Conv2d(*pair, 3, padding=1) for pair in pairs])
        self.middle = nn.Conv2d(32, 64, 3, padding=1)
        pairs = ((64, 32), (32, 16))
        self.up = nn.ModuleList([nn.ConvTranspose2d(*pair, 2, 2) for pair in pairs])
        self.join = nn.ModuleList([nn.Conv2d(*pair, 3, padding=1) for pair in pairs])
        self.head = nn.Conv2d(16, 10, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, C, S, S] to [B, 10]."""
        seen = []
        for down in self.down:
            x = F.relu(down(x))
            seen.append(x)
            x = F.max_pool2d(x, 2)
        x = F.relu(self.middle(x))
        for up, join in zip(self.up, self.join, strict=True):
            x = F.relu(join(torch.cat([up(x), seen.pop()], 1)))
        return self.head(x).mean((2, 3))


class WaveNet(nn.Module):
    """Gated, dilated, causal convolutions over the pixels in a row."""

    DILATIONS = (1, 2, 4, 8, 16, 32)

    def __init__(self, size: int, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(channels, 16, 1)
        self.gates = nn.ModuleList([nn.Conv1d(16, 32, 2, dilation=d) for d in self.DILATIONS])
        self.mixed = nn.ModuleList([nn.Conv1d(16, 16, 1) for _ in self.DILATIONS])
        self.head = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, C, S, S] to [B, 10]."""
        x = self.first(x.flatten(2))
        for dilation, gates, mixed in zip(self.DILATIONS, self.gates, self.mixed, strict=True):
            a, b = gates(F.pad(x, (dilation, 0))).chunk(2, 1)
            x = x + mixed(torch.tanh(a) * torch.sigmoid(b))
        return self.head(F.relu(x).mean(2))


NETWORKS: dict[str, Callable[[int, int], nn.Module]] = {  # of pixels a side, and channels
    "lenet": LeNet,
    "vgg": VGG,
    "resnet": ResNet,
    "separable": Separable,
    "unet": UNet,
    "wavenet": WaveNet,
}


def train(task: protocol.Task, clock: protocol.Clock, variant: str) -> None:
    """Trains a run alone here, and several in processes."""
    runs = len(task.folds())
    workers = min(protocol.cores(), runs)
    if workers == 1:
        torch.set_num_threads(protocol.cores())
        return train_runs(task, clock, variant, range(runs))
    work = functools.partial(train_share, task, clock, variant, workers)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        clocks, peaks = zip(*pool.map(work, range(workers)), strict=True)
    clock.merge(clocks, peaks)


def train_share(
    task: protocol.Task, clock: protocol.Clock, variant: str, workers: int, worker: int
) -> tuple[protocol.Clock, int | None]:
    """What one of the processes does."""
    torch.set_num_threads(max(1, protocol.cores() // workers))
    train_runs(task, clock, variant, range(worker, len(task.folds()), workers))
    return clock, protocol.peak_memory()


def train_runs(task: protocol.Task, clock: protocol.Clock, variant: str, numbers: range) -> None:
    """Trains the runs of these numbers, one by one."""
    torch.manual_seed(numbers[0])
    images = torch.from_numpy(task.images).permute(0, 3, 1, 2).float() / 255
    labels = torch.from_numpy(task.labels).long()
    folds = task.folds()
    for number in numbers:
        clock.fold()
        network = NETWORKS[variant](images.shape[-1], images.shape[1])
        network = network.to(memory_format=torch.channels_last).train()
        optimizer = torch.optim.Adam(
            network.parameters(),
            lr=protocol.LEARNING_RATE,
            betas=protocol.BETAS,
            eps=protocol.EPSILON,
            fused=True,
        )
        rows = torch.from_numpy(folds[number]).long()
        for _ in range(task.epochs):
            order = rows[torch.randperm(len(rows))]
            x = images[order].contiguous(memory_format=torch.channels_last)
            correct = train_epoch(network, optimizer, x, labels[order])
            clock.epoch(correct.item() / len(rows))
        clock.parameters(sum(parameter.numel() for parameter in network.parameters()))
        clock.note(steps=int(next(iter(optimizer.state.values()))["step"].item()))


def train_epoch(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: torch.Tensor,
    labels: torch.Tensor,
) -> torch.Tensor:
    """One pass over images [T, C, S, S]; gives the number of right answers."""
    correct = torch.zeros((), dtype=torch.int64)
    size = protocol.BATCH_SIZE
    for x, y in zip(images.split(size), labels.split(size), strict=True):
        optimizer.zero_grad()
        logits = network(x)
        F.cross_entropy(logits, y).backward()
        optimizer.step()
        correct += (logits.argmax(1) == y).sum()
    return correct


if __name__ == "__main__":
    protocol.run_peer(train, packages=("torch",))

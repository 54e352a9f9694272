"""The networks of ``own_networks_flax.py`` in PyTorch, eager; the variant is a network's name.

Runs are dealt to processes, one a core. A run alone has all cores.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import protocol
import torch
from torch import nn
from torch.nn import functional as F
from torch_training import in_processes, train_runs


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
    train_some = functools.partial(train_networks, variant=variant)
    runs = len(task.folds())
    if min(protocol.cores(), runs) > 1:
        return in_processes(task, clock, train_some)
    torch.set_num_threads(protocol.cores())
    train_some(task, clock, range(runs))


def train_networks(
    task: protocol.Task, clock: protocol.Clock, numbers: range, *, variant: str
) -> None:
    """Trains the runs of these numbers, one by one."""
    images = torch.from_numpy(task.images).permute(0, 3, 1, 2).float() / 255
    make = functools.partial(NETWORKS[variant], images.shape[-1], images.shape[1])
    train_runs(task, clock, numbers, images, make)


if __name__ == "__main__":
    protocol.run_peer(train, packages=("torch",))

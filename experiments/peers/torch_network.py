"""The notebook's network in PyTorch, with Keras's initial weights."""

from __future__ import annotations

import protocol
import torch
from torch import nn


def make_network() -> nn.Sequential:
    """[B, 1, 8, 8] to logits [B, 10]."""
    layers: list[nn.Module] = []
    for channels, features in ((1, 16), (16, 32), (32, 64)):
        layers += [
            nn.Conv2d(channels, features, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Dropout(protocol.DROPOUT_RATE),
        ]
    layers.append(nn.Flatten())
    for channels, features in ((64, 128), (128, 512)):
        layers += [
            nn.Linear(channels, features),
            nn.Sigmoid(),
            nn.Dropout(protocol.DROPOUT_RATE),
        ]
    layers.append(nn.Linear(512, 10))
    for layer in layers:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)


def images_of(task: protocol.Task) -> torch.Tensor:
    """All images, float32 [N, 1, 8, 8]."""
    return torch.from_numpy(task.images).float().unsqueeze(1)

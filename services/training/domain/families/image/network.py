"""A ResNet, and what changes images while it learns; on torch."""

import json
from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

SHAPE_FILE = "network.json"
WEIGHTS_FILE = "weights.safetensors"
# Share of the size by which a shifted image moves at most.
_SHIFT = 8


class BatchNorm(nn.BatchNorm2d):
    """Batch normalization that also takes a batch of one row whose channels have one value each, as a last one may be.

    One value has no spread: what the rows before it showed stands in.
    """

    def forward(self, images: Tensor) -> Tensor:
        """Return (rows, channels, height, width), normalized."""
        if not self.training or images.numel() > images.shape[1]:
            return super().forward(images)
        known = self.running_mean, self.running_var, self.weight, self.bias
        found: Tensor = nn.functional.batch_norm(images, *known, eps=self.eps)
        return found


class Block(nn.Module):
    """Two convolutions and a way around them.

    Source: He et al., Deep Residual Learning for Image Recognition, CVPR 2016.

    Args:
        before, after: channels.
        stride: of the first convolution.
    """

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.first = _convolution(before, after, stride)
        self.second = _convolution(after, after, 1)
        self.around = _convolution(before, after, stride, 1) if stride > 1 or before != after else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """Return (rows, after, height / stride, width / stride)."""
        return nn.functional.relu(self.second(nn.functional.relu(self.first(images))) + self.around(images))


class ResNet(nn.Module):
    """Stages of blocks, each stage of half the size and twice the channels; then the mean, and a linear layer.

    Args:
        channels: of an image.
        width: channels of the first stage.
        stages, blocks: how many stages, and blocks of each.
        outputs: classes.
        dropout: of what the linear layer sees.
    """

    def __init__(self, channels: int, width: int, stages: int, blocks: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.shape = {
            "channels": channels,
            "width": width,
            "stages": stages,
            "blocks": blocks,
            "outputs": outputs,
            "dropout": dropout,
        }
        layers: list[nn.Module] = [_convolution(channels, width, 1), nn.ReLU()]
        before = width
        for stage in range(stages):
            for block in range(blocks):
                after = width << stage
                layers.append(Block(before, after, 2 if stage and not block else 1))
                before = after
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(before, outputs)

    def forward(self, images: Tensor) -> Tensor:
        """Return (rows, classes) log odds of (rows, channels, height, width) images."""
        found: Tensor = self.head(self.dropout(self.features(images)))
        return found


class Learner(nn.Module):
    """A network as the training loop takes it: pixels in.

    Args:
        network: what is trained.
        mean, std: of each channel, of pixels from 0 to 1.
        augmentation: none, shift, flip or shift_and_flip.
    """

    def __init__(self, network: ResNet, mean: Tensor, std: Tensor, augmentation: str) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", mean.reshape(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", std.reshape(1, -1, 1, 1), persistent=False)
        self._shifts = "shift" in augmentation
        self._flips = "flip" in augmentation

    def forward(self, pixels: Tensor) -> Tensor:
        """Return (rows, classes) log odds of (rows, height, width, channels) uint8 pixels."""
        images = (pixels.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std
        if self.training and self._flips:
            is_flipped = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
            images = torch.where(is_flipped, images.flip(3), images)
        if self.training and self._shifts:
            images = shifted(images)
        found: Tensor = self.network(images)
        return found


def shifted(images: Tensor) -> Tensor:
    """Return (rows, channels, height, width) images, each moved by up to an eighth; what moves in is 0, the mean."""
    rows, channels, height, width = images.shape
    most = max(1, height // _SHIFT)
    padded = nn.functional.pad(images, (most, most, most, most))
    moves = torch.randint(0, 2 * most + 1, (2, rows, 1), device=images.device)
    down = moves[0] + torch.arange(height, device=images.device)
    across = moves[1] + torch.arange(width, device=images.device)
    one = torch.arange(rows, device=images.device)[:, None, None, None]
    channel = torch.arange(channels, device=images.device)[None, :, None, None]
    return padded[one, channel, down[:, None, :, None], across[:, None, None, :]]


def new_network(settings: Mapping[str, Any], channels: int, outputs: int, seed: int) -> ResNet:
    """Return a network of random weights, by the family's hyperparameters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed % 2**63)
        return ResNet(
            channels,
            int(settings["width"]),
            int(settings["stages"]),
            int(settings["blocks"]),
            outputs,
            float(settings["dropout"]),
        )


def with_new_head(network: ResNet, outputs: int, dropout: float, seed: int) -> ResNet:
    """Return a network with the features of another, and a last layer of random weights."""
    shape: dict[str, Any] = {**network.shape, "outputs": outputs, "dropout": dropout}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed % 2**63)
        made = ResNet(**shape)
    made.features.load_state_dict(network.features.state_dict())
    return made


def network_files(network: ResNet) -> dict[str, bytes]:
    """Return the network's shape as JSON, and its weights as safetensors."""
    weights = {name: value.contiguous() for name, value in network.state_dict().items()}
    return {SHAPE_FILE: json.dumps(network.shape, sort_keys=True).encode(), WEIGHTS_FILE: save(weights)}


def load_network(files: Mapping[str, bytes]) -> ResNet:
    """Return the network that gave the files."""
    with torch.random.fork_rng(devices=[]):
        network = ResNet(**json.loads(files[SHAPE_FILE]))
    network.load_state_dict(load(files[WEIGHTS_FILE]))
    network.eval()
    return network


def _convolution(before: int, after: int, stride: int, size: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, size, stride, padding=size // 2, bias=False), BatchNorm(after))

"""Small PyTorch models written by hand: the shapes of networks that people train."""

from __future__ import annotations

import math

import torch
from torch import nn


def mlp(width: int = 512, depth: int = 16) -> nn.Sequential:
    """`depth` pairs of a square linear layer and a ReLU."""
    return nn.Sequential(*(layer for _ in range(depth) for layer in (nn.Linear(width, width), nn.ReLU())))


class BasicBlock(nn.Module):
    """Two 3×3 convolutions beside a shortcut (He et al. 2016, Figure 5 left)."""

    expansion = 1

    def __init__(self, depth: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(depth, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = _shortcut(depth, channels, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += x if self.downsample is None else self.downsample(x)
        return self.relu(y)


class Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolutions beside a shortcut (He et al. 2016, Figure 5 right)."""

    expansion = 4

    def __init__(self, depth: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(depth, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, 4 * channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(depth, 4 * channels, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        y += x if self.downsample is None else self.downsample(x)
        return self.relu(y)


def _shortcut(depth: int, channels: int, stride: int) -> nn.Module | None:
    if depth == channels and stride == 1:
        return None
    return nn.Sequential(nn.Conv2d(depth, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))


class ResNet(nn.Module):
    """A residual network for images (He et al. 2016, Table 1)."""

    def __init__(self, block: type[BasicBlock] | type[Bottleneck], counts: list[int], classes: int = 1000) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        depth, stages = 64, []
        for i, count in enumerate(counts):
            channels = 64 * 2**i
            blocks = []
            for b in range(count):
                blocks.append(block(depth, channels, 2 if i and not b else 1))
                depth = block.expansion * channels
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(depth, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def resnet18(classes: int = 1000) -> ResNet:
    return ResNet(BasicBlock, [2, 2, 2, 2], classes)


def resnet50(classes: int = 1000) -> ResNet:
    return ResNet(Bottleneck, [3, 4, 6, 3], classes)


class DoubleConv(nn.Module):
    def __init__(self, depth: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(depth, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.conv2(torch.relu(self.conv1(x))))


class UNet(nn.Module):
    """Contracting and expanding halves with a skip at each scale (Ronneberger et al. 2015)."""

    def __init__(self, channels: int = 16, scales: int = 3, classes: int = 2) -> None:
        super().__init__()
        widths = [channels * 2**i for i in range(scales + 1)]
        self.down = nn.ModuleList(DoubleConv(a, b) for a, b in zip([1, *widths[:-2]], widths[:-1], strict=True))
        self.middle = DoubleConv(widths[-2], widths[-1])
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 2, 2) for w in widths[-2::-1])
        self.join = nn.ModuleList(DoubleConv(2 * w, w) for w in widths[-2::-1])
        self.head = nn.Conv2d(channels, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = []
        for down in self.down:
            x = down(x)
            skips.append(x)
            x = nn.functional.max_pool2d(x, 2)
        x = self.middle(x)
        for up, join, skip in zip(self.up, self.join, skips[::-1], strict=True):
            x = join(torch.cat([skip, up(x)], 1))
        return self.head(x)


class Attention(nn.Module):
    """Causal self-attention with its scores written out."""

    def __init__(self, hidden: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(hidden, 3 * hidden)
        self.out = nn.Linear(hidden, hidden)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, hidden = x.shape
        split = (batch, tokens, self.heads, hidden // self.heads)
        q, k, v = (t.view(split).transpose(1, 2) for t in self.qkv(x).split(hidden, dim=2))
        scores = (q @ k.transpose(-2, -1)) / math.sqrt(split[-1])
        future = torch.ones(tokens, tokens, dtype=torch.bool, device=x.device).triu(1)
        weights = self.dropout(scores.masked_fill(future, float("-inf")).softmax(-1))
        return self.out((weights @ v).transpose(1, 2).reshape(batch, tokens, hidden))


class Block(nn.Module):
    def __init__(self, hidden: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.ln1 = nn.LayerNorm(hidden)
        self.attention = Attention(hidden, heads, dropout)
        self.ln2 = nn.LayerNorm(hidden)
        self.mlp = nn.Sequential(nn.Linear(hidden, 4 * hidden), nn.GELU(), nn.Linear(4 * hidden, hidden))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.ln1(x))
        return x + self.mlp(self.ln2(x))


class GPT(nn.Module):
    """A decoder-only transformer whose head shares the embedding (Radford et al. 2019)."""

    def __init__(
        self, vocab: int = 101, hidden: int = 64, heads: int = 4, layers: int = 3, context: int = 32,
        dropout: float = 0.0, tied: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.tokens = nn.Embedding(vocab, hidden)
        self.positions = nn.Embedding(context, hidden)
        self.blocks = nn.ModuleList(Block(hidden, heads, dropout) for _ in range(layers))
        self.ln = nn.LayerNorm(hidden)
        self.head = nn.Linear(hidden, vocab, bias=False)
        if tied:
            self.head.weight = self.tokens.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.ln(x))


class Choosy(nn.Module):
    """Operations whose gradient reads some of what they read: a mask, indices, a factor, a frozen layer's nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.frozen, self.last = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.frozen.requires_grad_(False)

    def forward(self, x: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        gate = mask.sigmoid()  # made from an input alone: it has no gradient
        y = self.first(x) * gate
        y = self.frozen(y) + gate * gate
        y = torch.where(mask.cos() > 0, y, y.sin() / (gate + 1))
        y = y.gather(1, (ids + 1).clamp(max=7))
        y = y @ (gate.t() @ gate)
        return self.last(y.masked_fill(mask < -1, 0.0))


def choices() -> dict[str, torch.Tensor]:
    """Inputs of `Choosy`."""
    return {"x": torch.randn(5, 6), "ids": torch.randint(0, 7, (5, 8)), "mask": torch.randn(5, 8)}

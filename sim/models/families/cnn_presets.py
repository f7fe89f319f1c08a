"""Published convolutional networks as layer lists, in the language of `cnn: {layers: […]}`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

Layers = list[Any]


@dataclass(frozen=True, slots=True)
class Preset:
    """A network for any number of classes, with the image it was published for."""

    layers: Callable[[int], Layers]
    image: tuple[int, int, int]
    classes: int


def _conv3(channels: int) -> dict[str, Any]:
    return {"conv": {"channels": channels, "kernel": 3, "padding": 1}}


_VGG_CHANNELS = (64, 128, 256, 512, 512)


def _vgg(depths: Sequence[int]) -> Callable[[int], Layers]:
    """Configurations D (16 layers) and E (19) of Simonyan & Zisserman 2015, arXiv:1409.1556: stages of 3×3 kernels."""

    def layers(classes: int) -> Layers:
        stages: Layers = []
        for channels, depth in zip(_VGG_CHANNELS, depths, strict=True):
            stages += [_conv3(channels), "relu"] * depth + [{"max_pool": 2}]
        hidden = [{"linear": 4096}, "relu", "dropout"]
        return [*stages, {"adaptive_avg_pool": 7}, "flatten", *hidden, *hidden, {"linear": classes}]

    return layers


def _conv_norm(channels: int, kernel: int, stride: int = 1) -> Layers:
    spec = {"channels": channels, "kernel": kernel, "stride": stride, "padding": kernel // 2, "bias": False}
    return [{"conv": spec}, "batch_norm"]


def _basic(channels: int, stride: int) -> Layers:
    return [*_conv_norm(channels, 3, stride), "relu", *_conv_norm(channels, 3)]


def _bottleneck(channels: int, stride: int) -> Layers:
    """The stride is in the 3×3 convolution, as in torchvision (version 1.5 of the network)."""
    middle = _conv_norm(channels, 3, stride)
    return [*_conv_norm(channels, 1), "relu", *middle, "relu", *_conv_norm(4 * channels, 1)]


def _resnet(block: Callable[[int, int], Layers], depths: Sequence[int], expansion: int) -> Callable[[int], Layers]:
    """He et al. 2016, arXiv:1512.03385: four stages of residual blocks, each but the first halving the image."""

    def layers(classes: int) -> Layers:
        net: Layers = [*_conv_norm(64, 7, 2), "relu", {"max_pool": {"kernel": 3, "stride": 2, "padding": 1}}]
        width = 64
        for stage, depth in enumerate(depths):
            channels, out = 64 << stage, (64 << stage) * expansion
            for i in range(depth):
                stride = 2 if i == 0 and stage > 0 else 1
                shortcut = [] if stride == 1 and width == out else _conv_norm(out, 1, stride)
                body = [{"add": [block(channels, stride), shortcut], "name": "add"}, "relu"]
                net.append({"block": body, "name": f"stage{stage + 1}.block{i + 1}"})
                width = out
        return [*net, "global_avg_pool", {"linear": classes}]

    return layers


def _unet(classes: int) -> Layers:
    """U-Net (Ronneberger, Fischer & Brox 2015, arXiv:1505.04597), its convolutions padded to keep the image size.

    Each level is a concatenation of its own features with what comes back from the level below.
    """

    def double(channels: int, name: str) -> dict[str, Any]:
        return {"block": [_conv3(channels), "relu", _conv3(channels), "relu"], "name": name}

    net: Layers = [double(1024, "bottom")]
    for level, channels in ((4, 512), (3, 256), (2, 128), (1, 64)):
        back = {"conv_transpose": {"channels": channels, "kernel": 2, "stride": 2}, "name": f"up{level}.conv_transpose"}
        below = [{"max_pool": 2, "name": f"down{level}.max_pool"}, *net, back]
        joined = {"concat": [[], below], "name": f"up{level}.concat"}
        net = [double(channels, f"down{level}"), joined, double(channels, f"up{level}")]
    return [*net, {"conv": {"channels": classes, "kernel": 1}, "name": "classify"}]


_IMAGENET = (3, 224, 224)
PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "vgg16": Preset(_vgg((2, 2, 3, 3, 3)), _IMAGENET, 1000),
        "vgg19": Preset(_vgg((2, 2, 4, 4, 4)), _IMAGENET, 1000),
        "resnet18": Preset(_resnet(_basic, (2, 2, 2, 2), 1), _IMAGENET, 1000),
        "resnet50": Preset(_resnet(_bottleneck, (3, 4, 6, 3), 4), _IMAGENET, 1000),
        "unet": Preset(_unet, (3, 256, 256), 2),
    }
)

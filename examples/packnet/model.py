"""PackNet01 in its version 1A: packing and unpacking blocks with 3-D convolutions, group normalization, ELU.

Source: Guizilini et al., "3D Packing for Self-Supervised Monocular Depth Estimation" (CVPR 2020), figures 2 and 3 and
table 5.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

#: Each packing halves height and width and has four times the channels.
_PACKING = 2
_MIN_DEPTH = 0.5
#: Standard deviation of a disparity head before its sigmoid.
_HEAD_STD = 1.5


@dataclass(frozen=True)
class PackNetSize:
    """How large a PackNet is.

    Attributes:
        channels: of the input stage and after each of the five levels.
        blocks: residual units of levels 2 to 5.
        features_3d: channels of the 3-D convolutions.
        groups: of group normalization.
        image: height and width of the pictures, pixels.
    """

    channels: tuple[int, int, int, int, int, int]
    blocks: tuple[int, int, int, int]
    features_3d: int
    groups: int
    image: tuple[int, int]


#: The paper's, and the seed's input.
FULL = PackNetSize((64, 64, 64, 128, 256, 512), (2, 2, 3, 3), 8, 16, (192, 640))
SMALL = PackNetSize((16, 16, 16, 32, 64, 64), (1, 1, 1, 1), 4, 8, (96, 320))


class ConvNormElu(nn.Module):
    """A convolution that keeps the size (of stride 1), group normalization, ELU."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2)
        self.norm = nn.GroupNorm(groups, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return functional.elu(self.norm(self.conv(x)))


class ResidualUnit(nn.Module):
    """Two convolutions beside one of 1 x 1; the sum is normalized."""

    def __init__(self, in_channels: int, out_channels: int, groups: int) -> None:
        super().__init__()
        self.first = ConvNormElu(in_channels, out_channels, 3, groups)
        self.second = ConvNormElu(out_channels, out_channels, 3, groups)
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1)
        self.norm = nn.GroupNorm(groups, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return functional.elu(self.norm(self.second(self.first(x)) + self.shortcut(x)))


def space_to_depth(x: Tensor) -> Tensor:
    """Folds each 2 x 2 cells into channels: ``Tensor[N, C, H, W]`` to ``Tensor[N, 4 * C, H / 2, W / 2]``."""
    batch, channels, height, width = x.shape
    cells = x.view(batch, channels, height // _PACKING, _PACKING, width // _PACKING, _PACKING)
    cells = cells.permute(0, 1, 3, 5, 2, 4).contiguous()
    return cells.view(batch, channels * _PACKING * _PACKING, height // _PACKING, width // _PACKING)


def _as_channels(x: Tensor) -> Tensor:
    """The features of a 3-D convolution, ``Tensor[N, F, C, H, W]``, as channels."""
    batch, features, channels, height, width = x.shape
    return x.view(batch, features * channels, height, width)


class Pack(nn.Module):
    """Halves the size: space to depth, a 3-D convolution over the folded channels, a 2-D one back to C channels."""

    def __init__(self, channels: int, kernel: int, features_3d: int, groups: int) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(1, features_3d, 3, padding=1)
        self.conv = ConvNormElu(channels * _PACKING * _PACKING * features_3d, channels, kernel, groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(_as_channels(self.conv3d(space_to_depth(x).unsqueeze(1))))


class Unpack(nn.Module):
    """Doubles the size: the way back of :class:`Pack`, with depth to space at its end."""

    def __init__(self, in_channels: int, out_channels: int, features_3d: int, groups: int) -> None:
        super().__init__()
        self.conv = ConvNormElu(in_channels, out_channels * _PACKING * _PACKING // features_3d, 3, groups)
        self.conv3d = nn.Conv3d(1, features_3d, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return functional.pixel_shuffle(_as_channels(self.conv3d(self.conv(x).unsqueeze(1))), _PACKING)


class DisparityHead(nn.Module):
    """One channel of inverse depth, in 0 to 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.conv(x)) / _MIN_DEPTH


def _level(in_channels: int, out_channels: int, blocks: int, groups: int) -> nn.Sequential:
    units = [ResidualUnit(in_channels if index == 0 else out_channels, out_channels, groups) for index in range(blocks)]
    return nn.Sequential(*units)


class PackNet(nn.Module):
    """Inverse depth at four resolutions.

    ``forward`` takes ``Tensor[N, 3, H, W]``, H and W multiples of 32, and returns ``Tensor[N, 1, H / s, W / s]`` for s
    of 1, 2, 4 and 8.
    """

    def __init__(self, size: PackNetSize) -> None:
        super().__init__()
        c0, c1, c2, c3, c4, c5 = size.channels
        features, groups = size.features_3d, size.groups
        self.stem = ConvNormElu(3, c0, 5, groups)
        self.level1 = ConvNormElu(c0, c1, 7, groups)
        self.level2 = _level(c1, c2, size.blocks[0], groups)
        self.level3 = _level(c2, c3, size.blocks[1], groups)
        self.level4 = _level(c3, c4, size.blocks[2], groups)
        self.level5 = _level(c4, c5, size.blocks[3], groups)
        self.pack1 = Pack(c1, 5, features, groups)
        self.pack2 = Pack(c2, 3, features, groups)
        self.pack3 = Pack(c3, 3, features, groups)
        self.pack4 = Pack(c4, 3, features, groups)
        self.pack5 = Pack(c5, 3, features, groups)
        self.unpack5 = Unpack(c5, c5, features, groups)
        self.unpack4 = Unpack(c5, c4, features, groups)
        self.unpack3 = Unpack(c4, c3, features, groups)
        self.unpack2 = Unpack(c3, c2, features, groups)
        self.unpack1 = Unpack(c2, c1, features, groups)
        # Skips are concatenated; from the third on the coarser disparity is, too.
        self.merge5 = ConvNormElu(c5 + c4, c5, 3, groups)
        self.merge4 = ConvNormElu(c4 + c3, c4, 3, groups)
        self.merge3 = ConvNormElu(c3 + c2 + 1, c3, 3, groups)
        self.merge2 = ConvNormElu(c2 + c1 + 1, c2, 3, groups)
        self.merge1 = ConvNormElu(c1 + c0 + 1, c1, 3, groups)
        self.head4 = DisparityHead(c4)
        self.head3 = DisparityHead(c3)
        self.head2 = DisparityHead(c2)
        self.head1 = DisparityHead(c1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        stem = self.stem(images)
        packed1 = self.pack1(self.level1(stem))
        packed2 = self.pack2(self.level2(packed1))
        packed3 = self.pack3(self.level3(packed2))
        packed4 = self.pack4(self.level4(packed3))
        packed5 = self.pack5(self.level5(packed4))
        x = self.merge5(torch.cat([self.unpack5(packed5), packed4], dim=1))
        x = self.merge4(torch.cat([self.unpack4(x), packed3], dim=1))
        disparity4 = self.head4(x)
        x = self.merge3(torch.cat([self.unpack3(x), packed2, self._doubled(disparity4)], dim=1))
        disparity3 = self.head3(x)
        x = self.merge2(torch.cat([self.unpack2(x), packed1, self._doubled(disparity3)], dim=1))
        disparity2 = self.head2(x)
        x = self.merge1(torch.cat([self.unpack1(x), stem, self._doubled(disparity2)], dim=1))
        return self.head1(x), disparity2, disparity3, disparity4

    def _doubled(self, disparity: Tensor) -> Tensor:
        return functional.interpolate(disparity, scale_factor=2.0, mode="nearest")


@torch.no_grad()
def build_packnet(size: PackNetSize, images: Tensor, *, seed: int = 0) -> PackNet:
    """A PackNet with random weights in evaluation mode, whose answers differ from pixel to pixel as a trained one's.

    Args:
        size: of the network.
        images: ``Tensor[N, 3, H, W]``, on which the heads are scaled.
        seed: of the weights.
    """
    torch.manual_seed(seed)
    model = PackNet(size).eval()
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Conv3d)):
            nn.init.xavier_uniform_(module.weight)
            assert module.bias is not None
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.GroupNorm):
            # Not 1 and 0, which a normalization that forgets them would answer rightly, too.
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    # The coarse first, since finer heads see what coarser ones say.
    for head in (model.head4, model.head3, model.head2, model.head1):
        seen: list[Tensor] = []
        handle = head.conv.register_forward_hook(lambda _module, _inputs, output, into=seen: into.append(output))
        model(images)
        handle.remove()
        scale = _HEAD_STD / seen[0].std()
        head.conv.weight *= scale
        assert head.conv.bias is not None
        head.conv.bias -= seen[0].mean() * scale
    return model

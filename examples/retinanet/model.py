"""The digit detector: torchvision's RetinaNet on a narrow ResNet-18 with a feature pyramid."""

import math
from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.resnet import BasicBlock
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from examples.retinanet.scenes import NUM_CLASSES, SCENE_HEIGHT, SCENE_WIDTH

DEFAULT_CHECKPOINT = Path(__file__).with_name("digits_retinanet.pt")

IMAGE_MEAN = (0.5, 0.5, 0.5)
IMAGE_STD = (0.25, 0.25, 0.25)

#: Post-processing, the same for the plain model and for the engine.
SCORE_THRESH = 0.05
NMS_THRESH = 0.5
TOPK_CANDIDATES = 1000
DETECTIONS_PER_IMAGE = 100

#: P3 to P7.
STRIDES = (8, 16, 32, 64, 128)
STAGE_WIDTHS = (32, 64, 128, 256)
PYRAMID_CHANNELS = 96
#: Three an octave, from 16 pixels on P3; digits are 20 to 145 pixels long.
ANCHOR_SIZES = tuple(tuple(round(2 * stride * 2 ** (third / 3)) for third in range(3)) for stride in STRIDES)
#: Height / width: most digits are half as high again as wide, a one is over twice as high.
ANCHOR_RATIOS = (1.0, 1.5, 2.3)


def _stage(in_channels: int, channels: int, stride: int) -> nn.Sequential:
    downsample = None
    if stride != 1 or in_channels != channels:
        downsample = nn.Sequential(
            nn.Conv2d(in_channels, channels, kernel_size=1, stride=stride, bias=False), nn.BatchNorm2d(channels)
        )
    return nn.Sequential(BasicBlock(in_channels, channels, stride, downsample), BasicBlock(channels, channels))


def _backbone() -> BackboneWithFPN:
    """ResNet-18 at half its widths, and P3 to P7 on it."""
    stem = nn.Sequential(
        nn.Conv2d(3, STAGE_WIDTHS[0], kernel_size=7, stride=2, padding=3, bias=False),
        nn.BatchNorm2d(STAGE_WIDTHS[0]),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
    )
    body = nn.Sequential(
        OrderedDict(
            stem=stem,
            layer1=_stage(STAGE_WIDTHS[0], STAGE_WIDTHS[0], 1),
            layer2=_stage(STAGE_WIDTHS[0], STAGE_WIDTHS[1], 2),
            layer3=_stage(STAGE_WIDTHS[1], STAGE_WIDTHS[2], 2),
            layer4=_stage(STAGE_WIDTHS[2], STAGE_WIDTHS[3], 2),
        )
    )
    for module in body.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return BackboneWithFPN(
        body,
        return_layers={"layer2": "p3", "layer3": "p4", "layer4": "p5"},
        in_channels_list=list(STAGE_WIDTHS[1:]),
        out_channels=PYRAMID_CHANNELS,
        extra_blocks=LastLevelP6P7(PYRAMID_CHANNELS, PYRAMID_CHANNELS),
    )


def _head(num_anchors: int) -> RetinaNetHead:
    head = RetinaNetHead(PYRAMID_CHANNELS, num_anchors, NUM_CLASSES)
    # torchvision's std of 0.01 is meant for a pretrained backbone and long training; from scratch, four such layers of
    # 96 channels leave a five-hundredth of the signal.
    for tower in (head.classification_head.conv, head.regression_head.conv):
        for module in tower.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=math.sqrt(2 / (9 * PYRAMID_CHANNELS)))
    return head


def build_digit_detector() -> RetinaNet:
    """Builds the detector with random weights, in training mode.

    Returns:
        The model; torchvision's labels are the digits themselves, 0 to 9, and it does not resize scenes.
    """
    anchors = AnchorGenerator(ANCHOR_SIZES, (ANCHOR_RATIOS,) * len(ANCHOR_SIZES))
    return RetinaNet(
        _backbone(),
        NUM_CLASSES,
        min_size=SCENE_HEIGHT,
        max_size=SCENE_WIDTH,
        image_mean=list(IMAGE_MEAN),
        image_std=list(IMAGE_STD),
        anchor_generator=anchors,
        head=_head(anchors.num_anchors_per_location()[0]),
        score_thresh=SCORE_THRESH,
        nms_thresh=NMS_THRESH,
        detections_per_img=DETECTIONS_PER_IMAGE,
        topk_candidates=TOPK_CANDIDATES,
    )


def save_digit_detector(model: RetinaNet, path: Path | str) -> None:
    """Writes the weights in float16, a state dictionary that ``torch.load(weights_only=True)`` takes."""
    state = {
        name: value.detach().cpu().contiguous().half() if value.is_floating_point() else value.detach().cpu()
        for name, value in model.state_dict().items()
    }
    torch.save(state, path)


def load_digit_detector(path: Path | str = DEFAULT_CHECKPOINT) -> RetinaNet:
    """Loads trained weights.

    Returns:
        The model in eval mode, float32, on the CPU.
    """
    state = torch.load(path, map_location="cpu", weights_only=True)
    model = build_digit_detector()
    # Copying into the model's float32 tensors widens the stored float16.
    model.load_state_dict(state)
    return model.eval()


def cell_anchors(model: RetinaNet) -> list[Tensor]:
    """The anchors of one cell of each level, ``Tensor[A, 4]``, float32, xyxy pixels around (0, 0)."""
    return [anchors.detach().cpu().clone().float() for anchors in model.anchor_generator.cell_anchors]


def grid_anchors(model: RetinaNet) -> Tensor:
    """The anchors of all cells of a scene, P3 to P7 in the order of the heads' outputs, ``Tensor[M, 4]``, CPU."""
    levels = []
    for stride, anchors in zip(STRIDES, cell_anchors(model), strict=True):
        y = torch.arange(SCENE_HEIGHT // stride, dtype=torch.float32) * stride
        x = torch.arange(SCENE_WIDTH // stride, dtype=torch.float32) * stride
        shift_y, shift_x = torch.meshgrid(y, x, indexing="ij")
        shifts = torch.stack([shift_x, shift_y, shift_x, shift_y], dim=-1).reshape(-1, 1, 4)
        levels.append((shifts + anchors).reshape(-1, 4))
    return torch.cat(levels)


class BackboneAndHeads(nn.Module):
    """The detector without its post-processing, in the layout that ``build_retinanet_decode`` takes.

    Shares its parameters with the model it is made from.
    """

    # TorchScript reads these, and cannot as strings: no postponed annotations in this module.
    mean: Tensor
    std: Tensor

    def __init__(self, model: RetinaNet) -> None:
        super().__init__()
        self.backbone = model.backbone
        self.cls_tower = model.head.classification_head.conv
        self.cls_logits = model.head.classification_head.cls_logits
        self.box_tower = model.head.regression_head.conv
        self.box_deltas = model.head.regression_head.bbox_reg
        device = next(model.parameters()).device
        self.register_buffer("mean", torch.tensor(IMAGE_MEAN, device=device).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGE_STD, device=device).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Runs the network.

        Args:
            images: ``Tensor[N, 3, 384, 512]``, float32, RGB in 0..1.

        Returns:
            ``(cls_heads, box_heads)``, P3 to P7: probabilities ``Tensor[N, A * 10, H, W]``, channel ``a * 10 + c``, and
            box deltas ``Tensor[N, A * 4, H, W]``, contiguous.
        """
        cls_heads: list[Tensor] = []
        box_heads: list[Tensor] = []
        for feature in self.backbone((images - self.mean) / self.std).values():
            cls_heads.append(self.cls_logits(self.cls_tower(feature)).sigmoid())
            box_heads.append(self.box_deltas(self.box_tower(feature)).contiguous())
        return cls_heads, box_heads


class PlainDetector(nn.Module):
    """The whole detector in plain PyTorch, with torchvision's own post-processing, on batches of scenes."""

    def __init__(self, model: RetinaNet) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> list[dict[str, Tensor]]:
        """Detects digits.

        Args:
            images: ``Tensor[N, 3, 384, 512]``, float32, RGB in 0..1.

        Returns:
            An image's ``boxes`` ``Tensor[n, 4]`` (xyxy pixels), ``scores`` ``Tensor[n]``, best first, and ``labels``
            ``Tensor[n]``, int64.
        """
        detections: list[dict[str, Tensor]] = self.model(list(images.unbind(0)))
        return detections

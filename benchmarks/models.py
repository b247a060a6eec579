"""The models that optimize() is tested and measured on: torchvision's, and detectors with a post-processing engine.

No weights are downloaded. torchvision's random ones leave a detector without detections, ViT's head at zero and most
outputs nearly the same for every image, so that any answer would be right. Here batch normalization gets the statistics
of synthetic images, and each head is scaled to logits that a trained one could have.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.resnet import BasicBlock, Bottleneck

import torch_trt_ext
from examples.retinanet.model import BackboneAndHeads, PlainDetector, load_digit_detector
from examples.retinanet.pipeline import MixedDetector, build_postprocess_plan, to_detections
from examples.retinanet.scenes import SCENE_HEIGHT, SCENE_WIDTH, compose_scene, fixed_test_scenes

__all__ = [
    "ENGINE_MODELS",
    "MODELS",
    "Case",
    "build_case",
    "calibration_data",
    "detections_or_outputs",
    "fit_batch_norm",
    "image_arguments",
    "normalized",
    "synthetic_images",
]

_SEED = 0

#: Images that statistics and heads are fitted to; another seed's than those that a model is then run on.
_FIT_SEED = 1
_FIT_IMAGES = 2

#: Seed of the first image that 8-bit ranges come from.
CALIBRATION_SEED = 1000

#: Pixels between the points that noise is interpolated from: texture, parts and objects.
_NOISE_CELLS = (4, 16, 64)

#: Of the noise; classifiers and segmentation take images without the one and over the other.
_NOISE_MEAN, _NOISE_STD = 0.5, 0.12

#: Share of RetinaNet's class logits that pass its score threshold, of 16.6 million at 800 x 1216: about 29,000, as many
#: as a trained one has on a crowded image.
_CANDIDATE_SHARE = 29_000 / 16_598_673
_RETINANET_STRIDES = (8, 16, 32, 64, 128)

#: What a residual block adds to its input, relative to what it could: trained ones add little, and random ones that add
#: much double every rounding error a few times over.
_RESIDUAL_GAIN = 0.2


@dataclass(frozen=True)
class Case:
    """A model and what it is called with.

    Attributes:
        name: as in :data:`MODELS` or :data:`ENGINE_MODELS`.
        model: what ``optimize()`` is given, in evaluation mode.
        plain: the same in PyTorch alone; ``model`` itself where that has no engine.
        arguments: of one call of either.
        trunk: of a model with a post-processing engine, the part before it; else None.
        postprocess: its post-processing engine, an object of an engine class; else None.
    """

    name: str
    model: nn.Module
    plain: nn.Module
    arguments: tuple[Any, ...]
    trunk: nn.Module | None = None
    postprocess: Any = None


def synthetic_images(count: int, height: int, width: int, *, seed: int = _SEED) -> Tensor:
    """Smooth colour noise at several scales, which features of every stride differ on.

    Returns:
        ``Tensor[count, 3, height, width]``, float32, CPU, in 0..1; the same for the same arguments.
    """
    generator = torch.Generator().manual_seed(seed)
    images = torch.zeros(count, 3, height, width)
    for cell in _NOISE_CELLS:
        points = torch.rand(count, 3, height // cell + 2, width // cell + 2, generator=generator)
        images += functional.interpolate(points, size=(height, width), mode="bilinear", align_corners=True)
    return images / len(_NOISE_CELLS)


def _outputs(model: nn.Module, modules: Sequence[nn.Module], arguments: tuple[Any, ...]) -> list[Tensor]:
    """What each of the modules gave while the model ran, all of its calls together as one flat tensor."""
    given: list[list[Tensor]] = [[] for _ in modules]
    handles = [
        module.register_forward_hook(lambda _module, _inputs, output, into=into: into.append(output.flatten()))
        for module, into in zip(modules, given, strict=True)
    ]
    try:
        with torch.no_grad():
            model(*arguments)
    finally:
        for handle in handles:
            handle.remove()
    return [torch.cat(outputs) for outputs in given]


def fit_batch_norm(model: nn.Module, arguments: tuple[Any, ...]) -> None:
    """Gives batch normalization the statistics of one call, so that signals neither fade nor grow with depth."""
    for module in model.modules():
        if isinstance(module, (BasicBlock, Bottleneck)):
            last = module.bn3 if isinstance(module, Bottleneck) else module.bn2
            nn.init.constant_(last.weight, _RESIDUAL_GAIN)
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    with torch.no_grad():
        model(*arguments)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def _fit_layer(model: nn.Module, layer: nn.Module, arguments: tuple[Any, ...], *, mean: float, std: float) -> None:
    """Scales a layer's random weights until its outputs have a mean and a standard deviation."""
    with torch.no_grad():
        nn.init.normal_(layer.weight, std=layer.weight[0].numel() ** -0.5)
        nn.init.zeros_(layer.bias)
        outputs = _outputs(model, [layer], arguments)[0]
        scale = std / outputs.std()
        layer.weight *= scale
        layer.bias += mean - outputs.mean() * scale


def _fit_tower(tower: nn.Module) -> None:
    # torchvision's standard deviation of 0.01 leaves a thousandth of the signal after four layers.
    for module in tower.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")


def _image_list(images: Tensor) -> tuple[list[Tensor]]:
    return (list(images.unbind(0)),)


def normalized(images: Tensor) -> tuple[Tensor]:
    """Images in 0..1 as the arguments of a model that takes them normalized."""
    return ((images - _NOISE_MEAN) / _NOISE_STD,)


def build_classifier(name: str, size: int) -> nn.Module:
    """torchvision's ``resnet18``, ``resnet50``, ``mobilenet_v3_small`` or ``vit_b_16``: 1000 logits of about 1.

    Args:
        name: torchvision's name.
        size: height and width of its images; ViT takes 224 only.
    """
    torch.manual_seed(_SEED)
    model = torchvision.models.get_model(name, weights=None).eval()
    images = normalized(synthetic_images(_FIT_IMAGES, size, size, seed=_FIT_SEED))
    fit_batch_norm(model, images)
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    _fit_layer(model, linear, images, mean=0.0, std=1.0)
    return model


def build_fcn_resnet50(size: int) -> nn.Module:
    """torchvision's segmentation model: a dict whose ``out`` is ``Tensor[N, 21, size, size]``."""
    torch.manual_seed(_SEED)
    model = torchvision.models.get_model("fcn_resnet50", weights=None, weights_backbone=None).eval()
    fit_batch_norm(model, normalized(synthetic_images(_FIT_IMAGES, size, size, seed=_FIT_SEED)))
    return model


def _detector(name: str, height: int, width: int) -> tuple[Any, tuple[list[Tensor]]]:
    """torchvision's, for images of one size, with batch normalization fitted, and the images for fitting the rest."""
    torch.manual_seed(_SEED)
    model = torchvision.models.get_model(
        name, weights=None, weights_backbone=None, min_size=min(height, width), max_size=max(height, width)
    ).eval()
    images = _image_list(synthetic_images(_FIT_IMAGES, height, width, seed=_FIT_SEED))
    fit_batch_norm(model, images)
    return model, images


def build_retinanet(height: int, width: int) -> RetinaNet:
    """torchvision's ``retinanet_resnet50_fpn``, 91 classes, for images of one size, which it does not resize.

    About :data:`_CANDIDATE_SHARE` of its class logits pass the score threshold of 0.05, which at 800 x 1216 are 29,000;
    boxes are up to twice or half their anchors.
    """
    model: RetinaNet
    model, images = _detector("retinanet_resnet50_fpn", height, width)
    classes, boxes = model.head.classification_head, model.head.regression_head
    for tower in (classes.conv, boxes.conv):
        _fit_tower(tower)
    _fit_layer(model, boxes.bbox_reg, images, mean=0.0, std=0.2)
    _fit_layer(model, classes.cls_logits, images, mean=0.0, std=2.0)
    logits = _outputs(model, [classes.cls_logits], images)[0]
    count = max(1, round(_CANDIDATE_SHARE * logits.numel()))
    threshold = torch.tensor(model.score_thresh).logit()
    with torch.no_grad():
        classes.cls_logits.bias += threshold - logits.topk(count).values[-1]
    return model


def build_fasterrcnn(height: int, width: int) -> nn.Module:
    """torchvision's ``fasterrcnn_resnet50_fpn``, 91 classes, for images of one size, which it does not resize."""
    model: nn.Module
    model, images = _detector("fasterrcnn_resnet50_fpn", height, width)
    _fit_tower(model.rpn.head.conv)
    _fit_layer(model, model.rpn.head.bbox_pred, images, mean=0.0, std=0.1)
    _fit_layer(model, model.rpn.head.cls_logits, images, mean=0.0, std=2.0)
    _fit_layer(model, model.roi_heads.box_predictor.bbox_pred, images, mean=0.0, std=0.5)
    _fit_layer(model, model.roi_heads.box_predictor.cls_score, images, mean=0.0, std=2.0)
    return model


def build_untrained_retinanet(height: int, width: int) -> RetinaNet:
    """torchvision's ``retinanet_resnet50_fpn`` as training would start with it, anchors as the engine has them."""
    torch.manual_seed(_SEED)
    model: RetinaNet = torchvision.models.get_model(
        "retinanet_resnet50_fpn", weights=None, weights_backbone=None, min_size=height, max_size=width
    )
    for tower in (model.head.classification_head.conv, model.head.regression_head.conv):
        _fit_tower(tower)
    _fix_strides(model)
    return model


class _FixedStrides(AnchorGenerator):
    """Anchors whose cells are as far apart as the network's strides are.

    torchvision divides the image's size by the grid's: 800 rows over 13 cells are 61 pixels a cell where the network's
    stride is 64. The post-processing engine takes the stride.
    """

    def grid_anchors(self, grid_sizes: list[list[int]], strides: list[list[Tensor]]) -> list[Tensor]:
        fixed = [
            [torch.full_like(step, stride) for step in steps]
            for steps, stride in zip(strides, _RETINANET_STRIDES, strict=True)
        ]
        anchors: list[Tensor] = super().grid_anchors(grid_sizes, fixed)
        return anchors


def _fix_strides(model: RetinaNet) -> None:
    anchors = model.anchor_generator
    model.anchor_generator = _FixedStrides(anchors.sizes, anchors.aspect_ratios)


class _Batched(nn.Module):
    """A torchvision detector on ``Tensor[N, 3, H, W]``."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> list[dict[str, Tensor]]:
        found: list[dict[str, Tensor]] = self.model(list(images.unbind(0)))
        return found


class _Trunk(nn.Module):
    """RetinaNet's normalization, backbone and heads, in the layout that ``build_retinanet_decode`` takes."""

    def __init__(self, model: RetinaNet) -> None:
        super().__init__()
        self.backbone = model.backbone
        self.classes, self.boxes = model.head.classification_head, model.head.regression_head
        self.register_buffer("mean", torch.tensor(model.transform.image_mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(model.transform.image_std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        features = list(self.backbone((images - self.mean) / self.std).values())
        scores = [self.classes.cls_logits(self.classes.conv(feature)).sigmoid() for feature in features]
        deltas = [self.boxes.bbox_reg(self.boxes.conv(feature)).contiguous() for feature in features]
        return scores, deltas


def _with_engine(name: str, detector: MixedDetector, plain: nn.Module, images: Tensor) -> Case:
    detector.eval()
    detector.postprocess.engine.set_cuda_graphs(images.is_cuda)
    with torch.no_grad(), warnings.catch_warnings():
        # The list that the engine returns has a fixed length, which is what tracing asks for.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        model = torch.jit.trace(detector, (images,), check_trace=False)
    return Case(
        name,
        model,
        plain.eval(),
        (images,),
        trunk=detector.backbone_and_heads,
        postprocess=detector.postprocess.engine,
    )


@torch.no_grad()
def build_retinanet_with_engine(
    batch: int, height: int, width: int, device: torch.device, weights: Path | None = None
) -> Case:
    """torchvision's RetinaNet-R50: backbone and heads in PyTorch, decode and NMS in an engine for the device.

    Args:
        batch: images a call.
        height: in pixels.
        width: likewise.
        device: where it runs.
        weights: what :mod:`benchmarks.retinanet_r50` wrote; None for random ones.
    """
    if weights is None:
        retinanet = build_retinanet(height, width)
        _fix_strides(retinanet)
    else:
        retinanet = build_untrained_retinanet(height, width)
        retinanet.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        retinanet.eval()
    retinanet.to(device)
    images = synthetic_images(batch, height, width).to(device)
    trunk = _Trunk(retinanet).to(device).eval()
    plan = torch_trt_ext.build_retinanet_decode(
        trunk(images[:1]),
        images.shape,
        [cell.cpu().float() for cell in retinanet.anchor_generator.cell_anchors],
        retinanet.score_thresh,
        retinanet.nms_thresh,
        retinanet.topk_candidates,
        retinanet.detections_per_img,
        device_type="gpu" if device.type == "cuda" else "cpu",
        box_convention="torchvision",
        image_size=(height, width),
        strides=_RETINANET_STRIDES,
        batch_range=(1, batch, max(batch, 8)),
    )
    return _with_engine("retinanet_with_engine", MixedDetector(trunk, plan), _Batched(retinanet), images)


@torch.no_grad()
def build_digits_with_engine(batch: int, device: torch.device) -> Case:
    """The main job's trained detector of digits, 384 x 512: backbone and heads in PyTorch, decode and NMS an engine."""
    model = load_digit_detector().to(device)
    scenes = fixed_test_scenes(batch)
    images = torch.stack([scene.image for scene in scenes]).to(device).float() / 255
    detector = MixedDetector(BackboneAndHeads(model), build_postprocess_plan(model, images))
    return _with_engine("digits_with_engine", detector, PlainDetector(model), images)


_Builder = Callable[[int, int], nn.Module]

#: Models of torchvision: how to make each, for height and width, and these when nothing else is said.
_TORCHVISION: dict[str, tuple[_Builder, tuple[int, int]]] = {
    "resnet18": (lambda height, _width: build_classifier("resnet18", height), (224, 224)),
    "resnet50": (lambda height, _width: build_classifier("resnet50", height), (224, 224)),
    "mobilenet_v3_small": (lambda height, _width: build_classifier("mobilenet_v3_small", height), (224, 224)),
    "vit_b_16": (lambda height, _width: build_classifier("vit_b_16", height), (224, 224)),
    "fcn_resnet50": (lambda height, _width: build_fcn_resnet50(height), (520, 520)),
    "retinanet_resnet50_fpn": (build_retinanet, (800, 1216)),
    "fasterrcnn_resnet50_fpn": (build_fasterrcnn, (800, 1216)),
}

_DETECTORS = ("retinanet_resnet50_fpn", "fasterrcnn_resnet50_fpn")

#: torchvision's, of which optimize() sees the whole.
MODELS = tuple(_TORCHVISION)

#: Detectors whose post-processing is an engine already.
ENGINE_MODELS = ("retinanet_with_engine", "digits_with_engine")


def build_case(name: str, device: torch.device | str, *, batch: int = 1, size: tuple[int, int] | None = None) -> Case:
    """Makes a model and its arguments, always the same for the same name, batch and size.

    Args:
        name: one of :data:`MODELS` and :data:`ENGINE_MODELS`.
        device: where model and arguments go, and what a post-processing engine is for.
        batch: images a call.
        size: height and width in pixels; the model's own by default. ``digits_with_engine`` has one size only.

    Raises:
        ValueError: there is no such model, or not in this size.
        RuntimeError: the post-processing engine cannot be built here.
    """
    target = torch.device(device)
    if name == "digits_with_engine":
        if size not in (None, (SCENE_HEIGHT, SCENE_WIDTH)):
            raise ValueError(f"digits_with_engine must have the size ({SCENE_HEIGHT}, {SCENE_WIDTH}), got {size}")
        return build_digits_with_engine(batch, target)
    if name == "retinanet_with_engine":
        return build_retinanet_with_engine(batch, *(size or _TORCHVISION["retinanet_resnet50_fpn"][1]), target)
    if name not in _TORCHVISION:
        raise ValueError(f"model must be one of {', '.join(MODELS + ENGINE_MODELS)}, got {name!r}")
    builder, own_size = _TORCHVISION[name]
    height, width = size or own_size
    model = builder(height, width).to(target)
    images = synthetic_images(batch, height, width).to(target)
    return Case(name, model, model, image_arguments(name, images))


def calibration_data(case: Case, images: int, first_seed: int = CALIBRATION_SEED) -> list[tuple[Any, ...]]:
    """Arguments of calls, for the ranges of 8-bit values: other images than the case's, in calls of as many.

    Args:
        case: of a model.
        images: how many in all, as far as they fill calls; those of one call in any case.
        first_seed: of their pixels; each image has another.
    """
    own = case.arguments[0]
    size, (height, width) = len(own), own[0].shape[-2:]
    seeds = range(first_seed, first_seed + max(1, images // size) * size)
    if case.name == "digits_with_engine":
        made = torch.stack([compose_scene(seed, "train").image for seed in seeds]).float() / 255
    else:
        made = torch.cat([synthetic_images(1, height, width, seed=seed) for seed in seeds])
    return [image_arguments(case.name, batch) for batch in made.to(own[0].device).split(size)]


def image_arguments(name: str, images: Tensor) -> tuple[Any, ...]:
    """Images in 0..1, ``Tensor[N, 3, H, W]``, as the model of this name takes them: so, normalized, or as a list."""
    if name in ENGINE_MODELS:
        return (images,)
    return _image_list(images) if name in _DETECTORS else normalized(images)


def detections_or_outputs(case: Case, outputs: Any) -> Any:
    """A model's outputs in the form that ``torch_trt_ext.optimizer.accuracy.compare`` knows, whichever model gave them.

    Args:
        case: the model's.
        outputs: of ``case.model``, of ``case.plain``, or of what was made of either.
    """
    if case.postprocess is not None and not isinstance(outputs[0], dict):
        return to_detections(outputs)
    # What torchvision's scripted detectors return: losses, then detections.
    if isinstance(outputs, tuple) and len(outputs) == 2 and outputs[0] == {}:
        return outputs[1]
    return outputs

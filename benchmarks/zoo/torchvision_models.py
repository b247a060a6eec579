"""torchvision's."""

from __future__ import annotations

import torchvision

from benchmarks.models import synthetic_images
from benchmarks.zoo import Example, image

_CLASSIFIERS = (
    *("alexnet", "convnext_tiny", "convnext_small", "densenet121", "densenet169", "efficientnet_b0", "efficientnet_b3"),
    *("efficientnet_v2_s", "googlenet", "inception_v3", "maxvit_t", "mnasnet0_5", "mnasnet1_0", "mobilenet_v2"),
    *("mobilenet_v3_large", "mobilenet_v3_small", "regnet_x_400mf", "regnet_y_400mf", "regnet_y_3_2gf", "resnet18"),
    *("resnet34", "resnet50", "resnet101", "resnext50_32x4d", "shufflenet_v2_x0_5", "shufflenet_v2_x1_0"),
    *("squeezenet1_0", "squeezenet1_1", "swin_t", "swin_v2_t", "vgg11", "vgg16_bn", "vit_b_16", "vit_b_32"),
    "wide_resnet50_2",
)
_SEGMENTATION = ("deeplabv3_mobilenet_v3_large", "deeplabv3_resnet50", "fcn_resnet50", "lraspp_mobilenet_v3_large")
_DETECTORS = (
    *("fasterrcnn_mobilenet_v3_large_fpn", "fasterrcnn_resnet50_fpn", "fcos_resnet50_fpn", "keypointrcnn_resnet50_fpn"),
    *("maskrcnn_resnet50_fpn", "retinanet_resnet50_fpn", "ssd300_vgg16", "ssdlite320_mobilenet_v3_large"),
)
_VIDEO = ("mc3_18", "mvit_v2_s", "r2plus1d_18", "r3d_18", "s3d", "swin3d_t")
_FLOW = ("raft_small",)

NAMES = _CLASSIFIERS + _SEGMENTATION + _DETECTORS + _VIDEO + _FLOW

#: Pixels a side; 224 elsewhere.
_SIZES = {"inception_v3": 299, "efficientnet_b3": 300, "swin_v2_t": 256}


def build(name: str) -> Example:
    """A model of torchvision and an image; a list of one for detectors, a clip of 16 frames, or two images for flow."""
    if name in _FLOW:
        model = torchvision.models.get_model(name, weights=None)
        return Example(model, tuple(synthetic_images(2, 256, 256).mul(2).sub(1).split(1)))
    if name in _DETECTORS:
        size = {"ssd300_vgg16": 300, "ssdlite320_mobilenet_v3_large": 320}.get(name, 512)
        given = {} if name.startswith("ssd") else {"min_size": size, "max_size": size}
        model = torchvision.models.get_model(name, weights=None, weights_backbone=None, **given)
        return Example(model, (list(synthetic_images(1, size, size).unbind(0)),))
    if name in _SEGMENTATION:
        model = torchvision.models.get_model(name, weights=None, weights_backbone=None)
        return Example(model, (image(320),))
    if name in _VIDEO:
        return Example(
            torchvision.models.get_model(name, weights=None), (image(112 if name[0] == "r" else 224, frames=16),)
        )
    given = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    return Example(torchvision.models.get_model(name, weights=None, **given), (image(_SIZES.get(name, 224)),))

"""DETR of Hugging Face's transformers with random weights, made to answer as differently as a trained one."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig
from transformers.utils import logging

from examples.retinanet.scenes import Split, compose_scene

#: Channels' mean and standard deviation of ImageNet, as DETR's pictures are normalized.
_IMAGE_MEAN, _IMAGE_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

#: Standard deviations, over queries and classes, of what the heads say before softmax and sigmoid.
_CLASS_STD, _BOX_STD = 2.0, 0.7
#: Of a residual branch beside its shortcut.
_RESIDUAL_GAIN = 0.2


def _config(*, small: bool) -> DetrConfig:
    backbone = ResNetConfig(out_features=["stage4"])
    sizes = {}
    if small:
        backbone = ResNetConfig(
            embedding_size=32,
            hidden_sizes=[32, 64, 128, 256],
            depths=[1, 1, 1, 1],
            layer_type="basic",
            out_features=["stage4"],
        )
        sizes = {
            "d_model": 64,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_ffn_dim": 256,
            "decoder_ffn_dim": 256,
            "num_queries": 25,
        }
    return DetrConfig(
        backbone_config=backbone, use_timm_backbone=False, use_pretrained_backbone=False, num_labels=91, **sizes
    )


class Detr(nn.Module):
    """``Tensor[N, 3, H, W]`` to scores ``Tensor[N, queries, classes]`` and boxes ``Tensor[N, queries, 4]``.

    Scores are probabilities without that of "no object"; boxes are cx, cy, w, h in 0..1.
    """

    def __init__(self, detr: DetrForObjectDetection) -> None:
        super().__init__()
        self.detr = detr

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        outputs = self.detr(images)
        return outputs.logits.softmax(dim=-1)[..., :-1], outputs.pred_boxes


@torch.no_grad()
def build_detr(images: Tensor, *, small: bool = False, seed: int = 0) -> Detr:
    """DETR with a ResNet-50 (with ``small`` a little ResNet and two layers) and random weights, on the CPU.

    Args:
        images: ``Tensor[N, 3, H, W]``, from which frozen batch normalization gets its statistics, and the layer before
            the transformer and the heads their scales: otherwise an untrained network gives every query the same
            answer, and no error would show.
        small: for tests.
        seed: of the weights.
    """
    # It warns that a model for detection names no loss, which only training reads.
    logging.set_verbosity_error()
    torch.manual_seed(seed)
    detr = DetrForObjectDetection(_config(small=small)).eval()
    for name, module in detr.named_modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight)
        elif name.endswith("layer.1.normalization") or name.endswith("layer.2.normalization"):
            module.weight.fill_(_RESIDUAL_GAIN)
    _fit_frozen_norms(detr, images)
    _fit_output(detr, detr.model.input_projection, images, 1.0)
    _fit_output(detr, detr.class_labels_classifier, images, _CLASS_STD)
    _fit_output(detr, detr.bbox_predictor.layers[-1], images, _BOX_STD)
    return Detr(detr).eval()


def _fit_frozen_norms(detr: nn.Module, images: Tensor) -> None:
    """Gives frozen batch normalization, which transformers leaves at mean 0 and variance 1, what the images have."""

    def fit(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        module.running_mean = inputs[0].mean(dim=(0, 2, 3))
        module.running_var = inputs[0].var(dim=(0, 2, 3))

    norms = [module for module in detr.modules() if hasattr(module, "running_mean")]
    handles = [norm.register_forward_pre_hook(fit) for norm in norms]
    detr(images)
    for handle in handles:
        handle.remove()


def _fit_output(detr: nn.Module, layer: nn.Conv2d | nn.Linear, images: Tensor, std: float) -> None:
    """Scales a layer until each of its channels has mean 0, and all of them together a standard deviation."""
    seen: list[Tensor] = []
    handle = layer.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    detr(images)
    handle.remove()
    channels = (seen[0] if isinstance(layer, nn.Linear) else seen[0].movedim(1, -1)).flatten(0, -2)
    mean = channels.mean(dim=0)
    scale = std / (channels - mean).std()
    layer.weight *= scale
    assert layer.bias is not None
    layer.bias.copy_((layer.bias - mean) * scale)


def make_images(seeds: range, split: Split, height: int, width: int) -> Tensor:
    """Scenes of the detector's example, resized and normalized: ``Tensor[len(seeds), 3, height, width]``, float32."""
    scenes = torch.stack([compose_scene(seed, split).image for seed in seeds]).float() / 255
    resized = functional.interpolate(scenes, size=(height, width), mode="bilinear", align_corners=False)
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (_IMAGE_MEAN, _IMAGE_STD))
    return (resized - mean) / std

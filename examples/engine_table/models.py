"""The models of the table, with random weights and normalizations that fit their inputs."""

from __future__ import annotations

from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from benchmarks.models import fit_batch_norm, normalized, synthetic_images


def images(count: int, size: int, *, seed: int = 0) -> Tensor:
    """Normalized images with shapes in them, ``Tensor[count, 3, size, size]``."""
    torch.manual_seed(seed)
    (batch,) = normalized(synthetic_images(count, size, size))
    return batch


def resnet18(size: int) -> nn.Module:
    """ResNet-18 for images of ``size`` pixels a side."""
    torch.manual_seed(0)
    model = torchvision.models.resnet18(weights=None).eval()
    fit_batch_norm(model, (images(8, size, seed=1),))
    return model.eval()


class Encoder(nn.Module):
    """BERT's encoder: token numbers, ``Tensor[N, T]`` int64, to vectors, ``Tensor[N, T, hidden]``."""

    def __init__(self, *, small: bool) -> None:
        super().__init__()
        from transformers import BertConfig, BertModel

        torch.manual_seed(0)
        sizes: dict[str, Any] = (
            {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512}
            if small
            else {}
        )
        self.bert = BertModel(BertConfig(**sizes, attn_implementation="sdpa"), add_pooling_layer=False)

    def forward(self, tokens: Tensor) -> Tensor:
        result: Tensor = self.bert(tokens).last_hidden_state
        return result


def transformers(*, small: bool) -> dict[str, tuple[nn.Module, tuple[Tensor, ...]]]:
    """BERT-base and ViT-B/16, or in small form fewer layers of them, with the arguments of one call."""
    torch.manual_seed(0)
    tokens = torch.randint(0, 30_000, (1, 32 if small else 128))
    given: dict[str, int] = (
        {"image_size": 96, "patch_size": 16, "num_layers": 2, "num_heads": 2, "hidden_dim": 128, "mlp_dim": 512}
        if small
        else {
            "image_size": 224,
            "patch_size": 16,
            "num_layers": 12,
            "num_heads": 12,
            "hidden_dim": 768,
            "mlp_dim": 3072,
        }
    )
    vit = torchvision.models.VisionTransformer(**given)
    # Training starts this at zero, after which all models would agree.
    nn.init.normal_(vit.heads.head.weight, std=0.02)
    return {
        "BERT-base" + (", two layers of 128" if small else ""): (Encoder(small=small).eval(), (tokens,)),
        "ViT-B/16" + (", two layers of 128" if small else ""): (vit.eval(), (images(1, given["image_size"]),)),
    }

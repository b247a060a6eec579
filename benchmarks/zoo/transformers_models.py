"""transformers', smaller where a type has no small size of its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.zoo import Example, image

_TOKENS = 128
_LAYERS = 4

_TEXT = ("albert", "bert", "deberta-v2", "distilbert", "electra", "gpt2", "mpnet", "roberta", "t5")
_VISION = (
    "beit",
    "clip_vision_model",
    "convnext",
    "deit",
    "detr",
    "dinov2",
    "dpt",
    "mobilevit",
    "segformer",
    "swin",
    "vit",
    "yolos",
)
_SOUND = ("hubert", "wav2vec2")

#: The sizes of "base" where a configuration has larger ones of its own.
_BASE: dict[str, dict[str, Any]] = {
    "albert": {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072},
}

NAMES = _TEXT + _VISION + _SOUND


class _Tensors(nn.Module):
    """A model that returns the tensors of its output in a tuple."""

    def __init__(self, model: nn.Module, argument: str) -> None:
        super().__init__()
        self.model = model
        self.argument = argument

    def forward(self, x: Tensor) -> Any:
        outputs = self.model(**{self.argument: x}, return_dict=False)
        return tuple(output for output in outputs if isinstance(output, Tensor))


def build(name: str) -> Example:
    """A model of a configuration's type and 128 tokens, one image, or a second of sound."""
    import transformers

    given: dict[str, Any] = {"attn_implementation": "eager"} | _BASE.get(name, {})
    if name in _TEXT:
        given |= {"num_hidden_layers": _LAYERS, "use_cache": False} if name != "t5" else {"num_layers": _LAYERS}
    if name == "detr":
        given |= {"use_pretrained_backbone": False}
    config = transformers.AutoConfig.for_model(name, **given)
    if name == "t5":
        model: nn.Module = transformers.T5EncoderModel(config)
    elif name == "clip_vision_model":
        model = transformers.CLIPVisionModel(config)
    else:
        model = transformers.AutoModel.from_config(config)
    if name in _TEXT:
        tokens = torch.randint(5, config.vocab_size, (1, _TOKENS), generator=torch.Generator().manual_seed(0))
        return Example(_Tensors(model, "input_ids"), (tokens,))
    if name in _SOUND:
        return Example(_Tensors(model, "input_values"), (torch.randn(1, 16_000),))
    size = getattr(config, "image_size", 224) or 224
    return Example(_Tensors(model, "pixel_values"), (image(size if isinstance(size, int) else size[0]),))

"""timm's: what torchvision does not have."""

from __future__ import annotations

from benchmarks.zoo import Example, image

NAMES = (
    *(
        "beit_base_patch16_224",
        "botnet26t_256",
        "coatnet_0_rw_224",
        "convmixer_768_32",
        "convnextv2_tiny",
        "cspdarknet53",
    ),
    *("deit3_small_patch16_224", "dla34", "dpn68", "edgenext_small", "efficientvit_b0", "ghostnetv2_100", "hrnet_w18"),
    *(
        "levit_128s",
        "mixer_b16_224",
        "mobilevit_s",
        "nfnet_l0",
        "poolformer_s12",
        "pvt_v2_b0",
        "repvgg_a2",
        "res2net50_26w_4s",
    ),
    *("resnest50d", "rexnet_100", "seresnet50", "skresnet34", "tf_efficientnetv2_b0", "xception41"),
)


def build(name: str) -> Example:
    """A model of timm and one image of its size."""
    import timm

    model = timm.create_model(name, pretrained=False)
    return Example(model, (image(model.default_cfg.get("input_size", (3, 224, 224))[-1]),))

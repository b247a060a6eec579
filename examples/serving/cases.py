"""Requests with their right answers: what the model gives for each image alone, in this process."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from examples.retinanet.scenes import fixed_test_scenes
from examples.serving.client import Case
from examples.serving.images import FORMATS, Pixels, decode
from examples.serving.model import ServedModel
from examples.serving.settings import Refusal

_JPEG_QUALITY = 90


def encode(pixels: Pixels, content_type: str) -> bytes:
    """An image as a client sends it.

    Args:
        pixels: ``[H, W, 3]``, uint8, RGB.
        content_type: one of :data:`examples.serving.images.FORMATS`.
    """
    stream = io.BytesIO()
    if FORMATS[content_type] == "npy":
        np.save(stream, pixels)
    else:
        Image.fromarray(pixels).save(stream, FORMATS[content_type], quality=_JPEG_QUALITY)
    return stream.getvalue()


def make_cases(served: ServedModel, count: int, content_type: str = "image/jpeg") -> list[Case]:
    """The first test scenes with the detections that the model finds in each alone.

    Args:
        served: the model.
        count: scenes.
        content_type: format of the requests.
    """
    cases = []
    for scene in fixed_test_scenes(count):
        body = encode(scene.image.permute(1, 2, 0).contiguous().numpy(), content_type)
        image = decode(body, FORMATS[content_type], served.height, served.width)
        assert not isinstance(image, Refusal), image.sentence
        (rows,) = served.detect(image[None])
        cases.append(Case(body, content_type, rows[:, :4], rows[:, 4], rows[:, 5].astype(np.int64)))
    return cases

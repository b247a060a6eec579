"""Images as they come over HTTP, turned into arrays."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from examples.serving.settings import Refusal

Pixels = NDArray[np.uint8]

#: What clients may send, by ``Content-Type``, with the words that messages use.
FORMATS = {"image/png": "PNG", "image/jpeg": "JPEG", "application/x-npy": "npy"}

#: Content types that say nothing: the body's first bytes tell.
_UNTOLD = ("", "application/octet-stream")
_SIGNATURES = {b"\x89PNG\r\n\x1a\n": "PNG", b"\xff\xd8\xff": "JPEG", b"\x93NUMPY": "npy"}

_NPY_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def format_of(content_type: str, body: bytes) -> str | Refusal:
    """Which of :data:`FORMATS` a body is in, by its header or else by its first bytes.

    Args:
        content_type: the header's value; empty where there is none.
        body: of the request.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind in FORMATS:
        return FORMATS[kind]
    if kind in _UNTOLD:
        for signature, name in _SIGNATURES.items():
            if body.startswith(signature):
                return name
    got = kind if kind not in _UNTOLD else "a body that is none of these"
    return Refusal(415, f"the image must be PNG, JPEG or npy ({', '.join(FORMATS)}), got {got}")


def decode(body: bytes, name: str, height: int, width: int) -> Pixels | Refusal:
    """Decodes an image; most of the time is spent without Python's lock.

    Args:
        body: of the request.
        name: what :func:`format_of` said.
        height: that the image must have, in pixels.
        width: likewise.

    Returns:
        ``[height, width, 3]``, uint8, RGB, or why there is none.
    """
    return _read_npy(body, height, width) if name == "npy" else _read_picture(body, name, height, width)


def _read_npy(body: bytes, height: int, width: int) -> Pixels | Refusal:
    stream = io.BytesIO(body)
    try:
        shape, by_columns, dtype = _NPY_HEADERS[np.lib.format.read_magic(stream)](stream)
    except (ValueError, KeyError) as error:
        return Refusal(400, f"the body must be an array as numpy.save writes it, but its header is none: {error}")
    # Before anything is made of it, since the header alone says how large it would be.
    if shape != (height, width, 3) or dtype != np.uint8 or by_columns:
        order = " in Fortran's order" if by_columns else ""
        return Refusal(400, f"the array must be uint8 of shape ({height}, {width}, 3), got {dtype} of {shape}{order}")
    first, count = stream.tell(), height * width * 3
    if len(body) - first != count:
        return Refusal(400, f"the array must have {count} bytes after its header, got {len(body) - first}")
    return np.frombuffer(body, np.uint8, count, first).reshape(height, width, 3)


def _read_picture(body: bytes, name: str, height: int, width: int) -> Pixels | Refusal:
    try:
        # This reads the header only: a small file can be an image of gigabytes.
        with Image.open(io.BytesIO(body), formats=[name]) as picture:
            if picture.size != (width, height):
                got = f"{picture.width} x {picture.height}"
                return Refusal(400, f"the image must be {width} x {height} pixels, got {got}; resize it")
            return np.asarray(picture.convert("RGB"))
    # What Pillow raises of files that are damaged in one way or another.
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        return Refusal(400, f"the body must be a whole {name} image, but cannot be decoded ({type(error).__name__})")

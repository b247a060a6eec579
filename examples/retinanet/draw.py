"""Pictures of scenes with detections drawn on them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from examples.retinanet.evaluate import detect_scenes
from examples.retinanet.model import DEFAULT_CHECKPOINT, PlainDetector, load_digit_detector
from examples.retinanet.scenes import compose_scene

#: One colour a digit, told apart on light and dark grounds.
CLASS_COLOURS = (
    (230, 25, 75),
    (60, 180, 75),
    (255, 215, 25),
    (67, 99, 216),
    (245, 130, 49),
    (145, 30, 180),
    (66, 212, 244),
    (240, 50, 230),
    (128, 90, 40),
    (0, 128, 128),
)


def draw_detections(
    image: Tensor,
    boxes: Tensor,
    labels: Tensor,
    scores: Tensor | None = None,
    *,
    min_score: float = 0.5,
    scale: int = 2,
) -> Image.Image:
    """Draws boxes with their digit and score.

    Args:
        image: ``Tensor[3, H, W]``, uint8, RGB.
        boxes: ``Tensor[n, 4]``, xyxy pixels.
        labels: ``Tensor[n]``, digits.
        scores: ``Tensor[n]`` in 0..1, or None for ground truth.
        min_score: detections below are left out.
        scale: enlargement of the picture; the writing stays the same size.

    Returns:
        An RGB picture, ``scale`` times the scene.
    """
    picture = Image.fromarray(image.cpu().permute(1, 2, 0).contiguous().numpy())
    picture = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=26)
    tags: list[tuple[tuple[int, int, int, int], tuple[int, int, int], str]] = []
    for index, (box, label) in enumerate(zip(boxes.tolist(), labels.tolist(), strict=True)):
        score = None if scores is None else float(scores[index])
        if score is not None and score < min_score:
            continue
        colour = CLASS_COLOURS[int(label)]
        x1, y1, x2, y2 = (round(scale * value) for value in box)
        # A dark line around the coloured one keeps it visible on a ground of its own colour.
        draw.rectangle((x1 - 4, y1 - 4, x2 + 3, y2 + 3), outline=(0, 0, 0), width=5)
        draw.rectangle((x1 - 3, y1 - 3, x2 + 2, y2 + 2), outline=colour, width=3)
        text = str(int(label)) if score is None else f"{int(label)} {100 * score:.0f}%"
        tags.append(((x1 - 4, y1 - 4, x2 + 4, y2 + 4), colour, text))
    # Written last, so that no neighbour's box runs through a tag.
    for (x1, y1, _, y2), colour, text in tags:
        left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
        width, height = round(right - left) + 10, round(bottom - top) + 10
        tag_x = min(max(x1, 0), picture.width - width)
        tag_y = y1 - height if y1 >= height else min(y2, picture.height - height)
        draw.rectangle((tag_x, tag_y, tag_x + width, tag_y + height), fill=colour, outline=(0, 0, 0))
        luminance = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
        ink = (0, 0, 0) if luminance > 130 else (255, 255, 255)
        draw.text((tag_x + 5 - left, tag_y + 5 - top), text, font=font, fill=ink)
    return picture


def grid(pictures: Sequence[Image.Image], columns: int = 2, gap: int = 8) -> Image.Image:
    """Puts pictures of one size side by side, row by row, on white."""
    width, height = pictures[0].size
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * width + (columns - 1) * gap, rows * height + (rows - 1) * gap), (255, 255, 255))
    for index, picture in enumerate(pictures):
        sheet.paste(picture, ((index % columns) * (width + gap), (index // columns) * (height + gap)))
    return sheet


def main() -> None:
    """Draws the detections (or, with --truth, the ground truth) of test scenes as one PNG."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--truth", action="store_true")
    parser.add_argument("--checkpoint", type=Path, default=DEFAULT_CHECKPOINT)
    parser.add_argument("--min-score", type=float, default=0.5)
    parser.add_argument("--width", type=int, default=1200, help="of the PNG, in pixels")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    scenes = [compose_scene(seed, "test") for seed in args.seeds]
    pictures = []
    if args.truth:
        pictures = [draw_detections(scene.image, scene.boxes, scene.labels) for scene in scenes]
    else:
        with torch.inference_mode():
            found = detect_scenes(PlainDetector(load_digit_detector(args.checkpoint)), scenes)
        for scene, one in zip(scenes, found, strict=True):
            pictures.append(
                draw_detections(scene.image, one["boxes"], one["labels"], one["scores"], min_score=args.min_score)
            )
    sheet = grid(pictures, columns=min(2, len(pictures)))
    if sheet.width > args.width:
        sheet = sheet.resize((args.width, sheet.height * args.width // sheet.width), Image.Resampling.LANCZOS)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(args.out, optimize=True)


if __name__ == "__main__":
    main()

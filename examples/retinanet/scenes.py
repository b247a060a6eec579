"""Cluttered scenes composed of scikit-learn's handwritten digits, from a seed alone.

The digits are real scans (8 x 8, 17 grey levels). A fixed fifth of every class is kept for the test split, so no scan
is seen in training and in testing. A scene is a function of ``(seed, split)``, bit for bit on any machine, as far as
numpy allows. That is why only arithmetic is used here that IEEE 754 fixes (separate ``+ - * /`` and ``sqrt`` ufuncs,
integer sums, the frozen ``RandomState`` streams) and no image library: resizing and warping differ between versions of
those, and vectorised ``sin`` and float sums differ between processors.
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Split = Literal["train", "test"]
FloatArray = NDArray[np.float32]

#: Not square, so that swapped axes show; both divisible by 128, the coarsest stride of the detector.
SCENE_HEIGHT, SCENE_WIDTH = 384, 512
NUM_CLASSES = 10
MIN_DIGITS, MAX_DIGITS = 3, 12
#: Of every class, each such scan (in the order of the data set) belongs to the test split.
TEST_EVERY = 5
NUM_TEST_SCENES = 256
#: A pixel is ink, and so inside the box, if the digit covers it at least this much.
INK_COVERAGE = 0.5

# Each scan is padded by two cells and enlarged eight times once; the rest is bilinear sampling of that surface.
_CELLS, _PAD, _ZOOM = 8, 2, 8
_GLYPH_SIDE = (_CELLS + 2 * _PAD) * _ZOOM
_LUMA = (0.299, 0.587, 0.114)


class Scene(NamedTuple):
    """A picture and the digits in it.

    Attributes:
        image: ``Tensor[3, 384, 512]``, uint8, RGB.
        boxes: ``Tensor[n, 4]``, float32, xyxy pixels, tight around the ink; x2 and y2 are exclusive.
        labels: ``Tensor[n]``, int64, the digits, 0 to 9.
    """

    image: Tensor
    boxes: Tensor
    labels: Tensor


@dataclass(frozen=True)
class _Variation:
    """How far digits and pictures vary; training varies more than testing, on both sides of it."""

    max_rotation_deg: float
    max_shear: float
    max_stretch: float
    min_contrast: float
    scan_noise: float
    colour_jitter: float


_VARIATION: dict[Split, _Variation] = {
    "train": _Variation(18.0, 0.25, 0.18, 72.0, 1.5, 0.25),
    "test": _Variation(10.0, 0.12, 0.10, 85.0, 0.0, 0.0),
}
_SPLIT_CODE: dict[Split, int] = {"train": 1, "test": 2}


class _Placed(NamedTuple):
    """A digit's coverage and where its window's top left pixel is in the scene."""

    coverage: FloatArray
    top: int
    left: int
    box: tuple[int, int, int, int]
    label: int


@functools.cache
def _scans() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return np.asarray(bunch.images, np.float64), np.asarray(bunch.target, np.int64)


@functools.cache
def split_indices(split: Split) -> tuple[int, ...]:
    """Indices into ``load_digits()`` of a split's scans, stratified by class; the two splits share none."""
    _, labels = _scans()
    chosen: list[int] = []
    for digit in range(NUM_CLASSES):
        of_class = np.flatnonzero(labels == digit)
        is_test = np.arange(len(of_class)) % TEST_EVERY == TEST_EVERY - 1
        chosen.extend(int(index) for index in of_class[is_test if split == "test" else ~is_test])
    return tuple(sorted(chosen))


@functools.cache
def _cubic_matrix() -> NDArray[np.float64]:
    """Catmull-Rom weights that enlarge the padded scan, ``[96, 12]``.

    Their denominators are powers of two and so small that every product and sum below is exact in float64: the matrix
    product gives the same bits whatever the BLAS.
    """
    cells = _CELLS + 2 * _PAD
    weights = np.zeros((_GLYPH_SIDE, cells))
    for row in range(_GLYPH_SIDE):
        position = (row + 0.5) / _ZOOM - 0.5
        first = math.floor(position)
        t = position - first
        taps = (
            -0.5 * t**3 + t**2 - 0.5 * t,
            1.5 * t**3 - 2.5 * t**2 + 1.0,
            -1.5 * t**3 + 2.0 * t**2 + 0.5 * t,
            0.5 * t**3 - 0.5 * t**2,
        )
        for offset, tap in enumerate(taps):
            cell = first - 1 + offset
            if 0 <= cell < cells:
                weights[row, cell] += tap
    return weights


def _enlarge(scan: NDArray[np.float64]) -> FloatArray:
    padded = np.zeros((_CELLS + 2 * _PAD, _CELLS + 2 * _PAD))
    padded[_PAD:-_PAD, _PAD:-_PAD] = scan
    weights = _cubic_matrix()
    return (weights @ padded @ weights.T).astype(np.float32)


def _warp(surface: FloatArray, inverse: NDArray[np.float32], height: int, width: int) -> FloatArray:
    """Samples ``surface`` bilinearly at ``inverse @ (pixel - window centre) + surface centre``."""
    x = (np.arange(width, dtype=np.float32) + np.float32(0.5 - width / 2))[None, :]
    y = (np.arange(height, dtype=np.float32) + np.float32(0.5 - height / 2))[:, None]
    centre = np.float32(_GLYPH_SIDE / 2 - 0.5)
    limit = np.float32(_GLYPH_SIDE - 1.001)
    u = np.clip(inverse[0, 0] * x + inverse[0, 1] * y + centre, 0, limit)
    v = np.clip(inverse[1, 0] * x + inverse[1, 1] * y + centre, 0, limit)
    column, row = u.astype(np.int32), v.astype(np.int32)
    u -= column
    v -= row
    row *= _GLYPH_SIDE
    row += column
    flat = surface.reshape(-1)
    upper: FloatArray = flat[row]
    upper += u * (flat[row + 1] - upper)
    row += _GLYPH_SIDE
    lower = flat[row]
    lower += u * (flat[row + 1] - lower)
    lower -= upper
    lower *= v
    upper += lower
    return upper


def _rounded(value: float) -> float:
    """Drops the digits in which one C library's sine may differ from another's."""
    return round(value, 6)


def _render_digit(rng: np.random.RandomState, index: int, variation: _Variation) -> tuple[FloatArray, int]:
    """Coverage of one digit, ``[h, w]`` in 0..1, cropped to the ink's surroundings, and its label."""
    scans, labels = _scans()
    scan = scans[index]
    if variation.scan_noise:
        noise = rng.uniform(-variation.scan_noise, variation.scan_noise, scan.shape)
        scan = np.clip(np.round(scan + noise * (scan > 0)), 0, 16)
    # Uniform in the logarithm: sizes of every octave are equally common.
    height_px = 21.0 * (142.0 / 21.0) ** rng.uniform()
    angle = math.radians(rng.uniform(-variation.max_rotation_deg, variation.max_rotation_deg))
    shear = rng.uniform(-variation.max_shear, variation.max_shear)
    stretch = 1.0 + rng.uniform(-variation.max_stretch, variation.max_stretch)
    cos, sin = _rounded(math.cos(angle)), _rounded(math.sin(angle))
    scale = _rounded(height_px / (_CELLS * _ZOOM))
    forward = scale * np.array([[cos * stretch, cos * shear - sin], [sin * stretch, sin * shear + cos]])
    determinant = forward[0, 0] * forward[1, 1] - forward[0, 1] * forward[1, 0]
    inverse = np.array([[forward[1, 1], -forward[0, 1]], [-forward[1, 0], forward[0, 0]]]) / determinant
    half = _CELLS * _ZOOM / 2 + 3
    width = 2 * math.ceil(half * (abs(forward[0, 0]) + abs(forward[0, 1])))
    height = 2 * math.ceil(half * (abs(forward[1, 0]) + abs(forward[1, 1])))
    value = _warp(_enlarge(scan), inverse.astype(np.float32), height, width)
    # A soft threshold turns the grey surface into a pen stroke; its width makes the edge crisp or blurred.
    middle = np.float32(rng.uniform(6.0, 8.0))
    slope = np.float32(1.0 / rng.uniform(3.0, 8.0))
    value -= middle
    value *= slope
    value += np.float32(INK_COVERAGE)
    return np.clip(value, 0, 1, out=value), int(labels[index])


def _ink_box(coverage: FloatArray) -> tuple[int, int, int, int] | None:
    ink = coverage >= INK_COVERAGE
    columns, rows = np.flatnonzero(ink.any(axis=0)), np.flatnonzero(ink.any(axis=1))
    if len(columns) == 0:
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _overlap(box: tuple[int, int, int, int], other: tuple[int, int, int, int], margin: int) -> float:
    """Shared area, in parts of the smaller box; ``box`` is grown by ``margin`` pixels first."""
    width = min(box[2] + margin, other[2]) - max(box[0] - margin, other[0])
    height = min(box[3] + margin, other[3]) - max(box[1] - margin, other[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (box, other)]
    return width * height / min(areas)


def _place_digits(rng: np.random.RandomState, split: Split) -> list[_Placed]:
    pool = split_indices(split)
    placed: list[_Placed] = []
    for _ in range(rng.randint(MIN_DIGITS, MAX_DIGITS + 1)):
        coverage, label = _render_digit(rng, pool[rng.randint(len(pool))], _VARIATION[split])
        ink = _ink_box(coverage)
        if ink is None:
            continue
        pad = 2
        window = coverage[max(ink[1] - pad, 0) : ink[3] + pad, max(ink[0] - pad, 0) : ink[2] + pad]
        height, width = window.shape
        offset_x, offset_y = ink[0] - max(ink[0] - pad, 0), ink[1] - max(ink[1] - pad, 0)
        for _attempt in range(12):
            left, top = rng.randint(SCENE_WIDTH - width), rng.randint(SCENE_HEIGHT - height)
            x1, y1 = left + offset_x, top + offset_y
            box = (x1, y1, x1 + ink[2] - ink[0], y1 + ink[3] - ink[1])
            if all(_overlap(box, other.box, margin=3) <= 0.04 for other in placed):
                placed.append(_Placed(window, top, left, box, label))
                break
    return placed


def _double(grid: FloatArray) -> FloatArray:
    """Enlarges twice along both axes with weights 3/4 and 1/4; repeated, it tends to a quadratic spline."""
    for axis in (0, 1):
        grid = np.moveaxis(grid, axis, 0)
        before = np.concatenate([grid[:1], grid[:-1]])
        after = np.concatenate([grid[1:], grid[-1:]])
        core = grid * np.float32(0.75)
        doubled = np.empty((2 * len(grid), *grid.shape[1:]), np.float32)
        doubled[0::2] = core + before * np.float32(0.25)
        doubled[1::2] = core + after * np.float32(0.25)
        grid = np.moveaxis(doubled, 0, axis)
    return np.ascontiguousarray(grid)


def _noise(rng: np.random.RandomState) -> FloatArray:
    """Noise of several octaves, roughly in -1..1, ``[384, 512]``."""
    persistence = np.float32(rng.uniform(0.35, 0.75))
    amplitude = np.float32(1.0)
    grid = rng.uniform(-1, 1, (3, 4)).astype(np.float32)
    while grid.shape[0] < SCENE_HEIGHT:
        grid = _double(grid)
        amplitude *= persistence
        if grid.shape[0] < SCENE_HEIGHT:
            grid += amplitude * rng.uniform(-1, 1, grid.shape).astype(np.float32)
    return grid


def _luminance(colour: NDArray[np.float64] | NDArray[np.float32]) -> float:
    return float(colour[0] * _LUMA[0] + colour[1] * _LUMA[1] + colour[2] * _LUMA[2])


def _colour(rng: np.random.RandomState, luminance: float, chroma: float) -> NDArray[np.float64]:
    """A random RGB colour of about the luminance asked for, in 0..255."""
    tint = rng.uniform(-chroma, chroma, 3)
    return np.clip(luminance + tint - _luminance(tint), 0, 255)


def _background(rng: np.random.RandomState) -> FloatArray:
    x = np.arange(SCENE_WIDTH, dtype=np.float32)[None, :]
    y = np.arange(SCENE_HEIGHT, dtype=np.float32)[:, None]
    texture = _noise(rng)
    texture *= np.float32(rng.uniform(0.3, 1.0))
    if rng.uniform() < 0.6:
        slope_x, slope_y = rng.uniform(-0.9, 0.9, 2)
        texture += np.float32(slope_x / SCENE_WIDTH) * x + np.float32(slope_y / SCENE_HEIGHT) * y
    if rng.uniform() < 0.5:
        period = rng.uniform(7, 60)
        slant = rng.uniform(-1, 1)
        along = (np.float32(slant / period) * x, np.float32(1 / period) * y)
        if rng.uniform() < 0.5:
            along = (np.float32(1 / period) * x, np.float32(slant / period) * y)
        phase = along[0] + along[1]
        phase -= np.floor(phase)
        wave = np.abs(phase - np.float32(0.5))
        if rng.uniform() < 0.5:
            wave = np.clip((wave - np.float32(0.25)) * np.float32(6.0) + np.float32(0.25), 0, np.float32(0.5))
        texture += np.float32(rng.uniform(0.3, 1.2)) * wave
    np.clip(texture, -1, 1, out=texture)
    luminance = rng.uniform(35, 220)
    contrast = rng.uniform(8, 38) * (1 if rng.uniform() < 0.5 else -1)
    dark, light = _colour(rng, luminance - contrast, 45), _colour(rng, luminance + contrast, 45)
    image = np.empty((3, SCENE_HEIGHT, SCENE_WIDTH), np.float32)
    for channel in range(3):
        span = (light[channel] - dark[channel]) / 2
        np.multiply(texture, np.float32(span), out=image[channel])
        image[channel] += np.float32(dark[channel] + span)
    return image


def _paint(image: FloatArray, coverage: FloatArray, top: int, left: int, colour: NDArray[np.float64]) -> None:
    window = image[:, top : top + coverage.shape[0], left : left + coverage.shape[1]]
    for channel in range(3):
        change = np.float32(colour[channel]) - window[channel]
        change *= coverage
        window[channel] += change


Points = list[tuple[float, float]]


def _bounds(points: Points, margin: float) -> tuple[int, int, int, int]:
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    return (
        max(math.floor(min(xs) - margin), 0),
        max(math.floor(min(ys) - margin), 0),
        min(math.ceil(max(xs) + margin), SCENE_WIDTH),
        min(math.ceil(max(ys) + margin), SCENE_HEIGHT),
    )


def _stroke_coverage(bounds: tuple[int, int, int, int], points: Points, radius: float) -> FloatArray:
    """A polyline drawn with a round pen."""
    coverage = np.zeros((bounds[3] - bounds[1], bounds[2] - bounds[0]), np.float32)
    for (x1, y1), (x2, y2) in itertools.pairwise(points):
        part = _bounds([(x1, y1), (x2, y2)], radius + 1)
        if part[2] <= part[0] or part[3] <= part[1]:
            continue
        x = np.arange(part[0], part[2], dtype=np.float32)[None, :] + np.float32(0.5 - x1)
        y = np.arange(part[1], part[3], dtype=np.float32)[:, None] + np.float32(0.5 - y1)
        dx, dy = x2 - x1, y2 - y1
        square = max(dx * dx + dy * dy, 1e-6)
        along = np.clip(np.float32(dx / square) * x + np.float32(dy / square) * y, 0, 1)
        across_x = x - np.float32(dx) * along
        across_y = y - np.float32(dy) * along
        across_x *= across_x
        across_y *= across_y
        across_x += across_y
        distance = np.sqrt(across_x, out=across_x)
        alpha = np.clip(np.float32(radius + 0.5) - distance, 0, 1)
        window = coverage[part[1] - bounds[1] : part[3] - bounds[1], part[0] - bounds[0] : part[2] - bounds[0]]
        np.maximum(window, alpha, out=window)
    return coverage


def _polygon_coverage(bounds: tuple[int, int, int, int], points: Points) -> FloatArray:
    """A filled convex polygon, corners in the order in which y, pointing down, makes them clockwise."""
    x = np.arange(bounds[0], bounds[2], dtype=np.float32)[None, :] + np.float32(0.5)
    y = np.arange(bounds[1], bounds[3], dtype=np.float32)[:, None] + np.float32(0.5)
    inside = np.full((bounds[3] - bounds[1], bounds[2] - bounds[0]), 1e6, np.float32)
    for (x1, y1), (x2, y2) in zip(points, points[1:] + points[:1], strict=True):
        length = max(math.sqrt((x2 - x1) ** 2 + (y2 - y1) ** 2), 1e-6)
        normal_x, normal_y = -(y2 - y1) / length, (x2 - x1) / length
        edge = np.float32(normal_x) * x + np.float32(normal_y) * y
        edge -= np.float32(normal_x * x1 + normal_y * y1)
        np.minimum(inside, edge, out=inside)
    inside += np.float32(0.5)
    return np.clip(inside, 0, 1, out=inside)


def _disc_coverage(bounds: tuple[int, int, int, int], centre: tuple[float, float], radius: float) -> FloatArray:
    x = np.arange(bounds[0], bounds[2], dtype=np.float32)[None, :] + np.float32(0.5 - centre[0])
    y = np.arange(bounds[1], bounds[3], dtype=np.float32)[:, None] + np.float32(0.5 - centre[1])
    coverage: FloatArray = np.clip(np.float32(radius + 0.5) - np.sqrt(x * x + y * y), 0, 1)
    return coverage


def _regular_polygon(centre: tuple[float, float], radius: float, corners: int, turn: float) -> Points:
    angles = [turn + 2 * math.pi * corner / corners for corner in range(corners)]
    return [
        (_rounded(centre[0] + radius * math.cos(angle)), _rounded(centre[1] + radius * math.sin(angle)))
        for angle in angles
    ]


def _draw_patches(rng: np.random.RandomState, image: FloatArray) -> None:
    """Large faint polygons under everything else."""
    for _ in range(rng.randint(0, 4)):
        centre = (rng.uniform(0, SCENE_WIDTH), rng.uniform(0, SCENE_HEIGHT))
        points = _regular_polygon(centre, rng.uniform(50, 150), rng.randint(3, 6), rng.uniform(0, 6.2))
        bounds = _bounds(points, 1)
        coverage = _polygon_coverage(bounds, points)
        coverage *= np.float32(rng.uniform(0.08, 0.22))
        _paint(image, coverage, bounds[1], bounds[0], _colour(rng, rng.uniform(30, 225), 60))


def _distractor_points(rng: np.random.RandomState, kind: int) -> tuple[Points, float]:
    """Points and pen radius of a stroke; nothing that could be read as a digit (no rings, no short upright bars)."""
    centre = (rng.uniform(20, SCENE_WIDTH - 20), rng.uniform(20, SCENE_HEIGHT - 20))
    turn = rng.uniform(0, 6.2)
    cos, sin = _rounded(math.cos(turn)), _rounded(math.sin(turn))
    if kind == 0:  # a long line
        length = rng.uniform(90, 240)
        ends = [(-length, 0.0), (length, 0.0)]
        radius = rng.uniform(0.8, 3.0)
    elif kind == 1:  # a zigzag of many teeth
        step, amplitude = rng.uniform(8, 22), rng.uniform(5, 16)
        teeth = rng.randint(6, 11)
        ends = [((tooth - teeth / 2) * step, amplitude if tooth % 2 else -amplitude) for tooth in range(teeth)]
        radius = rng.uniform(1.0, 3.5)
    else:  # a cross, drawn as one stroke out and back
        arm = rng.uniform(8, 40)
        ends = [(-arm, 0.0), (arm, 0.0), (0.0, 0.0), (0.0, -arm), (0.0, arm)]
        radius = rng.uniform(1.0, 1.0 + arm / 9)
    points = [(centre[0] + cos * x - sin * y, centre[1] + sin * x + cos * y) for x, y in ends]
    return points, radius


def _draw_distractors(rng: np.random.RandomState, image: FloatArray, digits: list[_Placed]) -> None:
    """Strokes and solid shapes as strong as the digits; only the long lines may pass under a digit."""
    taken = np.zeros((SCENE_HEIGHT, SCENE_WIDTH), np.bool_)
    for digit in digits:
        x1, y1, x2, y2 = digit.box
        taken[max(y1 - 2, 0) : y2 + 2, max(x1 - 2, 0) : x2 + 2] = True
    for _ in range(rng.randint(4, 14)):
        kind = rng.randint(5)
        if kind < 3:
            points, radius = _distractor_points(rng, kind)
            bounds = _bounds(points, radius + 1)
            coverage = _stroke_coverage(bounds, points, radius)
        else:
            centre = (rng.uniform(0, SCENE_WIDTH), rng.uniform(0, SCENE_HEIGHT))
            radius = _rounded(7.0 * 5.0 ** rng.uniform())
            points = _regular_polygon(centre, radius, rng.randint(3, 6), rng.uniform(0, 6.2))
            bounds = _bounds(points, 1)
            coverage = _polygon_coverage(bounds, points) if kind == 3 else _disc_coverage(bounds, centre, radius)
        colour = _contrasting(rng, _mean_luminance(image, bounds), 60.0)
        # A shape that would touch a digit is left out whole: one cut off at a box would give the box away.
        covers = taken[bounds[1] : bounds[3], bounds[0] : bounds[2]] & (coverage > 0)
        if kind == 0 or not covers.any():
            _paint(image, coverage, bounds[1], bounds[0], colour)


def _mean_luminance(image: FloatArray, bounds: tuple[int, int, int, int]) -> float:
    """Mean luminance of a window from integer sums, which no processor rounds differently."""
    window = image[:, bounds[1] : bounds[3] : 2, bounds[0] : bounds[2] : 2].astype(np.int64)
    count = max(window.shape[1] * window.shape[2], 1)
    red, green, blue = (float(window[channel].sum()) for channel in range(3))
    mean: float = (red * 299 + green * 587 + blue * 114) / (1000 * count)
    return mean


def _contrasting(rng: np.random.RandomState, background: float, min_contrast: float) -> NDArray[np.float64]:
    """A colour whose luminance differs from the background's by at least ``min_contrast``."""
    up, down = 255.0 - background, background
    lighter = up > down if min(up, down) < min_contrast + 5 else rng.uniform() < 0.5
    room = up if lighter else down
    contrast = rng.uniform(min_contrast, max(room, min_contrast + 1))
    return _colour(rng, background + contrast if lighter else background - contrast, 70)


def _jitter(rng: np.random.RandomState, image: FloatArray, strength: float) -> None:
    """Brightness, contrast and colour balance of the whole picture."""
    for channel in range(3):
        gain = 1.0 + rng.uniform(-strength, strength)
        shift = rng.uniform(-60, 60) * strength - 128 * (gain - 1)
        image[channel] *= np.float32(gain)
        image[channel] += np.float32(shift)


def _compose(seed: int, split: Split) -> tuple[Scene, FloatArray]:
    """The scene, and how much of each pixel the digits cover, ``[384, 512]``."""
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
    variation = _VARIATION[split]
    rng = np.random.RandomState([_SPLIT_CODE[split], seed & 0xFFFFFFFF, seed >> 32])
    image = _background(rng)
    _draw_patches(rng, image)
    digits = _place_digits(rng, split)
    _draw_distractors(rng, image, digits)
    covered = np.zeros((SCENE_HEIGHT, SCENE_WIDTH), np.float32)
    for digit in digits:
        ink = _contrasting(rng, _mean_luminance(image, digit.box), variation.min_contrast)
        _paint(image, digit.coverage, digit.top, digit.left, ink)
        height, width = digit.coverage.shape
        window = covered[digit.top : digit.top + height, digit.left : digit.left + width]
        np.maximum(window, digit.coverage, out=window)
    if variation.colour_jitter:
        _jitter(rng, image, variation.colour_jitter)
    grain = rng.randint(0, 256, (SCENE_HEIGHT, SCENE_WIDTH), dtype=np.uint8).astype(np.float32)
    grain -= np.float32(127.5)
    grain *= np.float32(rng.uniform(0.0, 0.10))
    image += grain
    np.clip(image, 0, 255, out=image)
    scene = Scene(
        image=torch.from_numpy(image.astype(np.uint8)),
        boxes=torch.tensor([digit.box for digit in digits], dtype=torch.float32).reshape(-1, 4),
        labels=torch.tensor([digit.label for digit in digits], dtype=torch.int64),
    )
    return scene, covered


def compose_scene(seed: int, split: Split) -> Scene:
    """Composes one scene; the same arguments give the same bits.

    Args:
        seed: any number from 0 to 2**63 - 1.
        split: whose scans to use; "train" also varies size, shape and colour more than "test".

    Returns:
        The scene, with 3 to 12 digits (fewer where no room was found).
    """
    return _compose(seed, split)[0]


def fixed_test_scenes(count: int = NUM_TEST_SCENES) -> list[Scene]:
    """The first ``count`` scenes of the fixed test set, seeds 0 and up."""
    return [compose_scene(seed, "test") for seed in range(count)]

"""A device that is emulated: memory with guards around it, and the plugins' launchers as Python functions."""

from __future__ import annotations

import ctypes
import math
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

INT32, INT64, FLOAT, POINTER = ctypes.c_int32, ctypes.c_int64, ctypes.c_float, ctypes.c_void_p

GUARD_BYTES = 256
GUARD = 0xA5

#: What is inlined in kernels.
_OWN = ("runtime.h", "device_functions.h")

BOX_CONVENTIONS = ("retinanet_examples", "torchvision", "detectron2")


class _HeadLevel(ctypes.Structure):
    _fields_ = (
        *((name, INT64) for name in ("num_anchors", "num_classes", "height", "width")),
        ("stride", INT32),
        *((name, FLOAT) for name in ("image_height", "image_width")),
        *((name, POINTER) for name in ("scores", "deltas", "anchors")),
    )


class _Heads(ctypes.Structure):
    _fields_ = (
        ("type", INT32),
        ("batch", INT64),
        ("num_levels", INT32),
        ("levels", _HeadLevel * 8),
        ("image_sizes", POINTER),
        ("image_sizes_are_integers", ctypes.c_bool),
    )


class _CandidateOptions(ctypes.Structure):
    _fields_ = (("topk", INT32), ("score_thresh", FLOAT), ("convention", INT32), ("activation", INT32))


class _NmsOptions(ctypes.Structure):
    _fields_ = (("nms_thresh", FLOAT), ("max_detections", INT32), ("convention", INT32))


class _NmsShape(ctypes.Structure):
    _fields_ = (("batch", INT64), ("candidates", INT64))


class _GroupNormShape(ctypes.Structure):
    _fields_ = tuple((name, INT64) for name in ("batch", "channels", "spatial", "num_groups"))


class _Detections(ctypes.Structure):
    _fields_ = tuple((name, POINTER) for name in ("scores", "boxes", "classes", "counts"))


@dataclass(frozen=True)
class Level:
    """One level's heads: scores ``[N, A * C, H, W]``, deltas ``[N, A * 4, H, W]``, anchors ``[A, 4]``."""

    scores: Tensor
    deltas: Tensor
    anchors: Tensor
    stride: int


@dataclass(frozen=True)
class Candidates:
    """Which candidates are taken; the names are those of tests/reference."""

    topk_candidates: int = 50
    score_thresh: float = 0.05
    box_convention: str = "retinanet_examples"
    is_sigmoid: bool = False
    #: Height and width, or None for the grid's extent.
    image_size: tuple[int, int] | None = None
    #: ``[N, 2]``, float32 or int32.
    image_sizes: Tensor | None = None


@dataclass(frozen=True)
class Suppression:
    """As in tests/reference."""

    nms_thresh: float = 0.5
    max_detections_per_image: int = 20
    box_convention: str = "retinanet_examples"


class Memory:
    """What one call may access; everything that it writes is nonsense before."""

    def __init__(self, library: Any, seed: int) -> None:
        self._library = library
        # NaN in one, and large numbers in the other.
        self._nonsense = 0xCD if seed % 2 == 0 else 0xFF
        self._guarded: list[tuple[str, Tensor, int, int]] = []

    def _add(self, name: str, size_bytes: int, misalignment: int, writable: bool) -> Tensor:
        whole = torch.full((size_bytes + 2 * GUARD_BYTES + 256,), GUARD, dtype=torch.uint8)
        start = -(whole.data_ptr() + GUARD_BYTES) % 256 + GUARD_BYTES + misalignment
        self._guarded.append((name, whole, start, start + size_bytes))
        inside = whole[start : start + size_bytes]
        self._library.emulation_add_buffer(name.encode(), inside.data_ptr(), size_bytes, int(writable))
        return inside

    def read(self, name: str, values: Tensor, misalignment: int = 0) -> int:
        """Address of a copy, so many elements past a multiple of 256 bytes."""
        size = values.element_size()
        inside = self._add(name, values.numel() * size, misalignment * size, writable=False)
        inside.copy_(values.contiguous().reshape(-1).view(torch.uint8))
        return inside.data_ptr()

    def write(self, name: str, shape: Sequence[int], dtype: torch.dtype, misalignment: int = 0) -> Tensor:
        size = dtype.itemsize
        inside = self._add(name, math.prod(shape) * size, misalignment * size, writable=True)
        return inside.fill_(self._nonsense).view(dtype).view(tuple(shape))

    def check_guards(self) -> None:
        for name, whole, start, end in self._guarded:
            assert (whole[:start] == GUARD).all(), f"something was written before the start of {name!r}"
            assert (whole[end:] == GUARD).all(), f"something was written past the end of {name!r}"


def _element_type(tensor: Tensor) -> int:
    return {torch.float32: 0, torch.float16: 1}[tensor.dtype]


@dataclass
class EmulatedDevice:
    """Launches on a device of its own.

    Args:
        library: of :func:`tests.emulation.build.build`.
        multiprocessors: how many it has; cooperative grids have as many blocks.
        capability: compute capability times ten.
        seed: order of threads and blocks: 0 forwards, 1 backwards, even numbers anyone's turn, odd ones whoever can run
            last, so that some threads are as far ahead as they can be.
    """

    library: Path
    multiprocessors: int = 2
    capability: int = 90
    seed: int = 0
    _loaded: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # Launchers keep what they know of a device: another device needs another copy of them.
        with tempfile.NamedTemporaryFile(suffix=".so") as copy:
            shutil.copyfile(self.library, copy.name)
            self._loaded = ctypes.CDLL(copy.name)
        self._loaded.emulation_take_failure.restype = ctypes.c_char_p
        self._loaded.emulation_add_buffer.argtypes = [ctypes.c_char_p, POINTER, ctypes.c_size_t, ctypes.c_int]
        self._loaded.emulation_set_device(self.multiprocessors, self.capability)

    def memory(self) -> Memory:
        """For one launch; the last one's is forgotten."""
        self._loaded.emulation_clear_buffers()
        return Memory(self._loaded, self.seed)

    def launch(self, memory: Memory, launcher: str, *arguments: object) -> None:
        """Calls ``launcher`` of the library; a RuntimeError says what is wrong with a kernel."""
        self._loaded.emulation_set_seed(self.seed)
        status = getattr(self._loaded, launcher)(*arguments)
        failure = self._loaded.emulation_take_failure().decode()
        self._loaded.emulation_clear_buffers()
        if failure:
            raise RuntimeError(f"{launcher}: {self._with_names(failure)}")
        if status != 0:
            raise RuntimeError(f"{launcher}: CUDA error {status}")
        memory.check_guards()

    def _with_names(self, failure: str) -> str:
        """``failure`` with the sources' names for places in the library."""

        def name(match: re.Match[str]) -> str:
            command = ["addr2line", "-Cfsie", str(self.library), match[1]]
            try:
                lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")
            except (FileNotFoundError, subprocess.CalledProcessError):
                return match[0]
            # Functions and lines by turns, from the innermost that was inlined on.
            frames = [frame for frame in zip(lines[::2], lines[1::2], strict=False) if not frame[1].startswith(_OWN)]
            function, line = frames[0] if frames else lines[:2]
            return f"{line} ({re.sub(r'torch_trt_ext::plugins::|[(]anonymous namespace[)]::', '', function)})"

        return re.sub(r"library\+(0x[0-9a-f]+)", name, failure)

    def _scratch(self, memory: Memory, sizer: str, *arguments: object) -> ctypes.c_void_p:
        size_bytes = getattr(self._loaded, sizer)
        size_bytes.restype = ctypes.c_size_t
        return POINTER(memory.write("workspace", [size_bytes(*arguments)], torch.uint8).data_ptr())

    def sigmoid(self, logits: Tensor) -> Tensor:
        """1 / (1 + exp(-x)) with the exp that emulated kernels have, in float32."""
        logits = logits.float().contiguous()
        scores = torch.empty_like(logits)
        self._loaded.sigmoid(POINTER(logits.data_ptr()), POINTER(scores.data_ptr()), INT64(logits.numel()))
        return scores

    def leaky_relu(
        self, x: Tensor, neg_slope: float, *, misalignments: tuple[int, int] = (0, 0), in_place: bool = False
    ) -> Tensor:
        """``misalignments`` are the input's and the output's, in elements."""
        memory = self.memory()
        output = memory.write("output", x.shape, x.dtype, misalignments[1])
        if in_place:
            output.copy_(x)
        source = output.data_ptr() if in_place else memory.read("input", x, misalignments[0])
        arguments = (POINTER(source), POINTER(output.data_ptr()), INT64(x.numel()), FLOAT(neg_slope), _element_type(x))
        self.launch(memory, "leaky_relu", *arguments)
        return output.clone()

    def group_norm(
        self,
        x: Tensor,
        scale: Tensor,
        bias: Tensor,
        num_groups: int,
        *,
        eps: float = 1e-5,
        variant: int = 0,
        misalignments: tuple[int, int] = (0, 0),
    ) -> Tensor:
        """``x`` is ``[N, C, S]``; ``misalignments`` are the input's and the output's, in elements."""
        memory = self.memory()
        shape = _GroupNormShape(*x.shape, num_groups)
        output = memory.write("output", x.shape, x.dtype, misalignments[1])
        self.launch(
            memory,
            "group_norm",
            ctypes.byref(shape),
            FLOAT(eps),
            POINTER(memory.read("scale", scale, 1)),
            POINTER(memory.read("bias", bias, 1)),
            _element_type(scale),
            variant,
            POINTER(memory.read("input", x, misalignments[0])),
            POINTER(output.data_ptr()),
            _element_type(x),
            self._scratch(memory, "group_norm_bytes", ctypes.byref(shape)),
        )
        return output.clone()

    def _heads(self, memory: Memory, levels: Sequence[Level], options: Candidates, misalignment: int) -> _Heads:
        heads = _Heads(type=_element_type(levels[0].scores), batch=levels[0].scores.shape[0], num_levels=len(levels))
        for number, level in enumerate(levels):
            anchors, (_, channels, height, width) = level.anchors.shape[0], level.scores.shape
            image_size = options.image_size or (height * level.stride, width * level.stride)
            heads.levels[number] = _HeadLevel(
                anchors,
                channels // anchors,
                height,
                width,
                level.stride,
                *image_size,
                memory.read(f"scores {number}", level.scores, misalignment),
                memory.read(f"deltas {number}", level.deltas, misalignment),
                memory.read(f"anchors {number}", level.anchors),
            )
        if options.image_sizes is not None:
            heads.image_sizes = memory.read("image sizes", options.image_sizes)
            heads.image_sizes_are_integers = options.image_sizes.dtype == torch.int32
        return heads

    def decode(self, levels: Sequence[Level], options: Candidates, *, misalignment: int = 0) -> list[Tensor]:
        """Scores ``[N, L * K]``, boxes ``[N, L * K, 4]`` and classes ``[N, L * K]``."""
        memory = self.memory()
        heads = self._heads(memory, levels, options, misalignment)
        count = len(levels) * options.topk_candidates
        shapes = {"scores": (heads.batch, count), "boxes": (heads.batch, count, 4), "classes": (heads.batch, count)}
        outputs = [memory.write(name, shape, torch.float32) for name, shape in shapes.items()]
        self.launch(
            memory,
            "decode",
            ctypes.byref(heads),
            ctypes.byref(_candidate_options(options)),
            *(POINTER(output.data_ptr()) for output in outputs),
            self._scratch(memory, "decode_bytes", ctypes.byref(heads), options.topk_candidates),
        )
        return [output.clone() for output in outputs]

    def nms(self, candidates: Sequence[Tensor], options: Suppression) -> list[Tensor]:
        """Detections, as :meth:`postprocess`, of scores ``[N, M]``, boxes ``[N, M, 4]`` and classes ``[N, M]``."""
        memory = self.memory()
        shape = _NmsShape(*candidates[0].shape)
        outputs, detections = _detections(memory, shape.batch, options)
        self.launch(
            memory,
            "nms",
            ctypes.byref(shape),
            ctypes.byref(_nms_options(options)),
            _element_type(candidates[0]),
            *(
                POINTER(memory.read(name, values, 1))
                for name, values in zip(("scores", "boxes", "classes"), candidates, strict=True)
            ),
            ctypes.byref(detections),
            self._scratch(memory, "nms_bytes", ctypes.byref(shape)),
        )
        return [output.clone() for output in outputs]

    def postprocess(
        self, levels: Sequence[Level], candidates: Candidates, suppression: Suppression, *, misalignment: int = 0
    ) -> list[Tensor]:
        """Scores ``[N, D]``, boxes ``[N, D, 4]``, classes ``[N, D]`` and counts ``[N]``."""
        memory = self.memory()
        heads = self._heads(memory, levels, candidates, misalignment)
        outputs, detections = _detections(memory, heads.batch, suppression)
        self.launch(
            memory,
            "postprocess",
            ctypes.byref(heads),
            ctypes.byref(_candidate_options(candidates)),
            ctypes.byref(_nms_options(suppression)),
            ctypes.byref(detections),
            self._scratch(memory, "postprocess_bytes", ctypes.byref(heads), candidates.topk_candidates),
        )
        return [output.clone() for output in outputs]


def _candidate_options(options: Candidates) -> _CandidateOptions:
    convention = BOX_CONVENTIONS.index(options.box_convention)
    return _CandidateOptions(options.topk_candidates, options.score_thresh, convention, int(options.is_sigmoid))


def _nms_options(options: Suppression) -> _NmsOptions:
    convention = BOX_CONVENTIONS.index(options.box_convention)
    return _NmsOptions(options.nms_thresh, options.max_detections_per_image, convention)


def _detections(memory: Memory, batch: int, options: Suppression) -> tuple[list[Tensor], _Detections]:
    count = options.max_detections_per_image
    shapes = {"scores": (batch, count), "boxes": (batch, count, 4), "classes": (batch, count)}
    outputs = [memory.write(f"detected {name}", shape, torch.float32) for name, shape in shapes.items()]
    outputs.append(memory.write("counts", [batch], torch.int32))
    return outputs, _Detections(*(output.data_ptr() for output in outputs))

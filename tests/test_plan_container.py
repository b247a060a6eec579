"""The container of CPU engines: what it holds, and that damage to it is refused in words and never crashes."""

from __future__ import annotations

import contextlib
import random
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import torch_trt_ext  # noqa: F401  registers the classes

ov = pytest.importorskip("openvino")
import numpy as np  # noqa: E402
from openvino import opset13  # noqa: E402

from torch_trt_ext.builders.openvino_model import pack_model, plan_from_model  # noqa: E402

HEADER_BYTES = 32
NUM_CORRUPTIONS = 2000

IO_NAMES = (["x"], ["y"], ["Float"], ["Float"])


def _model(width: int = 33) -> ov.Model:
    x = opset13.parameter(ov.PartialShape([-1, width]), ov.Type.f32, "x")
    x.output(0).get_tensor().set_names({"x"})
    weights = opset13.constant(np.arange(width * 4, dtype=np.float32).reshape(width, 4) / 7)
    y = opset13.relu(opset13.matmul(x, weights, False, False))
    y.output(0).get_tensor().set_names({"y"})
    return ov.Model([opset13.result(y)], [x], "tiny")


@pytest.fixture(scope="module")
def plan() -> bytes:
    return pack_model(_model())


def _load(data: bytes, io_names: tuple[list[str], ...] = IO_NAMES) -> torch.ScriptObject:
    return torch.classes.torch_trt_ext.OpenVINOEngineExtension(data, io_names)


def _sizes(data: bytes) -> tuple[int, int]:
    xml_bytes, weights_bytes = struct.unpack_from("<QQ", data, 16)
    return xml_bytes, weights_bytes


def _container(xml: bytes, weights: bytes = b"") -> bytes:
    header = struct.pack("<8sIIQQ", b"TTE-OVIR", 1, 0, len(xml), len(weights))
    return header + xml + bytes(-(len(header) + len(xml)) % 64) + weights


def test_pack_model_layout(plan: bytes) -> None:
    xml_bytes, weights_bytes = _sizes(plan)
    assert plan[:16] == b"TTE-OVIR" + struct.pack("<II", 1, 0)
    assert plan[HEADER_BYTES : HEADER_BYTES + 5] == b"<?xml"
    weights_start = -(-(HEADER_BYTES + xml_bytes) // 64) * 64
    assert len(plan) == weights_start + weights_bytes
    weights = np.frombuffer(plan, np.float32, 33 * 4, weights_start)
    np.testing.assert_array_equal(weights, np.arange(33 * 4, dtype=np.float32) / 7)


def test_packed_model_runs(plan: bytes) -> None:
    x = torch.randn(5, 33)
    weights = torch.arange(33 * 4, dtype=torch.float32).reshape(33, 4) / 7
    (y,) = _load(plan).forward([x])
    torch.testing.assert_close(y, (x @ weights).relu())


def test_model_without_weights_runs() -> None:
    x = opset13.parameter(ov.PartialShape([2]), ov.Type.f32, "x")
    x.output(0).get_tensor().set_names({"x"})
    y = opset13.relu(x)
    y.output(0).get_tensor().set_names({"y"})
    data = pack_model(ov.Model([opset13.result(y)], [x], "no_weights"))
    assert _sizes(data)[1] == 0
    torch.testing.assert_close(_load(data).forward([torch.tensor([-1.0, 2.0])])[0], torch.tensor([0.0, 2.0]))


def test_pack_model_leaves_model_alone() -> None:
    model = _model()
    assert pack_model(model, "bf16") != pack_model(model)
    assert not model.has_rt_info(["torch_trt_ext", "inference_precision"])


def test_pack_model_with_wrong_precision_fails() -> None:
    with pytest.raises(ValueError, match=r"inference_precision must be one of .* got 'f8'"):
        pack_model(_model(), "f8")  # type: ignore[arg-type]


def test_plan_from_model_reads_names_and_types() -> None:
    plan = plan_from_model(_model())
    assert plan.backend == "openvino"
    assert plan.io_spec == (["x"], ["y"], ["Float"], ["Float"])


def test_plan_from_model_without_names_fails() -> None:
    model = ov.convert_model(torch.nn.Linear(3, 3), example_input=torch.zeros(1, 3))
    with pytest.raises(ValueError, match="output 0 of the OpenVINO model must have a name"):
        plan_from_model(model)


def test_plan_from_model_with_foreign_type_fails() -> None:
    x = opset13.parameter(ov.PartialShape([2]), ov.Type.u64, "x")
    x.output(0).get_tensor().set_names({"x"})
    y = opset13.convert(x, "f32")
    y.output(0).get_tensor().set_names({"y"})
    model = ov.Model([opset13.result(y)], [x], "u64")
    with pytest.raises(ValueError, match=r"input 'x' .* must have a type that torch has, got u"):
        plan_from_model(model)
    with pytest.raises(ValueError, match=r"input 'x' .* must have a type that torch has, got u64"):
        _load(pack_model(model))


def test_every_truncation_fails(plan: bytes) -> None:
    xml_bytes, _ = _sizes(plan)
    near_boundaries = {
        boundary + offset
        for boundary in (8, 12, 16, 24, HEADER_BYTES, HEADER_BYTES + xml_bytes, len(plan) - 33 * 16, len(plan))
        for offset in (-1, 0, 1)
    }
    lengths = sorted(near_boundaries | set(range(0, len(plan), 37)) | set(range(HEADER_BYTES + 1)))
    for length in lengths:
        if length < len(plan):
            with pytest.raises(ValueError, match=r"must have|no bytes"):
                _load(plan[:length])


def test_truncated_plan_says_how_much_is_missing(plan: bytes) -> None:
    with pytest.raises(ValueError, match=r"weights that its header announces, 10 bytes are missing"):
        _load(plan[:-10])
    xml_bytes, _ = _sizes(plan)
    with pytest.raises(ValueError, match=r"bytes of XML that its header announces, 7 bytes are missing"):
        _load(plan[: HEADER_BYTES + xml_bytes - 7])


def test_wrong_magic_fails(plan: bytes) -> None:
    for index in range(8):
        damaged = bytearray(plan)
        damaged[index] ^= 0x20
        with pytest.raises(ValueError, match="is not an engine for the CPU: it must begin"):
            _load(bytes(damaged))


@pytest.mark.parametrize("tag", [b"ptrt", b"ftrt"])
def test_tensorrt_plan_fails(tag: bytes) -> None:
    with pytest.raises(ValueError, match="it is a TensorRT plan; give it to TRTEngineExtension"):
        _load(tag + bytes(1000))


def test_unknown_version_fails(plan: bytes) -> None:
    for version in (0, 2, 2**32 - 1):
        with pytest.raises(ValueError, match=f"format version 1, got version {version}"):
            _load(plan[:8] + struct.pack("<I", version) + plan[12:])


def test_reserved_field_fails(plan: bytes) -> None:
    with pytest.raises(ValueError, match="reserved header field, got 16777216"):
        _load(plan[:15] + b"\x01" + plan[16:])


def test_trailing_bytes_fail(plan: bytes) -> None:
    for extra in (1, 64, 1000):
        with pytest.raises(ValueError, match=f"got {extra} trailing bytes"):
            _load(plan + bytes(extra))


def test_padding_that_is_not_zero_fails() -> None:
    data = bytearray(_container(b"<net></net>"))
    data[HEADER_BYTES + len(b"<net></net>")] = 1
    with pytest.raises(ValueError, match="must have zeros between"):
        _load(bytes(data))


HUGE_SIZES = [2**63, 2**64 - 1, 2**64 - 32, 2**64 - 64, 2**63 - 1, 2**32]


@pytest.mark.parametrize("field", [16, 24])
@pytest.mark.parametrize("size", HUGE_SIZES)
def test_huge_size_fails(plan: bytes, field: int, size: int) -> None:
    with pytest.raises(ValueError, match="bytes are missing"):
        _load(plan[:field] + struct.pack("<Q", size) + plan[field + 8 :])


@pytest.mark.parametrize("xml_size", HUGE_SIZES)
@pytest.mark.parametrize("weights_size", HUGE_SIZES)
def test_huge_sizes_together_fail(plan: bytes, xml_size: int, weights_size: int) -> None:
    with pytest.raises(ValueError, match="bytes are missing"):
        _load(plan[:16] + struct.pack("<QQ", xml_size, weights_size) + plan[HEADER_BYTES:])


@pytest.mark.parametrize(
    "xml", [b"", b"hello", b"<html></html>", b"<network/>", b"<?xml version='1.0'?>", b"<!-- <net> -->", b"<?", b"<net"]
)
def test_xml_that_is_no_ir_fails(xml: bytes) -> None:
    with pytest.raises(ValueError, match="must hold an OpenVINO IR, whose root element is <net>"):
        _load(_container(xml))


@pytest.mark.parametrize("xml", [b"<net></net>", b"<net >", b"\xef\xbb\xbf<?xml?><!-- a --> <net name='x'><layers>"])
def test_ir_that_openvino_cannot_read_fails(xml: bytes) -> None:
    with pytest.raises((ValueError, RuntimeError)):
        _load(_container(xml))


def test_unknown_operation_fails(plan: bytes) -> None:
    xml_bytes, weights_bytes = _sizes(plan)
    xml = plan[HEADER_BYTES : HEADER_BYTES + xml_bytes].replace(
        b'type="ReLU" version="opset1"', b'type="Frob" version="far"'
    )
    with pytest.raises(RuntimeError, match=r"does not know an operation of this engine: .*Frob"):
        _load(_container(xml, plan[len(plan) - weights_bytes :]))


def test_missing_weights_fail(plan: bytes) -> None:
    xml_bytes, _ = _sizes(plan)
    with pytest.raises((ValueError, RuntimeError)):
        _load(_container(plan[HEADER_BYTES : HEADER_BYTES + xml_bytes]))


def _corrupt(plan: bytes, rng: random.Random) -> bytes:
    data = bytearray(plan)
    kind = rng.randrange(4)
    if kind == 0:
        for _ in range(rng.randint(1, 8)):
            data[rng.randrange(len(data))] = rng.randrange(256)
    elif kind == 1:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == 2:
        start = rng.randrange(len(data))
        del data[start : start + rng.randint(1, 200)]
    else:
        start, end = sorted(rng.randrange(len(data)) for _ in range(2))
        data[start:end] = data[end:start:-1] if rng.random() < 0.5 else bytes(end - start)
    return bytes(data)


def _load_corrupted_plans(seed: int, count: int) -> None:
    plan = pack_model(_model())
    rng = random.Random(seed)
    for _ in range(count):
        with contextlib.suppress(ValueError, RuntimeError):
            _load(_corrupt(plan, rng))


def test_random_corruptions_never_crash() -> None:
    # In a process of its own, so that a crash is a failed test and not the end of all tests.
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import tests.test_plan_container as t; "
        f"t._load_corrupted_plans(0, {NUM_CORRUPTIONS}); print('survived')"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).parent.parent)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, f"exit {done.returncode}: {done.stderr[-2000:]}"
    assert "survived" in done.stdout

"""Importing the runtime: what it brings in, what it says when something is missing."""

from __future__ import annotations

import ctypes
import struct
from pathlib import Path

import pytest

import torch_trt_ext
from tests.fresh_process import output_of_fresh, run_fresh


def test_import_registers_classes_and_brings_in_nothing_else() -> None:
    script = """
        import sys
        import torch
        before = set(sys.modules)
        import torch_trt_ext.runtime
        print(torch.classes.torch_trt_ext.TRTEngineExtension, torch.classes.torch_addons.TRTEngineExtension)
        print(torch.classes.torch_trt_ext.OpenVINOEngineExtension)
        new = {name.split(".")[0] for name in set(sys.modules) - before}
        assert not new & {"tensorrt", "openvino", "torchvision", "numpy.testing"}, new
        assert "torch_trt_ext.builders" not in sys.modules
    """
    output_of_fresh(script)


def test_public_names() -> None:
    for name in torch_trt_ext.__all__:
        assert getattr(torch_trt_ext, name) is not None
    assert set(dir(torch_trt_ext)) == set(torch_trt_ext.__all__)
    with pytest.raises(AttributeError, match="module 'torch_trt_ext' has no attribute 'optimise'"):
        torch_trt_ext.optimise  # noqa: B018


def test_available_backends_says_why() -> None:
    missing = torch_trt_ext.runtime.available_backends()
    assert missing.keys() == {"tensorrt", "openvino"}
    assert missing["openvino"] == ""


def test_no_gpu_is_said() -> None:
    script = """
        import torch_trt_ext
        print(torch_trt_ext.runtime.available_backends()["tensorrt"])
    """
    text = output_of_fresh(script, environment={"CUDA_VISIBLE_DEVICES": ""})
    assert "needs an NVIDIA GPU, CUDA finds none" in text or "torch was built without CUDA" in text


def test_missing_library_fails(tmp_path: Path) -> None:
    result = run_fresh("import torch_trt_ext", environment={"TORCH_TRT_EXT_LIBRARY_DIR": str(tmp_path)})
    assert result.returncode == 1
    assert f"torch_trt_ext needs its native library, found none at {tmp_path}/libtorch_trt_ext.so" in result.stderr


def test_broken_library_fails(tmp_path: Path) -> None:
    (tmp_path / "libtorch_trt_ext.so").write_bytes(b"not a library")
    result = run_fresh("import torch_trt_ext", environment={"TORCH_TRT_EXT_LIBRARY_DIR": str(tmp_path)})
    assert result.returncode == 1
    assert "could not be loaded" in result.stderr
    assert "Likely causes: it was built against another torch" in result.stderr


def test_unknown_kind_is_said() -> None:
    library = ctypes.CDLL(str(torch_trt_ext.runtime.library_path("runtime")))
    library.torch_trt_ext_missing_runtime.restype = ctypes.c_char_p
    assert b"got 'cuda'; correct the kind" in library.torch_trt_ext_missing_runtime(b"cuda")


def test_plugin_library_that_cannot_be_opened_fails() -> None:
    with pytest.raises(RuntimeError, match=r"plugin library /nowhere/libmine\.so"):
        torch_trt_ext.load_plugin_library("/nowhere/libmine.so")


def _header(size: int) -> bytes:
    """A TensorRT 10.6 plan's first bytes, as read off real ones."""
    return b"ftrt" + struct.pack("<IQQ4B", 0, 2, size, 10, 6, 0, 26)


def test_plan_without_a_gpu_is_kept_and_says_why(tmp_path: Path) -> None:
    plan = _header(1000) + bytes(1000 - 28)
    script = f"""
        import torch, torch_trt_ext
        plan = {plan!r}
        engine = torch_trt_ext.TRTEngineExtension(plan, (["x"], ["y"], ["Float"], ["Half"]))
        print(engine.can_run(), engine.why_not())
        assert bytes(engine.plan().numpy()) == plan
        assert engine.io_names() == (["x"], ["y"], ["Float"], ["Half"])
        assert not engine.can_run_with([torch.ones(1)])
        for call in (engine.input_shapes, lambda: engine.forward([torch.ones(1)])):
            try:
                call()
            except RuntimeError as error:
                print(error)
        try:
            torch_trt_ext.TRTEngineExtension.from_plan(plan)
        except RuntimeError as error:
            print(error)
    """
    text = output_of_fresh(script, environment={"CUDA_VISIBLE_DEVICES": ""})
    assert text.startswith("False ")
    assert "the shapes of this engine are not known, since it cannot run here and was saved without them: " in text
    assert "this engine cannot run here: " in text
    assert "names and types can be read off a plan only where it runs: " in text


@pytest.mark.parametrize("size", [4, 27, 28, 500, 999])
def test_plan_that_is_cut_short_fails(size: int) -> None:
    plan = (_header(1000) + bytes(2000))[:size]
    with pytest.raises(ValueError, match="the plan was cut short"):
        torch_trt_ext.TRTEngineExtension(plan, (["x"], ["y"], ["Float"], ["Half"]))


@pytest.mark.parametrize("announced", [0, 27, 1001, 2**63])
def test_header_that_cannot_be_fails(announced: int) -> None:
    plan = (_header(announced) + bytes(2000))[:1000]
    with pytest.raises(ValueError, match=f"its header announces {announced} bytes, got 1000"):
        torch_trt_ext.TRTEngineExtension(plan, (["x"], ["y"], ["Float"], ["Half"]))


def test_padding_after_a_plan_is_kept() -> None:
    plan = _header(1000) + bytes(1100)
    script = f"""
        import torch_trt_ext
        engine = torch_trt_ext.TRTEngineExtension({plan!r}, (["x"], ["y"], ["Float"], ["Half"]))
        assert bytes(engine.plan().numpy()) == {plan!r}
    """
    output_of_fresh(script, environment={"CUDA_VISIBLE_DEVICES": ""})

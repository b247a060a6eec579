"""What every engine class promises, whatever runs the engine: names, types, checks, saving. Run on the CPU engine."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.fresh_process import output_of_fresh, run_fresh
from tests.openvino_models import EngineModule, affine_engine, affine_plan, two_way_plan
from torch_trt_ext import OpenVINOEngineExtension, TRTEngineExtension

IO = (["x"], ["y"], ["Float"], ["Float"])


@pytest.fixture
def engine() -> Any:
    return affine_engine()


def test_forward(engine: Any) -> None:
    x = torch.randn(4, 3)
    outputs = engine.forward([x])
    assert len(outputs) == 1
    torch.testing.assert_close(outputs[0], 2 * x + 1)


def test_forward_makes_no_autograd_graph(engine: Any) -> None:
    x = torch.randn(4, 3, requires_grad=True)
    (y,) = engine.forward([x])
    assert not y.requires_grad


def test_non_contiguous_input(engine: Any) -> None:
    x = torch.randn(3, 4).T
    assert not x.is_contiguous()
    torch.testing.assert_close(engine.forward([x])[0], 2 * x + 1)


def test_names_give_the_order_and_types_are_cast() -> None:
    a, b = torch.randn(2, 2), torch.tensor([1, 2])
    both = OpenVINOEngineExtension(
        two_way_plan().data, (["a", "b"], ["first", "second"], ["Float", "Long"], ["Double", "Long"])
    )
    first, second = both.forward([a, b])
    assert (first.dtype, second.dtype) == (torch.float64, torch.int64)
    torch.testing.assert_close(first, (2 * a).double())
    torch.testing.assert_close(second, b + 1)
    turned = OpenVINOEngineExtension(two_way_plan().data, (["b", "a"], ["second"], ["Int", "Float"], ["Int"]))
    (only,) = turned.forward([b.int(), a])
    torch.testing.assert_close(only, b.int() + 1)


def test_introspection(engine: Any) -> None:
    assert engine.can_run()
    assert engine.why_not() == ""
    assert engine.io_names() == IO
    assert engine.input_shapes() == [[-1, 3]]
    assert engine.output_shapes() == [[-1, 3]]
    assert engine.profiles() == [[[[1, 3], [1, 3], [8, 3]]]]
    engine.plan().zero_()
    assert bytes(engine.plan().numpy()) == affine_plan().data
    assert engine.made_on().keys() == {"openvino_version"}
    assert engine.plugin_libraries() == []
    before = engine.counters()["calls"]
    engine.forward([torch.ones(1, 3)])
    assert engine.counters()["calls"] == before + 1


def test_from_plan_reads_names_and_types(tmp_path: Path) -> None:
    path = tmp_path / "engine.plan"
    two_way_plan().save(path)
    for source in (path, str(path), two_way_plan().data):
        loaded = OpenVINOEngineExtension.from_plan(source)
        assert loaded.io_names() == (["b", "a"], ["second", "first"], ["Int", "Float"], ["Int", "Float"])


def test_from_plan_of_another_kind_of_object_fails() -> None:
    with pytest.raises(TypeError, match="plan must be a path or bytes, got int"):
        OpenVINOEngineExtension.from_plan(3)


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        ([], ValueError, "forward must get 1 inputs ('x'), got 0"),
        ([torch.ones(1, 3)] * 2, ValueError, "forward must get 1 inputs ('x'), got 2"),
        (
            [torch.ones(1, 3).double()],
            TypeError,
            "input 'x' must be float32 on cpu, got float64 on cpu; call .to(torch.float32)",
        ),
        (
            [torch.ones(1, 3, device="meta")],
            ValueError,
            "input 'x' must be float32 on cpu, got float32 on meta; call .to('cpu')",
        ),
        ([torch.ones(1, 3).to_sparse()], ValueError, "input 'x' must be dense, got layout Sparse; call .to_dense()"),
        ([torch.ones(3)], ValueError, "input 'x' must have 2 dimensions, got 1 with shape [3]"),
        (
            [torch.ones(9, 3)],
            ValueError,
            "input 'x' must have a shape in [1..8, 3], got [9, 3]; pass such a shape, or build the engine with a "
            "profile that covers it",
        ),
        # A lexicographic comparison with [1, 3] and [8, 3] would let this pass.
        ([torch.ones(2, 4)], ValueError, "got [2, 4]"),
        ([torch.ones(0, 3)], ValueError, "got [0, 3]"),
    ],
)
def test_bad_inputs_fail_and_leave_the_engine_usable(
    engine: Any, inputs: list[Tensor], error: type[Exception], message: str
) -> None:
    assert not engine.can_run_with(inputs)
    with pytest.raises(error, match=re.escape(message)):
        engine.forward(inputs)
    assert engine.can_run_with([torch.ones(1, 3)])
    torch.testing.assert_close(engine.forward([torch.ones(1, 3)])[0], torch.full((1, 3), 3.0))


@pytest.mark.parametrize(
    ("io", "message"),
    [
        ((["x"], ["y"], ["Float32"], ["Float"]), "type of input 'x' must be one of Float, Half, "),
        ((["x"], ["y"], [], ["Float"]), "inputs must have one type a name, got 1 names and 0 types"),
        ((["x", "x"], ["y"], ["Float"] * 2, ["Float"]), "input names must differ, got 'x' twice"),
        (([""], ["y"], ["Float"], ["Float"]), "input 0 must have a name, got an empty string"),
        ((["x"], [], ["Float"], []), "an engine must have at least one output"),
        ((["images"], ["y"], ["Float"], ["Float"]), "input 'images' must be one of the engine's inputs ('x')"),
        ((["x"], ["z"], ["Float"], ["Float"]), "output 'z' must be one of the engine's outputs ('y')"),
        (([], ["y"], [], ["Float"]), "input names must cover the engine's 1 inputs ('x'), got none; name every input"),
    ],
)
def test_bad_names_and_types_fail(io: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        OpenVINOEngineExtension(affine_plan().data, io)


def test_engine_of_the_other_kind_fails() -> None:
    with pytest.raises(ValueError, match="got an OpenVINO engine; use OpenVINOEngineExtension"):
        TRTEngineExtension(affine_plan().data, IO)


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 a zip file", b"ftr", bytes(100)])
def test_what_is_no_plan_fails(damage: bytes) -> None:
    with pytest.raises(ValueError, match="a TensorRT engine must be a plan, which begins with"):
        TRTEngineExtension(damage, IO)


@pytest.mark.parametrize("compile_module", [torch.jit.script, lambda m: torch.jit.trace(m, (torch.ones(2, 3),))])
def test_saved_and_loaded_in_a_fresh_process(tmp_path: Path, engine: Any, compile_module: Callable[..., Any]) -> None:
    path = str(tmp_path / "model.pt")
    torch.jit.save(compile_module(EngineModule(engine)), path)
    script = f"""
        import sys, torch, torch_trt_ext.runtime
        model = torch.jit.load({path!r})
        x = torch.randn(5, 3)
        print(torch.equal(model(x), 2 * x + 1))
        assert "openvino" not in sys.modules, "the runtime must not need OpenVINO's Python module"
        torch.jit.save(model, {path!r})
        print(torch.equal(torch.jit.load({path!r})(x), 2 * x + 1))
    """
    assert output_of_fresh(script).split() == ["True", "True"]


def test_deepcopy_and_freeze(engine: Any) -> None:
    module = torch.jit.script(EngineModule(engine)).eval()
    x = torch.randn(2, 3)
    for other in (copy.deepcopy(module), torch.jit.freeze(module)):
        torch.testing.assert_close(other(x), 2 * x + 1)


def test_errors_pass_through_torchscript(engine: Any) -> None:
    module = torch.jit.script(EngineModule(engine))
    with pytest.raises(Exception, match=re.escape("input 'x' must have a shape in [1..8, 3], got [9, 3]")):
        module(torch.ones(9, 3))


def test_file_without_the_runtime_fails(tmp_path: Path, engine: Any) -> None:
    path = str(tmp_path / "model.pt")
    torch.jit.save(torch.jit.script(EngineModule(engine)), path)
    result = run_fresh(f"import torch; torch.jit.load({path!r})")
    assert result.returncode == 1
    # The README quotes this, since it is what a user sees who forgot the import.
    assert "Unknown type name '__torch__.torch.classes.torch_trt_ext.OpenVINOEngineExtension'" in result.stderr


def test_file_loads_without_openvino_and_says_why_it_cannot_run(tmp_path: Path, engine: Any) -> None:
    path = str(tmp_path / "model.pt")
    torch.jit.save(torch.jit.script(EngineModule(engine)), path)
    (tmp_path / "lib").mkdir()
    from torch_trt_ext.runtime import library_path

    (tmp_path / "lib" / "libtorch_trt_ext.so").symlink_to(library_path("runtime"))
    script = f"""
        import torch, torch_trt_ext.runtime
        model = torch.jit.load({path!r})
        print(model.engine.can_run(), model.engine.why_not())
        try:
            model(torch.ones(1, 3))
        except RuntimeError as error:
            print("forward:", error)
        torch.jit.save(model, {path!r})
    """
    text = output_of_fresh(script, environment={"TORCH_TRT_EXT_LIBRARY_DIR": str(tmp_path / "lib")})
    assert text.startswith("False running an engine on the CPU needs libtorch_trt_ext_openvino.so")
    assert "this engine cannot run here: " in text
    torch.testing.assert_close(torch.jit.load(path)(torch.ones(1, 3)), torch.full((1, 3), 3.0))

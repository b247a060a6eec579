"""What optimize() says where it cannot do what was asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torch_trt_ext

pytest.importorskip("openvino")

from tests.optimizer.tiny_models import Convolutions, TwoParts, make, optimize, quick_config

pytestmark = pytest.mark.usefixtures("one_thread")

IMAGES = torch.rand(2, 3, 16, 16)
ROWS = torch.rand(4, 8)


@pytest.mark.parametrize("data", [[], (), None])
@pytest.mark.parametrize("scripted", [True, False])
def test_no_data_and_no_shapes_fails(data: Any, scripted: bool) -> None:
    model = torch.jit.script(make(TwoParts)) if scripted else make(TwoParts)
    with pytest.raises(
        ValueError, match=r"needs something to run the model on: give test_data=\[\(images,\)\].*or input"
    ):
        optimize(model, data)


@pytest.mark.parametrize("form", ["module", "script", "trace"])
def test_data_that_the_model_refuses_fails(form: str) -> None:
    model: Any = make(TwoParts)
    if form != "module":
        model = torch.jit.script(model) if form == "script" else torch.jit.trace(model, (ROWS,))
    message = (
        r"^test_data\[1\] must be arguments that the model takes, got \(float32\[4, 9\],\), and the model raised "
        r"RuntimeError: .*mat1 and mat2 shapes cannot be multiplied \(4x9 and 8x16\)"
    )
    with pytest.raises(ValueError, match=message):
        optimize(model, [(ROWS,), (torch.rand(4, 9),)])


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ((), r"test_data\[0\] must be arguments that the model takes, got \(\), and.* missing value for argument 'x'"),
        ((ROWS, ROWS), r"got \(float32\[4, 8\], float32\[4, 8\]\), and the model raised.*expected at most 2 argument"),
        (
            ("text",),
            r"got \('text',\), and the model raised.*Expected a value of type 'Tensor.*'x'.*'str'",
        ),
    ],
)
def test_arguments_that_forward_does_not_take_fail(item: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        optimize(make(TwoParts), [item])


def test_shapes_that_the_model_refuses_fail() -> None:
    with pytest.raises(ValueError, match=r"^input_shapes\[1\] must be arguments that the model takes"):
        optimize(make(TwoParts), [], input_shapes=[["1*8"], ["1*9"]])


@pytest.mark.parametrize("level", ["o3", "O1", "", 3, None])
def test_wrong_level_fails(level: Any) -> None:
    message = (
        rf"optimization_level must be 'o1' \(engines of 16 bits\) or 'o2' \(of 8 bits .* accurate\), got {level!r}"
    )
    with pytest.raises(ValueError, match=message):
        torch_trt_ext.optimize(make(TwoParts), level, "cpu", test_data=[(ROWS,)])


@pytest.mark.parametrize("device", ["cuda", "GPU", "cuda:0", None, torch.device("cpu")])
def test_wrong_device_fails(device: Any) -> None:
    message = r"device_type must be 'gpu' \(TensorRT on the current CUDA device\) or 'cpu' \(OpenVINO\), got "
    with pytest.raises(ValueError, match=message):
        torch_trt_ext.optimize(make(TwoParts), "o1", device, test_data=[(ROWS,)])


def test_training_mode_fails(tmp_path: Path) -> None:
    model = make(TwoParts).train()
    with pytest.raises(ValueError, match=r"model must be in evaluation mode, got training mode; call model.eval\(\)"):
        optimize(model, [(ROWS,)])
    script = torch.jit.script(torch.nn.Sequential(model, torch.nn.Dropout()).train())
    with pytest.raises(ValueError, match=r"model must be in evaluation mode, got training mode; call model.eval\(\)"):
        optimize(script, [(ROWS,)])
    torch.jit.save(script, tmp_path / "training.pt")
    with pytest.raises(
        ValueError, match=r"must be in evaluation mode, got training mode; load the file, call eval\(\)"
    ):
        optimize(tmp_path / "training.pt", [(ROWS,)])


def test_training_mode_of_a_script_that_never_asks_for_it_is_of_no_consequence() -> None:
    script = torch.jit.trace(make(TwoParts), (ROWS,)).train()
    assert optimize(script, [(ROWS,)])[2]["engines"]


@pytest.mark.parametrize(
    ("model", "kind"),
    [(len, "builtin_function_or_method"), ({"weight": 1}, "dict"), (None, "NoneType"), (nn.ReLU, "type")],
)
def test_what_is_no_model_fails(model: Any, kind: str) -> None:
    message = rf"model must be a torch.nn.Module, a ScriptModule or the path of a saved one, got {kind}"
    with pytest.raises(TypeError, match=message):
        optimize(model, [(ROWS,)])


def test_script_function_fails() -> None:
    @torch.jit.script
    def double(x: Tensor) -> Tensor:
        return x * 2

    with pytest.raises(TypeError, match=r"model must be a torch.nn.Module.*got ScriptFunction"):
        optimize(double, [(ROWS,)])


def test_missing_file_fails(tmp_path: Path) -> None:
    for path in (tmp_path / "none.pt", tmp_path):
        with pytest.raises(FileNotFoundError, match=rf"model must be the path .*, but there is no file at '{path}'"):
            optimize(path, [(ROWS,)])


@pytest.mark.parametrize("content", ["empty", "text", "state", "module"])
def test_file_that_is_no_torchscript_fails(tmp_path: Path, content: str) -> None:
    path = tmp_path / "model.pt"
    if content == "state":
        torch.save(make(TwoParts).state_dict(), path)
    elif content == "module":
        torch.save(make(TwoParts), path)
    else:
        path.write_text("" if content == "empty" else "no model")
    with pytest.raises(
        RuntimeError, match=rf"as torch.jit.save writes it, but '{path}' cannot be read as one: .*torch.sa"
    ):
        optimize(path, [(ROWS,)])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (ROWS, r"test_data must be a list of tuples, got a tensor, float32\[4, 8\]; write test_data=\[\(images,\)\]"),
        ([ROWS], r"test_data\[0\] must be a tuple of arguments, got a tensor, .*; wrap it in a tuple: \[\(images,\)\]"),
        ((ROWS,), r"test_data\[0\] must be a tuple of arguments, got a tensor"),
        ([[ROWS]], r"test_data\[0\] must be a tuple of arguments, got list"),
        ({"x": ROWS}, r"test_data must be a list of tuples, got dict"),
    ],
)
def test_data_of_the_wrong_kind_fails(data: Any, message: str) -> None:
    for model in (make(TwoParts), torch.jit.script(make(TwoParts))):
        with pytest.raises(TypeError, match=message):
            optimize(model, data)


def test_unknown_option_fails() -> None:
    config = quick_config()
    with pytest.raises(AttributeError, match=r"config.partition has no option 'min_size'; its options are min_block"):
        config.partition.min_size = 3  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match="verbosity"):
        optimize(make(TwoParts), [(ROWS,)], verbosity=True)


def test_config_of_the_wrong_kind_fails() -> None:
    with pytest.raises(
        TypeError, match=r"config must be a torch_trt_ext.Config, got dict; Config.from_dict reads a dict"
    ):
        optimize(make(TwoParts), [(ROWS,)], {"partition": {}})  # type: ignore[arg-type]


def test_option_changed_in_place_to_a_bad_value_fails() -> None:
    config = quick_config()
    config.partition.deny.append("a b")
    with pytest.raises(ValueError, match=r"config.partition.deny\[0\] must be an operator"):
        optimize(make(TwoParts), [(ROWS,)], config)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu_fails() -> None:
    message = r"optimize\(device_type='gpu'\) cannot build engines here: .*(GPU|CUDA|TensorRT).*device_type='cpu' makes"
    with pytest.raises(RuntimeError, match=message):
        torch_trt_ext.optimize(make(TwoParts), "o1", "gpu", test_data=[(ROWS,)])


def test_missing_custom_operators_fail(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"Could not load this library: .*operators.so"):
        optimize(make(TwoParts), [(ROWS,)], custom_ops=[tmp_path / "operators.so"])


class _Unsupported(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.svdvals(torch.fft.fft(x).real)


def test_nothing_supported_gives_the_model_back() -> None:
    script = torch.jit.script(make(_Unsupported))
    optimized, spec, report = optimize(script, [(ROWS,)])
    assert optimized is script
    assert spec.device_type == "cpu"
    assert report["engines"] == []
    assert report["coverage"]["operators"] == 0
    assert report["overall"]["speedup"] == "1.00"
    assert report["optimizations"][0]["status"] == "not effective"
    assert [entry["reason"] for entry in report["left_in_torch"]] == [
        f"has no ONNX form ({kind})" for kind in ("aten::fft_fft", "aten::real", "aten::linalg_svdvals")
    ]
    message = report["diagnosis"]["message"]
    assert message.startswith("no engine was kept. 1 operator: has no ONNX form (aten::fft_fft); 1 operator: ")


class _Identity(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


def test_model_without_operators_is_given_back() -> None:
    script = torch.jit.script(make(_Identity))
    optimized, _, report = optimize(script, [(ROWS,)])
    assert optimized is script
    assert "the model has no operators on tensors" in report["diagnosis"]["message"]


class _Fails(nn.Module):
    def forward(self, *values: Tensor) -> Tensor:
        raise KeyError("what the model's code says")


def test_model_that_can_be_neither_scripted_nor_traced_fails() -> None:
    message = (
        r"^model must be scriptable or traceable, but both failed: torch.jit.script: Compiled functions can't take "
        r"variable number of arguments.*; torch.jit.trace: .*what the model's code says.*\. Mend one of the two"
    )
    with pytest.raises(ValueError, match=message):
        optimize(make(_Fails), [(ROWS,)])


class _Variadic(nn.Module):
    def forward(self, *values: Tensor) -> Tensor:
        return values[0] + values[1]


def test_model_that_can_only_be_traced() -> None:
    optimized, _, report = optimize(make(_Variadic), [(ROWS, ROWS)])
    message = report["diagnosis"]["message"]
    assert message.startswith("torch.jit.script: Compiled functions can't take variable number of arguments")
    assert "so it was traced; traced: control flow is fixed" in message
    assert torch.equal(optimized(ROWS, ROWS), ROWS * 2)


def test_profile_of_another_input_fails() -> None:
    config = quick_config()
    config.shapes.profiles = [{"pictures": [[1, 3, 8, 8]] * 3}]
    with pytest.raises(ValueError, match=r"shape profile 0 names 'pictures', which is no tensor.*are \['images'\]"):
        optimize(make(Convolutions), [(IMAGES,)], config)

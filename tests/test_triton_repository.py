"""Model repositories for Triton: against the schema of its client package, and loaded as the server loads them."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from google.protobuf import text_format
from torch import Tensor, nn

pytest.importorskip("openvino")

from tests import triton_models
from tests.openvino_models import EngineModule, affine_engine
from tests.optimizer.tiny_models import Convolutions, make, optimize, quick_config
from tests.state_fuzz import restore, state_of
from tests.unrunnable import unrunnable_engine
from torch_trt_ext.triton_model import OutputSpec
from torch_trt_ext.triton_repository import Exported, export_triton

AFFINE_SHAPES = [["1*3"]]


def save_script(model: nn.Module, path: Path, **extra_files: str) -> Path:
    torch.jit.save(torch.jit.script(model.eval()), str(path), _extra_files=extra_files)
    return path


@pytest.fixture
def affine(tmp_path: Path) -> Path:
    """A model that is one engine, on ``x`` of ``[1..8, 3]``."""
    return save_script(EngineModule(affine_engine()), tmp_path / "affine.pt")


def tensorrt_model(path: Path, *profiles: str) -> Path:
    """A model that is one TensorRT engine, for ``[-1, 3]`` float16 to ``[-1, 5]``, which runs nowhere."""
    engine = unrunnable_engine((["x"], ["y"], ["Half"], ["Float"]))
    version, plan, fields = state_of(engine)
    fields = {name: values for name, values in fields.items() if name != "state_xxh64"}
    shapes = {"input_shapes": ["-1x3"], "output_shapes": ["-1x5"], "profiles": list(profiles)}
    restore(engine, (version, plan, fields | shapes))
    return save_script(EngineModule(engine), path)


def parsed(exported: Exported) -> Any:
    """``config.pbtxt`` as Triton's published schema reads it."""
    schema = pytest.importorskip("tritonclient.grpc.model_config_pb2", reason="pip install tritonclient[grpc]")
    text = (exported.folder / "config.pbtxt").read_text(encoding="utf-8")
    return text_format.Parse(text, schema.ModelConfig())


def type_name(tensor: Any) -> str:
    return str(tensor.DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number[tensor.data_type].name)


def export(source: Path, tmp_path: Path, **arguments: Any) -> Exported:
    return export_triton(source, tmp_path / "repository", "model", **arguments)


def test_config_of_an_engine_whose_batch_varies(affine: Path, tmp_path: Path) -> None:
    exported = export(affine, tmp_path)
    config = parsed(exported)
    assert (config.name, config.backend, config.platform) == ("model", "pytorch", "pytorch_libtorch")
    assert exported.folder == tmp_path / "repository" / "model"
    assert config.max_batch_size == 8
    (given,), (taken,) = config.output, config.input
    assert (taken.name, type_name(taken), list(taken.dims)) == ("x", "TYPE_FP32", [3])
    assert (given.name, type_name(given), list(given.dims)) == ("OUTPUT__0", "TYPE_FP32", [3])
    assert list(config.dynamic_batching.preferred_batch_size) == [8]
    assert config.dynamic_batching.max_queue_delay_microseconds == 100
    (group,) = config.instance_group
    assert (group.kind, group.count, list(group.gpus)) == (group.KIND_CPU, 1, [])
    assert {key: value.string_value for key, value in config.parameters.items()} == {
        "INFERENCE_MODE": "true",
        "DISABLE_OPTIMIZED_EXECUTION": "true",
    }
    assert [(warmup.batch_size, warmup.count) for warmup in config.model_warmup] == [(1, 3), (8, 3)]
    warmed = config.model_warmup[1].inputs["x"]
    assert (type_name(warmed), list(warmed.dims), warmed.zero_data) == ("TYPE_FP32", [3], True)
    assert exported.notes == ()
    assert exported.model.read_bytes() == affine.read_bytes()


def test_a_field_that_the_schema_lacks_is_refused(affine: Path, tmp_path: Path) -> None:
    exported = export(affine, tmp_path)
    path = exported.folder / "config.pbtxt"
    text = path.read_text()
    for wrong in (text.replace("max_batch_size", "largest_batch"), text.replace("TYPE_FP32", "FP32"), text + "}"):
        assert wrong != text
        path.write_text(wrong)
        with pytest.raises(text_format.ParseError):
            parsed(exported)


def test_profiles_of_an_engine_that_cannot_run_here(tmp_path: Path) -> None:
    source = tensorrt_model(tmp_path / "model.pt", "1x3,4x3,8x3", "8x3,12x3,16x3")
    with pytest.raises(RuntimeError, match=r"the model must run here, .* fails: .*; give other inputs, or --output-s"):
        export(source, tmp_path)
    exported = export(source, tmp_path, outputs=[OutputSpec((-1, 5), torch.float32)], instances=2, gpus=[0, 2])
    config = parsed(exported)
    assert config.max_batch_size == 16
    assert list(config.dynamic_batching.preferred_batch_size) == [4, 12, 16]
    assert [warmup.batch_size for warmup in config.model_warmup] == [1, 4, 12, 16]
    (group,) = config.instance_group
    assert (group.kind, group.count, list(group.gpus)) == (group.KIND_GPU, 2, [0, 2])
    assert (type_name(config.input[0]), list(config.input[0].dims)) == ("TYPE_FP16", [3])
    assert list(config.output[0].dims) == [5]
    assert config.parameters["ENABLE_WEIGHT_SHARING"].string_value == "true"
    assert "DISABLE_OPTIMIZED_EXECUTION" not in config.parameters
    assert exported.preload == ("libtorch_trt_ext.so",)


@pytest.mark.parametrize(
    ("profiles", "arguments", "batch", "dims", "note"),
    [
        (("4x3,4x3,4x3",), {}, 0, [4, 3], ""),
        (("2x3,4x3,8x3",), {}, 0, [-1, 3], "batches must be of 2 or more"),
        (("1x3,20x3,1000x3",), {}, 32, [3], "engines take batches of up to 1000, Triton makes 32"),
        (("1x3,20x3,1000x3",), {"max_batch_size": 64}, 64, [3], ""),
        (("1x3,4x3,8x3",), {"max_batch_size": 0}, 0, [-1, 3], ""),
        (("1x3,4x3,8x3",), {"max_batch_size": 9}, 9, [3], "larger ones, up to 9, run without them or fail"),
        (("1x3,4x3,8x3",), {"outputs": [OutputSpec((5,), torch.float32)]}, 0, [-1, 3], "do not all begin with -1"),
        # The user's shapes say which part of the profile is wanted.
        (("1x3,4x3,8x3",), {"input_shapes": [["1*3"], ["5*3"]], "input_ranges": "[0.0, 1.0] float16"}, 5, [3], ""),
    ],
)
def test_batches(
    profiles: tuple[str, ...], arguments: dict[str, Any], batch: int, dims: list[int], note: str, tmp_path: Path
) -> None:
    source = tensorrt_model(tmp_path / "model.pt", *profiles)
    exported = export(source, tmp_path, **{"outputs": [OutputSpec((-1, 5), torch.float32)], **arguments})
    config = parsed(exported)
    assert config.max_batch_size == batch
    assert list(config.input[0].dims) == dims
    assert config.HasField("dynamic_batching") == (batch > 0)
    assert bool(exported.notes) == bool(note)
    assert note in "".join(exported.notes)


def test_batches_that_are_impossible_fail(tmp_path: Path) -> None:
    outputs = [OutputSpec((-1, 5), torch.float32)]
    source = tensorrt_model(tmp_path / "model.pt", "4x3,4x3,4x3")
    with pytest.raises(
        ValueError, match=r"max_batch_size must be 0 for this model, got 8: the engines take .* of 4 on"
    ):
        export(source, tmp_path, outputs=outputs, max_batch_size=8)
    mean = save_script(triton_models.Mean(), tmp_path / "mean.pt")
    with pytest.raises(ValueError, match="the outputs do not all have the batch as their first dimension"):
        export(mean, tmp_path, input_shapes=AFFINE_SHAPES, max_batch_size=8)
    assert not (tmp_path / "repository").exists()


def test_batch_where_an_output_has_none(tmp_path: Path) -> None:
    source = save_script(triton_models.Mean(), tmp_path / "mean.pt")
    exported = export(source, tmp_path, input_shapes=[["1*3"], ["4*3"]])
    config = parsed(exported)
    assert config.max_batch_size == 0
    assert (list(config.input[0].dims), list(config.output[0].dims)) == ([-1, 3], [3])
    assert exported.notes == (
        "Triton makes no batches: the outputs do not all have the batch as their first dimension, [3] for 4",
    )
    assert [warmup.batch_size for warmup in config.model_warmup] == [0]
    assert list(config.model_warmup[0].inputs["x"].dims) == [1, 3]


def test_batches_that_an_engine_gives_way_in_are_noted(tmp_path: Path) -> None:
    config = quick_config()
    config.shapes.profiles = [{"images": [[1, 3, 8, 8], [2, 3, 8, 8], [4, 3, 8, 8]]}]
    optimized, _, _ = optimize(make(Convolutions), [(torch.rand(2, 3, 8, 8),)], config)
    torch.jit.save(optimized, str(tmp_path / "model.pt"))
    exported = export(tmp_path / "model.pt", tmp_path)
    assert parsed(exported).max_batch_size == 4
    assert exported.notes == ()
    exported = export(tmp_path / "model.pt", tmp_path, max_batch_size=6, force=True)
    assert parsed(exported).max_batch_size == 6
    assert exported.notes == (
        "engines take batches of up to 4; larger ones, up to 6, run without them or fail",
        "in a batch of 6 an engine's inputs do not fit it, and its subgraph runs instead",
    )


def test_sizes_that_vary(tmp_path: Path) -> None:
    source = save_script(nn.ReLU(), tmp_path / "model.pt")
    exported = export(source, tmp_path, input_shapes=[["1*3*8*8"], ["1*3*8*16"], ["2*3*8*8"]])
    config = parsed(exported)
    assert config.max_batch_size == 2
    assert list(config.input[0].dims) == list(config.output[0].dims) == [3, 8, -1]
    # A warm-up has sizes.
    assert list(config.model_warmup[0].inputs["input"].dims) == [3, 8, 8]


def test_user_profiles(tmp_path: Path) -> None:
    source = save_script(nn.ReLU(), tmp_path / "model.pt")
    shapes = [["2*3*8"]]
    config = parsed(export(source, tmp_path, input_shapes=shapes, profiles=[[[1, 3, 8], [2, 3, 8], [4, 3, 16]]]))
    assert config.max_batch_size == 4
    assert list(config.dynamic_batching.preferred_batch_size) == [2, 4]
    assert list(config.input[0].dims) == [3, -1]


def test_model_without_engines(tmp_path: Path) -> None:
    source = save_script(nn.ReLU(), tmp_path / "model.pt")
    exported = export(source, tmp_path, input_shapes=[["2*3"]], device_type="gpu", warmup=False)
    config = parsed(exported)
    assert config.max_batch_size == 0
    assert list(config.input[0].dims) == [2, 3]
    assert config.instance_group[0].kind == config.instance_group[0].KIND_GPU
    assert not config.model_warmup
    assert exported.preload == ()


def test_list_becomes_a_tuple(tmp_path: Path) -> None:
    source = save_script(triton_models.Parts(), tmp_path / "model.pt", **{"notes.txt": "kept"})
    exported = export(source, tmp_path, input_shapes=[["1*3"], ["4*3"]])
    config = parsed(exported)
    rows, doubled = config.output
    # Triton knows no tensors without dimensions beside the batch's.
    assert (list(rows.dims), rows.HasField("reshape"), list(rows.reshape.shape)) == ([1], True, [])
    assert (doubled.name, list(doubled.dims), doubled.HasField("reshape")) == ("OUTPUT__1", [3], False)
    extra_files = {"notes.txt": ""}
    served = torch.jit.load(str(exported.model), _extra_files=extra_files)
    assert extra_files["notes.txt"] == b"kept"
    x = torch.rand(2, 3)
    result = served(x)
    assert isinstance(result, tuple)
    for actual, expected in zip(result, torch.jit.load(str(source))(x), strict=True):
        assert torch.equal(actual, expected)
    with pytest.raises(torch.jit.Error, match="the model gives another number of outputs"):
        served(torch.rand(100, 3))
    with pytest.raises(ValueError, match="link must be left out for this model: the backend takes no lists"):
        export(source, tmp_path, input_shapes=[["1*3"]], link=True, force=True)


@pytest.mark.parametrize(("model", "count"), [(triton_models.Nested(), 4), (triton_models.TuplesOnly(), 3)])
def test_nested_result_becomes_flat(model: nn.Module, count: int, tmp_path: Path) -> None:
    exported = export(save_script(model, tmp_path / "model.pt"), tmp_path, input_shapes=AFFINE_SHAPES)
    assert [tensor.name for tensor in parsed(exported).output] == [f"OUTPUT__{index}" for index in range(count)]
    x = torch.rand(1, 3)
    result = torch.jit.load(str(exported.model))(x)
    assert len(result) == count
    assert all(torch.equal(tensor, (index + 1) * x) for index, tensor in enumerate(result))


def test_named_tuple_and_index_names(tmp_path: Path) -> None:
    source = save_script(triton_models.Named(), tmp_path / "model.pt")
    exported = export(source, tmp_path, input_shapes=[["1*3", "1*3"]])
    config = parsed(exported)
    assert [tensor.name for tensor in config.input] == ["x", "y"]
    assert [type_name(tensor) for tensor in config.output] == ["TYPE_FP32", "TYPE_INT64"]
    assert exported.model.read_bytes() == source.read_bytes()
    config = parsed(export(source, tmp_path, input_shapes=[["1*3", "1*3"]], index_names=True, force=True))
    assert [tensor.name for tensor in config.input] == ["INPUT__0", "INPUT__1"]
    assert set(config.model_warmup[0].inputs) == {"INPUT__0", "INPUT__1"}


def test_dict_of_inputs(tmp_path: Path) -> None:
    source = save_script(triton_models.FromDict(), tmp_path / "model.pt")
    data = [({"image": torch.rand(size, 3), 'the "mask"': torch.rand(size, 3)},) for size in (1, 4)]
    config = parsed(export(source, tmp_path, test_data=data))
    assert [tensor.name for tensor in config.input] == ["image", 'the "mask"']
    assert config.max_batch_size == 4
    with pytest.raises(TypeError, match=r"argument 'inputs' of forward is a dict, and must be given by --inputs FILE"):
        export(source, tmp_path, input_shapes=AFFINE_SHAPES, force=True)


@pytest.mark.parametrize(
    ("model", "kind", "message"),
    [
        (triton_models.Named2Dict(), TypeError, r"output '1' must be .*, got a dict .* returns \(out\['boxes'\], out"),
        (triton_models.WithCount(), TypeError, r"output '1' must be a tensor .*, got 1; wrap the model"),
        (
            triton_models.WithFlag(),
            TypeError,
            "argument 'flip' of forward must be a tensor .* got bool; wrap the model",
        ),
        (triton_models.Half(), ValueError, "output 'OUTPUT__0' must have a dtype .*, got bfloat16; cast it in the mo"),
    ],
)
def test_what_the_backend_does_not_know_fails(
    model: nn.Module, kind: type[Exception], message: str, tmp_path: Path
) -> None:
    source = save_script(model, tmp_path / "model.pt")
    with pytest.raises(kind, match=message):
        export(source, tmp_path, input_shapes=AFFINE_SHAPES)
    assert not (tmp_path / "repository").exists()


def test_dtype_of_an_input_fails(tmp_path: Path) -> None:
    source = save_script(nn.ReLU(), tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"input 'input' must have a dtype .* got bfloat16; cast it"):
        export(source, tmp_path, test_data=[(torch.rand(1, 3).to(torch.bfloat16),)])


def test_number_of_dimensions(tmp_path: Path) -> None:
    source = save_script(nn.ReLU(), tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"must have the same number of dimensions in all calls, got \[3\] and \[1, 3"):
        export(source, tmp_path, input_shapes=[["3"], ["1*3"]])
    total = save_script(triton_models.Total(), tmp_path / "total.pt")
    (output,) = parsed(export(total, tmp_path, input_shapes=AFFINE_SHAPES)).output
    assert (list(output.dims), output.HasField("reshape")) == ([1], True)


def test_inputs_that_no_engine_takes_fail(tmp_path: Path) -> None:
    source = save_script(nn.ReLU(), tmp_path / "model.pt")
    with pytest.raises(ValueError, match="argument 'input' of forward must have a shape, but no engine takes it as it"):
        export(source, tmp_path)


def test_weights_of_a_model_that_counts_are_not_shared(tmp_path: Path) -> None:
    source = save_script(triton_models.Counter(), tmp_path / "model.pt")
    config = parsed(export(source, tmp_path, input_shapes=AFFINE_SHAPES, instances=2))
    assert "ENABLE_WEIGHT_SHARING" not in config.parameters


def test_parameters_of_the_user(affine: Path, tmp_path: Path) -> None:
    config = parsed(export(affine, tmp_path, parameters={"INFERENCE_MODE": "false", "ENABLE_CACHE_CLEANING": "true"}))
    assert config.parameters["INFERENCE_MODE"].string_value == "false"
    assert config.parameters["ENABLE_CACHE_CLEANING"].string_value == "true"


def test_existing_model(affine: Path, tmp_path: Path) -> None:
    exported = export(affine, tmp_path)
    labels = exported.folder / "labels.txt"
    labels.write_text("seven")
    with pytest.raises(FileExistsError, match=r"repository must not have a model 'model' yet, .*; choose another name"):
        export(affine, tmp_path, version=2)
    again = export(affine, tmp_path, version=2, force=True, link=True)
    assert again.model == exported.folder / "2" / "model.pt"
    assert again.model.samefile(affine)
    assert not exported.model.samefile(affine)
    assert labels.read_text() == "seven"
    assert not list(exported.folder.rglob(".*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"version": 0}, "version must be 1 or more, got 0; Triton passes over other folders"),
        ({"instances": 0}, "instances must be 1 or more"),
        ({"max_batch_size": -1}, "must be .* 0 or more, got 1, 100 and -1"),
        ({"gpus": [0]}, r"gpus must be left out where the model runs on the CPU, got \[0\]"),
    ],
)
def test_arguments_out_of_range_fail(arguments: dict[str, Any], message: str, affine: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        export(affine, tmp_path, **arguments)


@pytest.mark.parametrize("name", ["", "..", "a/b", "a b"])
def test_names_that_are_no_folders_fail(name: str, affine: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="name must be one for a folder, of letters"):
        export_triton(affine, tmp_path / "repository", name)


def launch(exported: Exported, script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a script under the launcher, by a Python that knows nothing of this package."""
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "LD_LIBRARY_PATH")}
    return subprocess.run(
        [str(exported.folder / "launch"), sys.executable, "-c", textwrap.dedent(script)],
        cwd="/",
        env={**variables, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


TORCH_LIBRARIES = str(Path(torch.__file__).parent / "lib")

#: What the backend does, with no class registered by anyone but the libraries that are loaded.
AS_THE_BACKEND = """
    import sys
    import torch
    with torch.inference_mode():
        model = torch.jit.load({model!r})
        result = model(torch.arange(6.0).reshape(2, 3))
    assert "torch_trt_ext" not in sys.modules
    print(result.tolist() if isinstance(result, torch.Tensor) else [tensor.tolist() for tensor in result])
    folders = {{line.partition("/")[1:][1].rpartition("/")[0] for line in open("/proc/self/maps") if ".so" in line}}
    print([folder for folder in folders if folder in {watched!r}])
"""


@pytest.mark.parametrize("with_libraries", [True, False])
def test_launched_process_runs_the_engine(with_libraries: bool, affine: Path, tmp_path: Path) -> None:
    import openvino

    # A name that a loader, a shell or a splitting of paths would stumble over.
    exported = export_triton(affine, tmp_path / "re po'", "model", with_libraries=with_libraries)
    installed = f"{Path(openvino.__file__).parent}/libs".lstrip("/")
    script = AS_THE_BACKEND.format(model=str(exported.model), watched=[installed])
    plain = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], cwd="/", capture_output=True, check=False)
    assert b"torch_trt_ext" in plain.stderr
    assert plain.returncode == 1
    result = launch(exported, script, TORCH_LIBRARY_DIR=TORCH_LIBRARIES)
    assert result.returncode == 0, result.stderr
    answer, used = result.stdout.splitlines()
    assert answer == "[[1.0, 3.0, 5.0], [7.0, 9.0, 11.0]]"
    assert used == ("[]" if with_libraries else f"[{installed!r}]")
    assert set(exported.libraries) >= set(exported.preload) or not with_libraries


def test_launched_process_runs_a_flattened_model(tmp_path: Path) -> None:
    class Both(nn.Module):
        def __init__(self, engine: object) -> None:
            super().__init__()
            self.engine = engine

        def forward(self, x: Tensor) -> list[Tensor]:
            outputs: list[Tensor] = self.engine.forward([x])
            return outputs

    exported = export(save_script(Both(affine_engine()), tmp_path / "model.pt"), tmp_path)
    script = AS_THE_BACKEND.format(model=str(exported.model), watched=[])
    result = launch(exported, script, TORCH_LIBRARY_DIR=TORCH_LIBRARIES)
    assert result.stdout.splitlines()[0] == "[[[1.0, 3.0, 5.0], [7.0, 9.0, 11.0]]]", result.stderr


def test_launch_says_what_is_missing(affine: Path, tmp_path: Path) -> None:
    exported = export(affine, tmp_path)
    nowhere = str(tmp_path)
    result = launch(exported, "", TORCH_LIBRARY_DIR=TORCH_LIBRARIES, TORCH_TRT_EXT_LIBRARY_DIR=nowhere)
    assert result.returncode == 1
    assert result.stderr.startswith(f"error: libtorch_trt_ext.so must be in {nowhere}, where it is not; set TORCH_TRT_")
    result = launch(exported, "", TORCH_LIBRARY_DIR=nowhere)
    assert result.returncode == 1
    assert result.stderr.startswith(f"error: libtorch_cpu.so must be in {nowhere}, where it is not; set TORCH_LIBRARY_")


def test_launch_without_engines_needs_nothing(tmp_path: Path) -> None:
    exported = export(save_script(nn.ReLU(), tmp_path / "model.pt"), tmp_path, input_shapes=AFFINE_SHAPES)
    result = launch(exported, "import os; print(repr(os.environ['LD_PRELOAD']))", TORCH_LIBRARY_DIR=str(tmp_path))
    assert result.stdout == "''\n"


def test_plugin_libraries_are_named(tmp_path: Path) -> None:
    engine = affine_engine()
    version, plan, fields = state_of(engine)
    fields = {name: values for name, values in fields.items() if name != "state_xxh64"}
    restore(engine, (version, plan, fields | {"plugin_libraries": ["libmine.so"]}))
    exported = export(save_script(EngineModule(engine), tmp_path / "model.pt"), tmp_path)
    assert exported.notes == (
        "the engines need libmine.so in the folder of libtorch_trt_ext.so, or in one that TORCH_TRT_EXT_PLUGIN_PATH "
        "names",
    )

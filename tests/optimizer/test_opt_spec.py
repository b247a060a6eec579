"""OptSpec: what `with` does, what it warns of, and what is saved."""

from __future__ import annotations

import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from torch_trt_ext import runtime
from torch_trt_ext.config import Config
from torch_trt_ext.optimizer import report as report_module
from torch_trt_ext.optimizer.opt_spec import OptSpec
from torch_trt_ext.optimizer.report import device_name
from torch_trt_ext.version import __version__

NO_GPU = "a TensorRT engine needs an NVIDIA GPU, CUDA finds none"


@pytest.fixture
def h200(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that seems to have an H200 and TensorRT 10.6.0."""
    monkeypatch.setattr(runtime, "available_backends", lambda: {"tensorrt": "", "openvino": ""})
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(report_module, "import_tensorrt", lambda: type("trt", (), {"__version__": "10.6.0"}))


def cpu_spec(**changes: Any) -> OptSpec:
    return dataclasses.replace(OptSpec.of_this_machine(Config(build_threads=2), "cpu"), **changes)


def test_of_this_machine_on_cpu() -> None:
    config = Config(build_threads=2)
    spec = OptSpec.of_this_machine(config, "cpu")
    config.build_threads = 3
    assert spec.config == Config(build_threads=2)
    assert spec.versions.keys() == {"torch", "openvino", "torch_trt_ext"}
    assert spec.versions["torch_trt_ext"] == __version__
    assert spec.environment == {"cpu": device_name("cpu")}
    assert spec.differences() == []


@pytest.mark.usefixtures("h200")
def test_of_this_machine_on_gpu() -> None:
    spec = OptSpec.of_this_machine(Config(), "gpu")
    assert spec.versions == {"torch": torch.__version__, "tensorrt": "10.6.0", "torch_trt_ext": __version__}
    assert spec.environment == {"gpu": "NVIDIA H200", "compute_capability": "9.0"}
    assert spec.differences() == []


def test_with_makes_config_current_and_restores() -> None:
    spec, other = cpu_spec(), Config()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with other:
            with spec as entered:
                assert entered is spec
                assert Config.current() is spec.config
                with other:
                    assert Config.current() is other
                    with spec:
                        assert Config.current() is spec.config
                    assert Config.current() is other
                assert Config.current() is spec.config
            assert Config.current() is other
            with pytest.raises(KeyError), spec:
                raise KeyError
            assert Config.current() is other


def test_other_torch_warns() -> None:
    spec = cpu_spec(versions={"torch": "1.8.1", "torch_trt_ext": __version__})
    assert spec.differences() == [f"torch was 1.8.1 and is {torch.__version__} here"]
    expected = (
        r"torch was 1\.8\.1 and is .* here\. Engines that cannot run here fall back to PyTorch, which is slower\. "
        r"Run torch_trt_ext\.optimize\(\) again on this machine, or provide what was used: cpu .*, torch 1\.8\.1"
    )
    with pytest.warns(RuntimeWarning, match=expected) as caught, spec:
        assert Config.current() is spec.config
    assert caught[0].filename == __file__


def test_without_fallback_warning_says_that_calls_fail() -> None:
    spec = cpu_spec(versions={"torch": "1.8.1"}, config=Config(keep_fallback=False))
    with pytest.warns(RuntimeWarning, match=r"fail when they are called, since config\.keep_fallback was False"), spec:
        pass


@pytest.mark.usefixtures("h200")
def test_other_gpu_and_tensorrt_warn() -> None:
    spec = dataclasses.replace(
        OptSpec.of_this_machine(Config(), "gpu"),
        versions={"tensorrt": "11.2.0", "torch_trt_ext": __version__},
        environment={"gpu": "Tesla T4", "compute_capability": "7.5"},
    )
    assert spec.differences() == [
        "tensorrt was 11.2.0 and is 10.6.0 here",
        "gpu was Tesla T4 and is NVIDIA H200 here",
        "compute_capability was 7.5 and is 9.0 here",
    ]


def test_no_gpu_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "available_backends", lambda: {"tensorrt": NO_GPU, "openvino": ""})
    spec = OptSpec(Config(), "gpu", [], {"tensorrt": "10.6.0"}, {"gpu": "Tesla T4"})
    with pytest.warns(RuntimeWarning, match=f"engines cannot run here: {NO_GPU}"), spec:
        pass


def test_other_processor_does_not_warn() -> None:
    assert cpu_spec(environment={"cpu": "another"}).differences() == []


def test_warning_as_error_leaves_config() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeWarning), cpu_spec(versions={"torch": "1.8.1"}):
            pass
    assert Config.current() == Config()


def test_plugin_libraries_are_opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    opened: list[str] = []
    monkeypatch.setattr(runtime, "load_plugin_library", opened.append)
    plugin, absent = tmp_path / "plugin.so", tmp_path / "absent.so"
    plugin.touch()
    spec = OptSpec.of_this_machine(
        Config(), "cpu", plugin_libraries=["own.so", "plugin.so"], plugin_paths=[plugin, absent]
    )
    assert spec.plugin_libraries == ["own.so", "plugin.so", "absent.so"]
    with pytest.warns(RuntimeWarning, match=f"plugin library {absent} is not there"), spec:
        assert opened == [str(plugin)]


def test_plugin_library_that_cannot_be_opened_warns(tmp_path: Path) -> None:
    (tmp_path / "plugin.so").write_bytes(b"not a library")
    spec = OptSpec.of_this_machine(Config(), "cpu", plugin_paths=[tmp_path / "plugin.so"])
    with pytest.warns(RuntimeWarning, match=r"plugin library .*plugin\.so"), spec:
        assert Config.current() is spec.config


def test_round_trips(tmp_path: Path) -> None:
    spec = cpu_spec(plugin_libraries=["plugin.so"], plugin_paths=[str(tmp_path / "plugin.so")])
    spec.config.partition.deny = ["aten::add@3"]
    text = spec.to_json()
    assert str(tmp_path) not in text
    assert OptSpec.from_json(text) == spec
    assert OptSpec.from_json(spec.to_json(indent=None)).to_json() == text
    assert OptSpec.from_json(text).plugin_paths == []
    spec.save(tmp_path / "spec.json")
    loaded = OptSpec.load(tmp_path / "spec.json", plugin_paths=[tmp_path / "plugin.so"])
    assert loaded == spec
    assert loaded.plugin_paths == spec.plugin_paths


def test_str() -> None:
    spec = OptSpec(
        Config(progress=False), "gpu", ["plugin.so"], {"torch": "2.11.0", "tensorrt": "10.6.0"}, {"gpu": "Tesla T4"}
    )
    assert str(spec) == (
        "OptSpec for gpu\n"
        "  made with: gpu Tesla T4, torch 2.11.0, tensorrt 10.6.0\n"
        "  plugin libraries: plugin.so\n"
        '  options that differ from their defaults: {"progress": false}'
    )


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"format": 2},
            ValueError,
            "opt_spec must be of format 1, got 2; read it with the torch_trt_ext that wrote it",
        ),
        ({"extra": 2}, ValueError, "opt_spec must have the keys format, .*, got format, .*, extra"),
        ({"device_type": "tpu"}, ValueError, "device_type must be 'gpu' or 'cpu', got 'tpu'"),
        ({"config": {"foo": 1}}, ValueError, "config has no option 'foo'"),
        ({"versions": {"torch": 2}}, TypeError, "versions must be a dict of strings"),
        ({"environment": []}, TypeError, "environment must be a dict of strings"),
        ({"plugin_libraries": "a.so"}, TypeError, "plugin_libraries must be a list of strings, got 'a.so'"),
        ({"plugin_libraries": ["../a.so"]}, ValueError, r"must be file names, got '\.\./a\.so'; give paths as plugin_"),
    ],
)
def test_from_json_fails(changes: dict[str, object], error: type[Exception], message: str) -> None:
    values = {**json.loads(cpu_spec().to_json()), **changes}
    with pytest.raises(error, match=message):
        OptSpec.from_json(json.dumps(values))


@pytest.mark.parametrize(("text", "message"), [("{", "must be read from JSON"), ("[]", "JSON object, got a list")])
def test_from_json_of_other_text_fails(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OptSpec.from_json(text)


def test_config_of_wrong_kind_fails() -> None:
    with pytest.raises(TypeError, match=r"opt_spec\.config must be a Config, got dict"):
        cpu_spec(config={})

"""The report has PAI-Blade's keys and formats, and strict JSON in all it says."""

from __future__ import annotations

import importlib.metadata
import json
import math
import platform
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from torch_trt_ext.config import Config
from torch_trt_ext.optimizer import report as report_module
from torch_trt_ext.optimizer.report import Overall, PassResult, Report, build_report, device_name, software_versions
from torch_trt_ext.version import __version__

# As PAI-Blade's RetinaNet tutorial prints it.
PAI_BLADE_REPORT = """{
  "software_context": [
    {
      "software": "pytorch",
      "version": "1.8.1+cu102"
    },
    {
      "software": "cuda",
      "version": "10.2.0"
    }
  ],
  "hardware_context": {
    "device_type": "gpu",
    "microarchitecture": "T4"
  },
  "user_config": "",
  "diagnosis": {
    "model": "unnamed.pt",
    "test_data_source": "user provided",
    "shape_variation": "undefined",
    "message": "Unable to deduce model inputs information (data type, shape, value range, etc.)",
    "test_data_info": "0 shape: (1, 3, 480, 640) data type: float32"
  },
  "optimizations": [
    {
      "name": "PtTrtPassFp16",
      "status": "effective",
      "speedup": "4.37",
      "pre_run": "40.59 ms",
      "post_run": "9.28 ms"
    }
  ],
  "overall": {
    "baseline": "40.02 ms",
    "optimized": "9.27 ms",
    "speedup": "4.32"
  },
  "model_info": {
    "input_format": "torch_script"
  },
  "compatibility_list": [
    {
      "device_type": "gpu",
      "microarchitecture": "T4"
    }
  ],
  "model_sdk": {}"""


def make_report(**changes: Any) -> Report:
    arguments: dict[str, Any] = {
        "config": Config(),
        "device_type": "cpu",
        "input_format": "torch_script",
        "test_data": [],
        "passes": [],
        "overall": Overall(),
    }
    return build_report(**{**arguments, **changes})


def parse_strictly(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("gpu", ["Tesla T4", "NVIDIA T4"])
def test_same_as_pai_blade(monkeypatch: pytest.MonkeyPatch, gpu: str) -> None:
    versions = {"torch": "1.8.1+cu102", "cuda": "10.2.0", "tensorrt": "10.6.0", "torch_trt_ext": "0.1.0"}
    monkeypatch.setattr(report_module, "software_versions", lambda device_type: versions)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: gpu)
    report = make_report(
        device_type="gpu",
        test_data=[(torch.empty(1, 3, 480, 640),)],
        passes=[PassResult("PtTrtPassFp16", "effective", 40.59, 9.28)],
        overall=Overall(40.02, 9.27),
    )
    assert list(report)[-5:] == ["engines", "left_in_torch", "accuracy", "coverage", "latency"]
    assert report["software_context"][2:] == [
        {"software": "tensorrt", "version": "10.6.0"},
        {"software": "torch_trt_ext", "version": "0.1.0"},
    ]
    del report["software_context"][2:], report["engines"], report["left_in_torch"]
    del report["accuracy"], report["coverage"], report["latency"]
    assert str(report) == PAI_BLADE_REPORT + "\n}"
    assert f"Report: {report}" == "Report: " + PAI_BLADE_REPORT + "\n}"


def test_cpu_report() -> None:
    report = make_report()
    assert report["software_context"] == [
        {"software": "pytorch", "version": torch.__version__},
        {"software": "openvino", "version": importlib.metadata.version("openvino")},
        {"software": "torch_trt_ext", "version": __version__},
    ]
    assert report["hardware_context"] == {"device_type": "cpu", "microarchitecture": device_name("cpu")}
    assert report["compatibility_list"] == [report["hardware_context"]]


def test_software_versions_of_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise RuntimeError("no tensorrt")

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(report_module, "import_tensorrt", lambda: type("trt", (), {"__version__": "10.6.0"}))
    assert list(software_versions("gpu").items())[1:3] == [("cuda", "13.0"), ("tensorrt", "10.6.0")]
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(report_module, "import_tensorrt", missing)
    assert list(software_versions("gpu")) == ["torch", "torch_trt_ext"]


def test_cpu_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(report_module, "_CPU_INFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert device_name("cpu") == "aarch64"
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel\t\t: 85\nmodel name\t: A CPU: @ 2 GHz\nmodel name\t: B\n")
    assert device_name("cpu") == "A CPU: @ 2 GHz"
    (tmp_path / "cpuinfo").write_text("processor\t: 0\n")
    assert device_name("cpu") == "aarch64"


def test_user_config() -> None:
    config = Config()
    config.gpu_config.disable_fp16_accuracy_check = True
    user_config = make_report(config=config)["user_config"]
    assert user_config == '{"gpu_config":{"disable_fp16_accuracy_check":true}}'
    assert Config.from_json(user_config) == config


def test_test_data_info_numbers_tensors_at_any_depth() -> None:
    half = torch.empty(2, dtype=torch.float16)
    item = (torch.empty(()), [half, {"mask": torch.empty(0, 3, dtype=torch.bool)}], 3)
    assert make_report(test_data=[item, (half,)])["diagnosis"]["test_data_info"] == (
        "0 shape: () data type: float32\n1 shape: (2,) data type: float16\n2 shape: (0, 3) data type: bool"
    )
    assert make_report()["diagnosis"]["test_data_info"] == ""


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [([], "undefined"), ([(2,)], "undefined"), ([(2,), (2,)], "static"), ([(2,), (2,), (3,)], "dynamic")],
)
def test_shape_variation(shapes: list[tuple[int, ...]], expected: str) -> None:
    diagnosis = make_report(test_data=[(torch.empty(shape),) for shape in shapes])["diagnosis"]
    assert diagnosis["shape_variation"] == expected
    assert bool(diagnosis["message"]) is (expected == "undefined")


def test_diagnosis_from_the_caller() -> None:
    diagnosis = make_report(
        model_path=Path("/models/retinanet.pt"),
        test_data_source="generated",
        shape_variation="dynamic",
        message="two inputs vary",
    )["diagnosis"]
    assert diagnosis == {
        "model": "retinanet.pt",
        "test_data_source": "generated",
        "shape_variation": "dynamic",
        "message": "two inputs vary",
        "test_data_info": "",
    }


def test_not_measured_is_nan() -> None:
    report = make_report(passes=[PassResult("PtTrtPassFp16", "failed")], overall=Overall(1.0, 0.0))
    assert report["optimizations"] == [
        {"name": "PtTrtPassFp16", "status": "failed", "speedup": "nan", "pre_run": "nan ms", "post_run": "nan ms"}
    ]
    assert report["overall"]["speedup"] == "inf"
    assert math.isnan(Overall(0.0, 0.0).speedup)


def test_values_become_strict_json() -> None:
    report = make_report(
        engines=[
            {
                "bytes": np.int64(3),
                "ok": np.bool_(True),
                "speedup": np.float32(0.5),
                "errors": (math.nan, math.inf, -math.inf, np.float64("nan"), torch.tensor(math.inf)),
                "shape": torch.Size([1, 2]),
                "dtype": torch.float16,
                "path": Path("/tmp/a"),
                "half": torch.tensor([0.25], dtype=torch.bfloat16),
                "none": None,
            }
        ],
        accuracy={"max_relative_error": np.float64(0.125)},
        coverage={"nodes": {"engines": 3}},
    )
    assert report["engines"] == [
        {
            "bytes": 3,
            "ok": True,
            "speedup": 0.5,
            "errors": ["nan", "inf", "-inf", "nan", "inf"],
            "shape": [1, 2],
            "dtype": "float16",
            "path": "/tmp/a",
            "half": 0.25,
            "none": None,
        }
    ]
    assert type(report["accuracy"]["max_relative_error"]) is float
    assert parse_strictly(str(report)) == report
    assert parse_strictly(report.to_json(indent=None)) == report
    assert "\n" not in report.to_json(indent=None)


def test_tables_are_printed_a_row_a_line() -> None:
    modules = [{"path": "", "engines": {"engine_0": 1}}, {"path": "a", "engines": {}}]
    report = make_report(coverage={"engines": 1, "modules": modules}, engines=[{"layers": {"slowest": []}}])
    assert parse_strictly(str(report)) == report
    assert '    "modules": [\n      {"path": "", "engines": {"engine_0": 1}},\n      {"path": "a"' in str(report)
    assert '"slowest": []' in str(report)


def test_values_added_later_become_strict_json() -> None:
    report = make_report()
    report["own"] = {"latency_ms": np.float32("inf")}
    assert parse_strictly(str(report))["own"] == {"latency_ms": "inf"}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": [object()]}, r"report\['engines'\]\[0\]\['a'\]\[0\] must be a JSON value, got object"),
        ({"a": torch.empty(2, 3)}, r"\['a'\] must be a JSON value, got an array of shape \(2, 3\); use tolist\(\)"),
        ({"a": {1: 2}}, r"\['a'\] must have strings as keys, got 1"),
    ],
)
def test_value_that_is_not_json_fails(value: dict[str, object], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        make_report(engines=[value])


def test_left_in_torch() -> None:
    left = {"reason": "no ONNX symbol", "node": "aten::foo", "source": "model.py:3"}
    assert list(make_report(left_in_torch=[left])["left_in_torch"][0].items()) == [
        ("node", "aten::foo"),
        ("source", "model.py:3"),
        ("reason", "no ONNX symbol"),
    ]
    with pytest.raises(ValueError, match=r"left_in_torch\[1\] must have the keys node, source, reason, got node"):
        make_report(left_in_torch=[left, {"node": "aten::foo"}])


def test_pass_result_fails() -> None:
    with pytest.raises(ValueError, match="status of pass 'P' must be one of 'effective', 'not effective', 'failed', "):
        PassResult("P", "good")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"post_run_ms of pass 'P' must be at least 0 ms, got -1\.0"):
        PassResult("P", "effective", 1.0, -1.0)
    with pytest.raises(ValueError, match="baseline_ms must be at least 0 ms"):
        Overall(-1.0, 1.0)

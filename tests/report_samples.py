"""Reports made by hand: a usual one, and what else a page must be able to show."""

from __future__ import annotations

from typing import Any

#: Text that would be a script, an end of what it stands in, an entity, a formula, a table, or no text at all.
HOSTILE = "<script>window.hacked = 1</script></style>]]>\"'><img src=x onerror=alert(1)>&amp;$x^2$|`*_\x00\ud800 λ"


NOT_IN = {"float8": "its engine in float8 is not accurate: by 30%", "int8": "its engine cannot be built: no | kernel"}


def engine_entry(name: str = "engine_0", **changes: Any) -> dict[str, Any]:
    latency = {"median_ms": 1.25, "p10_ms": 1.125, "p90_ms": 1.5, "device_ms": 1.0625, "runs": 77}
    output = {
        **{"path": "0.boxes", "shape": [4, 8], "dtype": "float16", "max_abs": 0.015, "mean_abs": 0.0015},
        **{"relative": 0.0025, "cosine": 0.99875, "mismatched": 0.0625, "note": ""},
    }
    return {
        "name": name,
        "backend": "tensorrt",
        "precision": "float16",
        "not_in": {},
        "operators": 11,
        "nodes": 13,
        "inputs": [
            {
                "name": "input_0",
                "dtype": "Float",
                "shapes": [{"min": [1, 3, 16, 16], "opt": [4, 3, 16, 16], "max": [8, 3, 16, 16]}],
            }
        ],
        "outputs": [{"name": "output_0", "dtype": "Float"}],
        "plan_bytes": 45_000,
        "build_seconds": 2.75,
        "from_cache": True,
        "kept_float32": {"n1/Exp": "reached 7e+04 with the test data"},
        "kept_16bit": {},
        "cuda_graphs": True,
        "error": {"relative": 0.0025, "outputs": [output]},
        "latency": {"engine": latency, "torch": {**latency, "median_ms": 5.5}, "speedup": 4.4},
        "layers": {
            "count": 2,
            "total_ms": 1.1875,
            "runs": 10,
            "slowest": [
                {"name": "n1/Conv", "kind": "Convolution", "module": "backbone.conv", "ms": 1.0625},
                {"name": "n2/Relu", "kind": "", "module": "", "ms": 0.125},
            ],
        },
        **changes,
    }


def made(**changes: Any) -> dict[str, Any]:
    """A report made by hand, of a model with two engines and nodes that stay."""
    quantiles = ("min_ms", "p5_ms", "p10_ms", "p25_ms", "median_ms", "p75_ms", "p90_ms", "p95_ms", "p99_ms", "max_ms")
    left = [{"node": f"aten::nms@{n}", "source": f"detect.py:{n}", "reason": "has no ONNX form"} for n in range(11)]
    left.append({"node": "aten::sort@0", "source": "", "reason": "writes to the model"})
    modules = [
        {"path": "", "engines": {"engine_0": 11, "engine_1": 3}, "left": 12, "left_nodes": ["aten::sort@0"]},
        {"path": "backbone", "engines": {"engine_0": 11}, "left": 0, "left_nodes": [], "engine_ms": 1.1875},
        {"path": "backbone.conv", "engines": {"engine_0": 11}, "left": 0, "left_nodes": [], "engine_ms": 1.0625},
        {"path": "head", "engines": {"engine_1": 3}, "left": 11, "left_nodes": [entry["node"] for entry in left[:11]]},
    ]
    hardware = {"device_type": "gpu", "microarchitecture": "H200"}
    return {
        "software_context": [{"software": "pytorch", "version": "2.11.0"}, {"software": "tensorrt", "version": "10.6"}],
        "hardware_context": hardware,
        "user_config": '{"keep_fallback":false}',
        "diagnosis": {
            "model": "retinanet.pt",
            "test_data_source": "user provided",
            "shape_variation": "static",
            "message": "",
            "test_data_info": "0 shape: (1, 3, 16, 16) data type: float32",
        },
        "optimizations": [
            {
                **{"name": "PtTrtPassFp16", "status": "effective", "speedup": "4.37"},
                **{"pre_run": "40.59 ms", "post_run": "9.28 ms"},
            }
        ],
        "overall": {"baseline": "40.02 ms", "optimized": "9.27 ms", "speedup": "4.32"},
        "model_info": {"input_format": "torch_script"},
        "compatibility_list": [hardware],
        "model_sdk": {},
        "engines": [engine_entry(), engine_entry("engine_1", operators=3, not_in=NOT_IN, latency={}, layers={})],
        "left_in_torch": left,
        "accuracy": {
            "checked": True,
            "max_relative_error": 0.02,
            "max_model_relative_error": 0.05,
            "model": engine_entry()["error"],
        },
        "coverage": {
            **{"engines": 2, "operators": 14, "operators_total": 26, "compute": 0.875, "gflops_total": 12.5},
            "modules": modules,
        },
        "latency": {
            name: {**{key: middle + n / 8 for n, key in enumerate(quantiles)}, "device_ms": middle - 1, "runs": 200}
            for name, middle in (("original", 39.5), ("optimized", 8.75))
        },
        **changes,
    }


def without_engines(**changes: Any) -> dict[str, Any]:
    nothing = {"engines": 0, "operators": 0, "operators_total": 3, "compute": 0.0, "gflops_total": 0.001, "modules": []}
    return made(**{"engines": [], "coverage": nothing, "latency": {}, **changes})


NAN = {"overall": {"baseline": "nan ms", "optimized": "nan ms", "speedup": "nan"}}

ODD = {
    "made": made(),
    "no engine": without_engines(
        overall={"baseline": "0.01 ms", "optimized": "0.01 ms", "speedup": "1.00"},
        accuracy={"checked": True, "max_relative_error": 0.02, "max_model_relative_error": 0.05},
        diagnosis={"model": "a.pt", "message": "no engine was kept. 3 operators: its engine is 0.9 times as fast"},
    ),
    "failed build": without_engines(
        optimizations=[{"name": "PtTrtPassFp16", "status": "failed", "pre_run": "nan ms", "post_run": "nan ms"}],
        left_in_torch=[
            {
                "node": "aten::conv2d@0",
                "source": "net.py:1",
                "reason": "is in a subgraph whose engine cannot be built: out of memory",
            }
        ],
        **NAN,
    ),
    "not measured": made(latency={}, **NAN),
    "infinite error": made(
        accuracy={"max_model_relative_error": "nan", "model": {"relative": "inf", "outputs": [{"relative": "inf"}]}}
    ),
    "metric": made(accuracy={"checked": True, "metric": {"original": 0.75, "optimized": None, "max_drop": 0.01}}),
    "older report": {key: value for key, value in made().items() if key != "latency"} | {"coverage": {"operators": 1}},
    "empty": {},
    "no values": dict.fromkeys(made()),
}


def hostile(value: Any) -> Any:
    """A report whose every name and text is :data:`HOSTILE`."""
    if isinstance(value, dict):
        return {key: hostile(item) for key, item in value.items()}
    if isinstance(value, list):
        return [hostile(item) for item in value]
    return HOSTILE if isinstance(value, str) else value


ODD["hostile"] = hostile(made())
ODD["hostile names"] = made(
    engines=[engine_entry(HOSTILE), engine_entry(kept_float32={HOSTILE: HOSTILE})],
    coverage={"modules": [{"path": path, "engines": {HOSTILE: 1}, "left": 0} for path in ("", HOSTILE)]},
)

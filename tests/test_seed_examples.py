"""The examples that continue the seeds, in their small form on the CPU, as a user runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch.nn import functional

from examples.detr.figures import compare, convolution_share, layer_table
from examples.packnet.model import FULL, PackNet, space_to_depth
from examples.running import Check, Place, conclude
from tests.fresh_process import ROOT, output_of_fresh, run_fresh

#: Of one demo; the small forms take under a minute on two idle cores.
_MAX_SECONDS = 600


class Run(NamedTuple):
    """What a demo left behind."""

    folder: Path
    summary: dict[str, Any]
    output: str


def run_demo(name: str, folder: Path) -> Run:
    """Runs ``python -m examples.<name>.demo --small --device cpu``, with an empty cache of engines."""
    command = [
        sys.executable,
        "-m",
        f"examples.{name}.demo",
        "--small",
        "--device",
        "cpu",
        "--out",
        str(folder / "out"),
    ]
    result = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "TORCH_TRT_EXT_CACHE": str(folder / "cache")},
        capture_output=True,
        text=True,
        timeout=_MAX_SECONDS,
        check=False,
    )
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
    summary = json.loads((folder / "out" / "summary.json").read_text())
    assert summary["passed"]
    assert (summary["example"], summary["device"], summary["engine"]) == (name, "cpu", "OpenVINO")
    assert result.stdout.startswith("Using OpenVINO engines on the CPU (as asked).")
    return Run(folder / "out", summary, result.stdout)


@pytest.fixture(scope="module")
def leaky(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_demo("leaky_network", tmp_path_factory.mktemp("leaky"))


@pytest.fixture(scope="module")
def packnet(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_demo("packnet", tmp_path_factory.mktemp("packnet"))


@pytest.fixture(scope="module")
def detr(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_demo("detr", tmp_path_factory.mktemp("detr"))


def test_engine_table(tmp_path: Path) -> None:
    run = run_demo("engine_table", tmp_path)
    rows = {row["way"]: row for row in run.summary["resnet18"]}
    assert list(rows) == ["eager", "TorchScript", "engine, float32", "engine, 16 bits", "engine, 8 bits"]
    assert rows["engine, float32"]["relative_error"] < 1e-3
    assert rows["engine, 8 bits"]["precision"] == "int8"
    assert 0 < rows["engine, 8 bits"]["relative_error"] < 0.1
    assert all(row["engines"] == 1 for row in run.summary["transformers"])
    assert run.summary["layers"][0]["ms"] > 0
    assert run.summary["ranges"]["profiles"][0][0][0][0] == 1
    assert run.summary["ranges"]["profiles"][0][0][2][0] == 8


def test_leaky_network(leaky: Run) -> None:
    assert sorted(path.name for path in leaky.folder.iterdir()) == [
        "leaky_lenet.ovir",
        "leaky_relu.ovir",
        "summary.json",
    ]
    assert leaky.summary["max_probability_error"] < 1e-4
    assert leaky.summary["accuracy"] > 0.95
    assert "Prediction:" in leaky.output


def test_leaky_networks_files_load_in_a_fresh_process(leaky: Run) -> None:
    script = f"""
        import torch
        from torch_trt_ext.engine import OpenVINOEngineExtension
        one = OpenVINOEngineExtension.from_plan({str(leaky.folder / "leaky_relu.ovir")!r})
        print(*(one.forward([torch.tensor([[x]])])[0].item() for x in (-2.0, 3.0)))
        lenet = OpenVINOEngineExtension.from_plan({str(leaky.folder / "leaky_lenet.ovir")!r})
        print(tuple(lenet.forward([torch.rand(64, 1, 28, 28)])[0].shape), lenet.io_names()[0])
    """
    values, shapes = output_of_fresh(script).splitlines()
    assert [float(value) for value in values.split()] == pytest.approx([-0.2, 3.0])
    assert shapes == "(64, 10) ['input_1']"


def test_wrong_answers_fail_the_example(tmp_path: Path) -> None:
    script = f"""
        import sys
        from examples.leaky_network import demo
        demo.MAX_PROBABILITY_ERROR = 0.0
        sys.exit(demo.main(["--small", "--device", "cpu", "--out", {str(tmp_path)!r}]))
    """
    result = run_fresh(script)
    assert result.returncode == 1, result.stderr
    assert "FAILED: error of a probability must be at most 0" in result.stderr
    assert not json.loads((tmp_path / "summary.json").read_text())["passed"]


@pytest.mark.parametrize(("value", "passes"), [(0.5, True), (1.5, False), (float("nan"), False)])
def test_check_and_exit_status(value: float, passes: bool, tmp_path: Path) -> None:
    place = Place("cpu", "OpenVINO", "here")
    check = Check("a figure", value, 1.0)
    assert check.passed is passes
    assert conclude(tmp_path, place, {}, [check]) == (0 if passes else 1)
    assert Check("a figure", 1.0, value, at_least=True).passed is passes


def test_packnet(packnet: Run) -> None:
    for precision, limit in (("float32", 1e-3), ("auto", 0.02)):
        result = packnet.summary["optimized"][precision]
        assert len(result["relative_errors"]) == 4
        assert max(result["relative_errors"]) < limit
        assert result["counters"]["calls"] > 0
        assert result["counters"]["fallbacks"] == 0
        assert result["compute_in_engines"] == 1.0
        assert result["group_norms_left_in_torch"] == 0
        assert (packnet.folder / f"packnet_{precision}.pt").stat().st_size == result["file_bytes"]
    assert packnet.summary["group_normalizations"] == 29


def test_packnets_file_loads_in_a_fresh_process(packnet: Run) -> None:
    script = f"""
        import torch
        import torch_trt_ext.runtime
        model = torch.jit.load({str(packnet.folder / "packnet_float32.pt")!r})
        maps = model(torch.zeros(1, 3, {packnet.summary["image"][0]}, {packnet.summary["image"][1]}))
        print([tuple(x.shape[2:]) for x in maps], all(bool((x > 0).all() and (x < 2).all()) for x in maps))
    """
    assert output_of_fresh(script).strip() == "[(96, 320), (48, 160), (24, 80), (12, 40)] True"


def test_space_to_depth_is_pixel_unshuffle() -> None:
    x = torch.rand(2, 3, 6, 8)
    assert torch.equal(space_to_depth(x), functional.pixel_unshuffle(x, 2))


def test_full_packnet_has_the_papers_size() -> None:
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in PackNet(FULL).parameters())
    assert parameters / 1e6 == pytest.approx(128, abs=1)


def test_detr(detr: Run) -> None:
    forms = {(result["shapes"], result["precision"]): result for result in detr.summary["optimized"]}
    assert set(forms) == {
        ("static", "float32"),
        ("static", "16 bits"),
        ("static", "8 bits"),
        ("dynamic", "16 bits"),
        ("batched", "16 bits"),
        ("batched", "8 bits"),
    }
    for result in forms.values():
        assert result["engines"]
        assert result["counters"]["calls"] > 0
        assert result["counters"]["fallbacks"] == 0
        assert result["latency"]["runs"] == detr.summary["rounds"]
        assert result["latency"]["images_per_second"] > 0
    assert forms["static", "float32"]["mean_relative_error"]["score"] < 1e-4
    for shapes in ("static", "batched"):
        assert any(engine["precision"] == "int8" for engine in forms[shapes, "8 bits"]["engines"])
    dynamic = forms["dynamic", "16 bits"]
    assert [size for size in dynamic["tried_on"] if size not in dynamic["made_for"]]


def test_detrs_layers_are_written(detr: Run) -> None:
    lines = (detr.folder / "detr_static_float32.layers.txt").read_text().splitlines()
    assert lines[0].split() == ["Time", "(ms)", "Avg.", "(ms)", "Time", "%", "Layer"]
    assert any("Conv" in line for line in lines)
    shares = [float(line.split()[2]) for line in lines[1:]]
    assert sum(shares) == pytest.approx(100, abs=0.05 * len(shares) + 0.1)


def test_detrs_dynamic_file_takes_sizes_between_in_a_fresh_process(detr: Run) -> None:
    script = f"""
        import torch
        import torch_trt_ext.runtime
        model = torch.jit.load({str(detr.folder / "detr_dynamic_16_bits.pt")!r})
        scores, boxes = model(torch.zeros(2, 3, 136, 184))
        engines = [module.engine for _, module in model.named_modules() if hasattr(module, "engine")]
        print(tuple(scores.shape), tuple(boxes.shape), all(e.counters()["fallbacks"] == 0 for e in engines))
    """
    assert output_of_fresh(script).strip() == "(2, 25, 91) (2, 25, 4) True"


def test_compare() -> None:
    scores = torch.tensor([[[0.5, 0.2], [0.1, 0.4]]])
    boxes = torch.full((1, 2, 4), 0.5)
    same = compare([(scores, boxes)], [(scores, boxes)])
    assert (same.score, same.box, same.same_class) == (0, 0, 1)
    other = compare([(scores, boxes)], [(torch.tensor([[[0.6, 0.2], [0.4, 0.1]]]), boxes * 1.1)])
    assert other.score == pytest.approx(0.1)
    assert other.box == pytest.approx(0.1)
    assert other.same_class == pytest.approx(0.5)


def test_layer_table() -> None:
    rows = [("engine_0: Conv_1 + Relu_2", 10, 30.0), ("engine_1: MatMul_3", 10, 10.0)]
    assert convolution_share(rows) == pytest.approx(0.75)
    assert layer_table(rows)[1].split()[:3] == ["30.00", "3.0000", "75.0"]
    assert "1 more" in layer_table(rows, shown=1)[-1]

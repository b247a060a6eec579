"""What can be asked of an engine: its layers, their times, its name in profiles, its log."""

from __future__ import annotations

import copy
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("openvino")

from tests.openvino_models import EngineModule, affine_engine
from tests.unrunnable import unrunnable_engine
from torch_trt_ext import runtime

X = torch.randn(2, 3)


@pytest.fixture
def engine() -> Any:
    return affine_engine()


def test_layer_info_is_json_of_named_layers(engine: Any) -> None:
    layers = json.loads(engine.layer_info())["Layers"]
    assert len(layers) >= 3
    assert all(layer["Name"] and layer["LayerType"] for layer in layers)
    assert {"Input", "Output"} <= {layer["LayerType"] for layer in layers}


def test_profile_adds_up_over_calls(engine: Any) -> None:
    expected = engine.forward([X])[0]
    assert engine.profile() == []
    engine.set_profiling(True)
    for _ in range(3):
        assert torch.equal(engine.forward([X])[0], expected)
    rows = engine.profile()
    assert rows
    names = {layer["Name"] for layer in json.loads(engine.layer_info())["Layers"]}
    for name, calls, milliseconds in rows:
        assert name in names
        assert calls == 3
        assert 0 <= milliseconds < 1000
    engine.set_profiling(False)
    engine.forward([X])
    assert engine.profile() == rows
    engine.set_profiling(True)
    assert engine.profile() == []
    # At first, with profiling, without: what is set but not run is not compiled.
    assert engine.counters()["compilations"] == 3


def test_what_an_engine_that_cannot_run_is_asked_fails() -> None:
    engine = unrunnable_engine()
    for ask in (engine.layer_info, engine.profile, lambda: engine.set_profiling(True)):
        with pytest.raises(RuntimeError, match="what is inside this engine is not known, since it cannot run here"):
            ask()


def test_name_is_in_torchs_profiler_and_is_kept(engine: Any, tmp_path: Path) -> None:
    assert engine.name() == ""
    engine.set_name("backbone")
    path = str(tmp_path / "model.pt")
    torch.jit.save(torch.jit.script(EngineModule(engine)), path)
    for other in (engine, copy.deepcopy(engine), torch.jit.load(path).engine):
        assert other.name() == "backbone"
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            other.forward([X])
        assert "torch_trt_ext::backbone" in {event.key for event in profile.key_averages()}


def test_unnamed_engine_is_in_torchs_profiler(engine: Any) -> None:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        engine.forward([X])
    assert "torch_trt_ext::openvino" in {event.key for event in profile.key_averages()}


def test_waiting_for_inputs_returns_at_once_on_the_cpu(engine: Any) -> None:
    engine.set_input_tracking(True)
    x = X.clone()
    (y,) = engine.forward([x])
    engine.wait_for_inputs()
    expected = y.clone()
    x.zero_()
    assert torch.equal(y, expected)


def test_engine_without_weight_streaming_has_no_budget(engine: Any) -> None:
    assert engine.streamable_weight_bytes() == 0
    with pytest.raises(ValueError, match="an engine must be built with weight streaming to have a budget for weights"):
        engine.set_weight_budget(0)


@pytest.mark.parametrize(("level", "seen"), [(logging.INFO, True), ("DEBUG", True), ("WARNING", False)])
def test_log_goes_to_pythons_logging(level: int | str, seen: bool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="torch_trt_ext")
    runtime.set_log_level(level)
    try:
        affine_engine()
    finally:
        runtime.set_log_level(logging.WARNING)
    records = [record for record in caplog.records if record.name == "torch_trt_ext.openvino"]
    assert [record.levelname for record in records] == (["INFO"] if seen else [])
    assert all("compiled" in record.getMessage() for record in records)


def test_unknown_log_level_fails() -> None:
    with pytest.raises(ValueError, match="level must be one of logging's"):
        runtime.set_log_level("LOUD")

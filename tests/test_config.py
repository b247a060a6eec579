"""Config: what may be set, what is current, and what survives writing and reading."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import json
import math
import pickle
import threading
from pathlib import Path
from typing import Any

import pytest

from torch_trt_ext import config as config_module
from torch_trt_ext.config import KEEP_FLOAT32, Config, PartitionConfig, ShapesConfig

PROFILE = {"images": [[1, 3, 224, 224], [8, 3, 224, 224], [16, 3, 512, 512]], "batch.mask": [[1], [8], [16]]}


def assign(config: Config, path: str, value: object) -> None:
    group, _, name = path.rpartition(".")
    setattr(getattr(config, group) if group else config, name, value)


def read(config: Config, path: str) -> Any:
    group, _, name = path.rpartition(".")
    return getattr(getattr(config, group) if group else config, name)


def changed_config() -> Config:
    config = Config(keep_fallback=False, build_threads=3, prefer="trace")
    config.gpu_config.disable_fp16_accuracy_check = True
    config.partition.allow = ["aten::conv2d", "backbone.0.layer1"]
    config.precision.engine_precision = "bfloat16"
    config.accuracy.max_relative_error = 0.1 + 0.2
    config.shapes.profiles = [PROFILE]
    config.cache.folder = "/tmp/Ä cache"
    return config


def test_defaults() -> None:
    assert Config().to_dict() == {
        "gpu_config": {"disable_fp16_accuracy_check": False},
        "partition": {"min_block_size": 3, "allow": [], "deny": [], "max_subgraphs": 64},
        "precision": {
            "engine_precision": "auto",
            "eight_bit": "int8",
            "keep_float32": list(KEEP_FLOAT32),
            "calibration": "entropy",
            "percentile": 99.99,
        },
        "accuracy": {
            "check": True,
            "max_relative_error": 0.02,
            "max_model_relative_error": 0.05,
            "max_relative_error_8bit": 0.1,
            "max_model_relative_error_8bit": 0.1,
            "max_metric_drop": 0.01,
        },
        "timing": {
            "warmup_runs": 100,
            "timed_runs": 200,
            "subgraph_warmup_runs": 5,
            "subgraph_timed_runs": 20,
            "max_seconds": 60.0,
            "min_speedup": 1.0,
            "compare": True,
        },
        "shapes": {"profiles": []},
        "cache": {"enabled": True, "folder": "", "max_bytes": 8589934592},
        "tensorrt": {
            "workspace_bytes": 0,
            "builder_optimization_level": 3,
            "cuda_graphs": "auto",
            "weight_streaming": False,
        },
        "keep_fallback": True,
        "build_threads": 0,
        "progress": True,
        "prefer": "script",
        "check_model": True,
    }


def test_every_option_is_documented() -> None:
    groups = [Config(), *(getattr(Config(), field.name) for field in dataclasses.fields(Config))]
    for group in groups:
        if dataclasses.is_dataclass(group):
            documentation = type(group).__doc__ or ""
            for field in dataclasses.fields(group):
                assert f"\n        {field.name}: " in documentation, field.name


def test_defaults_are_not_shared() -> None:
    Config().partition.deny.append("aten::add")
    Config().precision.keep_float32.clear()
    assert Config().changed() == {}


@pytest.mark.parametrize(
    ("path", "value", "stored"),
    [
        ("partition.min_block_size", 1, 1),
        ("partition.deny", ("aten::add@0", "0", "backbone"), ["aten::add@0", "0", "backbone"]),
        ("precision.keep_float32", [], []),
        ("accuracy.max_relative_error", 0, 0.0),
        ("timing.max_seconds", 0.5, 0.5),
        ("tensorrt.builder_optimization_level", 5, 5),
        ("tensorrt.builder_optimization_level", 0, 0),
        ("shapes.profiles", [{"x": ((), (), ())}], [{"x": [[], [], []]}]),
    ],
)
def test_allowed_values(path: str, value: object, stored: object) -> None:
    config = Config()
    assign(config, path, value)
    assert read(config, path) == stored
    assert type(read(config, path)) is type(stored)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("gpu_config.disable_fp16_accuracy_check", 1, r"must be bool, got int 1; give True or False"),
        ("partition.min_block_size", True, r"config\.partition\.min_block_size must be int, got bool True"),
        ("partition.min_block_size", 3.0, r"must be int, got float 3\.0"),
        ("partition.allow", "aten::add", r"must be list, got str 'aten::add'; give a list"),
        ("partition.allow", [3], r"config\.partition\.allow\[0\] must be str, got int 3"),
        ("accuracy.max_relative_error", "0.1", r"must be float, got str '0\.1'"),
        ("accuracy.max_relative_error", False, r"must be float, got bool False"),
        ("cache.folder", Path("/tmp"), r"must be str, got PosixPath.*str\(value\) for a path"),
        ("cache.folder", None, r"must be str, got NoneType"),
        ("shapes.profiles", [{"x": [[1.0], [1], [1]]}], r"profiles\[0\]\['x'\]\[0\]\[0\] must be int, got float"),
        ("shapes.profiles", [{3: []}], r"a key of config\.shapes\.profiles\[0\] must be str, got int 3"),
        ("shapes.profiles", [[]], r"profiles\[0\] must be dict, got list"),
        ("shapes", {"profiles": []}, r"config\.shapes must be ShapesConfig, got dict"),
        ("prefer", None, r"config\.prefer must be str"),
    ],
)
def test_wrong_kind_fails(path: str, value: object, message: str) -> None:
    config = Config()
    with pytest.raises(TypeError, match=message):
        assign(config, path, value)
    assert config == Config()


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("partition.min_block_size", 0, r"config\.partition\.min_block_size must be finite and at least 1, got 0"),
        ("partition.max_subgraphs", -1, "at least 1, got -1"),
        ("partition.allow", ["aten::"], r"allow\[0\] must be an operator .* or a module path .*, got 'aten::'"),
        ("partition.allow", ["aten::add", "aten::add.Tensor"], r"allow\[1\] .*overload names such as '\.int'"),
        ("partition.deny", ["aten::add@-1"], r"deny\[0\] must be"),
        ("partition.deny", ["a..b"], r"deny\[0\] must be"),
        ("partition.deny", ["aten::add\n"], r"deny\[0\] must be"),
        ("partition.deny", [""], r"deny\[0\] must be"),
        ("precision.engine_precision", "fp16", "must be one of 'auto', 'float32', 'tf32', 'float16', .*, got 'fp16'"),
        ("precision.keep_float32", ["aten::exp"], r"keep_float32\[0\] must be an ONNX operator type"),
        ("accuracy.max_relative_error", -0.1, "must be finite and at least 0"),
        ("accuracy.max_relative_error", math.nan, "must be finite and at least 0, got nan"),
        ("accuracy.max_model_relative_error", math.inf, "must be finite and at least 0, got inf"),
        ("accuracy.max_model_relative_error", 10**400, "must fit a float"),
        ("timing.timed_runs", 0, "at least 1"),
        ("timing.warmup_runs", -1, "at least 0"),
        ("timing.subgraph_timed_runs", 0, "at least 1"),
        ("timing.subgraph_warmup_runs", -1, "at least 0"),
        ("timing.max_seconds", 0.0, "must be finite and greater than 0, got 0.0"),
        ("timing.min_speedup", -1.0, "at least 0"),
        ("cache.max_bytes", -1, "at least 0"),
        ("tensorrt.workspace_bytes", -1, "at least 0"),
        ("tensorrt.builder_optimization_level", 6, "must be from 0 to 5, got 6"),
        ("tensorrt.builder_optimization_level", -1, "must be from 0 to 5, got -1"),
        ("tensorrt.cuda_graphs", "always", "must be one of 'auto', 'on', 'off', got 'always'"),
        ("build_threads", -1, r"config\.build_threads must be finite and at least 0"),
        ("prefer", "compile", "must be one of 'script', 'trace', got 'compile'"),
        ("shapes.profiles", [{}], r"profiles\[0\] must name at least one input"),
        ("shapes.profiles", [{"a b": [[1], [1], [1]]}], "must name inputs like 'images'"),
        ("shapes.profiles", [{"x": [[1], [2]]}], r"must be three shapes \[min, opt, max\], got 2"),
        ("shapes.profiles", [{"x": [[1], [1, 2], [1]]}], "must be three shapes of equal rank"),
        ("shapes.profiles", [{"x": [[1, 1], [1, 5], [10, 4]]}], "1 <= min <= opt <= max .* got 1, 5, 4 on axis 1"),
        ("shapes.profiles", [PROFILE, {"x": [[3], [2], [4]]}], r"profiles\[1\]\['x'\] .* got 3, 2, 4 on axis 0"),
        ("shapes.profiles", [{"x": [[0], [1], [1]]}], "got 0, 1, 1 on axis 0"),
    ],
)
def test_value_out_of_range_fails(path: str, value: object, message: str) -> None:
    config = Config()
    with pytest.raises(ValueError, match=message):
        assign(config, path, value)
    assert config == Config()


def test_unknown_option_fails() -> None:
    config = Config()
    with pytest.raises(AttributeError, match="gpu_config has no option 'foo'; its options are disable_fp16_accuracy_"):
        config.gpu_config.foo = 1  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match=r"config has no option 'fallback'; .*shapes, .*keep_fallback, "):
        config.fallback = True  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match=r"config\.progress cannot be deleted"):
        del config.progress


def test_constructor_checks_too() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        PartitionConfig(min_block_size=0)
    with pytest.raises(TypeError, match="unexpected keyword argument 'foo'"):
        Config(foo=1)  # type: ignore[call-arg]


def test_what_is_assigned_is_copied() -> None:
    config = Config()
    profile = {"x": [[1], [2], [3]]}
    profiles = [profile]
    config.shapes.profiles = profiles
    group = PartitionConfig(min_block_size=5)
    config.partition = group
    profile["x"][0][0] = 0
    profiles.append({})
    group.min_block_size = 7
    assert config.shapes.profiles == [{"x": [[1], [2], [3]]}]
    assert config.partition.min_block_size == 5


def test_validate_checks_what_was_changed_in_place() -> None:
    config = Config()
    config.partition.deny.append("aten::add")
    config.shapes.profiles.append({"x": ((1,), (2,), (3,))})  # type: ignore[dict-item]
    config.validate()
    assert config.shapes.profiles == [{"x": [[1], [2], [3]]}]
    config.partition.deny.append("aten::")
    with pytest.raises(ValueError, match=r"config\.partition\.deny\[1\] must be an operator"):
        config.validate()
    config.partition.deny[1] = 3  # type: ignore[call-overload]
    with pytest.raises(TypeError, match=r"config\.partition\.deny\[1\] must be str, got int"):
        config.validate()


def test_changed() -> None:
    assert Config().changed() == {}
    changed = changed_config().changed()
    assert changed["partition"] == {"allow": ["aten::conv2d", "backbone.0.layer1"]}
    assert changed["keep_fallback"] is False
    assert set(changed) == {
        *("gpu_config", "partition", "precision", "accuracy", "shapes", "cache"),
        *("keep_fallback", "build_threads", "prefer"),
    }
    assert Config.from_dict(changed) == changed_config()


@pytest.mark.parametrize("config", [Config(), changed_config()], ids=["default", "changed"])
@pytest.mark.parametrize(
    "round_trip",
    [
        lambda config: Config.from_json(config.to_json()),
        lambda config: Config.from_json(config.to_json(indent=None)),
        lambda config: Config.from_dict(config.to_dict()),
        lambda config: Config.from_dict(json.loads(json.dumps(config.to_dict()))),
        lambda config: pickle.loads(pickle.dumps(config)),
        lambda config: eval(repr(config), vars(config_module)),
        lambda config: config.copy(),
        copy.deepcopy,
        copy.copy,
    ],
)
def test_round_trips(config: Config, round_trip: Any) -> None:
    result = round_trip(config)
    assert result == config
    assert result is not config
    assert result.to_dict() == config.to_dict()
    result.partition.deny.append("aten::mul")
    result.accuracy.check = False
    assert result != config


def test_groups_are_compared_by_value_and_kind() -> None:
    assert ShapesConfig(profiles=[PROFILE]) == ShapesConfig(profiles=[PROFILE])
    partition: object = PartitionConfig()
    assert ShapesConfig() != partition


def test_to_dict_shares_nothing() -> None:
    config = changed_config()
    config.to_dict()["shapes"]["profiles"][0]["images"][0][0] = 9
    assert config == changed_config()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"fallback": True}, ValueError, "config has no option 'fallback'; its options are gpu_config, .*check_model"),
        (
            {"cache": {"size": 1}},
            ValueError,
            r"config\.cache has no option 'size'; its options are enabled, folder, max",
        ),
        ({1: 2}, ValueError, "config has no option 1"),
        ({"cache": 1}, TypeError, r"config\.cache must be read from a dict of options, got int"),
        ([], TypeError, "config must be read from a dict of options, got list"),
        ({"cache": {"max_bytes": -1}}, ValueError, r"config\.cache\.max_bytes must be"),
        ({"progress": None}, TypeError, r"config\.progress must be bool"),
    ],
)
def test_from_dict_fails(options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Config.from_dict(options)


def test_from_json_fails() -> None:
    with pytest.raises(ValueError, match=r"config must be read from JSON, as to_json\(\) writes it: Expecting"):
        Config.from_json("{")
    with pytest.raises(ValueError, match="must be finite and greater than 0, got nan"):
        Config.from_json('{"timing": {"max_seconds": NaN}}')


def test_str_shows_every_nested_option() -> None:
    text = str(changed_config())
    assert text.startswith("Config(\n    gpu_config=GpuConfig(\n        disable_fp16_accuracy_check=True,\n    ),\n")
    assert text.endswith("    check_model=True,\n)")
    for field in dataclasses.fields(Config):
        assert f"\n    {field.name}=" in text
    assert "\n        max_relative_error=0.30000000000000004,\n" in text


def test_with_nests_and_restores() -> None:
    outer = Config(build_threads=1)
    assert Config.current() == Config()
    with outer:
        assert Config.current() is outer
        with Config() as inner:
            assert Config.current() is inner
            with outer as again:
                assert again is outer
                assert Config.current() is outer
            assert Config.current() is inner
        with outer:
            assert Config.current() is outer
        assert Config.current() is outer
        with pytest.raises(KeyError), inner:
            raise KeyError
        assert Config.current() is outer
    assert Config.current() is not outer


def test_default_is_not_kept() -> None:
    Config.current().progress = False
    assert Config.current().progress is True


def test_with_left_out_of_order() -> None:
    first, second = Config(build_threads=1), Config(build_threads=1)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert Config.current() is second
    second.__exit__(None, None, None)
    with pytest.raises(RuntimeError, match="must be left in the thread or task that entered it"):
        first.__exit__(None, None, None)


def test_with_holds_for_one_thread() -> None:
    config = Config(build_threads=1)
    seen = []

    def enter() -> None:
        seen.append(Config.current().build_threads)
        with config:
            seen.append(Config.current().build_threads)

    with config:
        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        assert Config.current() is config
    assert seen == [0, 1]


def test_with_holds_for_one_task() -> None:
    async def enter(threads: int) -> int:
        with Config(build_threads=threads):
            await asyncio.sleep(0)
            return Config.current().build_threads

    async def both() -> tuple[int, int]:
        first, second = await asyncio.gather(enter(1), enter(2))
        return first, second

    assert asyncio.run(both()) == (1, 2)


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cache = Config().cache
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("TORCH_TRT_EXT_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache.resolved_folder() == tmp_path / ".cache" / "torch_trt_ext"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache.resolved_folder() == tmp_path / ".cache" / "torch_trt_ext"
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache.resolved_folder() == Path("/xdg/torch_trt_ext")
    monkeypatch.setenv("TORCH_TRT_EXT_CACHE", "/own")
    assert cache.resolved_folder() == Path("/own")
    cache.folder = "~/engines"
    assert cache.resolved_folder() == tmp_path / "engines"
    monkeypatch.chdir(tmp_path)
    cache.folder = "here"
    assert cache.resolved_folder() == tmp_path / "here"

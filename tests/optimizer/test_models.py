"""torchvision's models on the CPU, whole: answers before, with engines, and from the saved file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import torch_trt_ext
from benchmarks.models import MODELS, build_case, detections_or_outputs, image_arguments, synthetic_images
from tests.optimizer.models import engine_names, run_in_fresh_process
from torch_trt_ext.optimizer.accuracy import compare

#: Height and width: as small as the model still works alike.
SIZES = {"retinanet_resnet50_fpn": (256, 256), "fasterrcnn_resnet50_fpn": (256, 256), "fcn_resnet50": (128, 128)}
CLASSIFIER_SIZE = (224, 224)

#: What optimize() promises of a whole model by default; bfloat16 has 8 bits, whose roundings add up over the layers.
TOLERANCE = 0.05

#: Answers to other images are further off than this, so that a model which ignores its input does not pass.
DIFFERENT = 3 * TOLERANCE

#: Small differences of speed are noise; the issue allows 3 %.
MIN_SPEEDUP = 0.97


@pytest.mark.parametrize("name", MODELS)
def test_model_with_engines_gives_the_same_answers_from_the_saved_file(name: str, tmp_path: Path) -> None:
    size = SIZES.get(name, CLASSIFIER_SIZE)
    case = build_case(name, "cpu", size=size)
    with torch.no_grad():
        expected = case.plain(*case.arguments)
        others = case.plain(*image_arguments(name, synthetic_images(1, *size, seed=2)))
    assert compare(expected, others).relative > DIFFERENT, "the model must look at its input for the test to mean much"

    config = torch_trt_ext.Config()
    config.cache.enabled = False
    config.timing.warmup_runs, config.timing.timed_runs, config.timing.max_seconds = 3, 12, 6.0
    config.timing.subgraph_warmup_runs, config.timing.subgraph_timed_runs = 2, 8
    optimized, _, report = torch_trt_ext.optimize(
        case.model, "o1", device_type="cpu", config=config, test_data=[case.arguments]
    )

    assert isinstance(optimized, torch.jit.ScriptModule)
    assert report["model_info"] == {"input_format": "torch_module"}
    assert len(report["engines"]) >= 1, report["diagnosis"]["message"]
    assert report["coverage"]["compute"] >= 0.98, report["left_in_torch"]
    assert float(report["overall"]["speedup"]) >= MIN_SPEEDUP, report["overall"]
    with torch.no_grad():
        outputs = optimized(*case.arguments)
    comparison = compare(expected, detections_or_outputs(case, outputs))
    assert comparison.within(TOLERANCE), comparison.explain(TOLERANCE)

    # Detectors call torchvision's operators, which TorchScript finds where torchvision is imported.
    imports = "import torchvision" if name.endswith("_fpn") else ""
    loaded, counters = run_in_fresh_process(optimized, case.arguments, tmp_path, engine_names(report), imports=imports)
    # The same engines on the same processor: nothing is rounded otherwise.
    again = compare(outputs, loaded)
    assert again.relative == 0, again.explain(0)
    assert counters
    assert all(count["calls"] >= 1 and count["fallbacks"] == 0 for count in counters), counters

"""Builds LeNet-5 with leaky ReLUs layer by layer, saves the engine, loads it in a fresh process, compares with PyTorch.

On a GPU with TensorRT's network API and this package's LeakyReLU plugin; on the CPU the same network with OpenVINO's
graph API. Run from the repository's root: ``python -m examples.leaky_network.demo``.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.timing import measure
from examples.leaky_network import networks
from examples.leaky_network.model import NEG_SLOPE, load_scans, train
from examples.running import (
    Check,
    Place,
    announcer,
    choose_place,
    conclude,
    parser_for,
    print_rows,
    run_on_file,
    use_one_thread,
)

#: Probabilities of two float32 implementations; they differ in the order of sums.
MAX_PROBABILITY_ERROR = 1e-4
#: A multiplication by the slope, rounded once.
MAX_ONE_LAYER_ERROR = 1e-6
MIN_ACCURACY = 0.95

say = announcer(5)


def run_engine(engine: Path, inputs: Tensor, place: Place, batch_size: int, runs: int) -> dict[str, Any]:
    """What a fresh process gets from an engine's file."""
    options = ["--device", place.device, "--batch-size", batch_size, "--runs", runs]
    return run_on_file("examples.leaky_network.run_saved", engine, inputs, *options)


def layer_names(layer_info: str) -> list[str]:
    """Of an engine's layers after fusion."""
    layers = json.loads(layer_info)["Layers"]
    return [layer if isinstance(layer, str) else str(layer.get("Name", "")) for layer in layers]


@torch.no_grad()
def main(arguments: Sequence[str] | None = None) -> int:
    args = parser_for("leaky_network", __doc__).parse_args(arguments)
    place = choose_place(args.device)
    print(place.sentence)
    on_gpu = place.device_type == "gpu"
    runs = 50 if args.small else 200
    use_one_thread()
    args.out.mkdir(parents=True, exist_ok=True)

    say(1, "Training LeNet-5 with leaky ReLUs on scans of handwritten digits")
    train_images, train_labels, images, labels = load_scans()
    with torch.enable_grad():
        model = train(train_images, train_labels)
    expected = model(images)

    say(2, "Building both networks layer by layer and saving the engines")
    suffix = "plan" if on_gpu else "ovir"
    one_layer, lenet = args.out / f"leaky_relu.{suffix}", args.out / f"leaky_lenet.{suffix}"
    one_layer.write_bytes(networks.one_layer_by_tensorrt() if on_gpu else networks.one_layer_by_openvino())
    lenet.write_bytes(networks.lenet_by_tensorrt(model) if on_gpu else networks.lenet_by_openvino(model))

    say(3, "Loading the network of one layer in a fresh process")
    values = torch.linspace(-3, 3, 25).reshape(-1, 1)
    found_one = run_engine(one_layer, values, place, 1, runs)
    one_error = float((found_one["outputs"] - functional.leaky_relu(values, NEG_SLOPE)).abs().max())

    say(4, f"Loading LeNet-5 in a fresh process and running it on {len(images)} scans that it was not trained on")
    found = run_engine(lenet, images, place, networks.BATCHES[-1], runs)

    say(5, "Comparing with PyTorch")
    model = model.to(place.device)
    one = images[:1].to(place.device)
    plain_latency = measure(lambda: model(one), device=place.device, runs=runs).as_dict()
    answers, expected_answers = found["outputs"].argmax(dim=1), expected.argmax(dim=1)
    error = float((found["outputs"] - expected).abs().max())
    differing = int((answers != expected_answers).sum())
    accuracy = float((answers == labels).float().mean())
    print_rows(
        [
            ("", "PyTorch", place.engine),
            (
                "one scan (median)",
                f"{plain_latency['median_ms']:.3f} ms",
                f"{found['latency']['median_ms']:.3f} ms",
            ),
            (
                f"right answers of {len(labels)}",
                str(int((expected_answers == labels).sum())),
                str(int((answers == labels).sum())),
            ),
        ]
    )
    case = random.Random(0).randrange(len(labels))
    print(f"\nTest Case: {int(labels[case])}\nPrediction: {int(answers[case])}")
    checks = [
        Check("error of the network of one layer", one_error, MAX_ONE_LAYER_ERROR),
        Check("error of a probability", error, MAX_PROBABILITY_ERROR),
        Check("answers that differ from PyTorch's", differing, 0),
        Check("share of right answers", accuracy, MIN_ACCURACY, at_least=True),
    ]
    summary = {
        "example": "leaky_network",
        "small": args.small,
        "files": {path.name: path.stat().st_size for path in (one_layer, lenet)},
        "plain": {"latency": plain_latency},
        "loaded": {"latency": found["latency"], "layers": layer_names(found["layers"])},
        "plugin_libraries": found["plugin_libraries"],
        "max_probability_error": error,
        "accuracy": accuracy,
    }
    return conclude(args.out, place, summary, checks)


if __name__ == "__main__":
    sys.exit(main())

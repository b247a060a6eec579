"""``torch-trt-ext compare``."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("openvino")

from tests.cli.command import document_of, error_of, run_command
from torch_trt_ext.comparison import compare_models, name_detections


def test_errors_of_outputs(plain: Path, two_parts: Path) -> None:
    arguments = ["compare", plain, two_parts, "--device", "cpu"]
    document = document_of(*arguments, "--input", "4x8,5x8")
    assert document["within"]
    assert document["tolerance"] == 0.05
    assert [call["inputs"] for call in document["calls"]] == ["(float32[4, 8],)", "(float32[5, 8],)"]
    (output,) = document["calls"][0]["outputs"]
    assert 0 < output["relative"] < 0.05
    assert 0 < output["mean_abs"] <= output["max_abs"]
    assert output["cosine"] > 0.999
    text = run_command(*arguments, "--input", "4x8", "--tolerance", "1e-9", exit_status=3).stdout
    assert "more than the limit of 1.00e-09" in text
    assert text.endswith("\ndifferent\n")


def test_model_that_refuses_the_inputs_fails(plain: Path, two_parts: Path) -> None:
    message = error_of("compare", plain, two_parts, "--device", "cpu", "--input", "4x7")
    assert message.startswith(
        "error: inputs must be arguments that the model takes, got (float32[4, 7],), and the model"
    )


class Detector(nn.Module):
    """Scores, boxes and labels of three detections, two of which swap their places; the fourth is padding."""

    def __init__(self, order: list[int]) -> None:
        super().__init__()
        self.order = torch.tensor([*order, 3])

    def forward(self, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        corners = 10 * torch.arange(4.0)[None, :, None].expand(len(scores), 4, 4)
        boxes = corners + torch.tensor([0.0, 0.0, 5.0, 5.0])
        labels = torch.tensor([0.0, 1.0, 1.0, 0.0]).expand(len(scores), 4)
        return scores[:, self.order], boxes[:, self.order], labels[:, self.order]


def test_detections_are_matched(tmp_path: Path) -> None:
    for name, order in (("expected", [0, 1, 2]), ("actual", [0, 2, 1])):
        torch.jit.save(torch.jit.script(Detector(order).eval()), str(tmp_path / f"{name}.pt"))
    torch.save((torch.tensor([[0.9, 0.5, 0.4, 0.0]]),), tmp_path / "scores.pt")
    arguments = ["compare", *(tmp_path / f"{name}.pt" for name in ("expected", "actual"))]
    arguments += ["--device", "cpu", "--inputs", tmp_path / "scores.pt"]
    assert not document_of(*arguments, exit_status=3)["within"]
    document = document_of(*arguments, "--detections", "scores,boxes,labels")
    (output,) = document["calls"][0]["outputs"]
    assert output["relative"] == 0
    assert output["note"].startswith("3 matched, 0 missing, 0 added")


def test_outputs_that_are_no_detections_fail() -> None:
    with pytest.raises(ValueError, match=r"must begin with scores, boxes of shapes .*, got float32\[2\]; leave"):
        name_detections(torch.rand(2), ["scores", "boxes"])
    with pytest.raises(ValueError, match=r"got \(float32\[1, 2\], float32\[1, 3, 4\]\)"):
        name_detections((torch.rand(1, 2), torch.rand(1, 3, 4)), ["scores", "boxes"])
    with pytest.raises(ValueError, match=r"detections must name scores, boxes and .*, got boxes, masks"):
        name_detections((torch.rand(1, 2), torch.rand(1, 2, 4)), ["boxes", "masks"])


def test_random_numbers_are_the_same_on_both_sides() -> None:
    class Noisy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.rand_like(x)

    models = [torch.jit.script(Noisy().eval()) for _ in range(2)]
    assert compare_models(models[0], models[1], [(torch.rand(3),)])[0].relative == 0

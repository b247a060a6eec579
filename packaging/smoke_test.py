"""What a user does first with an installed wheel; run where the checkout is not, in an environment with the wheel.

Prints one line: what was tried. Needs OpenVINO, the command and mypy.
"""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
import warnings
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

import torch_trt_ext
from torch_trt_ext.builders.onnx_openvino import build_openvino_from_onnx

FRESH = """
import sys
import torch
import torch_trt_ext.runtime

assert not any(name in sys.modules for name in ("onnx", "openvino", "torch_trt_ext.engine", "torch_trt_ext._C"))
inputs, expected = torch.load("data.pt")
model = torch.jit.load(sys.argv[1])
with torch.no_grad():
    error = float((model(inputs) - expected).abs().max())
assert error < 0.05 * float(expected.abs().max()), error
"""

TYPED = """
import torch
import torch_trt_ext

config: torch_trt_ext.Config = torch_trt_ext.Config()
reveal_type(torch_trt_ext.load_plugin_library)
torch_trt_ext.runtime.set_log_level([])
"""


class Through(nn.Module):
    def __init__(self, engine: object) -> None:
        super().__init__()
        self.engine = engine

    def forward(self, x: Tensor) -> Tensor:
        outputs: list[Tensor] = self.engine.forward([x])
        return outputs[0]


def in_a_fresh_process(path: str) -> None:
    subprocess.run([sys.executable, "-W", "ignore", "-c", FRESH, path], check=True)


def main() -> None:
    warnings.simplefilter("ignore")
    folder = Path(torch_trt_ext.__file__).parent
    assert folder.is_relative_to(sys.prefix), f"{folder} is not the installed package"
    version = importlib.metadata.version("torch-trt-ext")
    assert version.partition("+")[0] == torch_trt_ext.__version__
    assert torch.__version__.startswith(version.partition("+torch")[2] + ".")

    network = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4)).eval()
    x = torch.rand(3, 8)
    with torch.no_grad():
        torch.save((x, network(x)), "data.pt")
    names = {"input_names": ["x"], "output_names": ["y"], "dynamic_axes": {"x": {0: "batch"}, "y": {0: "batch"}}}
    torch.onnx.export(network, (x,), "model.onnx", dynamo=False, **names)
    plan = build_openvino_from_onnx(onnx.load("model.onnx"), [{"x": ((1, 8), (2, 8), (16, 8))}], "f32")
    engine = torch_trt_ext.OpenVINOEngineExtension(plan.data, plan.io_spec)
    torch.jit.save(torch.jit.script(Through(engine).eval()), "engine.pt")
    in_a_fresh_process("engine.pt")

    config = torch_trt_ext.Config()
    config.progress = config.cache.enabled = False
    config.timing.compare = False
    optimized, _, report = torch_trt_ext.optimize(network, "o1", "cpu", config=config, test_data=[(x,)])
    assert len(report["engines"]) == 1
    torch.jit.save(optimized, "optimized.pt")
    in_a_fresh_process("optimized.pt")

    command = [str(Path(sys.executable).with_name("torch-trt-ext")), "doctor", "--device", "cpu", "--json"]
    health = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert health["healthy"]

    Path("typed.py").write_text(TYPED)
    checked = subprocess.run([sys.executable, "-m", "mypy", "--strict", "typed.py"], capture_output=True, text=True)
    assert "def (path: str | os.PathLike[str])" in checked.stdout.replace("builtins.", ""), checked.stdout
    assert 'incompatible type "list[Never]"' in checked.stdout, checked.stdout
    assert "Found 1 error" in checked.stdout, checked.stdout
    print(f"tried {version} with torch {torch.__version__}: engine from ONNX, optimize, command, types")


if __name__ == "__main__":
    main()

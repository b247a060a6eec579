"""The tutorial's scripts, steps 1 and 3, on TensorRT."""

from pathlib import Path

from tests.seed_check import check_seed_scripts


def test_seed_scripts(tmp_path: Path) -> None:
    check_seed_scripts(tmp_path, namespace="torch_addons", engine_class="TRTEngineExtension", device="cuda")

"""The tutorial's scripts on TensorRT."""

from pathlib import Path

from tests.seed_check import check_seed_scripts


def test_seed_scripts(tmp_path: Path) -> None:
    check_seed_scripts(tmp_path, namespace="torch_addons", engine_class="TRTEngineExtension", device="cuda")

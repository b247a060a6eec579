"""The tutorial's scripts on the CPU engine; on TensorRT, class names unchanged: tests/gpu/test_seed_script.py."""

from pathlib import Path

from tests.seed_check import check_seed_scripts


def test_seed_scripts_on_the_cpu(tmp_path: Path) -> None:
    check_seed_scripts(
        tmp_path,
        namespace="torch_trt_ext",
        engine_class="OpenVINOEngineExtension",
        device="cpu",
        build_arguments=", device_type='cpu'",
    )

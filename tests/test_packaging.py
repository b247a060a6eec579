"""The source archive and the wheel: what is in them, what they say they need, and that what is installed works.

The wheel takes its native libraries from the checkout, where they were built in place; ``packaging/build_wheels.py``
builds whole ones.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import textwrap
import venv
import zipfile
from collections.abc import Mapping
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path

import pytest
import torch

from tests.fresh_process import ROOT
from torch_trt_ext.version import __version__

TORCH_MINOR = ".".join(torch.__version__.split(".")[:2])


def run(*command: object, cwd: Path, environment: Mapping[str, str] | None = None) -> str:
    """Runs a command; returns what it printed, and fails when it failed."""
    result = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": "", **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert result.returncode == 0, f"exit {result.returncode}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def project_files() -> list[str]:
    """What the project consists of: all that git has, or would add."""
    if not (ROOT / ".git").exists():
        pytest.skip("needs git's list of files")
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def metadata_of(text: str) -> Message:
    return HeaderParser().parsestr(text)


@pytest.fixture(scope="module")
def source_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source archive made from a copy of the checkout in which much was built, for other Pythons too."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in project_files():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    stale = [
        *("torch_trt_ext/lib/libstale.so", "torch_trt_ext/include/stale.h", "torch_trt_ext/share/stale.cmake"),
        *("torch_trt_ext/_C.cpython-39.so", "torch_trt_ext/builders/_stale.so", "build/lib/stale.py", "out/stale.pt"),
        *("plugins/libstale.so", "csrc/__pycache__/stale.pyc"),
    ]
    for name in stale:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(str(ROOT))
    # setuptools remembers what earlier archives had, which were the package's files.
    (folder / "torch_trt_ext.egg-info").mkdir()
    kept = [name for name in stale if name.startswith("torch_trt_ext/")]
    (folder / "torch_trt_ext.egg-info" / "SOURCES.txt").write_text("\n".join(kept))
    out = tmp_path_factory.mktemp("sdist")
    run(sys.executable, "-c", f"from setuptools import build_meta; build_meta.build_sdist({str(out)!r})", cwd=folder)
    (archive,) = out.iterdir()
    return archive


@pytest.fixture(scope="module")
def source(source_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked source archive."""
    folder = tmp_path_factory.mktemp("source")
    shutil.unpack_archive(source_archive, folder)
    (unpacked,) = folder.iterdir()
    return unpacked


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel made from the source archive with the libraries that were built in place."""
    extension = ROOT / "torch_trt_ext" / f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"
    if not extension.exists() or not (ROOT / "torch_trt_ext" / "lib").is_dir():
        pytest.skip("nothing is built in place")
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--no-index"]
    environment = {"TORCH_TRT_EXT_BUILT_PACKAGE": str(ROOT / "torch_trt_ext")}
    run(*command, "--wheel-dir", out, source, cwd=out, environment=environment)
    (built,) = out.iterdir()
    return built


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_source_archive_has_what_the_build_reads(source: Path) -> None:
    there = files_below(source)
    for name in project_files():
        if name.startswith(("csrc/", "plugins/", "cmake/", "torch_trt_ext/")):
            assert name in there, f"MANIFEST.in leaves out {name}"
    assert there >= {"CMakeLists.txt", "setup.py", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"}


def test_source_archive_has_nothing_of_this_machine(source: Path) -> None:
    there = files_below(source)
    assert not [name for name in there if "stale" in name or name.endswith((".so", ".pyc", ".o", ".plan"))]
    assert {name.partition("/")[0] for name in there if "/" in name} == {
        *("csrc", "plugins", "cmake", "torch_trt_ext", "torch_trt_ext.egg-info")
    }
    for name in there:
        data = (source / name).read_bytes()
        assert str(ROOT).encode() not in data, f"{name} names this machine's folder"


def test_source_archive_takes_any_torch(source: Path) -> None:
    metadata = metadata_of((source / "PKG-INFO").read_text())
    assert metadata["Version"] == __version__
    requirements = [text for text in metadata.get_all("Requires-Dist", []) if "extra ==" not in text]
    assert requirements == ["torch>=2.9", "numpy", "onnx", "tqdm"]


def test_wheel_goes_with_one_torch(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = metadata_of(archive.read(name).decode())
        facts = metadata_of(archive.read(name.replace("METADATA", "WHEEL")).decode())
        commands = archive.read(name.replace("METADATA", "entry_points.txt")).decode()
    assert metadata["Version"] == f"{__version__}+torch{TORCH_MINOR}"
    minor = int(TORCH_MINOR.split(".")[1])
    assert metadata.get_all("Requires-Dist")[0] == f"torch<2.{minor + 1},>={TORCH_MINOR}"
    assert metadata["Requires-Python"] == ">=3.10"
    assert metadata["License-Expression"] == "Apache-2.0"
    extras = set(metadata.get_all("Provides-Extra", []))
    assert extras == {"openvino", "cli", "quantization", "report", "ray", "examples"}
    tag = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    assert facts["Root-Is-Purelib"] == "false"
    assert facts["Tag"].startswith(f"{tag}-{tag}-linux_")
    assert "torch-trt-ext = torch_trt_ext.cli:main" in commands


def test_wheel_has_the_whole_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        there = {name for name in archive.namelist() if ".dist-info/" not in name}
    python_files = {name for name in project_files() if name.startswith("torch_trt_ext/")}
    assert python_files <= there, python_files - there
    assert {"torch_trt_ext/py.typed", "torch_trt_ext/_C.pyi"} <= python_files
    native = {name.removeprefix("torch_trt_ext/") for name in there - python_files}
    in_place = {
        str(path.relative_to(ROOT / "torch_trt_ext"))
        for folder in ("lib", "include", "share")
        for path in (ROOT / "torch_trt_ext" / folder).rglob("*")
        if path.is_file()
    }
    assert native == {*in_place, f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"}


def _setup_arguments(command: str, torch_version: str | None) -> subprocess.CompletedProcess[str]:
    """What setup.py gives to ``setuptools.setup`` for a command, with a torch of another version, or none."""
    script = f"""
        import importlib.metadata, runpy, setuptools, sys
        def version(name):
            if {torch_version!r} is None:
                raise importlib.metadata.PackageNotFoundError(name)
            return {torch_version!r}
        importlib.metadata.version = version
        setuptools.setup = lambda **arguments: print([arguments["version"], arguments["install_requires"][0]])
        sys.argv = ["setup.py", {command!r}]
        runpy.run_path({str(ROOT / "setup.py")!r})
    """
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False, timeout=60
    )


@pytest.mark.parametrize(
    ("command", "torch_version", "expected"),
    [
        ("bdist_wheel", "2.9.1", [f"{__version__}+torch2.9", "torch>=2.9,<2.10"]),
        ("dist_info", "2.15.0+cu132", [f"{__version__}+torch2.15", "torch>=2.15,<2.16"]),
        ("editable_wheel", "2.12.0a0+git1", [f"{__version__}+torch2.12", "torch>=2.12,<2.13"]),
        ("sdist", "2.12.0", [__version__, "torch>=2.9"]),
        ("egg_info", None, [__version__, "torch>=2.9"]),
    ],
)
def test_what_the_metadata_says_of_torch(command: str, torch_version: str | None, expected: list[str]) -> None:
    assert ast.literal_eval(_setup_arguments(command, torch_version).stdout) == expected


def test_wheel_without_torch_fails() -> None:
    result = _setup_arguments("bdist_wheel", None)
    assert result.returncode == 1
    assert result.stderr == (
        "error: building torch_trt_ext needs the torch that it shall run with, found none; pip install torch, or leave "
        "out --no-build-isolation\n"
    )


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with the wheel, and this one's packages below it."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    (site_packages,) = (folder / "lib").glob("python*/site-packages")
    # Ends in what comes after all other names: the wheel's own modules come first.
    (site_packages / "zz_below.pth").write_text(sysconfig.get_path("purelib"))
    command = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel]
    run(*command, cwd=folder)
    return python


def test_installed_package_works(environment: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    from tests.openvino_models import EngineModule, affine_engine

    torch.jit.save(torch.jit.script(EngineModule(affine_engine())), str(tmp_path / "model.pt"))
    script = """
        import importlib.metadata
        import sys
        import torch
        import torch_trt_ext.runtime
        print(torch_trt_ext.__file__)
        print(torch.jit.load("model.pt")(torch.arange(3.0).reshape(1, 3)).tolist())
        import torch_trt_ext._C
        print(importlib.metadata.version("torch-trt-ext"))
    """
    printed = run(environment, "-W", "ignore", "-c", textwrap.dedent(script), cwd=tmp_path).splitlines()
    assert Path(printed[0]).is_relative_to(environment.parent.parent)
    assert printed[1:] == ["[[1.0, 3.0, 5.0]]", f"{__version__}+torch{TORCH_MINOR}"]
    answer = run(environment.with_name("torch-trt-ext"), "doctor", "--device", "cpu", "--json", cwd=tmp_path)
    where = {check["name"]: check["where"] for check in json.loads(answer)["checks"]}
    assert Path(where["torch_trt_ext"]).is_relative_to(environment.parent.parent)


def test_users_code_is_type_checked(environment: Path, tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    (tmp_path / "program.py").write_text(
        "import torch_trt_ext\n"
        "config = torch_trt_ext.Config()\n"
        "config.timing.min_speedup = 'fast'\n"
        "reveal_type(config.keep_fallback)\n"
        "torch_trt_ext.load_plugin_library(b'libmine.so')\n"
    )
    command = [sys.executable, "-m", "mypy", "--python-executable", environment, "--strict", "program.py"]
    printed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False).stdout
    lines = re.findall(r"^program\.py:(\d+): (\w+): (.*)", printed, re.MULTILINE)
    assert [(line, kind) for line, kind, _ in lines] == [("3", "error"), ("4", "note"), ("5", "error")], printed
    assert lines[1][2] == 'Revealed type is "bool"'


def test_one_openvino_is_asked_for() -> None:
    """The extension links against the OpenVINO it was built with, so build and extra name the same."""
    asked = re.findall(r'"(openvino[<>=][^"]*)"', (ROOT / "pyproject.toml").read_text())
    assert asked == [asked[0]] * 2

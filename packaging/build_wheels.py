"""Builds, checks and tries wheels: one for each Python and each minor version of torch.

    python packaging/build_wheels.py --torch 2.11 --out dist python3.10 python3.11 python3.12 python3.13

What each step does is in packaging/README.md.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from email.parser import HeaderParser
from pathlib import Path

import tomllib

ROOT = Path(__file__).resolve().parent.parent

#: A wheel without one of these would be smaller than it says.
PARTS = ("-DTORCH_TRT_EXT_CUDA=ON", "-DTORCH_TRT_EXT_OPENVINO=ON", "-DTORCH_TRT_EXT_PYTHON=ON")

#: What every wheel has, besides the Python files.
NATIVE_FILES = (
    "lib/libtorch_trt_ext.so",
    "lib/libtorch_trt_ext_openvino.so",
    "lib/libtorch_trt_ext_plugins.so",
    "include/torch_trt_ext/torch_trt_ext.h",
    "share/cmake/torch_trt_ext/torch_trt_extConfig.cmake",
    "py.typed",
    "_C.pyi",
)


def run(*command: object, cwd: Path | None = None, environment: Mapping[str, str] | None = None) -> str:
    """Runs a command, which may print to stderr; returns what it printed to stdout."""
    words = [str(word) for word in command]
    print("+", " ".join(words), file=sys.stderr, flush=True)
    result = subprocess.run(
        words, cwd=cwd, env={**os.environ, **(environment or {})}, stdout=subprocess.PIPE, text=True, check=True
    )
    return result.stdout


def say(text: str) -> None:
    print(text, flush=True)


class Environment:
    """A virtual environment of its own.

    Args:
        folder: of the environment; what is there already is used again.
        python: the Python to make it from.
    """

    def __init__(self, folder: Path, python: str = sys.executable) -> None:
        self.python = folder / "bin" / "python"
        if not self.python.exists():
            run(python, "-m", "venv", folder)
            self.install("--upgrade", "pip")

    def install(self, *requirements: object) -> None:
        """Runs ``pip install``."""
        run(self.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements)

    def run(self, *arguments: object, cwd: Path | None = None, environment: Mapping[str, str] | None = None) -> str:
        """Runs this environment's Python, with its commands on the path."""
        path = os.pathsep.join([str(self.python.parent), os.environ.get("PATH", "")])
        return run(self.python, *arguments, cwd=cwd, environment={"PATH": path, **(environment or {})})


def build_source_archive(tools: Environment, out: Path) -> Path:
    """The source archive, which all wheels are built from."""
    # An archive of sources needs nothing of what the wheels need.
    tools.run("-m", "build", "--sdist", "--no-isolation", "--skip-dependency-check", "--outdir", out, ROOT)
    (archive,) = out.glob("*.tar.gz")
    return archive


def unpack(archive: Path, folder: Path) -> Path:
    """The folder of an unpacked source archive."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.unpack_archive(archive, folder)
    (source,) = folder.iterdir()
    return source


def build_wheel(source: Path, work: Path, python: str, torch: str, built: Path | None) -> Path:
    """Builds a wheel in an environment that has the build's requirements, and this torch.

    Args:
        source: an unpacked source archive.
        work: folder for what is needed on the way.
        python: the Python it is for.
        torch: the minor version of torch, as 2.11.
        built: a package that was built for the same torch and another Python.
    """
    tag = tag_of(python)
    environment = Environment(work / f"build-{tag}-torch{torch}", python)
    requirements = tomllib.loads((source / "pyproject.toml").read_text())["build-system"]["requires"]
    environment.install(f"torch=={torch}.*", "wheel", *requirements)
    # Messages and debug information shall not name folders of this machine.
    site_packages = environment.run("-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    names = [f"-ffile-prefix-map={source}=torch_trt_ext", f"-ffile-prefix-map={site_packages}=site-packages"]
    variables = {
        "TORCH_TRT_EXT_CMAKE_ARGS": " ".join(PARTS),
        "CXXFLAGS": " ".join(names),
        "CUDAFLAGS": " ".join(f"-Xcompiler={name}" for name in names),
    }
    if built:
        variables["TORCH_TRT_EXT_BUILT_PACKAGE"] = str(built)
    out = work / f"wheel-{tag}-torch{torch}"
    shutil.rmtree(out, ignore_errors=True)
    shutil.rmtree(source / "build", ignore_errors=True)
    command = ("-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", out, source)
    environment.run(*command, environment=variables)
    (wheel,) = out.glob("*.whl")
    return wheel


def tag_of(python: str) -> str:
    """ "cp311" for a Python 3.11."""
    return run(python, "-c", "import sys; print(f'cp{sys.version_info[0]}{sys.version_info[1]}')").strip()


def check_wheel(tools: Environment, wheel: Path, tag: str, torch: str, machine_folders: Sequence[Path]) -> None:
    """Raises AssertionError where the wheel is not what its name says."""
    tools.run("-m", "twine", "check", "--strict", wheel)
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata_name,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        metadata = HeaderParser().parsestr(archive.read(metadata_name).decode())
        (wheel_name,) = (name for name in names if name.endswith(".dist-info/WHEEL"))
        facts = HeaderParser().parsestr(archive.read(wheel_name).decode())
        for name in names:
            # nvcc's line information, which profilers show, has the folders of the kernels; no flag maps them.
            if name.endswith("libtorch_trt_ext_plugins.so"):
                continue
            data = archive.read(name)
            for folder in machine_folders:
                assert str(folder).encode() not in data, f"{name} of {wheel.name} names this machine's {folder}"
    assert metadata["Version"].endswith(f"+torch{torch}"), metadata["Version"]
    major, minor = map(int, torch.split("."))
    torch_requirements = [
        requirement for requirement in metadata.get_all("Requires-Dist", []) if re.match(r"torch\b", requirement)
    ]
    assert torch_requirements == [f"torch<{major}.{minor + 1},>={torch}"], torch_requirements
    assert facts["Root-Is-Purelib"] == "false"
    assert facts["Tag"].startswith(f"{tag}-{tag}-"), facts["Tag"]
    for name in NATIVE_FILES:
        assert f"torch_trt_ext/{name}" in names, f"{wheel.name} lacks {name}"
    extensions = [name for name in names if name.startswith("torch_trt_ext/_C.") and name.endswith(".so")]
    assert len(extensions) == 1, extensions
    assert f"-{tag.removeprefix('cp')}-" in extensions[0], extensions


def try_wheel(wheel: Path, work: Path, python: str, torch: str) -> str:
    """Installs the wheel as a user does, in a fresh environment outside the checkout, and uses it."""
    folder = work / f"try-{tag_of(python)}-torch{torch}"
    shutil.rmtree(folder, ignore_errors=True)
    environment = Environment(folder / "venv", python)
    environment.install(f"torch-trt-ext[openvino,cli] @ {wheel.resolve().as_uri()}", "mypy")
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    shutil.copy2(ROOT / "packaging" / "smoke_test.py", elsewhere)
    answer = environment.run("smoke_test.py", cwd=elsewhere, environment={"PYTHONPATH": ""})
    shutil.rmtree(folder)
    return answer.strip()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pythons", nargs="+", metavar="PYTHON", help="an interpreter, as python3.12")
    parser.add_argument("--torch", action="append", required=True, metavar="MINOR", help="as 2.11; may be repeated")
    parser.add_argument("--out", type=Path, default=Path("dist"), help="folder for the archives (%(default)s)")
    parser.add_argument(
        "--work",
        type=Path,
        default=ROOT / "build" / "wheels",
        help="folder for environments, which are used again; about 6 GB for each wheel (%(default)s)",
    )
    parser.add_argument("--no-try", action="store_true", help="do not install and use what was built")
    args = parser.parse_args(arguments)
    for torch in args.torch:
        if not re.fullmatch(r"\d+\.\d+", torch):
            parser.error(f"--torch must be a minor version, as 2.11, got {torch!r}")
    out, work = args.out.resolve(), args.work.resolve()
    out.mkdir(parents=True, exist_ok=True)
    work.mkdir(parents=True, exist_ok=True)

    tools = Environment(work / "tools")
    tools.install("build", "twine", "setuptools>=77")
    staging = work / "sdist"
    shutil.rmtree(staging, ignore_errors=True)
    archive = build_source_archive(tools, staging)
    tools.run("-m", "twine", "check", "--strict", archive)
    shutil.copy2(archive, out)
    say(f"{archive.name}: built")
    source = unpack(archive, work / "source")
    for torch in args.torch:
        built: Path | None = None
        for python in args.pythons:
            tag = tag_of(python)
            wheel = build_wheel(source, work, python, torch, built)
            check_wheel(tools, wheel, tag, torch, [ROOT, work])
            if built is None:
                built = work / f"built-torch{torch}" / "torch_trt_ext"
                shutil.rmtree(built.parent, ignore_errors=True)
                with zipfile.ZipFile(wheel) as file:
                    file.extractall(built.parent)
            tried = "not tried" if args.no_try else try_wheel(wheel, work, python, torch)
            shutil.copy2(wheel, out)
            say(f"{wheel.name}: {wheel.stat().st_size / 2**20:.1f} MiB, checked; {tried}")


if __name__ == "__main__":
    main()

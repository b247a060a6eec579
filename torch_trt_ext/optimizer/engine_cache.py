"""Engines and timings that outlive the process, in a folder that several processes may share."""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch_trt_ext.engine_plan import EnginePlan

if TYPE_CHECKING:
    import onnx

_MAGIC = b"TTE-ENGC"
_VERSION = 1
#: Magic, version, size of the description, SHA-256 of description and data.
_HEADER = struct.Struct("<8sII32s")

_ENGINE_SUFFIX = ".engine"
_TIMINGS_SUFFIX = ".timings"
_TEMPORARY_SUFFIX = ".part"
#: After so long a file that was not finished has no writer any more.
_ABANDONED_SECONDS = 3600

_KEY = re.compile(r"[0-9a-f]{64}")

#: Of two threads that put an engine each where one has room, each would remove the other's.
_one_at_a_time = threading.Lock()


class _Damaged(Exception):
    """These are not the bytes that were written."""


def _pack(description: dict[str, Any], data: bytes) -> bytes:
    text = json.dumps(description).encode()
    digest = hashlib.sha256(text + data).digest()
    return _HEADER.pack(_MAGIC, _VERSION, len(text), digest) + text + data


def _unpack(content: bytes) -> tuple[dict[str, Any], bytes]:
    """The description and the data.

    Raises:
        _Damaged: the content is not whole, or of another version.
    """
    if len(content) < _HEADER.size:
        raise _Damaged
    magic, version, size, digest = _HEADER.unpack_from(content)
    body = content[_HEADER.size :]
    if magic != _MAGIC or version != _VERSION or hashlib.sha256(body).digest() != digest:
        raise _Damaged
    return json.loads(body[:size]), body[size:]


def _write(path: Path, content: bytes) -> None:
    """Puts a whole file in place at once, so that readers see the old or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=path.stem + "-", suffix=_TEMPORARY_SUFFIX)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
        os.replace(name, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise


class _Folder:
    """A folder whose failures are told once and then borne."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._has_warned = False

    def warn(self, error: OSError) -> None:
        if not self._has_warned:
            self._has_warned = True
            warnings.warn(
                f"the cache folder {self.path} cannot be used ({error}), so engines are built anew each time; "
                "make it writable, or choose another folder",
                RuntimeWarning,
                stacklevel=3,
            )

    def read(self, name: str) -> tuple[dict[str, Any], bytes] | None:
        """What a file holds, None when there is none. A damaged one is removed."""
        path = self.path / name
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            self.warn(error)
            return None
        try:
            return _unpack(content)
        except _Damaged:
            self.remove(name)
            return None

    def write(self, name: str, content: bytes) -> bool:
        try:
            _write(self.path / name, content)
        except OSError as error:
            self.warn(error)
            return False
        return True

    def remove(self, name: str) -> None:
        try:
            (self.path / name).unlink(missing_ok=True)
        except OSError as error:
            self.warn(error)

    def files(self, suffix: str) -> Iterator[tuple[str, os.stat_result]]:
        """Name and state of every file that ends with ``suffix``."""
        try:
            entries = list(os.scandir(self.path))
        except FileNotFoundError:
            return
        except OSError as error:
            self.warn(error)
            return
        for entry in entries:
            if entry.name.endswith(suffix):
                # Another process may remove it meanwhile.
                with suppress(FileNotFoundError):
                    yield entry.name, entry.stat()


class EngineCache:
    """Built engines on disk, the least recently used of which go when there are too many.

    Processes and threads may use one folder at the same time. A folder that cannot be used is warned of once; then
    nothing is found and nothing kept.

    Args:
        folder: made when the first engine is put in.
        max_bytes: most bytes of all engines together. 0 keeps nothing.

    Raises:
        ValueError: ``max_bytes`` is negative.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        if max_bytes < 0:
            raise ValueError(f"max_bytes must be 0 or more, got {max_bytes}; 0 keeps nothing")
        self._folder = _Folder(Path(folder))
        self._max_bytes = max_bytes

    @staticmethod
    def key(*parts: bytes | str) -> str:
        """The name of an engine that depends on ``parts``, in this order, and on nothing else.

        Returns:
            64 hexadecimal digits.
        """
        digest = hashlib.sha256()
        for part in parts:
            data = part.encode() if isinstance(part, str) else part
            digest.update(struct.pack("<?Q", isinstance(part, str), len(data)))
            digest.update(data)
        return digest.hexdigest()

    def get(self, key: str) -> EnginePlan | None:
        """The engine that was put in under ``key``, None when there is none or its file is damaged.

        Raises:
            ValueError: ``key`` is none of :meth:`key`'s.
        """
        name = self._name(key)
        found = self._folder.read(name)
        if found is None:
            return None
        description, data = found
        # A folder that can only be read still serves.
        with suppress(OSError):
            os.utime(self._folder.path / name)
        return EnginePlan(
            data=data,
            backend=description["backend"],
            input_names=tuple(description["input_names"]),
            output_names=tuple(description["output_names"]),
            input_types=tuple(description["input_types"]),
            output_types=tuple(description["output_types"]),
        )

    def put(self, key: str, plan: EnginePlan) -> None:
        """Keeps ``plan``, and removes those that were not used for longest until the rest fits.

        An engine that is larger than the bound is not kept.

        Raises:
            ValueError: ``key`` is none of :meth:`key`'s.
        """
        name = self._name(key)
        description = {
            "backend": plan.backend,
            "input_names": plan.input_names,
            "output_names": plan.output_names,
            "input_types": plan.input_types,
            "output_types": plan.output_types,
        }
        content = _pack(description, plan.data)
        with _one_at_a_time:
            if len(content) <= self._max_bytes and self._folder.write(name, content):
                self._shrink(name)

    def clear(self) -> None:
        """Removes every engine."""
        for name, _ in self._folder.files(_ENGINE_SUFFIX):
            self._folder.remove(name)

    def size_bytes(self) -> int:
        """Bytes of all engines together."""
        return sum(state.st_size for _, state in self._folder.files(_ENGINE_SUFFIX))

    def _name(self, key: str) -> str:
        if _KEY.fullmatch(key) is None:
            raise ValueError(f"key must be what EngineCache.key gives, 64 hexadecimal digits, got {key!r}")
        return key + _ENGINE_SUFFIX

    def _shrink(self, newest: str) -> None:
        now = time.time()
        for name, state in self._folder.files(_TEMPORARY_SUFFIX):
            if now - state.st_mtime > _ABANDONED_SECONDS:
                self._folder.remove(name)
        engines = sorted(self._folder.files(_ENGINE_SUFFIX), key=lambda entry: entry[1].st_mtime_ns)
        total = sum(state.st_size for _, state in engines)
        for name, state in engines:
            if total <= self._max_bytes:
                break
            if name != newest:
                self._folder.remove(name)
                total -= state.st_size


class TimingCache:
    """Timings of TensorRT's kernels on disk.

    Args:
        folder: made when the first timings are saved.
        name: what they hold for; ``torch_trt_ext.builders.onnx_tensorrt.timing_cache_name`` says it.
    """

    #: Timings that grew larger are dropped, as TensorRT never forgets any.
    MAX_BYTES = 256 * 2**20

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = _Folder(Path(folder))
        self._name = name
        # Two names that look alike as files are still two files.
        digest = hashlib.sha256(name.encode()).hexdigest()[:8]
        self._file = f"{re.sub(r'[^A-Za-z0-9.-]+', '_', name)[:100]}-{digest}{_TIMINGS_SUFFIX}"

    def load(self) -> bytes:
        """The last saved timings, empty when there are none or their file is damaged."""
        found = self._folder.read(self._file)
        return b"" if found is None else found[1]

    def save(self, data: bytes) -> None:
        """Keeps ``data`` in place of what was saved before."""
        if len(data) > self.MAX_BYTES:
            self._folder.remove(self._file)
        else:
            self._folder.write(self._file, _pack({"name": self._name}, data))


def model_bytes_for_key(model: onnx.ModelProto) -> bytes:
    """A model as bytes for :meth:`EngineCache.key`: the same for models that differ in comments only.

    Left out are documentation strings and metadata, which hold source lines and no part of the computation.

    Args:
        model: smaller than 2 GB; it is not changed.
    """
    copy = type(model)()
    copy.CopyFrom(model)
    _strip(copy)
    return bytes(copy.SerializeToString(deterministic=True))


def _strip(message: Any) -> None:
    for field, value in message.ListFields():
        if field.name in ("doc_string", "metadata_props"):
            message.ClearField(field.name)
        elif field.message_type is not None:
            for part in value if _is_repeated(value) else (value,):
                _strip(part)


def _is_repeated(value: Any) -> bool:
    return not hasattr(value, "ListFields")

"""Damages states and files of engines, one class for each kind: ``python -m tests.state_fuzz KIND FIRST COUNT FILE``.

Every case is a function of its number alone. Each is either refused in words, or the engine that comes out answers by
name as it did before. The number of the case under way stands in FILE, which outlives a crash.
"""

from __future__ import annotations

import collections
import io
import itertools
import json
import os
import pickletools
import random
import re
import resource
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.openvino_models import two_way_plan
from tests.unrunnable import unrunnable_engine
from torch_trt_ext import OpenVINOEngineExtension

State = tuple[Any, Any, dict[str, list[str]]]

FIXTURE = Path(__file__).parent / "fixtures" / "engine_v1_shapes.pt"

_DTYPES = {
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Double": torch.float64,
    "Int": torch.int32,
    "Long": torch.int64,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
    "Float8_e4m3fn": torch.float8_e4m3fn,
}

_MAX_DATA_BYTES = 4 << 30

_HUGE = [0, 1, 31, 33, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 64, 2**64 - 32, 2**64 - 1]


class Failure(Exception):
    """What no damage may lead to."""


def state_of(engine: Any) -> State:
    version, plan, fields = engine._get_method("__getstate__")()
    return version, plan, {name: list(values) for name, values in fields.items()}


def restore(engine: Any, state: Any) -> None:
    engine._get_method("__setstate__")(state)


def explained(error: BaseException) -> None:
    """Fails unless the message says what must be and, after a semicolon, what to do."""
    message = str(error)
    if not re.search(r"\bmust\b.*;", message, re.DOTALL):
        raise Failure(f"unclear message: {message!r}") from error


def answers(engine: Any) -> None:
    """Fails unless the two-way engine computes what it should, name by name, whatever order and types it now has."""
    input_names, output_names, input_types, output_types = engine.io_names()
    given = {"a": torch.tensor([[1.0, 2.0], [3.0, 0.0], [5.0, 1.0]]), "b": torch.tensor([4, 0, 6], dtype=torch.int32)}
    cast = {name: given[name].to(_DTYPES[word]) for name, word in zip(input_names, input_types, strict=True)}
    outputs = engine.forward([cast[name] for name in input_names])
    expected = {"first": 2 * cast["a"].to(torch.float32), "second": cast["b"].to(torch.int32) + 1}
    for name, word, output in zip(output_names, output_types, outputs, strict=True):
        wanted = expected[name].to(_DTYPES[word])
        if output.dtype != wanted.dtype or not torch.equal(output.double(), wanted.double()):
            raise Failure(f"wrong answer: {name} is {output}, should be {wanted}")


def with_checksums(engine: Any, state: State) -> State:
    """The state with the checksums that it would have been saved with, read off the messages about wrong ones."""
    version, plan, fields = state
    fields = {name: values for name, values in fields.items() if name != "plan_xxh64"}
    fields |= {"plan_xxh64_of_mib": ["0"], "state_xxh64": ["0"]}
    for field, pattern in (("plan_xxh64_of_mib", r"got (\w{16}) over"), ("state_xxh64", r"facts .* got (\w{16});")):
        try:
            restore(engine, (version, plan, fields))
        except ValueError as error:
            found = re.search(pattern, str(error))
            if found is None:
                # Refused for another reason, which it will be again.
                return version, plan, fields
            fields[field] = [found.group(1)]
    return version, plan, fields


# Damage to the parts of a state. Each returns the damaged part.


def damage_text(text: str, rng: random.Random) -> str:
    kind = rng.randrange(6)
    if kind == 0 and text:
        position = rng.randrange(len(text))
        return text[:position] + chr(ord(text[position]) ^ 1 << rng.randrange(7)) + text[position + 1 :]
    if kind == 1:
        return text[: rng.randrange(len(text) + 1)]
    if kind == 2:
        return text + rng.choice(["", " ", "\0", "\n", "ü", "0", text])
    if kind == 3:
        return rng.choice(["", "a", "b", "first", "second", "Float", "Int", "Half", "Byte", "on", "off", "../x.so"])
    if kind == 4:
        return "x" * rng.choice([100, 10_000, 1_000_000])
    return text.swapcase()


def damage_fields(fields: dict[str, list[str]], rng: random.Random) -> dict[str, list[str]]:
    fields = {name: list(values) for name, values in fields.items()}
    names = sorted(fields)
    name, other = rng.choice(names), rng.choice(names)
    kind = rng.randrange(9)
    if kind == 0:
        del fields[name]
    elif kind == 1:
        fields[damage_text(name, rng)] = fields.pop(name)
    elif kind == 2:
        fields[name], fields[other] = fields[other], fields[name]
    elif kind == 3:
        fields[name] = fields[other]
    elif kind == 4:
        rng.shuffle(fields[name])
    elif kind == 5 and fields[name]:
        position = rng.randrange(len(fields[name]))
        fields[name][position] = damage_text(fields[name][position], rng)
    elif kind == 6:
        fields[name].insert(rng.randint(0, len(fields[name])), rng.choice(["", "a", "c", "Float", "on"]))
    elif kind == 7 and fields[name]:
        del fields[name][rng.randrange(len(fields[name]))]
    else:
        fields[name] = (fields[name] or ["x"]) * rng.choice([0, 2, 1000])
    return fields


def damage_bytes(data: bytes, rng: random.Random) -> bytes:
    damaged = bytearray(data)
    kind = rng.randrange(6)
    start = rng.randrange(len(damaged))
    if kind == 0:
        damaged[start] ^= 1 << rng.randrange(8)
    elif kind == 1:
        for _ in range(rng.randint(1, 8)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
    elif kind == 2:
        del damaged[start:]
    elif kind == 3:
        del damaged[start : start + rng.randint(1, 200)]
    elif kind == 4:
        damaged[start : start + rng.randint(1, 64)] = bytes(rng.randint(0, 64))
    else:
        damaged += bytes(rng.randint(1, 100))
    return bytes(damaged)


def to_tensor(data: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)


def damage_plan(plan: torch.Tensor, rng: random.Random) -> torch.Tensor:
    kind = rng.randrange(10)
    if kind < 5:
        return to_tensor(damage_bytes(bytes(plan.numpy()), rng))
    if kind == 5:
        return plan.to(rng.choice(list(_DTYPES.values())))
    if kind == 6:
        return plan.reshape(rng.choice([(1, -1), (-1, 1), (2, -1), (-1, 4, 2)]))
    if kind == 7:
        # Announces up to two to the 62 bytes and holds one.
        return plan[:1].expand(1 << rng.randrange(1, 63))
    if kind == 8:
        return rng.choice([plan[::2], plan[::3], plan.reshape(-1, 2).t()[0], plan.to_sparse(), plan.to("meta")])
    return rng.choice([plan[:0], plan[1:], plan.flip(0), torch.zeros_like(plan), plan[:32]])


class States:
    """States that were damaged and not saved again: what is not found must not matter."""

    def __init__(self) -> None:
        self.engine = OpenVINOEngineExtension(two_way_plan().data, two_way_plan().io_spec)
        self.no_tensorrt = unrunnable_engine((["a"], ["first", "second"], ["Float"], ["Float", "Int"]))
        self.states = [state_of(self.engine), state_of(self.no_tensorrt)]

    def run(self, rng: random.Random) -> str:
        which = rng.randrange(2)
        engine = (self.engine, self.no_tensorrt)[which]
        version, plan, fields = self.states[which]
        kind = rng.randrange(10)
        if kind == 0:
            version = rng.choice([0, -1, 2, 3, 2**31, 2**63 - 1, -(2**63)])
        elif kind < 4:
            plan = damage_plan(plan, rng)
        elif kind < 9:
            fields = damage_fields(fields, rng)
        else:
            return self._wrong_types(engine, version, plan, fields, rng)
        try:
            restore(engine, (version, plan, fields))
        except ValueError as error:
            explained(error)
            return "refused"
        self._unchanged(engine, self.states[which])
        return "right"

    def _unchanged(self, engine: Any, state: State) -> None:
        _, plan, fields = state_of(engine)
        if fields != state[2] or not torch.equal(plan, state[1]):
            raise Failure(f"a damaged state was taken: {fields}")
        if engine is self.engine:
            answers(engine)

    @staticmethod
    def _wrong_types(engine: Any, version: Any, plan: Any, fields: Any, rng: random.Random) -> str:
        wrong = rng.choice(
            [
                ("1", plan, fields),
                (version, "plan", fields),
                (version, None, fields),
                (version, [1, 2], fields),
                (version, plan, list(fields)),
                (version, plan, dict.fromkeys(fields, 3)),
                (version, plan, dict.fromkeys(fields, "x")),
                (version, plan, {3: ["x"]}),
                (version, plan),
                (),
                (version, plan, fields, fields),
                "state",
                None,
            ]
        )
        try:
            restore(engine, wrong)
        except ValueError as error:
            explained(error)
            return "refused"
        except (RuntimeError, TypeError) as error:
            # torch's own check against the method's schema.
            if not str(error):
                raise Failure("an empty message") from error
            return "refused"
        raise Failure(f"a state of wrong types was taken: {wrong!r:.200}")


class Resaved:
    """States whose checksums are right, so that the parsers behind them see the damage."""

    def __init__(self) -> None:
        self.engine = OpenVINOEngineExtension(two_way_plan().data, two_way_plan().io_spec)
        self.state = state_of(self.engine)
        self.plan = two_way_plan().data
        self.xml_bytes, self.weights_bytes = struct.unpack_from("<QQ", self.plan, 16)

    def run(self, rng: random.Random) -> str:
        version, plan, fields = self.state
        kind = rng.randrange(4)
        if kind == 0:
            return self._try((version, plan, damage_fields(fields, rng)), answers)
        if kind == 1:
            return self._try((version, to_tensor(self._damaged_frame(rng)), fields), answers)
        # What OpenVINO reads: another engine may come out, which can be run and is not the one that was saved.
        damaged = self._damaged_model(rng) if kind == 2 else damage_bytes(self.plan, rng)
        return self._try((version, to_tensor(damaged), fields), self._run)

    def _try(self, state: State, check: Callable[[Any], None]) -> str:
        try:
            restore(self.engine, with_checksums(self.engine, state))
        except ValueError as error:
            explained(error)
            return "refused"
        if not self.engine.can_run():
            if len(self.engine.why_not()) < 20:
                raise Failure(f"no reason: {self.engine.why_not()!r}")
            return "refused"
        check(self.engine)
        return "right"

    @staticmethod
    def _run(engine: Any) -> None:
        try:
            engine.forward([torch.ones(3, 2), torch.ones(3, dtype=torch.int32)])
        except (ValueError, TypeError, RuntimeError) as error:
            if not str(error):
                raise Failure("an empty message") from error

    def _damaged_frame(self, rng: random.Random) -> bytes:
        """The container around the model, damaged: nothing but the intact plan may pass."""
        plan = bytearray(self.plan)
        kind = rng.randrange(6)
        end = 32 + self.xml_bytes
        if kind == 0:
            plan[rng.randrange(32)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            struct.pack_into("<Q", plan, rng.choice([16, 24]), rng.choice(_HUGE))
        elif kind == 2:
            struct.pack_into("<QQ", plan, 16, rng.choice(_HUGE), rng.choice(_HUGE))
        elif kind == 3:
            del plan[rng.randrange(len(plan)) :]
        elif kind == 4:
            plan += bytes(rng.randint(1, 200))
        elif len(plan) - self.weights_bytes > end:
            plan[rng.randrange(end, len(plan) - self.weights_bytes)] = rng.randint(1, 255)
        return bytes(plan)

    def _damaged_model(self, rng: random.Random) -> bytes:
        """An IR in which numbers, words or lines are wrong, in a container that fits it."""
        xml = self.plan[32 : 32 + self.xml_bytes]
        weights = self.plan[len(self.plan) - self.weights_bytes :]
        kind = rng.randrange(4)
        if kind == 0:
            numbers = [b"%d" % number for number in (*_HUGE, -1, 2, 3, 10**30)] + [b"", b"1e9", b"?"]
            xml = _replace_one(xml, rb'"(-?[\d.,]+)"', rng, lambda: rng.choice(numbers))
        elif kind == 1:
            words = re.findall(rb'"([A-Za-z_][\w.]*)"', xml)
            words += [b"f16", b"string", b"u1", b"i4", b"dynamic", b"boolean", b"", b"x" * 5000]
            xml = _replace_one(xml, rb'"([A-Za-z_][\w.]*)"', rng, lambda: rng.choice(words))
        elif kind == 2:
            lines = xml.split(b"\n")
            first, second = rng.randrange(len(lines)), rng.randrange(len(lines))
            lines[first : first + rng.randrange(3)] = [lines[second]] * rng.randrange(3)
            xml = b"\n".join(lines)
        else:
            weights = weights[: rng.randrange(len(weights) + 1)]
        header = struct.pack("<8sIIQQ", b"TTE-OVIR", 1, 0, len(xml), len(weights))
        return header + xml + bytes(-(len(header) + len(xml)) % 64) + weights


def _replace_one(data: bytes, pattern: bytes, rng: random.Random, make: Callable[[], bytes]) -> bytes:
    found = rng.choice(list(re.finditer(pattern, data)))
    return data[: found.start(1)] + make() + data[found.end(1) :]


class Files:
    """Saved models, damaged in what the engine saved, in whole records, and in the archive around them.

    What torch itself wrote into the pickle, and the program, stay as they are: torch 2.11's unpickler crashes or takes
    all memory when, say, a number stands in the place of a storage's type, long before it comes to the engine.
    """

    def __init__(self) -> None:
        self.file = FIXTURE.read_bytes()
        with zipfile.ZipFile(io.BytesIO(self.file)) as archive:
            self.records = {info.filename: archive.read(info) for info in archive.infolist()}
            self.torchs = [
                range(info.header_offset, info.header_offset + len(info.filename) + 30 + info.compress_size + 64)
                for info in archive.infolist()
                if "/code/" in info.filename or info.filename.endswith("/data.pkl")
            ]
        self.pickle = next(name for name in self.records if name.endswith("/data.pkl"))
        self.plan = next(name for name in self.records if name.endswith("/data/0"))
        opcodes = list(pickletools.genops(self.records[self.pickle]))
        texts = [
            (text, start, end) for (op, text, start), (_, _, end) in itertools.pairwise(opcodes) if "UNIC" in op.name
        ]
        first = next(index for index, (text, _, _) in enumerate(texts) if text == "cuda_graphs")
        # Names and items of the state's dictionary, without the names of torch's types among them.
        self.texts = [(start, end) for text, start, end in texts[first:] if "[" not in text]
        self.x = torch.arange(6.0).reshape(2, 3)

    def run(self, rng: random.Random) -> str:
        kind = rng.randrange(5)
        if kind < 2:
            data = self._archive({self.pickle: self._other_text(rng)})
        elif kind == 2:
            data = self._archive(self._damaged_records(rng))
        else:
            data = self._damaged_archive(rng)
        try:
            model = torch.jit.load(io.BytesIO(data))
        except Exception as error:  # torch's readers raise anything
            # Of torch's own damaged records bytes get into its messages, which some versions of Python then empty.
            if kind < 2 and not str(error):
                raise Failure("an empty message") from error
            if "saved engine" in str(error):
                explained(error)
            return "refused"
        try:
            answer = model(self.x)
        except RuntimeError:
            return "refused"
        if not torch.equal(answer, 2 * self.x + 1):
            raise Failure(f"wrong answer: {answer}")
        return "right"

    def _archive(self, changes: dict[str, bytes | None]) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, data in {**self.records, **changes}.items():
                if data is not None:
                    archive.writestr(name, data)
        return buffer.getvalue()

    def _other_text(self, rng: random.Random) -> bytes:
        """One of the state's texts is another, is none, or is no text but another value."""
        pickle = self.records[self.pickle]
        start, end = rng.choice(self.texts)
        text = bytearray(pickle[start + 5 : end])
        if rng.random() < 0.5 and text:
            for _ in range(rng.choice([1, 1, 3])):
                text[rng.randrange(len(text))] = rng.randrange(256)
        else:
            wrong = [b"\xff\xfe", b"a\0b", b"\xed\xa0\x80", b"\xc0\x80", b"x" * 100_000, b"", b"on", b"Half", b"y"]
            text[:] = rng.choice(wrong)
        values = [b"K\x05", b"N", b"\x88", b"]", b"}", b")", b"G" + bytes(8), b"J\xff\xff\xff\xff", b"h\x0c"]
        other = rng.choice(values) if rng.random() < 0.3 else b"X" + struct.pack("<I", len(text)) + text
        return pickle[:start] + other + pickle[end:]

    def _damaged_records(self, rng: random.Random) -> dict[str, bytes | None]:
        name = rng.choice([self.plan, self.plan, rng.choice(list(self.records))])
        other = rng.choice([other for other in self.records if "/code/" not in other])
        kind = rng.randrange(4)
        if kind == 0 or "/code/" in name or not self.records[name]:
            return {name: None}
        if kind == 1:
            return {name: self.records[other], other: self.records[name]}
        if name == self.pickle:
            return {name: self.records[name][: rng.randrange(len(self.records[name]))]}
        return {name: damage_bytes(self.records[name], rng)}

    def _damaged_archive(self, rng: random.Random) -> bytes:
        data = bytearray(self.file)
        kind = rng.randrange(3)
        if kind == 0:
            return bytes(data[: rng.randrange(len(data))])
        for _ in range(rng.choice([1, 1, 4])):
            position = rng.randrange(len(data))
            if not any(position in record for record in self.torchs):
                data[position] = data[position] ^ 1 << rng.randrange(8) if kind == 1 else rng.randrange(256)
        return bytes(data)


KINDS: dict[str, Callable[[], Any]] = {"states": States, "resaved": Resaved, "files": Files}


def _peak_mib() -> int:
    """The most memory that this process had. getrusage counts that of the process it was forked from as well."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) >> 10


def main(kind: str, first: str, count: str, progress: str) -> None:
    """Runs the cases and prints how many ended how, with the peak of resident memory in MiB."""
    torch.set_num_threads(1)
    # What takes memory without end fails in words here, and leaves the machine alone.
    resource.setrlimit(resource.RLIMIT_DATA, (_MAX_DATA_BYTES, _MAX_DATA_BYTES))
    fuzzer = KINDS[kind]()
    outcomes: collections.Counter[str] = collections.Counter()
    with open(progress, "w") as file:
        for case in range(int(first), int(first) + int(count)):
            os.pwrite(file.fileno(), f"{case:>12}".encode(), 0)
            try:
                outcomes[fuzzer.run(random.Random(case))] += 1
            except Exception as error:
                raise Failure(f"{kind} case {case}") from error
    print(json.dumps({"outcomes": outcomes, "peak_mib": _peak_mib()}))


if __name__ == "__main__":
    main(*sys.argv[1:])

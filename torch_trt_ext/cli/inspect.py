"""``torch-trt-ext inspect``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click

from torch_trt_ext.cli.answer import Answer, answers, count, size
from torch_trt_ext.cli.options import loading_options, model_argument
from torch_trt_ext.contents import Contents, EngineInfo, IoInfo, inspect_file


@click.command()
@model_argument
@click.option("--layers", is_flag=True, help="List the layers of engines that can run here.")
@loading_options
@answers
def inspect(model: Path, layers: bool) -> Answer:
    """Say what is in a saved model; needs no GPU.

    MODEL is a TorchScript file: its engines, with their shapes, precisions, plugins, sizes and layers.
    """
    contents = inspect_file(model)
    engines = [line for engine in contents.engines for line in ["", *_engine_lines(engine, with_layers=layers)]]
    return Answer(contents.as_dict(), "\n".join([*_file_lines(model, contents), *engines]))


def _file_lines(model: Path, contents: Contents) -> list[str]:
    lines = [
        f"{model}: {size(contents.file_bytes or 0)}, {count(len(contents.engines), 'engine')}",
        f"  takes: {', '.join(f'{name}: {kind}' for name, kind in contents.arguments.items()) or 'nothing'}",
        f"  tensors: {size(contents.tensor_bytes)} {', '.join(contents.tensor_dtypes)}".rstrip(),
    ]
    if contents.extra_files:
        lines.append(f"  extra files: {', '.join(contents.extra_files)}")
    return lines


def _engine_lines(engine: EngineInfo, *, with_layers: bool) -> list[str]:
    title = engine.path or f"(a constant) {engine.name}".rstrip()
    origin = "from optimize()" if engine.from_optimize else "not from optimize()"
    lines = [f"{click.style(title, bold=True)}: {engine.backend}, {origin}"]
    lines += [f"  input {_io(port)}" for port in engine.inputs]
    lines += [f"  output {_io(port)}" for port in engine.outputs]
    if engine.precision:
        lines.append(f"  precision: {engine.precision}")
    lines.append(f"  plan: {size(engine.plan_bytes)}")
    fallback = "none" if engine.fallback_bytes is None else f"a subgraph with {size(engine.fallback_bytes)} of tensors"
    lines.append(f"  fallback: {fallback}")
    lines.append(f"  plugin libraries: {', '.join(engine.plugin_libraries) or 'none'}")
    facts = [f"{fact} {' '.join(values)}" for fact, values in engine.made_on.items()]
    lines.append(f"  made on: {', '.join(facts) or 'not known'}")
    if engine.cuda_graphs:
        lines.append("  CUDA graphs: on")
    if engine.layers is None:
        return [*lines, f"  {click.style('cannot run here', fg='yellow')}: {engine.why_not}"]
    precisions = Counter(layer.precision for layer in engine.layers if layer.precision)
    shares = ", ".join(f"{number} {precision}" for precision, number in precisions.most_common())
    lines.append(f"  layers: {len(engine.layers)}{f' ({shares})' if shares else ''}")
    if with_layers:
        lines += [f"    {layer.name}  {layer.kind}  {layer.precision}".rstrip() for layer in engine.layers]
    return lines


def _io(port: IoInfo) -> str:
    shape = "shape not known" if port.shape is None else str(port.shape)
    varies = port.shape is None or -1 in port.shape or len(port.ranges) > 1
    ranges = [f"{least} to {most}, best {best}" for least, best, most in port.ranges] if varies else []
    return f"{port.name}: {port.dtype} {shape}{': ' if ranges else ''}{'; '.join(ranges)}"

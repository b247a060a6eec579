"""Which values an ONNX graph's nodes and the graphs inside them mention."""

from __future__ import annotations

from collections.abc import Iterator

from onnx import AttributeProto, GraphProto, NodeProto


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """The graphs in a node's attributes: bodies of ``If``, ``Loop`` and ``Scan``."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def names_within(graph: GraphProto) -> Iterator[str]:
    """Every name of a value that ``graph`` and the graphs in it mention."""
    for value in (*graph.input, *graph.output, *graph.initializer):
        yield value.name
    for node in graph.node:
        yield from node.output
        yield from names_read(node)


def names_read(node: NodeProto) -> Iterator[str]:
    """A node's inputs, and all that the graphs in it mention, which may be captured."""
    yield from node.input
    for graph in subgraphs(node):
        yield from names_within(graph)

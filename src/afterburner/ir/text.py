"""The text form: typed, short, with the TensorFlow node and source line as comments; round-trips.

    graph step(%x: f32[32,784], %w: f32[784,10] state) {
      %0: f32[32,10] = matmul(%x, %w) {transpose_a=False, transpose_b=False}  # dense/MatMul, model.py:14
      return %0
    }
"""

from __future__ import annotations

import ast
import base64
import re
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import numpy as np

from .graph import NOWHERE, Builder, Graph, Input, Location, Node, Value
from .op import IRError, op_class
from .types import DTYPES, DType, TensorType

_INLINE_ELEMENTS = 16  # longer constants are written as bytes in base 64


def print_graph(graph: Graph, locations: bool = True) -> str:
    """The text of a graph; without ``locations`` two graphs of one meaning give one text."""
    return "\n".join(_graph_lines(graph, locations))


def anonymous(graph: Graph) -> str:
    """What is computed, without the names that TensorFlow numbers anew in every process."""
    inputs = tuple(Input(item.value, f"a{i}", item.state) for i, item in enumerate(graph.inputs))
    outputs = tuple(replace(o, check=None) for o in graph.outputs)
    return print_graph(Graph("program", inputs, graph.nodes, outputs), locations=False)


def _graph_lines(graph: Graph, locations: bool) -> Iterator[str]:
    names: dict[Value, str] = {}
    taken: set[str] = set()
    for i, item in enumerate(graph.inputs):
        name = re.sub(r"\W", "_", item.name) or "arg"
        if name in taken or name.isdigit():
            name = f"{name}_{i}" if f"{name}_{i}" not in taken else f"arg_{i}_"
        taken.add(name)
        names[item.value] = f"%{name}"
    inputs = ", ".join(
        f"{names[i.value]}: {i.value.type}{' state' if i.state else ''}" for i in graph.inputs)
    yield f"graph {_identifier(graph.name)}({inputs}) {{"
    counter = 0
    for node in graph.nodes:
        for result in node.results:
            names[result] = f"%{counter}"
            counter += 1
        yield from _node_lines(node, names, locations)
    yield "  return" + ",".join(" " + _output(graph, i, names) for i in range(len(graph.outputs)))
    yield "}"


def _node_lines(node: Node, names: dict[Value, str], locations: bool) -> Iterator[str]:
    results = ", ".join(f"{names[r]}: {r.type}" for r in node.results)
    operands = ", ".join(names[v] for v in node.operands)
    attributes = ", ".join(
        f"{k}={_print_attribute(v)}" for k, v in node.op.attributes() if not isinstance(v, Graph))
    text = f"  {results} = {node.op.name}({operands})"
    text += f" {{{attributes}}}" if attributes else ""
    comment = f"  # {node.loc}" if locations and str(node.loc) else ""
    if not node.op.regions():
        yield text + comment
        return
    (region,) = node.op.regions()
    yield text + " with" + comment
    for line in _graph_lines(region, locations):
        yield "  " + line


def _output(graph: Graph, index: int, names: dict[Value, str]) -> str:
    out = graph.outputs[index]
    text = names[out.value]
    if out.updates is not None:
        text += f" -> {names[graph.inputs[out.updates].value]}"
    if out.check is not None:
        text += f" check {_quoted(out.check)}"
    return text


def _identifier(name: str) -> str:
    return re.sub(r"\W", "_", name) or "graph"


def _quoted(text: str) -> str:
    return ascii(text) if "'" not in text else ascii(text.replace("'", '"'))


def _print_attribute(value: Any) -> str:
    if isinstance(value, DType):
        return value.name
    if isinstance(value, np.ndarray):
        return _print_array(value)
    return repr(value).replace(" ", "")


def _print_array(array: np.ndarray) -> str:
    plain = array.size <= _INLINE_ELEMENTS and not np.any(np.isnan(array.astype(np.float64)))
    if not plain:
        return "b64'" + base64.b64encode(np.ascontiguousarray(array).tobytes()).decode() + "'"
    if array.dtype.kind in "iub":
        return repr(array.tolist()).replace(" ", "")
    return repr(array.astype(np.float64).tolist()).replace(" ", "")


_HEADER = re.compile(r"graph (\w+)\((.*)\) \{$")
_BINDER = re.compile(r"(%\w+): (\w+)\[([\d,]*)\]( state)?")
_NODE = re.compile(r"(.*?) = (\w+)\((.*?)\)(?: \{(.*)\})?( with)?$")
_OUTPUT = re.compile(r"(%\w+)(?: -> (%\w+))?(?: check ('[^']*'))?")
_ATTRIBUTE = re.compile(r"(\w+)=(b64'[^']*'|'[^']*'|\[.*?\](?=, \w+=|$)|[^\[]*?)(?=, \w+=|$)")


class _Lines:
    def __init__(self, text: str) -> None:
        self.lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
        self.at = 0

    def next(self) -> tuple[str, str]:
        if self.at >= len(self.lines):
            raise IRError("the text ends inside a graph")
        body, _, comment = self.lines[self.at].strip().partition("  # ")
        self.at += 1
        return body.strip(), comment


def parse_graph(text: str) -> Graph:
    """The graph a text describes.

    Raises:
        IRError: the line that cannot be read, or breaks a shape rule.
    """
    return _parse(_Lines(text))


def _parse(lines: _Lines) -> Graph:
    header, _ = lines.next()
    match = _HEADER.match(header)
    if match is None:
        raise IRError(f"expected 'graph name(...) {{', got {header!r}")
    builder, names = Builder(match[1]), {}
    order: list[str] = []
    for name, dtype, shape, state in _BINDER.findall(match[2]):
        names[name] = builder.input(_type(dtype, shape), name[1:], bool(state))
        order.append(name)
    while True:
        line, comment = lines.next()
        if line.startswith("return"):
            break
        _parse_node(line, comment, lines, builder, names)
    for name, updates, check in _OUTPUT.findall(line.removeprefix("return")):
        builder.output(_lookup(names, name), order.index(updates) if updates else None,
                       ast.literal_eval(check) if check else None)
    closing, _ = lines.next()
    if closing != "}":
        raise IRError(f"expected '}}', got {closing!r}")
    return builder.build()


def _parse_node(line: str, comment: str, lines: _Lines, builder: Builder, names: dict[str, Value]) -> None:
    match = _NODE.match(line)
    if match is None:
        raise IRError(f"cannot read {line!r}")
    binders = _BINDER.findall(match[1])
    types = [_type(dtype, shape) for _, dtype, shape, _ in binders]
    cls = op_class(match[2])
    written = {k: v for k, v in _ATTRIBUTE.findall(match[4] or "")}
    attributes: dict[str, Any] = {}
    for field in fields(cls):
        if field.name in written:
            array = types[0] if cls is op_class("constant") else None
            attributes[field.name] = _attribute(written[field.name], array)
    if match[5]:
        attributes["body"] = _parse(lines)
    operands = [_lookup(names, n) for n in re.findall(r"%\w+", match[3])]
    results = builder.add(cls(**attributes), *operands, loc=_location(comment))
    for (name, *_), type_, result in zip(binders, types, results, strict=True):
        if result.type != type_:
            raise IRError(f"{line!r} gives {result.type}")
        names[name] = result


def _location(comment: str) -> Location:
    if not comment:
        return NOWHERE
    node, _, source = comment.partition(", ")
    return Location(node, source)


def _lookup(names: dict[str, Value], name: str) -> Value:
    if name not in names:
        raise IRError(f"{name} is not defined")
    return names[name]


def _type(dtype: str, shape: str) -> TensorType:
    if dtype not in DTYPES:
        raise IRError(f"unknown element type {dtype!r}")
    return TensorType(DTYPES[dtype], tuple(int(s) for s in shape.split(",") if s))


def _attribute(text: str, array: TensorType | None) -> Any:
    """An attribute's value; ``array`` is the type of a constant's value, None for other fields."""
    if array is not None:
        return _array(text, array)
    return DTYPES[text] if text in DTYPES else ast.literal_eval(text)


def _array(text: str, type_: TensorType) -> np.ndarray:
    if text.startswith("b64'"):
        raw = np.frombuffer(base64.b64decode(text[4:-1]), type_.dtype.numpy)
        return raw.reshape(type_.shape).copy()
    numbers = ast.literal_eval(re.sub(r"\binf\b", "1e999", text))
    return np.array(numbers, dtype=type_.dtype.numpy).reshape(type_.shape)

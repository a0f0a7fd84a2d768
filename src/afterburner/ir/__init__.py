"""The language: types, operations, graphs, their text form, their checker and their oracle."""

from . import ops
from .graph import NOWHERE, Builder, Graph, Input, Location, Node, Output, Value, rewrite, with_nodes
from .interpret import interpret
from .op import IRError, Op, op_class, registered_ops
from .text import parse_graph, print_graph
from .types import DTYPES, DType, Shape, TensorType, dtype_of
from .verify import verify

__all__ = [
    "DTYPES", "NOWHERE", "Builder", "DType", "Graph", "IRError", "Input", "Location", "Node", "Op",
    "Output", "Shape", "TensorType", "Value", "dtype_of", "interpret", "op_class", "ops",
    "parse_graph", "print_graph", "registered_ops", "rewrite", "verify", "with_nodes",
]

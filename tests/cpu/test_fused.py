"""Loop kernels against the interpreter: every operation, element type, shape pattern and width."""

from __future__ import annotations

import numpy as np
import pytest
from cpu_harness import INSTRUCTION_SETS, run_kernel

from afterburner.cpu import isa as instruction_sets
from afterburner.cpu.kernels.fused import LOWERINGS, lower_loop, maps_of
from afterburner.cpu.kernels.loops.body import space_of
from afterburner.cpu.place import overwritable
from afterburner.ir import (
    DTYPES,
    Builder,
    DType,
    Graph,
    Node,
    TensorType,
    Value,
    interpret,
    op_class,
    parse_graph,
)
from afterburner.ir.ops.control import Fusion

FLOATS = ("f32", "f64", "f16", "bf16")
INTEGERS = ("i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64")
EXACT_UNARY = ("neg", "abs", "sign", "sqrt", "floor", "ceil", "round", "is_nan", "is_inf", "is_finite")
ROUNDED_UNARY = ("exp", "expm1", "log", "log1p", "rsqrt", "tanh", "sigmoid", "erf", "sin", "cos")
COMPARES = ("equal", "not_equal", "less", "less_equal", "greater", "greater_equal")
EXACT_BINARY = ("add", "sub", "mul", "div", "floor_div", "floor_mod", "trunc_mod", "maximum", "minimum")
INTEGER_BINARY = ("add", "sub", "mul", "floor_div", "floor_mod", "trunc_div", "trunc_mod", "pow", "maximum",
                  "minimum", "bitwise_and", "bitwise_or", "bitwise_xor", "shift_left", "shift_right")


def fusion_of(graph: Graph) -> Node:
    return Node(Fusion("loop", graph), [Value(i.value.type) for i in graph.inputs])


def sample(type_: TensorType, seed: int = 0) -> np.ndarray:
    """Ordinary values with every special one among them."""
    rng = np.random.default_rng(seed)
    dtype = type_.dtype
    if dtype.name == "bool":
        return rng.random(type_.shape) < 0.5
    if dtype.is_float:
        flat = (rng.standard_normal(type_.size) * 3).astype(dtype.numpy)
        special = np.array([0.0, -0.0, 1.0, -1.0, 0.5, 1.5, -2.5, np.inf, -np.inf, np.nan, 1e-3, 30.0, -30.0])
        flat[: special.size] = rng.permutation(special).astype(dtype.numpy)[: flat.size]
        return flat.reshape(type_.shape)
    limits = np.iinfo(dtype.numpy)
    flat = rng.integers(limits.min, limits.max, type_.size, dtype.numpy, endpoint=True)
    flat[::2] = rng.integers(max(limits.min, -9), 10, flat[::2].size).astype(dtype.numpy)
    special = np.array([limits.min, limits.max, 0, 1], dtype.numpy)
    flat[: special.size] = rng.permutation(special)[: flat.size]
    return flat.reshape(type_.shape)


def ulp_distance(got: np.ndarray, want: np.ndarray, dtype: DType) -> float:
    """Largest distance in units of the last place of ``want``; NaN must meet NaN."""
    g, w = got.astype(np.float64), want.astype(np.float64)
    same = (g == w) | (np.isnan(g) & np.isnan(w))
    if np.any(np.isnan(g) != np.isnan(w)) or np.any(~same & ~(np.isfinite(g) & np.isfinite(w))):
        return np.inf
    if np.all(same):
        return 0.0
    unit = np.abs(np.spacing(np.abs(want[~same]))).astype(np.float64)
    return float(np.max(np.abs(g[~same] - w[~same]) / unit))


def agree(graph: Graph, arguments: list[np.ndarray], width: str, ulps: float = 0.0,
          node: Node | None = None) -> None:
    isa = instruction_sets.host(width)
    node = node or fusion_of(graph)
    results = run_kernel(LOWERINGS[node.op.name](node, isa), arguments, isa, reverse=True)
    expected = interpret(graph, arguments)
    for i, (got, want, out) in enumerate(zip(results, expected, graph.outputs, strict=True)):
        made = out.value.node.op.name if out.value.node else "input"
        dtype = out.value.type.dtype
        assert got.shape == want.shape and got.dtype == want.dtype
        if ulps and dtype.is_float:
            assert ulp_distance(got, want, dtype) <= ulps, (i, made, str(out.value.type))
        else:
            exact = np.float64 if dtype.is_float else dtype.numpy
            np.testing.assert_array_equal(got.astype(exact), want.astype(exact), f"output {i}: {made}")


def elementwise(names: tuple[str, ...], arity: int, dtype: str, size: int) -> Graph:
    builder = Builder("all")
    type_ = TensorType(DTYPES[dtype], (size,))
    inputs = [builder.input(type_, f"x{i}") for i in range(arity)]
    for name in names:
        builder.output(builder.emit(op_class(name)(), *inputs))
    return builder.build()


def arguments_of(graph: Graph, seed: int = 0) -> list[np.ndarray]:
    return [sample(i.value.type, seed + n) for n, i in enumerate(graph.inputs)]


@pytest.mark.parametrize("width", INSTRUCTION_SETS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_exact_float_operations(dtype: str, width: str) -> None:
    for names, arity in ((EXACT_UNARY, 1), (EXACT_BINARY + COMPARES, 2)):
        graph = elementwise(names, arity, dtype, 203)
        agree(graph, arguments_of(graph), width, ulps=1.0 if dtype in ("f16", "bf16") else 0.0)


@pytest.mark.parametrize("width", INSTRUCTION_SETS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_rounded_float_operations(dtype: str, width: str) -> None:
    graph = elementwise(ROUNDED_UNARY, 1, dtype, 203)
    agree(graph, arguments_of(graph), width, ulps=4.0)
    graph = elementwise(("pow", "atan2"), 2, dtype, 403)
    agree(graph, arguments_of(graph), width, ulps=4.0)


@pytest.mark.parametrize("width", INSTRUCTION_SETS)
@pytest.mark.parametrize("dtype", INTEGERS)
def test_integer_operations(dtype: str, width: str) -> None:
    unary = elementwise(("neg", "abs", "sign", "bitwise_not"), 1, dtype, 77)
    binary = elementwise(INTEGER_BINARY + COMPARES, 2, dtype, 145)
    for graph in (unary, binary):
        agree(graph, arguments_of(graph), width)


@pytest.mark.parametrize("width", INSTRUCTION_SETS)
def test_bool_operations(width: str) -> None:
    for names, arity in ((("logical_not",), 1), (("logical_and", "logical_or", "equal", "not_equal"), 2)):
        graph = elementwise(names, arity, "bool", 67)
        agree(graph, arguments_of(graph), width)


@pytest.mark.parametrize("width", INSTRUCTION_SETS)
@pytest.mark.parametrize("source", list(DTYPES))
def test_casts_and_selects(source: str, width: str) -> None:
    builder = Builder("casts")
    x = builder.input(TensorType(DTYPES[source], (41,)), "x")
    y = builder.input(TensorType(DTYPES[source], (41,)), "y")
    c = builder.input(TensorType(DTYPES["bool"], (41,)), "c")
    for target in DTYPES.values():
        builder.output(builder.emit(op_class("cast")(target), x))
        if target.bits == DTYPES[source].bits and "bool" not in (source, target.name):
            builder.output(builder.emit(op_class("bitcast")(target), x))
    builder.output(builder.emit(op_class("select")(), c, x, y))
    graph = builder.build()
    arguments = arguments_of(graph)
    if DTYPES[source].is_float:
        arguments[0] = np.linspace(-20, 100, 41).astype(arguments[0].dtype)
        arguments[0][arguments[0] < 0] *= -1
    agree(graph, arguments, width)


@pytest.mark.parametrize("width", INSTRUCTION_SETS)
@pytest.mark.parametrize("target", ("i32", "i64"))
def test_floats_outside_an_integer_become_its_smallest(target: str, width: str) -> None:
    graph = parse_graph(f"""
graph f(%x: f32[9]) {{
  %0: {target}[9] = cast(%x) {{dtype={target}}}
  return %0
}}""")
    x = np.array([1e30, -1e30, np.inf, -np.inf, np.nan, 2.0**31, 2.0**63, 5.7, -5.7], np.float32)
    agree(graph, [x], width)


SHAPE_OPS = {
    "broadcast row": ("f32[37]", "broadcast(%x) {shape=(5,37), axes=(1,)}", "f32[5,37]"),
    "broadcast column": ("f32[37]", "broadcast(%x) {shape=(37,5), axes=(0,)}", "f32[37,5]"),
    "broadcast scalar": ("f32[]", "broadcast(%x) {shape=(3,19), axes=()}", "f32[3,19]"),
    "broadcast stretch": ("f32[3,1,5]", "broadcast(%x) {shape=(3,4,5), axes=(0,1,2)}", "f32[3,4,5]"),
    "reshape": ("f32[6,35]", "reshape(%x) {shape=(10,21)}", "f32[10,21]"),
    "reshape scalar": ("f32[1,1]", "reshape(%x) {shape=()}", "f32[]"),
    "transpose": ("f32[13,29]", "transpose(%x) {perm=(1,0)}", "f32[29,13]"),
    "transpose 4": ("f32[3,5,7,2]", "transpose(%x) {perm=(2,0,3,1)}", "f32[7,3,2,5]"),
    "transpose blocks": ("f32[37,41]", "transpose(%x) {perm=(1,0)}", "f32[41,37]"),
    "transpose whole blocks": ("i32[64,32]", "transpose(%x) {perm=(1,0)}", "i32[32,64]"),
    "transpose many": ("f32[5,33,3,50]", "transpose(%x) {perm=(2,3,0,1)}", "f32[3,50,5,33]"),
    "transpose chunks": ("f32[700,513]", "transpose(%x) {perm=(1,0)}", "f32[513,700]"),
    "transpose bytes": ("u8[70,133]", "transpose(%x) {perm=(1,0)}", "u8[133,70]"),
    "transpose halves": ("bf16[70,33]", "transpose(%x) {perm=(1,0)}", "bf16[33,70]"),
    "transpose doubles": ("f64[70,33]", "transpose(%x) {perm=(1,0)}", "f64[33,70]"),
    "transpose bool": ("bool[13,29]", "transpose(%x) {perm=(1,0)}", "bool[29,13]"),
    "slice": ("f32[9,40]", "slice(%x) {starts=(1,3), limits=(8,39), strides=(2,1)}", "f32[4,36]"),
    "slice strided": ("f16[9,40]", "slice(%x) {starts=(1,3), limits=(8,39), strides=(2,3)}", "f16[4,12]"),
    "slice empty": ("f32[9,40]", "slice(%x) {starts=(1,3), limits=(1,39), strides=(2,3)}", "f32[0,12]"),
    "reverse": ("f32[5,43]", "reverse(%x) {axes=(1,)}", "f32[5,43]"),
    "reverse both": ("bf16[5,43]", "reverse(%x) {axes=(0,1)}", "bf16[5,43]"),
    "cumsum": ("f32[5,43]", "cumsum(%x) {axis=1, exclusive=False, reverse=False}", "f32[5,43]"),
    "cumsum rows": ("i32[5,43]", "cumsum(%x) {axis=0, exclusive=True, reverse=True}", "i32[5,43]"),
    "copy": ("i64[5,43]", "slice(%x) {starts=(0,0), limits=(5,43), strides=(1,1)}", "i64[5,43]"),
}


@pytest.mark.parametrize("width", INSTRUCTION_SETS)
@pytest.mark.parametrize("case", SHAPE_OPS)
def test_shape_operations(case: str, width: str) -> None:
    operand, call, result = SHAPE_OPS[case]
    graph = parse_graph(f"graph f(%x: {operand}) {{\n  %0: {result} = {call}\n  return %0\n}}")
    rng = np.random.default_rng(0)
    x = rng.integers(-50, 50, graph.inputs[0].value.shape).astype(graph.inputs[0].value.type.dtype.numpy)
    original = graph.nodes[0]
    agree(graph, [x], width, node=Node(original.op, [Value(graph.inputs[0].value.type)]))


@pytest.mark.parametrize("width", INSTRUCTION_SETS)
def test_turned_operands_in_a_fusion(width: str) -> None:
    graph = parse_graph("""
graph f(%x: f32[45,39], %y: f32[39,45], %row: f32[45], %z: f16[45,39]) {
  %0: f32[39,45] = transpose(%x) {perm=(1,0)}
  %1: f32[39,45] = broadcast(%row) {shape=(39,45), axes=(1,)}
  %2: f32[39,45] = mul(%0, %y)
  %3: f32[39,45] = add(%2, %1)
  %4: f16[39,45] = transpose(%z) {perm=(1,0)}
  %5: f32[39,45] = cast(%4) {dtype=f32}
  %6: f32[39,45] = sub(%3, %5)
  return %6, %4
}""")
    rng = np.random.default_rng(0)
    agree(graph, [rng.random(i.value.shape).astype(i.value.type.dtype.numpy) for i in graph.inputs], width)


@pytest.mark.parametrize("width", INSTRUCTION_SETS)
@pytest.mark.parametrize("text", [
    "graph f(%x: f32[5,31], %v: f32[]) {\n"
    "  %0: f32[8,37] = pad(%x, %v) {low=(1,4), high=(2,2), interior=(0,0)}\n  return %0\n}",
    "graph f(%x: f32[5,31], %v: f32[]) {\n"
    "  %0: f32[12,60] = pad(%x, %v) {low=(1,-3), high=(2,2), interior=(1,1)}\n  return %0\n}",
    "graph f(%x: u8[5,0], %v: u8[]) {\n"
    "  %0: u8[5,9] = pad(%x, %v) {low=(0,4), high=(0,5), interior=(0,0)}\n  return %0\n}",
    "graph f(%x: f32[4,3], %y: f32[4,20], %z: f32[4,0]) {\n"
    "  %0: f32[4,23] = concat(%x, %z, %y) {axis=1}\n  %1: f32[4,23] = exp(%0)\n  return %0\n}",
    "graph f(%x: i32[4,3], %y: i32[9,3]) {\n"
    "  %0: i32[13,3] = concat(%x, %y) {axis=0}\n  %1: i32[13,3] = add(%0, %0)\n  return %1, %0\n}",
    "graph f(%x: f32[2,3,5,4]) {\n  %c: f32[] = constant() {value=0.0}\n"
    "  %0: f32[2,5,9,4] = pad(%x, %c) {low=(0,1,2,0), high=(0,1,2,0), interior=(0,0,0,0)}\n"
    "  %1: f32[2,5,9,4] = neg(%0)\n  return %1\n}",
])
def test_pads_and_joins(text: str, width: str) -> None:
    graph = parse_graph(text)
    rng = np.random.default_rng(0)
    arguments = [rng.integers(0, 9, i.value.shape).astype(i.value.type.dtype.numpy) for i in graph.inputs]
    agree(graph, arguments, width)


@pytest.mark.parametrize("width", INSTRUCTION_SETS)
@pytest.mark.parametrize("text", [
    "graph f(%x: f32[300003], %s: f32[]) {\n"
    "  %0: f32[300003] = broadcast(%s) {shape=(300003,), axes=()}\n  %1: f32[300003] = mul(%x, %0)\n"
    "  %2: bool[300003] = less(%x, %1)\n  return %1, %2\n}",
    "graph f(%x: f32[7001,3], %y: f32[7001,21], %z: f32[7001,8]) {\n"
    "  %0: f32[7001,32] = concat(%x, %y, %z) {axis=1}\n  return %0\n}",
    "graph f(%x: f32[7001,13], %y: f32[7001,32], %z: f32[7001,64], %s: f32[109]) {\n"
    "  %0: f32[7001,109] = concat(%x, %y, %z) {axis=1}\n"
    "  %1: f32[7001,109] = broadcast(%s) {shape=(7001,109), axes=(1,)}\n  %2: f32[7001,109] = mul(%0, %1)\n"
    "  %3: f32[7001,109] = maximum(%2, %1)\n  return %3\n}",
    "graph f(%x: f32[50001], %y: f32[99], %z: f32[90000]) {\n"
    "  %0: f32[140100] = concat(%x, %y, %z) {axis=0}\n  return %0\n}",
    "graph f(%x: f32[8,60,60,5], %v: f32[]) {\n"
    "  %0: f32[8,63,64,5] = pad(%x, %v) {low=(0,1,2,0), high=(0,2,2,0), interior=(0,0,0,0)}\n"
    "  %1: f32[8,63,64,5] = abs(%0)\n  return %1\n}",
    "graph f(%x: f32[3,200003]) {\n  %0: f32[200003,3] = transpose(%x) {perm=(1,0)}\n  return %0\n}",
])
def test_work_in_many_chunks(text: str, width: str) -> None:
    graph = parse_graph(text)
    rng = np.random.default_rng(0)
    isa = instruction_sets.host(width)
    assert lower_loop(fusion_of(graph), isa).phases[0].chunks > 1
    agree(graph, [rng.standard_normal(i.value.shape).astype(np.float32) for i in graph.inputs], width)


@pytest.mark.parametrize("axis, shapes, together", [
    (1, ((7001, 13), (7001, 64)), True),  # both have all rows
    (2, ((8, 900, 33), (8, 900, 32)), True),
    (0, ((5000, 64), (9001, 64)), False),  # each has rows of its own
    (1, ((2, 90001), (2, 140001)), False),  # two rows are too few to share
])
def test_chunks_take_whole_rows_of_what_is_joined(axis: int, shapes: tuple[tuple[int, ...], ...],
                                                  together: bool) -> None:
    builder = Builder("join")
    inputs = [builder.input(TensorType(DTYPES["f32"], shape), f"x{n}") for n, shape in enumerate(shapes)]
    builder.output(builder.emit(op_class("concat")(axis), *inputs))
    body = builder.build()
    maps = maps_of(body, space_of(body), instruction_sets.host())
    assert bool(maps.together) == together and maps.chunks > 1
    assert maps.chunks == (maps.nests[0].chunks if together else sum(nest.chunks for nest in maps.nests))


@pytest.mark.parametrize("width", INSTRUCTION_SETS)
def test_joining_many(width: str) -> None:
    builder = Builder("join")
    inputs = [builder.input(TensorType(DTYPES["f32"], (4, 1 + n % 3, 9)), f"x{n}") for n in range(40)]
    builder.output(builder.emit(op_class("concat")(1), *inputs))
    graph = builder.build()
    agree(graph, arguments_of(graph), width)


@pytest.mark.parametrize("width", INSTRUCTION_SETS)
def test_made_and_looked_up_values(width: str) -> None:
    graph = parse_graph("""
graph f(%table: f32[11,19], %i: i32[6], %j: i64[6,19]) {
  %0: f32[6,19] = gather(%table, %i) {axis=0}
  %1: i32[6,19] = iota() {dtype=i32, shape=(6,19), axis=1}
  %2: f32[6,19] = iota() {dtype=f32, shape=(6,19), axis=0}
  %3: f32[19] = slice(%table) {starts=(2,0), limits=(3,19), strides=(1,1)}
  return %0, %1, %2
}""".replace("  %3: f32[19] = slice(%table) {starts=(2,0), limits=(3,19), strides=(1,1)}\n", ""))
    rng = np.random.default_rng(0)
    arguments = [rng.standard_normal((11, 19)).astype(np.float32), np.array([3, 0, 10, -4, 99, 5], np.int32),
                 rng.integers(0, 10, (6, 19))]
    agree(graph, arguments, width)
    column = parse_graph("""
graph f(%x: f32[6,19], %i: i64[6,33]) {
  %0: f32[114] = reshape(%x) {shape=(114,)}
  %1: f32[6,33] = gather(%0, %i) {axis=0}
  return %1
}""")
    agree(column, [arguments[0][:6], rng.integers(-3, 120, (6, 33))], width)


def test_constants(width: str = "avx2") -> None:
    builder = Builder("constants")
    table = np.arange(40, dtype=np.float32).reshape(4, 10) - 7
    shown = builder.emit(op_class("constant")(table))
    same = builder.emit(op_class("constant")(np.full((4, 10), -0.0, np.float32)))
    builder.output(shown)
    builder.output(same)
    graph = builder.build()
    isa = instruction_sets.host(width)
    got = run_kernel(lower_loop(fusion_of(graph), isa), [], isa)
    np.testing.assert_array_equal(got[0], table)
    assert np.all(np.signbit(got[1]))


@pytest.mark.parametrize("width", INSTRUCTION_SETS)
@pytest.mark.parametrize("dtype", ["f32", "f64", "f16"])
@pytest.mark.parametrize("rows, columns", [(9001, 301), (20001, 157), (3000, 1027)])
def test_sums_of_columns_in_bands(rows: int, columns: int, dtype: str, width: str) -> None:
    wide = "f32" if dtype == "f16" else dtype
    graph = parse_graph(f"""
graph f(%x: {dtype}[{rows},{columns}], %m: {wide}[{columns}]) {{
  %0: {wide}[{rows},{columns}] = cast(%x) {{dtype={wide}}}
  %1: {wide}[{rows},{columns}] = broadcast(%m) {{shape=({rows},{columns}), axes=(1,)}}
  %2: {wide}[{rows},{columns}] = sub(%0, %1)
  %3: {wide}[{rows},{columns}] = mul(%2, %2)
  %4: {wide}[{columns}] = reduce_sum(%3) {{axes=(0,)}}
  %5: {wide}[{columns}] = reduce_sum(%2) {{axes=(0,)}}
  return %4, %5
}}""")
    rng = np.random.default_rng(0)
    arguments = [rng.standard_normal(i.value.shape).astype(i.value.type.dtype.numpy) for i in graph.inputs]
    isa = instruction_sets.host(width)
    kernel = lower_loop(fusion_of(graph), isa)
    assert kernel.scratch >= 2 * columns * kernel.node.results[0].type.dtype.bytes  # where sums wait
    got = run_kernel(kernel, arguments, isa, reverse=True)
    apart = arguments[0].astype(np.float64) - arguments[1].astype(np.float64)
    exact = 1e-13 if wide == "f64" else 2e-6
    np.testing.assert_allclose(got[0], (apart ** 2).sum(0), rtol=exact)
    np.testing.assert_allclose(got[1], apart.sum(0), atol=exact * np.abs(apart).sum(0).max())


@pytest.mark.parametrize("width", INSTRUCTION_SETS)
def test_sums_of_two_widths_in_bands(width: str) -> None:
    graph = parse_graph("""
graph f(%x: f32[9001,301]) {
  %0: f32[301] = reduce_sum(%x) {axes=(0,)}
  %1: f64[9001,301] = cast(%x) {dtype=f64}
  %2: f64[301] = reduce_sum(%1) {axes=(0,)}
  return %0, %2
}""")
    array = np.random.default_rng(0).standard_normal((9001, 301)).astype(np.float32)
    isa = instruction_sets.host(width)
    kernel = lower_loop(fusion_of(graph), isa)
    assert kernel.scratch
    single, double = run_kernel(kernel, [array], isa, reverse=True)
    exact = array.astype(np.float64).sum(0)
    np.testing.assert_allclose(single, exact, atol=2e-6 * np.abs(array).sum(0).max())
    np.testing.assert_allclose(double, exact, rtol=1e-12, atol=1e-10)


REDUCED = [((7, 37), (1,)), ((7, 37), (0,)), ((7, 37), (0, 1)), ((1, 5), (0,)), ((5, 1), (1,)),
           ((3, 4, 5, 6), (1, 3)), ((3, 4, 5, 6), (0, 2)), ((2, 3, 4, 33), (0, 1, 2)), ((300, 1001), (0, 1)),
           ((3001, 100), (0,)),
           ((4000, 3), (0,)), ((4000, 3), (1,)), ((0, 4), (0,)), ((4, 0), (0,)), ((0, 4), (1,)), ((5,), (0,)),
           ((64, 5000), (0,)), ((2, 90001), (1,))]


@pytest.mark.parametrize("width", INSTRUCTION_SETS)
@pytest.mark.parametrize("shape, axes", REDUCED)
def test_reductions_with_maps_and_epilogue(shape: tuple[int, ...], axes: tuple[int, ...], width: str) -> None:
    whole = ",".join(map(str, shape))
    kept = ",".join(str(s) for i, s in enumerate(shape) if i not in axes)
    text = repr(tuple(axes)).replace(" ", "")
    graph = parse_graph(f"""
graph f(%x: f32[{whole}], %y: f32[{kept}], %s: f32[]) {{
  %0: f32[{whole}] = mul(%x, %x)
  %1: f32[{kept}] = reduce_sum(%0) {{axes={text}}}
  %2: f32[{kept}] = reduce_max(%x) {{axes={text}}}
  %3: f32[{kept}] = broadcast(%s) {{shape=({kept + "," if kept else ""}), axes=()}}
  %4: f32[{kept}] = mul(%1, %3)
  %5: f32[{kept}] = add(%4, %y)
  return %5, %2, %0
}}""")
    rng = np.random.default_rng(1)
    arguments = [rng.standard_normal(i.value.shape).astype(np.float32) for i in graph.inputs]
    isa = instruction_sets.host(width)
    got = run_kernel(lower_loop(fusion_of(graph), isa), arguments, isa, reverse=True)
    want = interpret(graph, arguments)
    np.testing.assert_allclose(got[0], want[0], rtol=2e-6, atol=1e-6)
    np.testing.assert_array_equal(got[1], want[1])
    np.testing.assert_array_equal(got[2], want[2])


@pytest.mark.parametrize("width", INSTRUCTION_SETS)
@pytest.mark.parametrize("dtype", list(DTYPES))
@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1)])
def test_reduction_kinds(dtype: str, axes: tuple[int, ...], width: str) -> None:
    if dtype == "bool":
        names = ["reduce_and", "reduce_or"]
    else:
        names = ["reduce_sum", "reduce_prod", "reduce_max", "reduce_min"]
    builder = Builder("kinds")
    x = builder.input(TensorType(DTYPES[dtype], (9, 43)), "x")
    for name in names:
        builder.output(builder.emit(op_class(name)(axes), x))
    graph = builder.build()
    array = sample(graph.inputs[0].value.type)
    if DTYPES[dtype].is_float:
        array = (np.random.default_rng(0).random((9, 43)) * 0.2 + 0.9).astype(array.dtype)
    agree(graph, [array], width, ulps={"f32": 40, "f64": 40}.get(dtype, 1.0))
    if DTYPES[dtype].is_float:
        array[3, 5] = np.nan
        agree(graph, [array], width, ulps={"f32": 40, "f64": 40}.get(dtype, 1.0))


@pytest.mark.parametrize("width", INSTRUCTION_SETS)
@pytest.mark.parametrize("name", ("argmax", "argmin"))
@pytest.mark.parametrize("dtype", ("f32", "i32", "u8", "bf16", "bool", "f64"))
def test_arg_reductions(name: str, dtype: str, width: str) -> None:
    for shape, axis in (((6, 50), 1), ((50, 6), 0), ((4, 5, 6), 1)):
        builder = Builder("arg")
        x = builder.input(TensorType(DTYPES[dtype], shape), "x")
        builder.output(builder.emit(op_class(name)(axis, DTYPES["i64"]), x))
        graph = builder.build()
        rng = np.random.default_rng(2)
        array = rng.integers(0, 5, shape).astype(DTYPES[dtype].numpy)
        agree(graph, [array], width)
        if DTYPES[dtype].is_float:
            array[0, :2] = np.nan
            array[-1, -1] = np.nan
            agree(graph, [array], width)
            array[...] = -np.inf
            agree(graph, [array], width)


@pytest.mark.parametrize("width", INSTRUCTION_SETS)
@pytest.mark.parametrize("shape, axis", [((3, 70001), 1), ((60000, 4), 0), ((300000,), 0)])
def test_large_arg_reductions(shape: tuple[int, ...], axis: int, width: str) -> None:
    builder = Builder("arg")
    x = builder.input(TensorType(DTYPES["f32"], shape), "x")
    builder.output(builder.emit(op_class("argmax")(axis, DTYPES["i64"]), x))
    array = np.random.default_rng(3).integers(0, 500, shape).astype(np.float32)
    isa = instruction_sets.host(width)
    (got,) = run_kernel(lower_loop(fusion_of(builder.build()), isa), [array], isa, reverse=True)
    np.testing.assert_array_equal(got, np.argmax(array, axis))


@pytest.mark.parametrize("width", INSTRUCTION_SETS)
def test_a_long_chain(width: str) -> None:
    builder = Builder("chain")
    x = builder.input(TensorType(DTYPES["f32"], (50, 3)), "x")
    total = x
    for _ in range(600):
        total = builder.emit(op_class("add")(), total, x)
    builder.output(builder.emit(op_class("reduce_sum")((0,)), total))
    builder.output(total)
    agree(builder.build(), [np.ones((50, 3), np.float32)], width)


@pytest.mark.parametrize("width", INSTRUCTION_SETS)
def test_a_large_sum_is_more_accurate_than_a_naive_one(width: str) -> None:
    graph = parse_graph("graph f(%x: f32[3000000]) {\n  %0: f32[] = reduce_sum(%x) {axes=(0,)}\n"
                        "  return %0\n}")
    x = np.random.default_rng(0).random(3_000_000).astype(np.float32)
    isa = instruction_sets.host(width)
    (got,) = run_kernel(lower_loop(fusion_of(graph), isa), [x], isa)
    exact = x.astype(np.float64).sum()
    assert abs(float(got) - exact) / exact < 1e-7


@pytest.mark.parametrize("width", INSTRUCTION_SETS)
@pytest.mark.parametrize("shape", [(40, 201), (4000, 77), (64, 10), (128, 3), (7, 1), (1000, 17), (3, 100000),
                                   (2, 3, 4, 5)])
def test_hoisted_rows_columns_and_scalars(shape: tuple[int, ...], width: str) -> None:
    whole, last = ",".join(map(str, shape)), len(shape) - 1
    graph = parse_graph(f"""
graph f(%x: f32[{whole}], %row: f32[{shape[-1]}], %column: f32[{shape[0]}], %s: f32[]) {{
  %0: f32[{shape[-1]}] = exp(%row)
  %1: f32[{whole}] = broadcast(%0) {{shape=({whole}), axes=({last},)}}
  %2: f32[{whole}] = broadcast(%column) {{shape=({whole}), axes=(0,)}}
  %3: f32[] = sqrt(%s)
  %4: f32[{whole}] = broadcast(%3) {{shape=({whole}), axes=()}}
  %5: f32[{whole}] = mul(%x, %1)
  %6: f32[{whole}] = add(%5, %2)
  %7: f32[{whole}] = div(%6, %4)
  return %7, %1
}}""")
    rng = np.random.default_rng(0)
    arguments = [rng.random(i.value.shape).astype(np.float32) for i in graph.inputs]
    agree(graph, arguments, width, ulps=3)


@pytest.mark.parametrize("width", INSTRUCTION_SETS)
def test_rows_computed_once(width: str) -> None:
    graph = parse_graph("""
graph f(%x: f32[64,150], %a: f32[150], %h: bf16[150], %y: bf16[64,150]) {
  %0: f32[150] = sqrt(%a)
  %1: bool[150] = greater(%a, %0)
  %2: bool[64,150] = broadcast(%1) {shape=(64,150), axes=(1,)}
  %3: f32[64,150] = broadcast(%0) {shape=(64,150), axes=(1,)}
  %4: f32[64,150] = mul(%x, %3)
  %5: f32[64,150] = select(%2, %4, %x)
  %6: bf16[150] = add(%h, %h)
  %7: bf16[64,150] = broadcast(%6) {shape=(64,150), axes=(1,)}
  %8: bf16[64,150] = mul(%7, %y)
  return %5, %8, %7
}""")
    isa = instruction_sets.host(width)
    assert lower_loop(fusion_of(graph), isa).scratch > 0
    rng = np.random.default_rng(0)
    agree(graph, [(rng.random(i.value.shape) * 3).astype(i.value.type.dtype.numpy) for i in graph.inputs], width)


@pytest.mark.parametrize("width", INSTRUCTION_SETS)
@pytest.mark.parametrize("size", (37, 100_003))
def test_results_in_place_of_operands(size: int, width: str) -> None:
    graph = parse_graph(f"""
graph f(%w: f32[{size}], %g: f32[{size}], %m: f32[{size}]) {{
  %0: f32[{size}] = add(%m, %g)
  %1: f32[{size}] = sub(%w, %0)
  %2: f32[{size}] = mul(%w, %g)
  return %1, %0, %2
}}""")
    node = fusion_of(graph)
    places = dict(overwritable(node))
    assert sorted(places) == [0, 1, 2] == sorted(places.values())
    rng = np.random.default_rng(0)
    arguments = [rng.random(size).astype(np.float32) for _ in range(3)]
    isa = instruction_sets.host(width)
    in_place = {result: operand for operand, result in places.items()}
    got = run_kernel(lower_loop(node, isa), arguments, isa, in_place=in_place)
    for result, want in zip(got, interpret(graph, arguments), strict=True):
        np.testing.assert_array_equal(result, want)

"""Large products by a library with CBLAS's interface: one made of NumPy here, and SciPy's own where it is installed."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from cpu_harness import aligned, run_kernel

import afterburner
from afterburner.cpu import blas, isa, jit, loader
from afterburner.cpu.elf import LoadError
from afterburner.cpu.engine import object_key
from afterburner.cpu.kernels import lower
from afterburner.cpu.target import compile_graph
from afterburner.ir import DTYPES, Builder, Graph, TensorType
from afterburner.ir.ops.conv import Conv2d
from afterburner.ir.ops.elementwise import Maximum
from afterburner.ir.ops.matmul import Matmul
from afterburner.options import Options, overridden
from afterburner.passes.pipeline import optimize

REAL = "SciPy's"
LAYOUTS = [(False, False), (True, False), (False, True), (True, True)]


class Library:
    """CBLAS's two products in NumPy; keeps the sizes of each call."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int, int]] = []
        self._functions = {blas.symbol("f32"): self._function(ctypes.c_float),
                           blas.symbol("f64"): self._function(ctypes.c_double)}
        self.addresses = {name: ctypes.cast(f, ctypes.c_void_p).value or 0 for name, f in self._functions.items()}

    def _function(self, element: type) -> Callable[..., None]:
        whole, pointer = ctypes.c_int32, ctypes.POINTER(element)
        return ctypes.CFUNCTYPE(None, *[whole] * 6, element, pointer, whole, pointer, whole, element, pointer,
                                whole)(self._product)

    def _product(self, order, flag_a, flag_b, m, n, k, alpha, a, row_a, b, row_b, beta, c, row_c) -> None:
        def matrix(raw, rows, columns, row, flag):
            stored = (columns, rows) if flag == 112 else (rows, columns)
            assert order == 101 and flag in (111, 112) and row >= stored[1]
            array = np.ctypeslib.as_array(raw, (stored[0], row))[:, :stored[1]]
            return array.T if flag == 112 else array

        assert alpha == 1 and beta == 0
        self.calls.append((m, n, k))
        matrix(c, m, n, row_c, 111)[...] = matrix(a, m, k, row_a, flag_a) @ matrix(b, k, n, row_b, flag_b)


def real_addresses() -> Mapping[str, int]:
    scipy = pytest.importorskip("scipy")
    folder = Path(scipy.__file__).parent.parent / "scipy.libs"
    files = sorted(folder.glob("libscipy_openblas-*.so"))
    return blas.addresses_in(str(files[0]), "scipy_") if files else pytest.skip("SciPy has a library of another name")


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Iterator[Library]:
    made = Library()
    monkeypatch.setattr(blas, "addresses", lambda: made.addresses)
    yield made


def product(a: tuple[int, ...], b: tuple[int, ...], dtype: str, layout: tuple[bool, bool], relu: bool) -> Graph:
    builder = Builder("product")
    kind = DTYPES[dtype]
    x, y = (builder.input(TensorType(kind, shape), name) for shape, name in ((a, "a"), (b, "b")))
    found = builder.emit(Matmul(*layout), x, y)
    if relu:
        bias = builder.input(found.type, "bias")
        found = builder.emit(Maximum(), found, bias)
    builder.output(found)
    return builder.build()


def operands(m: int, k: int, n: int, dtype: str, layout: tuple[bool, bool], batch: tuple[int, ...]) -> list[np.ndarray]:
    rng = np.random.default_rng(m + k + n)
    shapes = [(*batch, *((k, m) if layout[0] else (m, k))), (*batch, *((n, k) if layout[1] else (k, n)))]
    return [rng.standard_normal(shape).astype(DTYPES[dtype].numpy) for shape in shapes]


def by_tensorflow(arrays: list[np.ndarray], layout: tuple[bool, bool]) -> np.ndarray:
    return tf.matmul(arrays[0], arrays[1], transpose_a=layout[0], transpose_b=layout[1]).numpy()


def close(got: np.ndarray, want: np.ndarray) -> bool:
    return bool(np.linalg.norm((got - want).ravel()) <= 2e-6 * np.linalg.norm(want.ravel()))


@pytest.mark.parametrize("which", ["NumPy's", REAL])
@pytest.mark.parametrize("relu", [False, True], ids=["alone", "epilogue"])
@pytest.mark.parametrize("layout", LAYOUTS, ids=["nn", "tn", "nt", "tt"])
@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_products_are_tensorflows(dtype: str, layout: tuple[bool, bool], relu: bool, which: str, library: Library,
                                  monkeypatch: pytest.MonkeyPatch) -> None:
    if which == REAL:
        monkeypatch.setattr(blas, "addresses", real_addresses)
    arrays = operands(200, 300, 290, dtype, layout, (2,))
    want = by_tensorflow(arrays, layout)
    graph = optimize(product(arrays[0].shape, arrays[1].shape, dtype, layout, relu))
    if relu:
        arrays.append(np.zeros_like(want))
        want = np.maximum(want, 0)
    node, = (n for n in graph.nodes if not n.op.view)
    machine = replace(isa.host(), library=True)
    kernel = lower(node, machine)
    assert kernel.label.startswith("library matmul") and kernel.phases[0].chunks == 1
    got, = run_kernel(kernel, arrays, machine)
    again, = run_kernel(kernel, arrays, machine, reverse=True)
    assert close(got, want) and got.tobytes() == again.tobytes()
    assert library.calls == ([] if which == REAL else [(200, 290, 300)] * 4)


def test_llvms_linker_finds_the_functions_too(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refused:
        def __init__(self, parts: object) -> None:
            raise LoadError("refused")

    monkeypatch.setattr(jit, "LoadedCode", Refused)
    arrays = operands(256, 256, 256, "f32", (False, False), ())
    machine = replace(isa.host(), library=True)
    graph = product(arrays[0].shape, arrays[1].shape, "f32", (False, False), False)
    got, = run_kernel(lower(graph.nodes[0], machine), arrays, machine)
    assert close(got, by_tensorflow(arrays, (False, False))) and len(library.calls) == 1


@pytest.mark.parametrize(("size", "dtype"), [
    ((128, 256, 256), "f32"), ((8, 4096, 4096), "f32"), ((256, 256, 256), "bf16")])
def test_what_is_small_narrow_or_of_another_type_is_ours(size: tuple[int, int, int], dtype: str) -> None:
    m, k, n = size
    graph = product((m, k), (k, n), dtype, (False, False), False)
    assert lower(graph.nodes[0], replace(isa.host(), library=True)).label in ("matmul", "matmul (bfloat16 pairs)")


def run(graph: Graph, arrays: list[np.ndarray], options: Options) -> np.ndarray:
    inputs = [aligned(a.shape, a.dtype) for a in arrays]
    for copy, array in zip(inputs, arrays, strict=True):
        copy[...] = array
    type_, = graph.output_types
    made = aligned(type_.shape, type_.dtype.numpy)
    compile_graph(graph, options, threads=2).run([a.ctypes.data for a in inputs], [made.ctypes.data])
    return made


@pytest.mark.parametrize(("change", "calls"), [({}, 1), ({"accelerate": False}, 0), ({"deterministic": True}, 0)])
def test_options_switch_it_off(change: dict[str, bool], calls: int, library: Library, tmp_path: Path) -> None:
    """With one cache for all: what was compiled under other settings is not taken."""
    arrays = operands(256, 256, 300, "f32", (False, False), ())
    graph = optimize(product(arrays[0].shape, arrays[1].shape, "f32", (False, False), False))
    want = by_tensorflow(arrays, (False, False))
    run(graph, arrays, Options(cache_dir=tmp_path, accelerate=not change.get("accelerate", not change)))
    library.calls.clear()
    assert close(run(graph, arrays, Options(cache_dir=tmp_path, **change)), want)
    assert len(library.calls) == calls


def test_a_program_of_tensorflow_calls_it(library: Library, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    x, w, b = (rng.standard_normal(s).astype(np.float32) for s in ((256, 512), (512, 320), (320,)))

    def layer(x: tf.Tensor, w: tf.Tensor, b: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(w)
            y = tf.nn.relu(tf.matmul(x, w) + b)
        return y, tape.gradient(y, w)

    want = [t.numpy() for t in layer(*map(tf.constant, (x, w, b)))]
    with overridden(strict=True, cache_dir=tmp_path, device="cpu", compile_after=0):
        afterburner.enable()
        try:
            got = [t.numpy() for t in tf.function(layer)(*map(tf.constant, (x, w, b)))]
        finally:
            afterburner.disable()
    assert all(map(close, got, want))
    assert sorted(library.calls) == [(256, 320, 512), (512, 320, 256)]


def test_it_is_part_of_a_programs_key() -> None:
    assert len({object_key("x", replace(isa.host(), library=on)) for on in (False, True)}) == 2


def test_only_macs_have_accelerate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blas, "addresses_in", lambda path: {path: 1})
    blas.addresses.cache_clear()
    monkeypatch.setattr(sys, "platform", "linux")
    assert blas.addresses() == {}
    blas.addresses.cache_clear()
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(blas.platform, "machine", lambda: "arm64")
    assert blas.addresses() == {blas.ACCELERATE: 1}
    blas.addresses.cache_clear()


def test_a_library_that_is_not_there_or_lacks_a_function_is_none() -> None:
    assert blas.addresses_in("/nowhere/libnone.so") == {}
    assert blas.addresses_in("libm.so.6") == {}
    assert loader.address_in_process(blas.symbol("f32")) is None


def test_a_convolution_that_is_a_product_calls_it(library: Library) -> None:
    rng = np.random.default_rng(1)
    arrays = [rng.standard_normal(s).astype(np.float32) for s in ((2, 16, 16, 256), (1, 1, 256, 192))]
    builder = Builder()
    x, w = (builder.input(TensorType(DTYPES["f32"], a.shape), name) for a, name in zip(arrays, "xw", strict=True))
    node = builder.emit(Conv2d((1, 1), ((0, 0), (0, 0)), (1, 1), 1), x, w).node
    assert node is not None
    machine = replace(isa.host(), library=True)
    got, = run_kernel(lower(node, machine), arrays, machine)
    assert close(got, tf.nn.conv2d(*arrays, 1, "VALID").numpy()) and library.calls == [(512, 192, 256)]

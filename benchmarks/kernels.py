"""Compares single kernels with stock TensorFlow on the same shapes.

    python benchmarks/kernels.py [--threads 2] [--turns 15] [--precision fast] [part of a case's name ...]
    python benchmarks/kernels.py --ranges

Both sides take turns, each turn as many runs as fill a few milliseconds; printed are the best times, the ratio
of the best and the median ratio of the turns. With one thread, CPU time is measured, which other processes
disturb less; with more, wall time. With ``--precision fast`` the table has our default precision in the middle and
ends with the errors (root mean square, relative) to float64 of fast, default and TensorFlow; only convolutions that
fast changes are shown. ``--ranges`` prints such errors for operands whose channels, pixels or taps differ in scale, and
beside those of both precisions the errors of direct sums of products.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator
from unittest.mock import patch

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from native import Bench

from afterburner.cpu import isa as isas
from afterburner.cpu.kernel import Kernel
from afterburner.cpu.kernels import conv_direct, conv_filter_grad, lower
from afterburner.ir import Builder, Node, Op, TensorType
from afterburner.ir.ops.conv import Conv2d, Conv2dFilterGrad, Conv2dInputGrad, output_size
from afterburner.ir.ops.matmul import Matmul
from afterburner.ir.types import F32
from afterburner.options import options

Case = tuple[str, Node, list[np.ndarray], Callable[..., tf.Tensor]]

PRODUCTS = [  # m, k, n, transpose_a, transpose_b, batch
    (32, 784, 128, False, False, ()), (784, 32, 128, True, False, ()), (32, 128, 10, False, False, ()),
    (128, 10, 32, True, False, ()), (32, 10, 128, False, True, ()), (8, 64, 64, False, False, ()),
    (128, 9216, 128, False, False, ()), (9216, 128, 128, True, False, ()), (128, 128, 9216, False, True, ()),
    (32, 9216, 128, False, False, ()), (1, 9216, 128, False, False, ()), (1, 512, 1000, False, True, ()),
    (1024, 1024, 1024, False, False, ()), (1024, 1024, 1024, True, False, ()), (1024, 1024, 1024, False, True, ()),
    (8, 4096, 4096, False, False, ()), (32, 4096, 4096, False, False, ()), (64, 2048, 2048, False, False, ()),
    (2048, 512, 2048, False, False, ()), (80, 64, 80, False, True, (64,)), (80, 80, 64, False, False, (64,)),
]
NONE, ONE, TWO, THREE = (((n, n), (n, n)) for n in range(4))
CONVOLUTIONS = [  # name, image, filter, stride, padding, gradients
    ("lenet1", (128, 28, 28, 1), (3, 3, 1, 32), 1, NONE, "fw"),
    ("lenet2", (128, 26, 26, 32), (3, 3, 32, 64), 1, NONE, "fwi"),
    ("lenet2 batch 1", (1, 26, 26, 32), (3, 3, 32, 64), 1, NONE, "f"),
    ("3x3 56", (16, 56, 56, 64), (3, 3, 64, 64), 1, ONE, "fwi"),
    ("3x3 28", (16, 28, 28, 128), (3, 3, 128, 128), 1, ONE, "fwi"),
    ("3x3 14", (16, 14, 14, 256), (3, 3, 256, 256), 1, ONE, "fwi"),
    ("3x3 7", (16, 7, 7, 512), (3, 3, 512, 512), 1, ONE, "fwi"),
    ("1x1 56 wide", (16, 56, 56, 64), (1, 1, 64, 256), 1, NONE, "fwi"),
    ("1x1 56 narrow", (16, 56, 56, 256), (1, 1, 256, 64), 1, NONE, "fwi"),
    ("1x1 14", (16, 14, 14, 1024), (1, 1, 1024, 256), 1, NONE, "fwi"),
    ("7x7 stem", (16, 224, 224, 3), (7, 7, 3, 64), 2, THREE, "fw"),
    ("3x3 stride 2", (16, 56, 56, 128), (3, 3, 128, 128), 2, ONE, "fwi"),
    ("4x4 halved 128", (1, 128, 128, 64), (4, 4, 64, 256), 2, ONE, "fwi"),
    ("4x4 halved 64", (1, 64, 64, 128), (4, 4, 128, 512), 2, ONE, "fwi"),
    ("4x4 halved 32", (1, 32, 32, 256), (4, 4, 256, 1024), 2, ONE, "fwi"),
    ("4x4 halved 16", (1, 16, 16, 256), (4, 4, 256, 1024), 2, ONE, "fwi"),
    ("4x4 halved 8", (1, 8, 8, 512), (4, 4, 512, 1024), 2, ONE, "fwi"),
    ("4x4 halved 4", (1, 4, 4, 512), (4, 4, 512, 1024), 2, ONE, "fwi"),
    ("4x4 patch", (1, 32, 32, 256), (4, 4, 256, 512), 1, ONE, "fwi"),
    ("1x1 stride 2", (16, 56, 56, 256), (1, 1, 256, 512), 2, NONE, "fwi"),
    ("depthwise 56", (16, 56, 56, 72), (3, 3, 1, 72), 1, ONE, "fwi"),
    ("depthwise 14", (16, 14, 14, 480), (5, 5, 1, 480), 1, TWO, "fwi"),
    ("depthwise stride 2", (16, 56, 56, 72), (5, 5, 1, 72), 2, TWO, "fwi"),
]


def node_of(op: Op, shapes: list[tuple[int, ...]]) -> tuple[Node, list[np.ndarray]]:
    """A node, and random operands for it."""
    builder = Builder()
    values = [builder.input(TensorType(F32, s), f"v{i}") for i, s in enumerate(shapes)]
    node = builder.emit(op, *values).node
    assert node is not None
    rng = np.random.default_rng(0)
    return node, [rng.standard_normal(s, np.float32) for s in shapes]


def products() -> Iterator[Case]:
    """Matrix products."""
    for m, k, n, ta, tb, batch in PRODUCTS:
        shapes = [(*batch, *((k, m) if ta else (m, k))), (*batch, *((n, k) if tb else (k, n)))]
        node, arrays = node_of(Matmul(ta, tb), shapes)

        def stock(a: tf.Tensor, b: tf.Tensor, ta: bool = ta, tb: bool = tb) -> tf.Tensor:
            return tf.matmul(a, b, transpose_a=ta, transpose_b=tb)

        name = f"matmul {'x'.join(map(str, (*batch, m, k, n)))} {'T' if ta else 'N'}{'T' if tb else 'N'}"
        yield name, node, arrays, stock


def convolutions() -> Iterator[Case]:
    """Convolutions, filter gradients (w) and input gradients (i)."""
    for name, x, w, stride, padding, wanted in CONVOLUTIONS:
        y = (x[0], *(output_size(x[1 + i], w[i], stride, padding[i]) for i in (0, 1)), w[3])
        groups = x[3] // w[2]
        attributes = dict(strides=(stride, stride), padding=padding, dilation=(1, 1), groups=groups)
        ops = {"f": (Conv2d(**attributes), [x, w]),
               "w": (Conv2dFilterGrad(**attributes, filter_shape=w), [x, y]),
               "i": (Conv2dInputGrad(**attributes, input_shape=x), [w, y])}
        for kind in wanted:
            node, arrays = node_of(*ops[kind])
            yield f"{name} {kind}", node, arrays, stock_convolution(kind, x, w, stride, padding)


def stock_convolution(kind: str, x: tuple[int, ...], w: tuple[int, ...], stride: int,
                      padding: tuple[tuple[int, int], ...]) -> Callable[..., tf.Tensor]:
    """TensorFlow's operation for one of ours."""
    strides = [1, stride, stride, 1]
    depthwise = w[2] == 1 and x[3] > 1
    filter_ = (w[0], w[1], x[3], 1) if depthwise else w
    flat = [0, 0, *padding[0], *padding[1], 0, 0]
    same = all(-(-x[1 + i] // stride) == output_size(x[1 + i], w[i], stride, padding[i]) for i in (0, 1))
    if not any(flat):
        how = dict(padding="VALID")
    elif same and stride == 1:
        how = dict(padding="SAME")
    else:
        how = dict(padding="EXPLICIT", explicit_paddings=flat)
    raw = tf.raw_ops
    if depthwise:
        return {
            "f": lambda a, b: raw.DepthwiseConv2dNative(
                input=a, filter=tf.reshape(b, filter_), strides=strides, **how),
            "w": lambda a, b: raw.DepthwiseConv2dNativeBackpropFilter(
                input=a, filter_sizes=filter_, out_backprop=b, strides=strides, **how),
            "i": lambda a, b: raw.DepthwiseConv2dNativeBackpropInput(
                input_sizes=x, filter=tf.reshape(a, filter_), out_backprop=b, strides=strides, **how),
        }[kind]
    return {
        "f": lambda a, b: raw.Conv2D(input=a, filter=b, strides=strides, **how),
        "w": lambda a, b: raw.Conv2DBackpropFilter(input=a, filter_sizes=w, out_backprop=b, strides=strides, **how),
        "i": lambda a, b: raw.Conv2DBackpropInput(input_sizes=x, filter=a, out_backprop=b, strides=strides, **how),
    }[kind]


def seconds_of(run: Callable[[], object], repeats: int, clock: Callable[[], float]) -> float:
    """The best of some runs."""
    best = float("inf")
    for _ in range(repeats):
        start = clock()
        run()
        best = min(best, clock() - start)
    return best


def compare(case: Case, threads: int, turns: int) -> str:
    """One line of results."""
    name, node, arrays, stock = case
    isa = isas.chosen(options())
    bench = Bench(lower(node, isa), arrays, isa, threads)
    tensors = [tf.constant(a) for a in arrays]
    function = tf.function(stock).get_concrete_function(*tensors)
    expected = function(*tensors).numpy().reshape(-1)
    bench.cycles(1)
    error = np.abs(bench.results[0].reshape(-1) - expected).max() / np.abs(expected).max()
    assert error < 1e-4, f"{name}: error {error}"
    clock = time.process_time if threads == 1 else time.perf_counter
    once = seconds_of(lambda: function(*tensors), 5, clock)
    repeats = int(max(2, min(50, 0.01 / once)))
    rate = ticks_per_second()
    ours, theirs = [], []
    for _ in range(turns):
        if threads == 1:
            ours.append(float(bench.seconds_of_one_thread(repeats).min()))
        else:
            ours.append(float(bench.cycles(repeats).min()) / rate)
        theirs.append(seconds_of(lambda: function(*tensors), repeats, clock))
    flops = node.op.flops(tuple(v.type for v in node.operands), tuple(v.type for v in node.results))
    best, ratio = min(theirs) / min(ours), statistics.median(t / o for t, o in zip(theirs, ours, strict=True))
    return (f"{name:28s} ours {min(ours) * 1e3:8.3f} ms ({flops / min(ours) / 1e9:5.0f} GF)  "
            f"TF {min(theirs) * 1e3:8.3f} ms ({flops / min(theirs) / 1e9:5.0f} GF)  {best:5.2f}x  median {ratio:5.2f}x")


def compare_precisions(case: Case, turns: int) -> str:
    """One line: fast and default precision and TensorFlow in turn on one thread, and their errors to float64."""
    name, node, arrays, stock = case
    sets = [isas.host(None, precision) for precision in ("fast", "default")]
    kernels = [lower(node, isa) for isa in sets]
    if "(Winograd)" not in kernels[0].label:
        return ""
    benches = [Bench(kernel, arrays, isa, 1) for kernel, isa in zip(kernels, sets, strict=True)]
    tensors = [tf.constant(a) for a in arrays]
    function = tf.function(stock).get_concrete_function(*tensors)
    spent: list[list[float]] = [[], [], []]
    for _ in range(turns):
        for times, bench in zip(spent, benches, strict=False):
            times.append(float(bench.seconds_of_one_thread(2).min()))
        spent[2].append(seconds_of(lambda: function(*tensors), 2, time.process_time))
    exact = tf.function(stock)(*(tf.constant(a.astype(np.float64)) for a in arrays)).numpy()
    results = [*(b.results[0] for b in benches), function(*tensors).numpy()]
    errors = " ".join(f"{deviation(r, exact):.1e}" for r in results)
    flops = node.op.flops(tuple(v.type for v in node.operands), tuple(v.type for v in node.results))
    rates = "  ".join(f"{label} {min(t) * 1e3:7.2f} ms ({flops / min(t) / 1e9:4.0f} GF)"
                      for label, t in zip(("fast", "default", "TF"), spent, strict=True))
    ratios = [statistics.median(t / f for t, f in zip(times, spent[0], strict=True)) for times in spent[1:]]
    return f"{name:18s} {rates}  median {ratios[0]:.2f}x default {ratios[1]:.2f}x TF  errors {errors}"


def deviation(result: np.ndarray, exact: np.ndarray) -> float:
    """Root mean square error over root mean square value."""
    return float(np.linalg.norm(result.reshape(-1) - exact.reshape(-1)) / np.linalg.norm(exact))


RANGES = {  # what channels and taps are multiplied by: exponents of ten drawn from 0 to these
    "equal": (0, 0, 0), "channels to 1e2": (2, 0, 0), "channels to 1e4": (4, 0, 0), "pixels to 1e2": (0, 2, 0),
    "pixels to 1e4": (0, 4, 0), "taps to 1e2": (0, 0, 2), "taps to 1e4": (0, 0, 4), "pixels, taps to 1e4": (0, 4, 4),
}


def align(array: np.ndarray, is_filter: bool) -> None:
    """Every fourth column of pixels 10,000 times as large; the taps that meet it in one of two outputs 10 times as
    small, which F(2x2, 3x3) takes for equal."""
    if is_filter:
        array[:, 2] /= 10
    else:
        array[:, :, 2::4] *= 1e4


def thin_out(array: np.ndarray, is_filter: bool) -> None:
    """Every element multiplied by a power of ten to 10,000; of an image one element in 16 is kept."""
    rng = np.random.default_rng(1)
    array *= 10 ** rng.uniform(0, 4, array.shape).astype(np.float32)
    if not is_filter:
        array[rng.random(array.shape) >= 1 / 16] = 0


ARRANGED = {"aligned": align, "few elements": thin_out}  # where F(2x2, 3x3) would be less exact


def print_ranges() -> None:
    """Errors of fast and default precision and of direct sums on operands of unequal scale: root mean square over root
    mean square value, and the largest relative to the output's own sum of |x||w|; of a 3x3 filter, and of one of 4x4
    with stride 2."""
    print_ranges_of((2, 28, 28, 64), (3, 3, 64, 64), 1)
    print_ranges_of((2, 56, 56, 64), (4, 4, 64, 64), 2)


def print_ranges_of(x: tuple[int, ...], w: tuple[int, ...], stride: int) -> None:
    """Errors of one convolution and its gradients."""
    y = (*x[:1], *(size // stride for size in x[1:3]), w[3])
    attributes = dict(strides=(stride, stride), padding=ONE, dilation=(1, 1), groups=1)
    cases = {"f": (Conv2d(**attributes), [x, w]), "w": (Conv2dFilterGrad(**attributes, filter_shape=w), [x, y]),
             "i": (Conv2dInputGrad(**attributes, input_shape=x), [w, y])}
    for kind, (op, shapes) in cases.items():
        for label, change in {**RANGES, **ARRANGED}.items():
            node, arrays = node_of(op, shapes)
            for array in arrays:
                if callable(change):
                    change(array, array.shape == w)
                else:
                    scale_unequally(array, change, array.shape == w)
            wide = [a.astype(np.float64) for a in arrays]
            exact, = node.op.evaluate(*wide)
            magnitude, = node.op.evaluate(*map(np.abs, wide))
            line = []
            for way in ("fast", "default", "direct"):
                isa = isas.host(None, "default" if way == "direct" else way)
                bench = Bench(direct_kernel(node, isa) if way == "direct" else lower(node, isa), arrays, isa, 1)
                bench.cycles(1)
                result = bench.results[0]
                worst = np.max(np.abs(result - exact) / magnitude)
                line.append(f"{way} {deviation(result, exact):.1e} {worst:.1e}")
            print(f"{w[0]}x{w[1]} {kind} {label:20s} {'   '.join(line)}", flush=True)


def direct_kernel(node: Node, isa: isas.Isa) -> Kernel:
    """The kernel of a convolution or its gradient that Winograd's algorithms have no part in."""
    never = dict(return_value=None)
    with patch.object(conv_direct, "scheme_that_pays", **never), \
            patch.object(conv_direct, "winograd_2x2_pays", **never), \
            patch.object(conv_direct, "streamed_winograd_pays", **never), \
            patch.object(conv_filter_grad, "filter_scheme_that_pays", **never), \
            patch.object(conv_filter_grad, "whole_filter_grad_pays", **never):
        return lower(node, isa)


def scale_unequally(array: np.ndarray, exponents: tuple[int, int, int], is_filter: bool) -> None:
    """Multiply channels, and pixels or taps, by random powers of ten."""
    rng = np.random.default_rng(1)
    channels, pixels, taps = exponents
    array *= 10 ** rng.uniform(0, channels, array.shape[-1:])
    spatial = taps if is_filter else pixels
    array *= 10 ** rng.uniform(0, spatial, (*array.shape[:-1], 1) if not is_filter else (*array.shape[:2], 1, 1))


def ticks_per_second() -> float:
    """Ticks a second of the counter that ``Bench.cycles`` reads."""
    node, arrays = node_of(Matmul(False, False), [(512, 512), (512, 512)])
    isa = isas.chosen(options())
    bench = Bench(lower(node, isa), arrays, isa, 1)
    start = time.perf_counter()
    ticks = bench.cycles(20).sum()
    return float(ticks / (time.perf_counter() - start))


def main() -> None:
    """Run the cases whose names hold one of the given texts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--precision", choices=("default", "fast"), default="default")
    parser.add_argument("--ranges", action="store_true")
    parser.add_argument("names", nargs="*")
    words = parser.parse_args()
    fast = words.precision == "fast"
    tf.config.threading.set_intra_op_parallelism_threads(1 if fast else words.threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    if words.ranges:
        print_ranges()
        return
    for case in (*products(), *convolutions()):
        if words.names and not any(n in case[0] for n in words.names):
            continue
        line = compare_precisions(case, words.turns) if fast else compare(case, words.threads, words.turns)
        if line:
            print(line, flush=True)


if __name__ == "__main__":
    main()

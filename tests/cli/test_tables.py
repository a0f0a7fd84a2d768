"""What ``explain`` and ``bench`` print, from records made by hand."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from afterburner.cli import bench, chart, kernel_tables, markdown, tables
from afterburner.cli.errors import CommandError
from afterburner.cli.machine import Machine
from afterburner.options import overridden
from afterburner.report import (
    ChoiceReport,
    FunctionReport,
    KernelReport,
    LeftOp,
    PartReport,
    Recorder,
    Report,
    layer_of,
)

MACHINE = Machine("A processor", 2, 8.0, "Linux x86_64", "3.11.7", "2.21.0", "3.15.1", "0.1.0")


def printed(report: Report, width: int = 200, every: bool = False) -> str:
    stream = io.StringIO()
    tables.print_report(report.to_dict(), Console(file=stream, width=width), every)
    return stream.getvalue()


def row(text: str, start: str) -> list[str]:
    """The cells of a table's row after its first."""
    return next(line for line in text.splitlines() if line.strip().startswith(start)).strip()[len(start):].split()


def step() -> FunctionReport:
    """A training step of two kernels with one operation left out."""
    kernels = [KernelReport("matmul + add", ("matmul", "add"), ("dense/MatMul",), 20e-6, 2_000_000, 1 << 20,
                            0.5),
               KernelReport("loop: mul", ("mul", "mul", "sqrt"), (), 60e-6, 1000, 1 << 10)]
    part = PartReport("f32[32,784]", 40, kernels, 0.25, True, 3 << 20, "cpu (avx2, 2 threads)")
    left = LeftOp("UniqueV2", "while[0]/UniqueV2", "train.py:7", "no rule for UniqueV2")
    return FunctionReport("one_step", 9, 42, 40, 0.99, "compiled", "", [part], [left], ["run failed: Oops"])


def test_nothing_was_seen() -> None:
    assert "No graph function was called" in printed(Report("TensorFlow", 0, []))


def test_why_a_function_waits() -> None:
    reasons = ("", "for 16 calls, as others")
    text = printed(Report("cpu", 0, [FunctionReport(f"f{i}", 2, reason=r) for i, r in enumerate(reasons)]))
    assert text.count("too few calls to compile it") == 2
    assert text.count("too few calls to compile it: it waits for 16 calls, as others") == 1


def test_report_tells_everything() -> None:
    text = printed(Report("cpu (avx2, 2 threads)", 2, [step()]))
    for expected in ("one_step", "40 of 42", "99%", "0.25", "3.0", "compiled, 1 from the cache",
                     "matmul + add", "mul ×2, sqrt",
                     "20.0", "25%", "2.00", "50%", "80 µs a run", "while[0]/UniqueV2",
                     "no rule for UniqueV2", "train.py:7", "fell back to TensorFlow: run failed: Oops"):
        assert expected in text, expected
    assert text.index("loop: mul") < text.index("matmul + add")  # the slowest first


def test_one_thread_is_no_plural() -> None:
    assert "Ran on cpu, 1 thread.\n" in printed(Report("cpu", 1, [step()]))
    assert "Ran on cpu, 2 threads.\n" in printed(Report("cpu", 2, [step()]))


def test_who_was_found_fastest_is_told_with_all_times() -> None:
    function = replace(step(), choices=[
        ChoiceReport("f32[8]", "gpu", {"cpu": 2e-3, "gpu": 1e-3, "TensorFlow": 1.5e-3}, 9, "measured"),
        ChoiceReport("f32[4]", "cpu", {"cpu": 1e-3}, 3, "cache", {"gpu": "compile failed: no such kernel"}),
    ], moved=["on the cpu, since the gpu cannot: float64"])
    text = printed(Report("cpu", 2, [function]))
    for expected in ("one_step: who is fastest", "cpu 2.000, gpu 1.000, TensorFlow 1.500", "in 9 steps",
                     "earlier, kept in the cache", "gpu: compile failed: no such kernel",
                     "since the gpu cannot: float64"):
        assert expected in text, expected


def test_a_function_that_was_given_back_says_why() -> None:
    function = replace(step(), status="given back", reason="TensorFlow was measured to be faster")
    assert "given back: TensorFlow was measured to be faster" in printed(Report("cpu", 2, [function]))


def network() -> FunctionReport:
    """A step of three layers and an optimizer, thirty times the kernels of each, half of the floor's rate each."""
    kernels = [
        kernel for i in range(30) for kernel in (
            KernelReport(f"conv2d 1x1 16->{i}", ("conv2d",), (), 4e-3, 10**9, 1 << 20, 0.5, "net/stem"),
            KernelReport(f"conv2d input grad 1x1 {i}->16 mul", ("conv2d", "mul"), (), 2e-3, 0, 0, 0.5, "net/stem"),
            KernelReport("loop: mul reduce_sum", ("mul",), (), 1e-3, 0, 0, 2.0, f"net/norm_{i}"),
            KernelReport("loop: mul add", ("mul",), (), 1e-3, 0, 0, 0.0, "adam"))]
    part = PartReport("f32[8,96,96,3]", 4000, kernels, 30.0, False, 3 << 20, "cpu (avx2, 2 threads)")
    return FunctionReport("multi_step_on_iterator", 9, 4000, 4000, 1.0, "compiled", "", [part])


@pytest.mark.parametrize("width", [80, 100])
def test_many_kernels_are_told_by_kind_and_layer(width: int) -> None:
    text = printed(Report("cpu", 2, [network()]), width)
    assert all(len(line) <= width for line in text.splitlines())
    flops = ["30.00", "30.0"] if width == 100 else []
    assert row(text, "conv2d 1x1 ") == ["30", "120.00", "50.0%", "60.00", *flops]
    assert row(text, "conv2d input grad 1x1 ")[:4] == ["30", "60.00", "25.0%", "30.00"]
    assert row(text, "loop with sums ")[:4] == ["30", "30.00", "12.5%", "0.00"]  # below the floor is no gap
    assert row(text, "loop  ")[3] == "–"  # its floor is not known
    assert row(text, "total ")[:4] == ["120", "240.00", "100.0%", "90.00"]
    assert "layer of net" in text
    assert row(text, "stem ")[:4] == ["60", "180.00", "75.0%", "90.00"]
    assert row(text, "adam ")[:3] == ["30", "30.00", "12.5%"]
    assert row(text, "7 more ")[:3] == ["7", "7.00", "2.9%"]
    assert text.index("stem") < text.index("adam") < text.index("norm_0") and "16->3" not in text


def test_every_kernel_on_request() -> None:
    text = printed(Report("cpu", 2, [network()]), every=True)
    assert sum("conv2d 1x1 16->" in line for line in text.splitlines()) == 30
    assert "layer of" not in text


@pytest.mark.parametrize("label, kind", [
    ("conv2d filter grad 3x3 64->64 (Winograd)", "conv2d filter grad 3x3 (Winograd)"),
    ("conv2d 3x3 64->64 reduce_sum (Winograd 2x2)", "conv2d 3x3 (Winograd)"),
    ("depthwise 5x5 72->72 add", "depthwise 5x5"), ("matmul 32x784x128 add", "matmul"), ("random key", "random")])
def test_kind_of_a_kernel(label: str, kind: str) -> None:
    assert kernel_tables.kind_of(label) == kind


@pytest.mark.parametrize("nodes, layer", [
    (("StatefulPartitionedCall/gradient_tape/net_1/conv_1/convolution/Conv2DBackpropInput",), "net_1/conv_1"),
    (("StatefulPartitionedCall/adam/Mul_2", "PartitionedCall_1/net/norm/add", "net/norm/mul"), "net/norm"),
    (("while[0]/net/cell/MatMul",), "net/cell"), (("adam/Sqrt_3",), "adam"), (("MatMul",), ""), ((), "")])
def test_layer_of_a_kernel(nodes: tuple[str, ...], layer: str) -> None:
    assert layer_of(nodes) == layer


def test_function_left_to_tensorflow() -> None:
    left = FunctionReport("tiny", 3, 2, 0, 0.0, "left", "only 2 of 5 operations [sic]")
    assert "left: only 2 of 5 operations [sic]" in printed(Report("TensorFlow", 0, [left]))


def timing() -> bench.Timing:
    item = bench.Timing("mlp", "step")
    for side, seconds in (("stock", (3e-3, 2e-3, 4e-3)), ("afterburner", (1e-3, 1e-3, 1e-3))):
        item.seconds[side] = list(seconds)
        item.first_seconds[side] = [1.0, 1.0, 1.0]
        item.peak_bytes[side] = [1 << 30] * 3
    return item


def test_ratio_is_the_median_of_rounds(capsys: pytest.CaptureFixture[str]) -> None:
    item = timing()
    assert item.ratios() == pytest.approx([3, 2, 4])
    assert item.to_dict()["median_ratio"] == pytest.approx({"afterburner": 3})
    tables.print_bench([item], str(MACHINE))
    out = capsys.readouterr().out
    assert "3.00×" in out and "2.00–4.00" in out and "A processor" in out


def with_fast() -> bench.Timing:
    item = replace(timing(), workload="style_transfer", sides=(*bench.SIDES, bench.FAST))
    for values in (item.seconds, item.first_seconds, item.peak_bytes):
        values[bench.FAST] = [x / 2 for x in values["afterburner"]]
    return item


def test_fast_precision_has_columns_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    tables.print_bench([with_fast()], str(MACHINE))
    out = capsys.readouterr().out
    assert "fast ms" in out and "0.500" in out and "6.00×" in out and "1024/1024/512" in out


@pytest.mark.parametrize("slowest", [1, 1000])  # on one scale, and each on its own
def test_chart_is_drawn(tmp_path: Path, slowest: int) -> None:
    file = tmp_path / "chart.png"
    chart.check_chart(file)
    other = with_fast()
    other.seconds = {side: [x * slowest for x in times] for side, times in other.seconds.items()}
    chart.draw([with_fast(), other], str(MACHINE), file)
    assert file.read_bytes().startswith(b"\x89PNG") and file.stat().st_size > 10_000


def test_markdown_says_what_json_says() -> None:
    timings = [json.loads(json.dumps(item.to_dict())) for item in (with_fast(), with_fast())]
    lines = markdown.table({"timings": timings}).splitlines()
    assert lines[2] == "| `style_transfer` (step) | 3 | 1 | **3.00×** | 2.00–4.00 | 0.5 | **6.00×** | 4.00–8.00 |"
    assert lines[4] == "| geometric mean |  |  | **3.00×** |  |  | **6.00×** |  |"


@pytest.mark.parametrize(("counts", "told"), [((1, 1), "one round in"), ((3, 3), "median of 3 rounds in"),
                                               ((3, 1), "median of 1 to 3 rounds in")])
def test_markdown_tells_how_many_rounds_there_were(counts: tuple[int, ...], told: str) -> None:
    result = {"machine": MACHINE.to_dict(), "policy": "float32", "threads": 2, "date": "2026-01-01",
              "timings": [{"seconds": {"stock": [1.0] * count}} for count in counts]}
    assert told in markdown.summary(result)


def test_filling_keeps_what_was_not_measured() -> None:
    page = "a <!-- measured: x -->\nold\n<!-- end --> b <!-- measured: y -->old<!-- end -->\n"
    assert markdown.filled(page, {"x": "new\n"}) == page.replace("\nold\n", "\nnew\n")
    assert markdown.filled(page, {}) == page
    with pytest.raises(ValueError, match="measured: y --> without"):
        markdown.filled(page.removesuffix("<!-- end -->\n"), {})


class FakeChild:
    """Stands for ``subprocess.run``: writes what a child would and notes the order of starts and policies."""

    def __init__(self, status: int = 0) -> None:
        self.status = status
        self.sides: list[str] = []
        self.policies: set[str] = set()
        self.returncode, self.stderr = status, "Traceback\nValueError: no such thing\n"

    def __call__(self, command: list[str], **_: object) -> FakeChild:
        ours = "afterburner" in command
        precision = command[command.index("--precision") + 1] if "--precision" in command else "default"
        self.policies.add(command[command.index("--policy") + 1])
        assert command[command.index("--threads") + 1] == "2"
        self.sides.append(("fast" if precision == "fast" else "afterburner") if ours else "stock")
        seconds = [1e-3, 2e-3, 9e-3] if ours else [4e-3, 4e-3, 4e-3]
        result = {"timed": {"step": {"first_seconds": 1.0, "seconds_per_unit": seconds}}, "peak_bytes": 5}
        Path(command[command.index("--json") + 1]).write_text(json.dumps(result))
        return self


def test_sides_take_turns(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    child = FakeChild()
    monkeypatch.setattr(bench.subprocess, "run", child)
    monkeypatch.setattr(bench, "describe", lambda: MACHINE)
    file = tmp_path / "bench.json"
    assert bench.action(bench.Plan(("mlp",), rounds=3, threads=2), str(file), None)() == 0
    assert child.sides == ["stock", "afterburner", "afterburner", "stock", "stock", "afterburner"]
    result = json.loads(file.read_text())
    assert result["timings"][0]["median_ratio"] == pytest.approx({"afterburner": 2})
    assert result["machine"]["processor"] == "A processor" and result["threads"] == 2


def test_fast_precision_takes_turns_under_a_policy(monkeypatch: pytest.MonkeyPatch,
                                                   capsys: pytest.CaptureFixture[str]) -> None:
    child = FakeChild()
    monkeypatch.setattr(bench.subprocess, "run", child)
    plan = bench.Plan(("mlp",), rounds=2, threads=2, fast=True, policy="mixed_bfloat16")
    assert bench.action(plan, "", None)() == 0
    assert child.sides == ["stock", "afterburner", "fast", "fast", "afterburner", "stock"]
    assert child.policies == {"mixed_bfloat16"} and "mixed_bfloat16" in capsys.readouterr().out


def test_unknown_policy() -> None:
    with pytest.raises(CommandError, match="unknown policy 'half'; there are float32, mixed_bfloat16, mixed_float16"):
        bench.action(bench.Plan(("mlp",), policy="half"), "", None)


def test_child_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.subprocess, "run", FakeChild(status=3))
    with pytest.raises(CommandError, match="mlp on stock failed with status 3: ValueError: no such thing"):
        bench.action(bench.Plan(("mlp",), threads=2), "", None)()


def _left(*ops: tuple[str, str]) -> list[LeftOp]:
    return [LeftOp(kind, f"{kind}_{number}", "train.py:7", reason) for number, (kind, reason) in enumerate(ops)]


@pytest.mark.parametrize(("left", "told"), [
    (_left(), ""),
    (_left(("Print", "no rule for Print")), "; left to TensorFlow: Print (no rule for Print)"),
    (_left(("Where", "no rule for Where"), ("Add", "float16"), ("Mul", "float16"), ("Add", "float16")),
     "; left to TensorFlow: Add, Mul (float16), and for other reasons Where"),
    (_left(*[("Where", "no rule for Where")] * 5), "; left to TensorFlow: Where (no rule for Where)"),
    (_left(*((kind, "float16") for kind in "ABCDE")), "; left to TensorFlow: A, B, C, D, … (float16)"),
])
def test_the_line_gives_a_reason_of_the_operations_that_it_names(
        left: list[LeftOp], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    class Compiled:
        """An executable; only referred to."""

    recorder, executable = Recorder(), Compiled()
    entry = recorder.entry("step")
    entry.report.left = left
    with overridden(verbosity="line"):
        recorder.compiled(entry, PartReport("", 3, [], 0.5, False, 0, "cpu"), executable)  # type: ignore[arg-type]
        recorder.tell(entry)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.partition(" in 0.50 s")[2] == told

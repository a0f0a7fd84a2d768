"""``afterburner bisect`` convicts the pass or kernel that is wrong, and only that."""

import numpy as np
import pytest

from afterburner import bisect as engine
from afterburner.cli import main
from afterburner.cpu import target
from afterburner.ir import Graph, parse_graph, rewrite
from afterburner.ir.ops import elementwise
from afterburner.options import overridden
from afterburner.passes import pipeline

GRAPH = """graph f(%x: f32[5,7], %w: f32[7,3]) {
  %0: f32[5,3] = matmul(%x, %w) {transpose_a=False, transpose_b=False}
  %1: f32[5,3] = exp(%0)
  %2: f32[5] = reduce_sum(%1) {axes=(1,)}
  return %2, %1
}
"""


def test_a_right_graph_has_no_findings(tmp_path, capsys):
    path = tmp_path / "graph.txt"
    path.write_text("# a traceback\n" + GRAPH)
    assert main(["bisect", str(path)]) == 0
    assert "all passes and kernels agree" in capsys.readouterr().out


def test_a_graph_that_does_not_fit_into_memory(tmp_path, capsys):
    path = tmp_path / "graph.txt"
    path.write_text(GRAPH.replace("5,7", f"5,7{'0' * 14}").replace("7,3", f"7{'0' * 14},3"))
    assert main(["bisect", str(path)]) == 1
    said = capsys.readouterr().err
    assert said.startswith("afterburner: there is not the memory for what is in ") and said.count("\n") == 1


def spoil(graph):
    """``expm1`` for ``exp``; nothing where there is none."""
    def replace(builder, node, operands):
        return builder.add(elementwise.Expm1(), *operands) if node.op.name == "exp" else None

    return rewrite(graph, replace) if any(n.op.name == "exp" for n in graph.nodes) else graph


def stumble(graph):
    raise ZeroDivisionError("over its own feet")


def leave_open(graph):
    return Graph(graph.name, graph.inputs, graph.nodes[1:], graph.outputs)


def instead_of_simplify(monkeypatch, pass_):
    passes = tuple((n, pass_ if n == "simplify" else p) for n, p in pipeline.CLEANUP)
    monkeypatch.setattr(pipeline, "CLEANUP", passes)


def convicted(graph=GRAPH):
    return [f for f in engine.bisect(parse_graph(graph)) if f.trouble]


def test_only_the_wrong_pass_is_named(monkeypatch):
    instead_of_simplify(monkeypatch, spoil)
    findings = list(engine.bisect(parse_graph(GRAPH)))
    assert [f.what for f in findings if f.trouble] == ["pass simplify"]
    assert "pass fuse" in [f.what for f in findings]


@pytest.mark.parametrize("pass_, trouble", [(stumble, "ZeroDivisionError: over its own feet"),
                                            (leave_open, "IRError: ")])
def test_a_pass_that_raises_is_named(monkeypatch, pass_, trouble):
    instead_of_simplify(monkeypatch, pass_)
    (finding,) = convicted()
    assert finding.what == "pass simplify" and finding.trouble.startswith(trouble)
    assert parse_graph(finding.text)


def test_passes_that_are_left_out_are_not_tried(monkeypatch):
    instead_of_simplify(monkeypatch, stumble)
    with overridden(skip_passes=("simplify", "fuse")):
        findings = list(engine.bisect(parse_graph(GRAPH)))
    assert not any(f.trouble or "fuse" in f.what for f in findings)


def test_a_wrong_kernel_is_named(monkeypatch):
    def off_by_a_little(graph, arguments, run=engine.run):
        results = run(graph, arguments)
        return [r + np.float32(0.01) for r in results] if "matmul" in str(graph) else results

    monkeypatch.setattr(engine, "run", off_by_a_little)
    (finding,) = convicted()
    assert finding.what == "kernel matmul + exp" and parse_graph(finding.text)


@pytest.mark.parametrize("text, message", [(None, "cannot read"), ("graph oops", "holds no graph")])
def test_bad_files_get_one_line(tmp_path, capsys, text, message):
    path = tmp_path / "graph.txt"
    if text is not None:
        path.write_text(text)
    assert main(["bisect", str(path)]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1


@pytest.mark.parametrize("precision", ["default", "fast"])
def test_passes_run_as_in_the_precision_that_failed(precision, monkeypatch):
    found = []

    def note(graph, **settings):
        found.append(settings["fast"])
        return graph

    monkeypatch.setattr(target, "optimize", note)
    with overridden(precision=precision):
        list(engine.bisect(parse_graph(GRAPH)))
    assert found == [precision == "fast"]


def test_columns_of_shared_memory_are_right_alone():
    """What the other columns hold is nobody's: the interpreter and the kernel may differ there."""
    assert not convicted("""graph f(%x: f32[9,4], %y: f32[9,2], %z: f32[9,3]) {
  %0: f32[9,9] = first_columns(%x) {width=9}
  %1: f32[9,9] = more_columns(%0, %y) {start=4}
  %2: f32[9,6] = slice(%1) {starts=(0,0), limits=(9,6), strides=(1,1)}
  %3: f32[9,9] = more_columns(%1, %z) {start=6}
  return %2, %3
}
""")


LOOP = """graph f(%x: f32[5,7], %w: f32[9,5,7]) {
  %0: f32[5,7], %1: f32[9,5,7] = scan(%x, %w) {steps=9, sliced=(True,), stacked=(False,)} with
    graph turn(%x: f32[5,7], %w: f32[5,7]) {
      %0: f32[5,7] = exp(%w)
      %1: f32[5,7] = add(%0, %x)
      return %1, %x
    }
  return %0, %1
}
"""


def test_what_is_wrong_in_a_loop_is_named(monkeypatch):
    assert convicted(LOOP) == []
    tried = [f.what for f in engine.bisect(parse_graph(LOOP))]
    assert tried[-2:] == ["kernel exp + add", "kernel scan of 1 operations"]
    instead_of_simplify(monkeypatch, spoil)
    assert [f.what for f in convicted(LOOP)] == ["pass simplify"]


def test_a_loop_in_pieces_is_tried(monkeypatch):
    monkeypatch.setattr("afterburner.passes.split_scans._LEAST_WORK", 0)
    text = LOOP.replace("[5,7]", "[20,7]").replace("[9,5,7]", "[9,20,7]")
    findings = list(engine.bisect(parse_graph(text)))
    assert any(f.what == "pass split_scans" for f in findings) and not any(f.trouble for f in findings)

"""``afterburner bisect`` convicts the pass or kernel that is wrong, and only that."""

import numpy as np
import pytest

from afterburner import bisect as engine
from afterburner.cli import main
from afterburner.ir import parse_graph
from afterburner.ir.ops import elementwise
from afterburner.options import overridden

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


def test_a_wrong_pass_is_named(monkeypatch):
    from afterburner.ir import rewrite
    from afterburner.passes import pipeline

    def spoil(graph):
        def replace(builder, node, operands):
            if node.op.name == "exp":
                return builder.add(elementwise.Expm1(), *operands)
            return None

        return rewrite(graph, replace)

    passes = tuple((n, spoil if n == "simplify" else p) for n, p in pipeline.CLEANUP)
    monkeypatch.setattr(pipeline, "CLEANUP", passes)
    findings = [f for f in engine.bisect(parse_graph(GRAPH)) if f.trouble]
    assert findings[0].what == "pass simplify"


def test_a_wrong_kernel_is_named(monkeypatch):
    def off_by_a_little(graph, arguments, run=engine.run):
        results = run(graph, arguments)
        return [r + np.float32(0.01) for r in results] if "matmul" in str(graph) else results

    monkeypatch.setattr(engine, "run", off_by_a_little)
    findings = [f for f in engine.bisect(parse_graph(GRAPH)) if f.trouble]
    assert len(findings) == 1 and "matmul" in findings[0].what
    assert parse_graph(findings[0].text)


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

    monkeypatch.setattr(engine, "optimize", note)
    with overridden(precision=precision):
        list(engine.bisect(parse_graph(GRAPH)))
    assert found == [precision == "fast"]

"""``afterburner bisect``: name the pass or kernel that makes a graph go wrong."""

from __future__ import annotations

from pathlib import Path

from afterburner.ir import IRError, parse_graph, verify

from .errors import CommandError


def bisect(path: Path, seed: int) -> int:
    """Try every pass and kernel of the graph in ``path``; 1 if one differs from the interpreter.

    Raises:
        CommandError: the file cannot be read or holds no graph, or one that does not fit into memory.
    """
    from afterburner import bisect as engine

    try:
        graph = verify(parse_graph(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"cannot read {path}: {error}") from error
    except IRError as error:
        raise CommandError(f"{path} holds no graph: {error}; AFTERBURNER_DUMP writes such files") from error
    guilty = 0
    try:
        for finding in engine.bisect(graph, seed):
            print(f"{'WRONG' if finding.trouble else 'ok   '}  {finding.what}", flush=True)
            if finding.trouble:
                guilty += 1
                print(f"       {finding.trouble}\n{finding.text}")
    except MemoryError as error:
        raise CommandError(f"there is not the memory for what is in {path}: {error}", status=1) from None
    print("all passes and kernels agree with the interpreter" if not guilty else f"{guilty} found")
    return int(guilty > 0)

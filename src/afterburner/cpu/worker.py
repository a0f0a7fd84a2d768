"""A process that generates code for another one, which then need not load LLVM (see ``crew``).

It answers requests, one after the other, until there can be no more. A request and its answer are a line of JSON
and a body of bytes.
"""

from __future__ import annotations

import faulthandler
import gc
import json
import os
import signal
import threading
import time
import traceback
from collections.abc import Mapping
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

_LOOK_SECONDS = 1.0  # between two looks whether the parent is still there


def main(parent: int) -> None:
    """Work for a process until it has gone or wants no more, with requests on standard input.

    Args:
        parent: the number of the process.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    faulthandler.enable()
    requests, answers = Connection(os.dup(0), writable=False), Connection(os.dup(1), readable=False)
    os.dup2(2, 1)  # whatever prints does not get among the answers
    _prepare()
    answers.send_bytes(encoded({"file": __file__}))
    try:
        while True:
            answers.send_bytes(_answer(requests.recv_bytes()))
            gc.collect()
    except (EOFError, BrokenPipeError):
        os._exit(0)  # LLVM has nothing to tidy


def encoded(head: Mapping[str, Any], body: bytes = b"") -> bytes:
    """A request or an answer as bytes."""
    return b"\n".join((json.dumps(head).encode(), body))


def decoded(raw: bytes) -> tuple[dict[str, Any], bytes]:
    """The head and the body of a request or an answer."""
    head, _, body = raw.partition(b"\n")
    return json.loads(head), body


def _prepare() -> None:
    """Load what requests need while there is none, and keep the collector from looking at it ever after."""
    from . import generate, llvm
    from .kernels import families

    assert generate
    llvm.initialise()
    families()
    gc.disable()
    gc.freeze()


def _end_with(parent: int) -> None:
    """End when the parent has gone: another process may hold our input open, a request may take long."""
    while os.getppid() == parent:
        time.sleep(_LOOK_SECONDS)
    os._exit(0)


def _answer(raw: bytes) -> bytes:
    head, body = decoded(raw)
    try:
        return encoded(*_WORK[head["do"]](head, body))
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent is told
        return encoded(_failure(error))


def _failure(error: Exception) -> dict[str, Any]:
    from .generate import KernelFailure

    index = error.index if isinstance(error, KernelFailure) else None
    cause = error.__cause__ if isinstance(error, KernelFailure) else error
    trace = "".join(traceback.format_exception(cause))
    return {"failed": {"kind": type(cause).__name__, "message": str(cause), "trace": trace, "index": index}}


def _host(head: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
    from .llvm import host_facts
    from .trial import linkable

    triple, cpu, features = host_facts()
    return {"facts": (linkable(triple) if head["trial"] else triple, cpu, features)}, b""


def _object(head: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
    from .isa import Isa
    from .jit import compile_object

    return {}, compile_object(body.decode(), Isa(**head["isa"]))


def _kernels(head: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
    from .generate import kernel_of, text_of_batch
    from .isa import Isa
    from .jit import compile_object

    isa = Isa(**head["isa"])
    text = text_of_batch([partial(kernel_of, kernel, isa) for kernel in head["kernels"]], isa, head["number"])
    return {"rows": text.rows, "text": text.text if head["dump"] else ""}, compile_object(text.text, isa)


_WORK = {"host": _host, "object": _object, "kernels": _kernels}

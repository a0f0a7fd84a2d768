"""Processes that generate code for this one: LLVM takes memory, may crash, and keeps a processor busy."""

from __future__ import annotations

import atexit
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from ..runtime.own_threads import OwnTimer, require_threads
from . import worker as program

_IDLE_SECONDS = 5.0  # without work until they are sent home: a program often compiles several functions in a row
_START_SECONDS = 120.0  # for a start on a very busy machine
_END_SECONDS = 2.0
_LOOK_SECONDS = 1.0  # between two looks whether those that say nothing still live
_SAID_BYTES = 4000  # kept of what a process says on stderr
_PROGRAM = ("import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
            "from afterburner.cpu.worker import main; main(int(sys.argv[2]))")

Request = tuple[dict[str, Any], bytes]
Answer = tuple[dict[str, Any], bytes]

_log = logging.getLogger("afterburner")


class NoWorkers(Exception):
    """No process can be started here; the message says why."""


class WorkerDied(RuntimeError):
    """A process ended in the middle of its work: LLVM crashed, or the system ran out of memory."""


class Worker:
    """One process.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self) -> None:
        request_out, request_in = os.pipe()
        answer_out, answer_in = os.pipe()
        self._requests = Connection(request_in, readable=False)
        self.answers = Connection(answer_out, writable=False)
        package = str(Path(__file__).parents[2])
        path = [*map(str, sys.path), *([] if package in sys.path else [package])]
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _PROGRAM, json.dumps(path), str(os.getpid())],
                stdin=request_out, stdout=answer_in, stderr=subprocess.PIPE)
        except OSError:
            self.disconnect()
            raise
        finally:
            os.close(request_out)
            os.close(answer_in)
        assert self._process.stderr is not None
        self.stderr = self._process.stderr
        os.set_blocking(self.stderr.fileno(), False)
        self._said = b""
        self._started = time.monotonic()
        self.ready = False
        self.job: int | None = None

    @property
    def number(self) -> int:
        """The process's number."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process is there, and not too long in coming."""
        late = not self.ready and time.monotonic() - self._started > _START_SECONDS
        return self._process.poll() is None and not late

    def ask(self, job: int, request: Request) -> None:
        """Have it answer a request.

        Raises:
            OSError: it has ended.
        """
        self._requests.send_bytes(program.encoded(*request))
        self.job = job

    def listen(self) -> None:
        """Read what it says on stderr."""
        with suppress(OSError):
            self._said = (self._said + os.read(self.stderr.fileno(), 1 << 16))[-_SAID_BYTES:]

    def death(self) -> str:
        """How it ended, and its last words; it is ended where it has not."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_SECONDS)
        self.kill()
        code, said = self._process.returncode, self._said.decode(errors="replace").strip()
        how = f"signal {-code}" if code < 0 else f"status {code}"
        return f"a process that generates code ended with {how}" + (f": {said}" if said else "")

    def kill(self) -> None:
        """End it now."""
        self._process.kill()
        self._process.wait()
        self.listen()
        self.stderr.close()
        self.disconnect()

    def disconnect(self) -> None:
        """Close this process's ends of the pipes: it ends when there can be no more requests."""
        self._requests.close()
        self.answers.close()

    def forget(self) -> None:
        """In a forked child, whose it is not."""
        self._process.returncode = 0
        self.stderr.close()
        self.disconnect()


class Crew:
    """Some workers, kept for a while. Threads take turns."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._workers: list[Worker] = []
        self._refusal = ""
        self._last_used = 0.0

    def run(self, requests: Sequence[Request], most: int, done: Callable[[int, Answer], None]) -> None:
        """Have requests answered, by several workers at once.

        Args:
            requests: what to do.
            most: workers to employ.
            done: called with a request's number and its answer, in the order in which they come.

        Raises:
            NoWorkers: nothing was done.
            WorkerDied: one was lost with its request.
        """
        with self._lock:
            try:
                self._start(min(most, len(requests)))
                self._work(requests, done)
            finally:  # whatever happens, Ctrl-C too: nobody goes on with what nobody waits for
                for worker in [w for w in self._workers if w.job is not None]:
                    self._lose(worker)
                self._last_used = time.monotonic()
                self._send_home_later()

    def ask(self, head: dict[str, Any], body: bytes = b"") -> Answer:
        """Have one request answered.

        Raises:
            NoWorkers: it was not.
            WorkerDied: the worker was lost with it.
        """
        answers: list[Answer] = []
        self.run([(head, body)], 1, lambda _, answer: answers.append(answer))
        return answers[0]

    def numbers(self) -> list[int]:
        """The numbers of the processes."""
        return [worker.number for worker in self._workers]

    def close(self) -> None:
        """End all workers."""
        with self._lock:
            while self._workers:
                self._lose(self._workers[0])

    def forget(self) -> None:
        """In a forked child: these workers are its parent's."""
        self._lock = threading.Lock()
        workers, self._workers = self._workers, []
        for worker in workers:
            worker.forget()

    def _start(self, count: int) -> None:
        if not self._refusal and (not sys.executable or getattr(sys, "frozen", False)):
            self._refusal = "this program has no Python interpreter of its own"
        if self._refusal:
            raise NoWorkers(self._refusal)
        for worker in [w for w in self._workers if not w.alive]:
            self._lose(worker)
        try:
            while len(self._workers) < count:
                self._workers.append(Worker())
        except OSError as error:
            if not self._workers:
                self._refuse(str(error))

    def _refuse(self, reason: str) -> None:
        self._refusal = reason
        _log.warning("afterburner: code is generated in this process: %s", reason)
        raise NoWorkers(reason)

    def _work(self, requests: Sequence[Request], done: Callable[[int, Answer], None]) -> None:
        waiting = deque(range(len(requests)))
        missing = len(requests)
        while missing:
            for worker in [w for w in self._workers if w.ready and w.job is None]:
                if waiting and self._give(worker, waiting[0], requests[waiting[0]]):
                    waiting.popleft()
            for worker in self._heard():
                answer = self._answer(worker)
                if answer is not None:
                    job, worker.job = worker.job, None
                    assert job is not None
                    missing -= 1
                    done(job, answer)

    def _give(self, worker: Worker, job: int, request: Request) -> bool:
        try:
            worker.ask(job, request)
        except OSError:
            self._bury(worker)
            return False
        return True

    def _heard(self) -> list[Worker]:
        """Workers with an answer; those that have ended are buried."""
        speakers = {number: w for w in self._workers for number in (w.answers.fileno(), w.stderr.fileno())}
        heard = wait(list(speakers), _LOOK_SECONDS)
        for number in heard:
            speakers[number].listen()  # type: ignore[index]
        answering = [w for w in self._workers if w.answers.fileno() in heard]
        for worker in [w for w in self._workers if w not in answering and not w.alive]:
            self._bury(worker)
        return answering

    def _answer(self, worker: Worker) -> Answer | None:
        """What a worker answers to its request; None where it only says that it is ready, or has ended."""
        try:
            head, body = program.decoded(worker.answers.recv_bytes())
        except (EOFError, OSError):
            self._bury(worker)
            return None
        if worker.ready:
            return head, body
        if head["file"] != program.__file__:
            self._lose(worker)
            self._refuse(f"another copy of this package is found first, at {head['file']}")
        worker.ready = True
        return None

    def _bury(self, worker: Worker) -> None:
        """Go on without a worker that has ended, unless it had work or was the last."""
        self._workers.remove(worker)
        message = worker.death()
        if worker.job is not None or (worker.ready and not self._workers):
            raise WorkerDied(message)
        if not self._workers:
            self._refuse(message)
        _log.debug("afterburner: %s", message)

    def _lose(self, worker: Worker) -> None:
        self._workers.remove(worker)
        worker.kill()

    def _send_home_later(self) -> None:
        timer = OwnTimer(_IDLE_SECONDS, self._send_home)
        timer.daemon = True
        try:
            require_threads()
            timer.start()
        except RuntimeError:  # the interpreter is about to end
            for worker in list(self._workers):
                self._lose(worker)

    def _send_home(self) -> None:
        if not self._lock.acquire(blocking=False):
            return  # at work, after which there is another timer
        try:
            if time.monotonic() - self._last_used < 0.9 * _IDLE_SECONDS:
                return
            for worker in list(self._workers):
                self._lose(worker)
        finally:
            self._lock.release()


CREW = Crew()
atexit.register(CREW.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=CREW.forget)

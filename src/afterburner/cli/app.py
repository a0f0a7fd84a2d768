"""The command line's grammar and its help. Loaded only where ``run SCRIPT …`` does not say it all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from afterburner import hardware
from afterburner.options import DEVICES, PRECISION

from .errors import CommandError
from .launch import Program

Action = Callable[[], int]
_ClickError: Any = typer.BadParameter.__mro__[2]  # base of all usage errors; typer names no public alias

_VALUED = ("--threads", "--device", "--precision", "--json")  # options before SCRIPT that take the next word

_RUN_HELP = """Run a Python program, unchanged, with its TensorFlow graphs compiled.

Exit status, sys.argv, __main__, tracebacks and Ctrl-C are those of plain Python. Options of ours go before
the program; everything after it is the program's own.

\b
  afterburner run train.py --epochs 10
  afterburner run -m my_package.train --epochs 10
  afterburner run --threads 4 --quiet train.py
"""

_EXPLAIN_HELP = """Run a program, then tell what was compiled.

Every graph function, each operation left to TensorFlow with its reason and source line, and each kernel with
what was fused into it, its time and how close it comes to this machine's peak. Where kernels are many, they are
told by kind and by layer, with the time above what the machine's peaks allow.

\b
  afterburner explain train.py --epochs 1
  afterburner explain --json report.json train.py
"""

_BENCH_HELP = """Time stock TensorFlow and Afterburner in fresh processes that take turns.

WORKLOAD is a name or a group: `small` (the default), `networks` (whole image networks; ten minutes each, most
of it stock TensorFlow's), `training` (those of them that train) or `all`. The ratio is the median over the
rounds; its spread stands beside it.

\b
  afterburner bench
  afterburner bench mlp lenet --rounds 7
  afterburner bench networks --rounds 3 --fast
  afterburner bench training --rounds 3 --policy mixed_bfloat16
  afterburner bench --json bench.json --chart bench.png
"""

_MAIN_HELP = """Compiled training and inference for unmodified TensorFlow programs.

\b
  afterburner run train.py       run a program, accelerated
  afterburner explain train.py   tell what was compiled and what was not
  afterburner doctor             check this installation
  afterburner install            accelerate plain `python train.py` too

AFTERBURNER_DISABLE=1 in the environment switches everything off.
"""

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False,
                  context_settings={"help_option_names": ["-h", "--help"]})
_PROGRAM_SETTINGS = {"allow_interspersed_args": False}

Words = Annotated[list[str] | None, typer.Argument(metavar="PROGRAM [ARGS]", show_default=False,
                                                   help="A script, folder or zip file, or - for standard "
                                                   "input; then its own arguments.")]
Threads = Annotated[int | None, typer.Option(min=1, show_default=False, metavar="N",
                                      help="Worker threads [default: TensorFlow's setting, else all cores].")]
Device = Annotated[str, typer.Option(metavar="NAME", show_default=False,
                                     help="Where compiled graphs run: cpu, gpu, or any, which measures "
                                     "[default: AFTERBURNER_DEVICE's].")]
Precision = Annotated[str, typer.Option(metavar="NAME", show_default=False,
                                        help="default or fast; fast changes numbers "
                                        "[default: AFTERBURNER_PRECISION's].")]
Module = Annotated[bool, typer.Option("-m", help="The program is a module, found as by `python -m`.")]


def parse(arguments: list[str]) -> Any:
    """The action a command line asks for, or an exit status where all is done (``--help``).

    Raises:
        CommandError: an unknown command, option or value.
    """
    command = typer.main.get_command(app)
    try:
        return command.main(_sealed(arguments), prog_name="afterburner", standalone_mode=False)
    except typer.Abort:
        raise CommandError("stopped", status=130) from None
    except _ClickError as error:
        message = " ".join(error.format_message().split())
        context = getattr(error, "ctx", None)
        path = context.command_path if context else "afterburner"
        raise CommandError(f"{message.rstrip('.')}; see `{path} --help`") from None


def _sealed(arguments: list[str]) -> list[str]:
    """Arguments with ``--`` before the program's first word: what follows is not for us to read."""
    if arguments[:1] not in (["run"], ["explain"]):
        return arguments
    at = 1
    while at < len(arguments) and arguments[at].startswith("-") and arguments[at] not in ("-", "--"):
        if arguments[at] == "-m":
            at += 1
            break
        at += 2 if arguments[at] in _VALUED else 1
    if arguments[at: at + 1] == ["--"]:
        return arguments
    return [*arguments[:at], "--", *arguments[at:]] if at < len(arguments) else arguments


def _program(words: list[str] | None, module: bool) -> Program:
    if not words:
        raise CommandError("-m needs the name of a module" if module else "which program? give a script, or "
                           "-m and the name of a module; see `afterburner run --help`")
    return Program(words[0], tuple(words[1:]), module)


def _settings(threads: int | None, device: str, precision: str = "") -> dict[str, Any]:
    if device and device not in DEVICES:
        raise CommandError(f"unknown device {device!r}; there are {', '.join(DEVICES)}")
    hardware.require(device)
    if precision and precision not in PRECISION:
        raise CommandError(f"unknown precision {precision!r}; there are {' and '.join(PRECISION)}")
    given = {"threads": threads, "device": device, "precision": precision}
    return {name: value for name, value in given.items() if value}


@app.callback(invoke_without_command=True, help=_MAIN_HELP)
def _main(context: typer.Context,
          version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        from .machine import version_of

        print(f"afterburner {version_of('tensorflow-afterburner') or '(not installed)'}")
        raise typer.Exit()
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit()


@app.command("run", help=_RUN_HELP, context_settings=_PROGRAM_SETTINGS)
def _run(words: Words = None, module: Module = False, threads: Threads = None, device: Device = "",
         precision: Precision = "",
         strict: Annotated[bool, typer.Option("--strict", help="Fail where a graph would fall back to "
                                              "TensorFlow.")] = False,
         quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing of our own.")] = False,
         verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Tell of every part.")] = False,
         ) -> Action:
    from . import run

    changes = _settings(threads, device, precision)
    if strict:
        changes["strict"] = True
    if quiet or verbose:
        changes["verbosity"] = "silent" if quiet else "detail"
    return run.action(_program(words, module), **changes)


@app.command("explain", help=_EXPLAIN_HELP, context_settings=_PROGRAM_SETTINGS)
def _explain(words: Words = None, module: Module = False, threads: Threads = None, device: Device = "",
             precision: Precision = "",
             json: Annotated[str, typer.Option(metavar="FILE|-", show_default=False,
                                               help="Write JSON instead of a table. - is standard output; "
                                               "the program's own then goes to stderr.")] = "",
             kernels: Annotated[bool, typer.Option("--kernels", help="List every kernel, however many.")] = False,
             ) -> Action:
    from . import explain

    return explain.action(_program(words, module), json, kernels, **_settings(threads, device, precision))


@app.command("bench", help=_BENCH_HELP)
def _bench(workloads: Annotated[list[str] | None, typer.Argument(metavar="[WORKLOAD]...", show_default=False,
                                                                help="Names or groups; `--list` shows them.")] = None,
           rounds: Annotated[int, typer.Option(min=1, metavar="N", help="Processes of each kind.")] = 5,
           repeats: Annotated[int, typer.Option(min=1, metavar="N", help="Timings in a process.")] = 5,
           threads: Annotated[int | None, typer.Option(min=1, show_default=False, metavar="N",
                                                help="Threads for both sides [default: all cores].")] = None,
           device: Device = "",
           json: Annotated[str, typer.Option(metavar="FILE|-", show_default=False, help="Write JSON.")] = "",
           chart: Annotated[Path | None, typer.Option(metavar="FILE.png", show_default=False,
                                                      help="Draw the bars.")] = None,
           fast: Annotated[bool, typer.Option("--fast", help="Time Afterburner with precision=fast as well.")] = False,
           policy: Annotated[str, typer.Option(metavar="NAME", help="Keras's dtype policy, for every side: float32, "
                                               "mixed_bfloat16 or mixed_float16.")] = "float32",
           list_: Annotated[bool, typer.Option("--list", help="Name the workloads, by group.")] = False) -> Action:
    from . import bench

    _settings(threads, device)
    if list_:
        return bench.show_list
    return bench.action(bench.Plan(tuple(workloads or ()), rounds, repeats, threads, fast, policy, device),
                        json, chart)


@app.command("doctor")
def _doctor(full: Annotated[bool, typer.Option("--full", help="Also run every operation on every device here: "
                                               "minutes.")] = False,
            json: Annotated[str, typer.Option(metavar="FILE|-", show_default=False,
                                              help="With --full: where the result goes [default: "
                                              "afterburner-doctor.json].")] = "") -> Action:
    """Check this installation: TensorFlow, Keras, the processor, the cache, and one small compiled step.

    Exit status 1 where something is wrong.
    """
    from . import doctor, full_check

    if json and not full:
        raise typer.BadParameter("--json needs --full")
    return (lambda: full_check.examine(json or full_check.FILE)) if full else doctor.examine


@app.command("install")
def _install(system: Annotated[bool, typer.Option("--system", help="Also where this Python is no virtual "
                                                  "environment.")] = False) -> Action:
    """Accelerate every program of this Python environment, without a wrapper.

    From then on `python train.py`, notebooks and the processes they start are accelerated when they import
    TensorFlow. AFTERBURNER_DISABLE=1 switches it off.
    """
    from .install import install

    return lambda: install(system)


@app.command("uninstall")
def _uninstall() -> Action:
    """Undo `afterburner install`."""
    from .install import uninstall

    return uninstall


cache_app = typer.Typer(rich_markup_mode=None, help="The folder of compiled objects: show, clear, limit.")
app.add_typer(cache_app, name="cache")


@cache_app.command("show")
def _cache_show() -> Action:
    """Where it is, how many objects it holds and how large it may grow."""
    from . import cache

    return cache.show


@cache_app.command("clear")
def _cache_clear() -> Action:
    """Remove all that is kept: compiled objects, measurements, reports of failures.

    Graphs are compiled anew when they are next met.
    """
    from . import cache

    return cache.clear


@cache_app.command("limit")
def _cache_limit(megabytes: Annotated[int, typer.Argument(min=0, metavar="MEGABYTES",
                                                          help="The size to keep.")]) -> Action:
    """Remove the least recently used objects until the cache is no larger than MEGABYTES."""
    from . import cache

    return lambda: cache.limit(megabytes)


_BISECT_HELP = """Name the pass or kernel that makes a graph go wrong.

FILE holds the text of a graph: the file that a fallback names, or 00.imported.txt from AFTERBURNER_DUMP. Every
pass and every kernel is compared with the interpreter on seeded inputs; what differs is printed with the smallest
graph that shows it.

\b
  afterburner bisect ~/.cache/afterburner/failures/step.run.txt
"""


@app.command("bisect", help=_BISECT_HELP)
def _bisect(file: Annotated[Path, typer.Argument(metavar="FILE", help="The text of a graph.")],
            seed: Annotated[int, typer.Option(min=0, help="Of the random inputs.")] = 0) -> Action:
    from .bisect import bisect

    return lambda: bisect(file, seed)

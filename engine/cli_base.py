"""What all commands share: the application, its options, exit codes, and how errors are told."""

import contextlib
import functools
import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Annotated, ParamSpec

import typer

import holdfast
from holdfast.formats.errors import HoldfastError, InternalError
from holdfast.workers.standing import Standing

P = ParamSpec("P")

EXIT_BROKEN_PROMISE = 1
EXIT_NOT_OURS = int(Standing.NOT_OURS)
EXIT_ERROR = 4
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141

app = typer.Typer(
    name="holdfast",
    help="An embedded, crash-proof storage engine: look at its files, and see it at work.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
DirectoryArgument = Annotated[str, typer.Argument(metavar="DIR", help="An engine's directory.")]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Name of a store in it.")]
PathArgument = Annotated[
    str, typer.Argument(metavar="PATH", help="A store's file or directory, or an artifact.")
]


def command(function: Callable[P, int]) -> Callable[P, int]:
    """A command that turns what goes wrong into one line and an exit code."""

    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> int:
        as_json = bool(kwargs.get("json_"))
        try:
            code = function(*args, **kwargs)
            sys.stdout.flush()
        except HoldfastError as error:
            if isinstance(error, InternalError):  # a defect, for which one line is not enough
                traceback.print_exception(error)
            return fail(type(error).__name__, str(error), error.wire_details(), as_json)
        except BrokenPipeError:
            _drop_output()
            return EXIT_BROKEN_PIPE
        except OSError as error:
            return fail(type(error).__name__, str(error), {"path": error.filename}, as_json)
        except KeyboardInterrupt:
            return EXIT_INTERRUPTED
        return code

    return app.command(name=function.__name__.rstrip("_"))(guarded)


def fail(kind: str, message: str, details: Mapping[str, object], as_json: bool) -> int:
    """Tell of an error, in one line or as JSON; returns its exit code."""
    with contextlib.suppress(BrokenPipeError):
        print(f"holdfast: {' '.join(message.split())}", file=sys.stderr)
    if as_json:
        error = {"type": kind, "message": message, "path": None, "offset": None, **details}
        with contextlib.suppress(OSError):
            print(json.dumps({"error": error}, default=str))
    try:
        sys.stdout.flush()
    except OSError:  # such as a full disk, which may be what failed in the first place
        _drop_output()
    return EXIT_ERROR


def _drop_output() -> None:
    """Have what is still buffered go nowhere, so that the interpreter's last flush is silent."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"holdfast {holdfast.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print it, exit."),
    ] = False,
) -> None:
    pass

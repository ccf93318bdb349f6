"""The command line: each command parses, calls one function, prints.

Nothing heavy is imported here: `edgefuse --help` answers before NumPy would have loaded. Commands stand in modules of
their own and import what they call when they run.
"""

from __future__ import annotations

import sys
import traceback

import typer

from edgefuse.cli import bench, build, crossval, data, demo, evaluate, explain, export, live, record, reproduce, train

EXIT_FAILURE = 1
EXIT_INTERRUPTED = 130

app = typer.Typer(
    name="edgefuse",
    help="Gated-fusion RGB-D classification: record, train, export, and decide live from colour and depth.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    epilog="Any command takes --debug for the traceback behind an error. Exit codes: 0 done, 1 failed, 2 wrong usage.",
)
app.command("record")(record.record)
app.command("train")(train.train)
app.command("evaluate")(evaluate.evaluate)
app.command("explain")(explain.explain)
app.command("crossval")(crossval.crossval)
app.command("reproduce")(reproduce.reproduce)
app.command("export")(export.export)
app.command("build")(build.build)
app.command("check-onnx")(export.check_onnx)
app.command("live")(live.live)
app.command("demo")(demo.demo)
app.add_typer(data.app, name="data")
app.add_typer(bench.app, name="bench")


@app.callback(invoke_without_command=True)
def _version(version: bool = typer.Option(False, "--version", help="Print the version and leave.")) -> None:
    if version:
        from edgefuse import __version__

        typer.echo(f"edgefuse {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line; errors become one message and an exit code."""
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    if debug:
        arguments.remove("--debug")
    try:
        app(args=arguments)
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        sys.exit(EXIT_INTERRUPTED)
    except Exception as error:
        if debug:
            traceback.print_exc()
        typer.echo(_message(error), err=True)
        sys.exit(EXIT_FAILURE)


def _message(error: Exception) -> str:
    from edgefuse.errors import UserError

    if isinstance(error, UserError | OSError):
        return f"error: {error}"
    return f"error: {type(error).__name__}: {error}\nThis is a fault in edgefuse; --debug shows where."

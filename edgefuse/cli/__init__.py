"""The command line: each command parses, calls one function, prints.

Nothing heavy is imported here: `edgefuse --help` answers before NumPy would have loaded. Commands stand in modules of
their own and import what they call when they run.
"""

from __future__ import annotations

import signal
import sys
import traceback

import typer

from edgefuse.cli import bench, build, crossval, data, demo, evaluate, explain, export, live, record, reproduce, train
from edgefuse.cli.ending import ended_by_signals, message_of
from edgefuse.io.text import prepare_streams, say

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
    prepare_streams()
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    if debug:
        arguments.remove("--debug")
    with ended_by_signals() as ending:
        try:
            app(args=arguments)
        except SystemExit as done:
            if done.code == EXIT_INTERRUPTED:
                say("interrupted" if ending.signal == signal.SIGINT else f"ended by {ending.signal.name}")
                sys.exit(128 + ending.signal)
            raise
        except Exception as error:
            if debug:
                traceback.print_exc()
            say(message_of(error))
            sys.exit(EXIT_FAILURE)

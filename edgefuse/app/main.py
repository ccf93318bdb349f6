"""The command line: a table of commands, each imported when it is called.

Each command is in the `commands` module of the package that implements it; this module only lists them.
"""

from __future__ import annotations

import importlib
import signal
import sys
import traceback
from dataclasses import dataclass

import typer

from edgefuse.app.old_options import with_present_names
from edgefuse.app.optional_values import with_default_values
from edgefuse.app.signals import ended_by_signals, message_of
from edgefuse.console.messages import messages_shown
from edgefuse.io.text import prepare_streams, say

EXIT_FAILURE = 1
EXIT_INTERRUPTED = 130


@dataclass(frozen=True)
class Entry:
    """One command: its name on the command line, and the module of its function.

    Attributes:
        name: "train", or "data check" for a command of a group.
        module: imported when the command is called or listed by --help.
        panel: heading in the list of commands.
        hidden: an old name that still works but is not listed.
    """

    name: str
    module: str
    function: str
    panel: str
    hidden: bool = False


GROUPS = {
    "data": "Data sets: render the built-in one, convert other layouts, check and browse any.",
    "bench": "Benchmarks: speed and energy, their comparison and report, a soak test of live, and accuracy.",
}
COMMANDS = (
    Entry("doctor", "edgefuse_runtime.doctor.commands", "doctor", "Inspect"),
    Entry("find-cameras", "edgefuse_runtime.cameras.commands", "find_cameras", "Inspect"),
    Entry("info", "edgefuse.app.info_command", "info", "Inspect"),
    Entry("record", "edgefuse_runtime.recording.commands", "record", "Data"),
    Entry("data synth", "edgefuse.synth.commands", "synth", "Data"),
    Entry("data convert", "edgefuse.data.commands", "convert", "Data"),
    Entry("data check", "edgefuse.data.commands", "check", "Data"),
    Entry("data browse", "edgefuse_runtime.browse.commands", "browse", "Data"),
    Entry("train", "edgefuse.training.commands", "train", "Train"),
    Entry("evaluate", "edgefuse.app.evaluate_command", "evaluate", "Train"),
    Entry("explain", "edgefuse.app.explain_command", "explain", "Train"),
    Entry("export", "edgefuse_export.onnx.commands", "export", "Deploy"),
    Entry("build", "edgefuse_export.tensorrt.commands", "build", "Deploy"),
    Entry("lint-onnx", "edgefuse_export.tensorrt.commands", "lint_onnx", "Deploy"),
    Entry("check-onnx", "edgefuse_export.tensorrt.commands", "lint_onnx", "Deploy", hidden=True),
    Entry("live", "edgefuse_runtime.live.commands", "live", "Live"),
    Entry("demo", "edgefuse.app.demo_command", "demo", "Live"),
    Entry("bench core", "edgefuse_benchmarks.commands", "core", "Measure"),
    Entry("bench engine", "edgefuse_benchmarks.commands", "engine", "Measure"),
    Entry("bench preprocess", "edgefuse_benchmarks.commands", "preprocess", "Measure"),
    Entry("bench live", "edgefuse_benchmarks.commands", "live", "Measure"),
    Entry("bench soak", "edgefuse_benchmarks.commands", "soak", "Measure"),
    Entry("bench train", "edgefuse_benchmarks.commands", "train", "Measure"),
    Entry("bench energy", "edgefuse_benchmarks.commands", "energy", "Measure"),
    Entry("bench peers", "edgefuse_benchmarks.peers.commands", "peers", "Measure"),
    Entry("bench adaptive", "edgefuse_benchmarks.adaptive.commands", "adaptive", "Measure"),
    Entry("bench outputs", "edgefuse_benchmarks.outputs_command", "outputs", "Measure"),
    Entry("bench all", "edgefuse_benchmarks.commands", "all_suites", "Measure"),
    Entry("bench compare", "edgefuse_benchmarks.reporting.commands", "compare", "Measure"),
    Entry("bench report", "edgefuse_benchmarks.reporting.commands", "report", "Measure"),
    Entry("bench learning", "edgefuse_benchmarks.commands", "learning", "Measure"),
    Entry("bench unknown", "edgefuse_benchmarks.commands", "unknown", "Measure"),
    Entry("bench people", "edgefuse_benchmarks.people.commands", "people", "Measure"),
    Entry("crossval", "edgefuse_benchmarks.paper.commands", "crossval", "Measure"),
    Entry("reproduce", "edgefuse_benchmarks.paper.reproduce_command", "reproduce", "Measure"),
)


def build_app(word: str | None = None) -> typer.Typer:
    """The command line as a Typer application.

    Args:
        word: first word of the command to import; None or an unknown word = import all.
    """
    app = typer.Typer(
        name="edgefuse",
        help="Gated-fusion RGB-D classification: record, train, export, and run live on colour and depth.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        epilog="Every command takes --debug, which prints the traceback of an error. Exit codes: 0 success, 1 failure, 2 wrong usage.",
    )
    app.callback(invoke_without_command=True)(_version)
    groups: dict[str, typer.Typer] = {}
    wanted = [entry for entry in COMMANDS if entry.name.split()[0] == word] or COMMANDS
    for entry in wanted:
        first, _, second = entry.name.partition(" ")
        function = getattr(importlib.import_module(entry.module), entry.function)
        if not second:
            app.command(first, rich_help_panel=entry.panel, hidden=entry.hidden)(function)
            continue
        if first not in groups:
            groups[first] = typer.Typer(help=GROUPS[first], no_args_is_help=True)
            groups[first].callback()(_group)
            app.add_typer(groups[first], name=first, rich_help_panel=entry.panel)
        groups[first].command(second, hidden=entry.hidden)(function)
    return app


def _version(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    if version:
        from edgefuse import __version__

        typer.echo(f"edgefuse {__version__}")
        raise typer.Exit


def _group() -> None: ...


def main() -> None:
    """Run the command line; an error becomes one message and an exit code."""
    prepare_streams()
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    if debug:
        arguments.remove("--debug")
    with messages_shown(), ended_by_signals() as ending:
        try:
            build_app(arguments[0] if arguments else None)(args=with_default_values(with_present_names(arguments)))
        except (SystemExit, KeyboardInterrupt) as done:
            if isinstance(done, KeyboardInterrupt) or done.code == EXIT_INTERRUPTED:
                say("interrupted" if ending.signal == signal.SIGINT else f"ended by {ending.signal.name}")
                sys.exit(128 + ending.signal)
            raise
        except Exception as error:
            if debug:
                traceback.print_exc()
            say(message_of(error))
            sys.exit(EXIT_FAILURE)

"""The options of `edgefuse live` that choose its outputs, and the sinks they stand for."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgefuse.errors import UserError

if TYPE_CHECKING:
    from edgefuse_runtime.sinks.sink import Sink

STANDARD_OUTPUT = Path("-")
PANEL = "Outputs"

Jsonl = Annotated[
    Path | None,
    typer.Option(
        rich_help_panel=PANEL,
        help="Append each result and event, and the summary, as a line of JSON to this file. - = standard output.",
    ),
]
JsonlMb = Annotated[
    int,
    typer.Option(
        min=1,
        max=1_000_000,
        rich_help_panel=PANEL,
        help="Rotate --jsonl (FILE becomes FILE.1) before it exceeds this size.",
    ),
]
JsonlKeep = Annotated[
    int, typer.Option(min=0, max=10_000, rich_help_panel=PANEL, help="Rotated files of --jsonl to keep.")
]
Stats = Annotated[
    bool,
    typer.Option(
        "--stats", rich_help_panel=PANEL, help="End with p50, p95, p99 and max of each stage and the frame age."
    ),
]
Trace = Annotated[
    Path | None,
    typer.Option(rich_help_panel=PANEL, help="Write the stages of each frame to this file, for ui.perfetto.dev."),
]
Metrics = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=PANEL,
        metavar="[HOST:]PORT",
        help="Serve Prometheus metrics at http://HOST:PORT/metrics. Default host: 127.0.0.1.",
    ),
]
Mqtt = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=PANEL, metavar="HOST[:PORT]/TOPIC", help="Publish each result as JSON to an MQTT broker."
    ),
]
Rerun = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=PANEL,
        metavar="FILE.rrd|URL",
        help="Record five frames a second for the Rerun viewer, or send them to one: rerun+http://HOST:9876/proxy.",
    ),
]
ForceOutputs = Annotated[
    bool,
    typer.Option(
        "--force", help="Begin with an empty --jsonl file, and replace an existing file of --trace or --rerun."
    ),
]


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """The values of these options."""

    jsonl: Path | None = None
    jsonl_mb: int = 256
    jsonl_keep: int = 8
    stats: bool = False
    trace: Path | None = None
    metrics: str | None = None
    mqtt: str | None = None
    rerun: str | None = None
    force: bool = False
    as_json: bool = False

    def sinks(self) -> list[Sink]:
        """The sinks, not yet opened."""
        return list(self._sinks())

    def _sinks(self) -> Iterator[Sink]:
        from edgefuse_runtime.sinks.json_lines import JsonlSink

        yield self._on_standard_output()
        if self.jsonl is not None and self.jsonl != STANDARD_OUTPUT:
            yield JsonlSink(self.jsonl, force=self.force, max_mb=self.jsonl_mb, num_kept=self.jsonl_keep)

        if self.trace is not None:
            from edgefuse_runtime.sinks.trace import TraceSink

            yield TraceSink(self.trace, force=self.force)
        if self.metrics is not None:
            from edgefuse_runtime.sinks.metrics import MetricsSink, parse_address

            yield MetricsSink(*parse_address(self.metrics))
        if self.mqtt is not None:
            from edgefuse_runtime.sinks.mqtt import MqttSink, parse_mqtt

            yield MqttSink(*parse_mqtt(self.mqtt))
        if self.rerun is not None:
            from edgefuse_runtime.sinks.rerun import RerunSink

            yield RerunSink(self.rerun, force=self.force)

    def _on_standard_output(self) -> Sink:
        from edgefuse_runtime.sinks.json_lines import JsonLinesOutput
        from edgefuse_runtime.sinks.lines import LinesSink, SummarySink
        from edgefuse_runtime.sinks.terminal import TableSink

        if self.jsonl == STANDARD_OUTPUT:
            if self.as_json:
                raise UserError("--json and --jsonl - both print on standard output: use one of them")
            return JsonLinesOutput(sys.stdout)
        if self.as_json:
            return SummarySink(sys.stdout)
        return TableSink(stats=self.stats) if sys.stdout.isatty() else LinesSink(sys.stdout, stats=self.stats)

"""The options of `edgefuse live` that choose its outputs, and the sinks they stand for."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgefuse.console.options import finite
from edgefuse.errors import UserError

if TYPE_CHECKING:
    from edgefuse.bundle import Bundle
    from edgefuse_runtime.collect.sink import CollectSink
    from edgefuse_runtime.sinks.sink import Sink

STANDARD_OUTPUT = Path("-")
PANEL = "Outputs"
DECISIONS = "Decisions"

MinConfidence = Annotated[
    float,
    typer.Option(
        min=0,
        max=1,
        callback=finite,
        rich_help_panel=DECISIONS,
        help="Answer unknown if the most likely class has a lower probability.",
    ),
]
Smooth = Annotated[
    float,
    typer.Option(
        min=1,
        max=1000,
        callback=finite,
        rich_help_panel=DECISIONS,
        metavar="FRAMES",
        help="Average the probabilities of a region over about this many frames; the average restarts for another object. 1 = off.",
    ),
]
Agree = Annotated[
    str,
    typer.Option(
        rich_help_panel=DECISIONS,
        metavar="N/M",
        help="An object is decided, and one event written, when at least N of its last M frames agree.",
    ),
]
EventsOnly = Annotated[
    bool,
    typer.Option(
        "--events-only",
        rich_help_panel=DECISIONS,
        help="Write events and the summary, but no result of each frame, to standard output, --jsonl and --mqtt.",
    ),
]

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
Web = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=PANEL,
        metavar="[[HOST:]PORT]",
        help="Serve a page for browsers with images, answers and timings. Default: 127.0.0.1:8080; other machines need a token in the "
        "environment variable EDGEFUSE_TOKEN.",
    ),
]
Record = Annotated[
    Path | None,
    typer.Option(
        rich_help_panel=PANEL,
        metavar="FILE.db3|FOLDER",
        help="Record the frames: as a RealSense recording, or as a sequence of a data set.",
    ),
]
RecordMb = Annotated[
    int,
    typer.Option(
        min=1, max=100_000_000, rich_help_panel=PANEL, help="Stop recording when the files of --record have this size."
    ),
]
Collect = Annotated[
    Path | None,
    typer.Option(
        rich_help_panel=PANEL,
        metavar="DIR",
        help="Keep frames that are worth labelling, such as uncertain ones and those that --web marks as wrong, in this data set.",
    ),
]
CollectMb = Annotated[
    int,
    typer.Option(
        min=1,
        max=100_000_000,
        rich_help_panel=PANEL,
        help="Size that --collect never exceeds: the oldest of the least valuable frames go first.",
    ),
]
CollectPerHour = Annotated[
    int,
    typer.Option(
        min=0,
        max=1_000_000,
        rich_help_panel=PANEL,
        help="Frames of each answer that --collect keeps in an hour. 0 = only those that --web marks as wrong.",
    ),
]
ForceOutputs = Annotated[
    bool,
    typer.Option("--force", help="Empty the --jsonl file first, and overwrite an existing file of --trace or --rerun."),
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
    events_only: bool = False
    record: Path | None = None
    record_mb: int = 4000
    collect: Path | None = None
    collect_mb: int = 2000
    collect_per_hour: int = 30
    web: str | None = None
    bundle: Bundle | None = None
    force: bool = False
    as_json: bool = False

    def sinks(self) -> list[Sink]:
        """The sinks, not yet opened.

        Raises:
            UserError: an option has a value of another form, or its output cannot be written.
        """
        for name in ("trace", "rerun", "record", "collect"):
            if str(getattr(self, name)) == str(STANDARD_OUTPUT):
                raise UserError(f"--{name} - : a name was expected; only --jsonl can write to standard output")
        return list(self._sinks())

    def _sinks(self) -> Iterator[Sink]:  # long: option by option
        from edgefuse_runtime.sinks.json_lines import JsonlSink

        yield self._on_standard_output()
        if self.jsonl is not None and self.jsonl != STANDARD_OUTPUT:
            yield self._filtered(
                JsonlSink(self.jsonl, force=self.force, max_mb=self.jsonl_mb, num_kept=self.jsonl_keep)
            )

        if self.trace is not None:
            from edgefuse_runtime.sinks.trace import TraceSink

            yield TraceSink(self.trace, force=self.force)
        collector = self._collector()
        if collector is not None:
            yield collector
        if self.metrics is not None or self.web is not None:
            from edgefuse_runtime.sinks.metrics import MetricsSink, parse_address

            metrics = MetricsSink(*(parse_address(self.metrics) if self.metrics is not None else ()))
            yield metrics
            if self.web is not None:
                from edgefuse_runtime.web.address import web_address
                from edgefuse_runtime.web.sink import WebSink

                title = "" if self.bundle is None else self.bundle.folder.resolve().name
                yield WebSink(web_address(self.web), title=title, metrics=metrics, collector=collector)
        if self.mqtt is not None:
            from edgefuse_runtime.sinks.mqtt import MqttSink, parse_mqtt

            yield self._filtered(MqttSink(*parse_mqtt(self.mqtt)))
        if self.rerun is not None:
            from edgefuse_runtime.sinks.rerun import RerunSink

            yield RerunSink(self.rerun, force=self.force)

        if self.record is not None:
            from edgefuse_runtime.sinks.recorder import RecorderSink

            yield RecorderSink(self.record, max_mb=self.record_mb)

    def _collector(self) -> CollectSink | None:
        if self.collect is None or self.bundle is None:
            return None
        from edgefuse_runtime.collect.sink import CollectSink

        return CollectSink(self.collect, self.bundle, max_mb=self.collect_mb, per_hour=self.collect_per_hour)

    def _filtered(self, sink: Sink) -> Sink:
        from edgefuse_runtime.sinks.events_only import EventsOnly

        return EventsOnly(sink) if self.events_only else sink

    def _on_standard_output(self) -> Sink:
        from edgefuse_runtime.sinks.json_lines import JsonLinesOutput
        from edgefuse_runtime.sinks.lines import LinesSink, SummarySink
        from edgefuse_runtime.sinks.terminal import TableSink

        if self.jsonl == STANDARD_OUTPUT:
            if self.as_json:
                raise UserError("--json and --jsonl - both print on standard output: use one of them")
            return self._filtered(JsonLinesOutput(sys.stdout))
        if self.as_json:
            return SummarySink(sys.stdout)
        if sys.stdout.isatty() and not self.events_only:
            return TableSink(stats=self.stats)
        return LinesSink(sys.stdout, stats=self.stats, events=self.events_only)

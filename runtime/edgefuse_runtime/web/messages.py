"""The messages between a device and a page, as frozen dataclasses; docs/web.md describes them for other clients.

A text message is one JSON object with `kind` and `schema`. A frame is binary: the length of its JSON as four bytes (little-endian), the
JSON, then the JPEG files of the colour and the depth image.
No message has a time that the page has to compare with its own clock: durations (`ago_s`, `for_s`) are measured by the device.
"""

from __future__ import annotations

import struct
from dataclasses import asdict, dataclass, field
from typing import Any

from edgefuse.errors import UserError
from edgefuse.io.json_files import check_fields, dumps, parse_json

SCHEMA = 1
"""Version of the messages. It increases when a field changes its meaning or is removed, not when one is added."""


@dataclass(frozen=True, kw_only=True)
class Region:
    """The answer for one region of a frame; the fields are those of `edgefuse_runtime.results.Result`.

    Attributes:
        id: the result's `index`, for `POST /wrong`.
        region: number of the region.
        object, decided: the object in it, and the answer decided for it; None before.
        contribution_rgb: what RGB contributes to the answer, 0 to 1; depth contributes the rest. None if it is not finite.
        sensors: "rgb" and "depth" -> "ok", "missing" or "frozen".
    """

    id: int
    region: int | None
    object: int | None
    decided: str | None
    roi: tuple[int, int, int, int]
    label: str | None
    probability: float | None
    top: tuple[tuple[str, float], ...]
    contribution_rgb: float | None
    nearest_m: float | None
    valid_depth: float | None
    sensors: dict[str, str]
    warning: str
    expected: str | None
    correct: bool | None


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A frame with its images, at most ten times a second. A viewer confirms each with `Ack`.

    Attributes:
        id: of its first result, unique in a run.
        frame: frame number of the colour stream.
        width, height: of the camera's images, the coordinates of `Region.roi`; the JPEG files may be smaller.
        rgb_bytes, depth_bytes: lengths of the JPEG files.
    """

    id: int
    frame: int
    name: str
    width: int
    height: int
    rgb_bytes: int
    depth_bytes: int
    latency_ms: float
    regions: tuple[Region, ...]
    kind: str = "frame"
    schema: int = SCHEMA


@dataclass(frozen=True, kw_only=True)
class Camera:
    """What the camera is doing.

    Attributes:
        state: "opening", "running", "degraded" (one sensor is missing), "reconnecting" (it was lost), "ended", "failed" or "closed".
        for_s: since when.
    """

    state: str
    reason: str
    attempt: int
    losses: int
    for_s: float


@dataclass(frozen=True, kw_only=True)
class Status:
    """Numbers about the run, twice a second.

    Attributes:
        since_result_s: time since the newest result; None before the first.
        results_per_s: over the last five seconds.
        window_s: the time that the percentiles and medians are of, at most 60.
        latency_ms, age_ms: p50, p95, p99 and max; None without values.
        stages_ms: stage -> median.
        contribution_rgb: what RGB contributed in each of the last 60 seconds, the oldest first; null without results.
        valid_depth: mean fraction of the region with a depth measurement.
        sensors_ok: "rgb" and "depth" -> fraction of the results in which the sensor was ok.
        dropped, stale: pairs that never arrived, and pairs with an old image, in this run.
        outputs: outputs that have trouble -> what.
    """

    camera: Camera
    since_result_s: float | None
    results_per_s: float
    results: int
    window_s: float
    latency_ms: dict[str, float] | None
    age_ms: dict[str, float] | None
    stages_ms: dict[str, float]
    contribution_rgb: tuple[float | None, ...]
    valid_depth: float | None
    sensors_ok: dict[str, float]
    dropped: int
    stale: int
    viewers: int
    outputs: dict[str, str]
    kind: str = "status"
    schema: int = SCHEMA


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened; see `edgefuse_runtime.results.Event`.

    Attributes:
        id: increases by one; of the thumbnail `/thumbnails/ID.jpg` as well, if there is one.
        time: the device's wall clock, in UTC, to be shown as it is.
        ago_s: how long ago, when the message was sent.
    """

    id: int
    event: str
    message: str
    time: str
    ago_s: float
    has_thumbnail: bool
    detail: dict[str, Any] = field(default_factory=dict)
    kind: str = "event"
    schema: int = SCHEMA


@dataclass(frozen=True, kw_only=True)
class Hello:
    """The first message.

    Attributes:
        run: identifies the run; a restarted service has another.
        version: of the page's files. A page with other files loads itself again.
        title: name of the bundle.
        labels: the model's classes.
        depth_range_m: the distances of the first and the last colour of the depth image.
        can_collect: whether `POST /wrong` keeps frames.
        events: the newest ones, the oldest first.
    """

    run: str
    version: str
    title: str
    labels: tuple[str, ...]
    engine: dict[str, Any]
    camera: dict[str, Any]
    region: dict[str, Any] | None
    depth_range_m: tuple[float, float]
    can_collect: bool
    events: tuple[Event, ...]
    kind: str = "hello"
    schema: int = SCHEMA


@dataclass(frozen=True, kw_only=True)
class Ended:
    """The run has ended; a service may begin another one."""

    reason: str
    failure: str | None
    results: int
    kind: str = "ended"
    schema: int = SCHEMA


@dataclass(frozen=True, kw_only=True)
class Ack:
    """From a viewer: the frame `id` was shown, send another one."""

    id: int


@dataclass(frozen=True, kw_only=True)
class View:
    """From a viewer: whether it wants frames. A viewer that has sent no such message does."""

    images: bool


@dataclass(frozen=True, kw_only=True)
class Wrong:
    """The body of `POST /wrong`: the true class of a region.

    Attributes:
        run: `Hello.run`.
        id: `Region.id`, or `Frame.id` for a frame without a region.
    """

    run: str
    id: int
    label: str


@dataclass(frozen=True, kw_only=True)
class Hold:
    """The body of `POST /hold`: a viewer looks at a frame for longer, and may say later what it is.

    Attributes:
        run: `Hello.run`.
        id: `Frame.id`.
    """

    run: str
    id: int


def text_of(message: Hello | Status | Event | Ended) -> str:
    """A text message."""
    return dumps(asdict(message))


def frame_bytes(frame: Frame, rgb_jpeg: bytes, depth_jpeg: bytes) -> bytes:
    """A binary message."""
    header = dumps(asdict(frame)).encode()
    return b"".join((struct.pack("<I", len(header)), header, rgb_jpeg, depth_jpeg))


def viewer_message(text: str) -> Ack | View:
    """What a viewer has sent.

    Raises:
        UserError: it is no such message.
    """
    value = parse_json(text, what="the message", spec={"kind": str})
    if value["kind"] == "ack":
        return Ack(id=_checked(value, {"id": int})["id"])
    if value["kind"] == "view":
        return View(images=_checked(value, {"images": bool})["images"])
    raise UserError(f"the message has the kind {value['kind']!r}: ack or view was expected")


MAX_LABEL_CHARACTERS = 100


def wrong_message(body: bytes) -> Wrong:
    """The body of `POST /wrong`.

    Raises:
        UserError: it is none.
    """
    value = parse_json(body, what="the request", spec={"run": str, "id": int, "label": str})
    label = value["label"].strip()
    if not 0 < len(label) <= MAX_LABEL_CHARACTERS or not label.isprintable():
        raise UserError(
            f"the class is {label[:MAX_LABEL_CHARACTERS]!r}: 1 to {MAX_LABEL_CHARACTERS} characters were expected"
        )
    return Wrong(run=value["run"], id=value["id"], label=label)


def hold_message(body: bytes) -> Hold:
    """The body of `POST /hold`.

    Raises:
        UserError: it is none.
    """
    value = parse_json(body, what="the request", spec={"run": str, "id": int})
    return Hold(run=value["run"], id=value["id"])


def _checked(value: dict[str, Any], spec: dict[str, Any]) -> dict[str, Any]:
    check_fields(value, spec, what="the message")
    return value

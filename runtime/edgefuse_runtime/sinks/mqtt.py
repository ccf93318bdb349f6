"""A sink that publishes results as JSON to an MQTT broker.

TOPIC            each result, QoS 0
TOPIC/event      each event, QoS 0
TOPIC/camera     the newest event about the camera, QoS 1, retained
TOPIC/summary    the summary, QoS 1, retained
TOPIC/state      "online" or "offline", QoS 1, retained; the broker sends "offline" if the connection is lost
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from types import TracebackType
from typing import TYPE_CHECKING, Any

from edgefuse.errors import UserError, require
from edgefuse.io.json_files import dumps
from edgefuse_runtime.results import Event, LiveSummary, Result
from edgefuse_runtime.sinks.sink import SinkInfo

if TYPE_CHECKING:
    from edgefuse_runtime.camera import Frame

PORT = 1883
TIMEOUT_S = 5.0
"""A broker that does not answer, or takes no message for so long, counts as gone."""
KEEPALIVE_S = 20
USER, PASSWORD = "EDGEFUSE_MQTT_USER", "EDGEFUSE_MQTT_PASSWORD"


class MqttSink:
    """Publishes to one topic. The login is read from the environment, so that no process list shows it."""

    def __init__(self, host: str, port: int, topic: str) -> None:
        """Choose the broker and the topic."""
        self.info = SinkInfo(name=f"mqtt {host}:{port}/{topic}", queue_size=64)
        self._host, self._port, self._topic = host, port, topic
        self._client: Any = None
        self._camera: Event | None = None

    def __enter__(self) -> MqttSink:
        mqtt = require("paho.mqtt.client", extra="mqtt")
        answered, answer = threading.Event(), []

        def on_connect(_client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
            answer.append(reason)
            answered.set()

        client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        client.on_connect = on_connect
        client.connect_timeout = TIMEOUT_S
        if USER in os.environ:
            client.username_pw_set(os.environ[USER], os.environ.get(PASSWORD))
        client.will_set(f"{self._topic}/state", "offline", qos=1, retain=True)
        client.connect(self._host, self._port, keepalive=KEEPALIVE_S)
        self._client = client
        client.loop_start()
        if not answered.wait(TIMEOUT_S):
            raise OSError(errno.ETIMEDOUT, "the broker does not answer")
        if answer[0].is_failure:
            raise OSError(errno.ECONNREFUSED, f"the broker refuses the connection: {answer[0]}")
        self._publish("state", "online", qos=1, retain=True)
        if self._camera is not None:  # a broker that was started again may have lost it
            self._publish("camera", dumps(self._camera.to_json()), qos=1, retain=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._client is None:
            return
        client, self._client = self._client, None
        if client.is_connected():
            message = client.publish(f"{self._topic}/state", "offline", qos=1, retain=True)
            # Lost since the check: the broker then publishes the will, which says the same.
            with contextlib.suppress(RuntimeError):
                message.wait_for_publish(TIMEOUT_S)
        client.disconnect()
        client.loop_stop()

    def result(self, result: Result, frame: Frame | None) -> None:
        self._publish("", dumps(result.to_json()))

    def event(self, event: Event) -> None:
        if event.event == "camera":
            self._camera = event
            self._publish("camera", dumps(event.to_json()), qos=1, retain=True)
        self._publish("event", dumps(event.to_json()))

    def summary(self, summary: LiveSummary) -> None:
        self._publish("summary", dumps(summary.to_json()), qos=1, retain=True)

    def _publish(self, part: str, payload: str, *, qos: int = 0, retain: bool = False) -> None:
        """Publish, and wait until the broker's connection has taken the message: paho's own queue has no bound."""
        topic = f"{self._topic}/{part}" if part else self._topic
        if not self._client.is_connected():
            raise OSError(errno.ENOTCONN, "the connection to the broker was lost")
        message = self._client.publish(topic, payload, qos=qos, retain=retain)
        try:
            message.wait_for_publish(TIMEOUT_S)
        except (
            RuntimeError
        ) as error:  # it was lost since the check; as an OSError, the bus keeps the result for the next connection
            raise OSError(errno.ENOTCONN, "the connection to the broker was lost") from error
        if not message.is_published():
            raise OSError(errno.ETIMEDOUT, "the broker takes no messages")


def parse_mqtt(text: str) -> tuple[str, int, str]:
    """HOST[:PORT]/TOPIC as host, port and topic.

    Raises:
        UserError: it has another form, or the topic has a wildcard.
    """
    address, slash, topic = text.partition("/")
    host, _, port = address.partition(":")
    number = int(port) if port.isdecimal() and port.isascii() else PORT if not port else 0
    if not (host and slash and topic.strip("/")) or not 0 < number < 65536 or set("+#\0") & set(topic):
        raise UserError(f"--mqtt is {text!r}: HOST[:PORT]/TOPIC was expected, such as localhost:1883/shelf/left")
    return host, number, topic

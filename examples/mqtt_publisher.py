"""Publish each live result as JSON: python examples/mqtt_publisher.py BUNDLE CAMERA HOST PORT TOPIC"""

import json
import sys

import paho.mqtt.client as mqtt

import edgefuse

bundle, camera, host, port, topic = sys.argv[1:]
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)  # with a login: client.username_pw_set(name, password)
client.connect(host, int(port))
client.loop_start()  # a thread that sends, and reconnects if the connection is lost
for result in edgefuse.live(bundle, camera=camera):
    client.publish(topic, json.dumps(result.to_json()))  # QoS 0: without a connection, results are dropped
client.disconnect()  # after the queued messages
client.loop_stop()

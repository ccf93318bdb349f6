"""Classify the images of a ROS 2 camera node: python examples/ros2_node.py BUNDLE

Untried: written from the documentation of ROS 2 Humble to Kilted and never run, because ROS 2 cannot be installed with pip.
It needs the ROS 2 packages cv_bridge, message_filters and vision_msgs, a bundle with align = color (the default), and a camera:

    ros2 launch realsense2_camera rs_launch.py align_depth.enable:=true
"""

import sys

import rclpy
from cv_bridge import CvBridge
from message_filters import ApproximateTimeSynchronizer, Subscriber
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image
from vision_msgs.msg import Classification, ObjectHypothesis

import edgefuse


def classify(color, depth):
    rgb = bridge.imgmsg_to_cv2(color, desired_encoding="rgb8")
    found = classifier(rgb, bridge.imgmsg_to_cv2(depth), depth_unit_m=0.001)  # 16UC1 is millimetres (REP 118)
    message = Classification(header=color.header)
    if found.label is None:  # a sensor is missing: published without results
        node.get_logger().warning(found.warning)
    else:
        message.results = [ObjectHypothesis(class_id=label, score=p) for label, p in found.probabilities.items()]
    publisher.publish(message)


rclpy.init()
node, bridge = rclpy.create_node("edgefuse"), CvBridge()
publisher = node.create_publisher(Classification, "classification", 10)
streams = [
    Subscriber(node, Image, f"/camera/camera/{name}/image_raw", qos_profile=qos_profile_sensor_data)
    for name in ("color", "aligned_depth_to_color")
]
pairs = ApproximateTimeSynchronizer(streams, queue_size=10, slop=0.02)  # seconds
pairs.registerCallback(classify)
with edgefuse.Classifier(sys.argv[1]) as classifier:
    rclpy.spin(node)  # calls `classify` in this thread, which opened the engine

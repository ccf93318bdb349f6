"""Classify one RGB-D pair from two image files: python examples/classify_images.py BUNDLE RGB.png DEPTH.png"""

import sys

import cv2

import edgefuse

bundle, rgb_path, depth_path = sys.argv[1:]
rgb = cv2.cvtColor(cv2.imread(rgb_path), cv2.COLOR_BGR2RGB)
depth = cv2.imread(depth_path, cv2.IMREAD_UNCHANGED)  # uint16, millimetres
with edgefuse.Classifier(bundle) as classifier:
    prediction = classifier(rgb, depth, depth_unit_m=0.001)
print(prediction.label, prediction.probability, prediction.warning)

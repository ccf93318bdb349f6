"""Inference on the device: from the frames of a RealSense camera or recording to the results of a bundle. Never imports PyTorch.

Importing it opens nothing: `with` opens cameras and engines, and imports their packages.
"""

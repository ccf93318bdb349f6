"""Labelled RGB-D frames on disk: the folder layout, splits by instance, augmentation, and a built-in rendered set.

Needs NumPy and OpenCV, never torch: the device records with it.
"""

"""Data sets of labelled RGB-D frames: folder layout, checks, splits by sequence, augmentation, and conversion.

Needs NumPy and OpenCV but not torch, because the device records with it.
"""

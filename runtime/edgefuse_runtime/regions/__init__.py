"""Regions of interest: given, from a file, or found in the depth image."""

"""Regions of interest: fixed, from a file, or found in the depth image."""

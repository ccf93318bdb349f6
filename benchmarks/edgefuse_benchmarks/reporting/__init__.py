"""Reads results back from their files: comparison of two, one HTML page of many, the table of README."""

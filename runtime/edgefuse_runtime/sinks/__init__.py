"""Outputs for results: text lines, a table on a terminal, JSON lines."""

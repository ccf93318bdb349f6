"""Adaptive computing: accuracy against mean latency."""

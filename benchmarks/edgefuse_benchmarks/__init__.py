"""Benchmarks of the fusion core, a bundle's engine and the live loop: measured in one way, kept as JSON with what they ran on."""

"""Benchmarks of the fusion core, engines and the live loop. Results are JSON files with hardware, versions and commit."""

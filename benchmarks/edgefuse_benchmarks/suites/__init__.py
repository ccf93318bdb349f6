"""The benchmarks: fusion core, engine, live loop, precision, learning."""

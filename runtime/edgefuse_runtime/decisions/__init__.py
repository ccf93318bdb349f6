"""Decisions over time: probabilities averaged over frames, and one event per object instead of a label per frame. NumPy only."""

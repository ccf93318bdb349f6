"""Keeps frames of a run that are worth labelling."""

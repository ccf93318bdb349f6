"""The live loop and the statistics of a run."""

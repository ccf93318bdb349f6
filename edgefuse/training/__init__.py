"""Training: recipes, batches, the loop, and the run folder."""

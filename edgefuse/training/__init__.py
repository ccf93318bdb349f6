"""Training: recipes, batches, the loop, and the run folder that it leaves."""

"""Cross-validation of model variants, and the tables of the paper."""

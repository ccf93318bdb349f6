"""Readers of other layouts, and the conversion to the folder layout."""

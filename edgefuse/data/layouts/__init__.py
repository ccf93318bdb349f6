"""Data sets in other layouts, read and converted to the folder layout."""

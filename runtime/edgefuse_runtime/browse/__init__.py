"""A data set in a browser, `edgefuse data browse`: its index, its changes with their journal, model answers for it, and its page."""

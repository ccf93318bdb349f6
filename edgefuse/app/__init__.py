"""Entry points: the command line, the public functions and the demo. Only these modules may import every other package."""

"""The front door: the command line, the public functions, the demo. The only modules that may import everything."""

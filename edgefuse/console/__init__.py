"""Shared parts of the commands: options, messages, progress bars, checks of option values."""

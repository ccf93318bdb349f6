"""Where results go: lines, a table on a terminal, JSON lines."""

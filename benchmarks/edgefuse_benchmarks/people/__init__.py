"""Protocols on data of several people: leave one person out, one person to another, sequences within a person."""

"""The pieces of every HTML page."""

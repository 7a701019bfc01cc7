"""How fast, measured side by side; see README.md."""

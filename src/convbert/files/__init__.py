"""A model folder on disk: found, checked before memory is taken, and written whole or not at all."""

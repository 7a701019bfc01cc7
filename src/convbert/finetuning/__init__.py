"""Labelled data to a model for a task, with an honest score."""

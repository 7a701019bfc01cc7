"""Checkpoints of other implementations, read as ours and written back.

`tensorflow` reads the original's files; `rename` turns their tensors and settings into ours, and back.
"""

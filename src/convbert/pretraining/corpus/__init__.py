"""Text in files and data sets -> chunks of documents -> token ids -> sequences -> shards on disk.

Nothing here imports torch or transformers, so that a worker process starts in a moment.
"""

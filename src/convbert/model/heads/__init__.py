"""One file per task: the head and its ConvBertFor... class together."""

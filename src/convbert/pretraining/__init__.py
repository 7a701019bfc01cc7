"""Pre-training: text files to a vocabulary, to packed sequences, to a trained model."""

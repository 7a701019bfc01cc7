"""A smaller model that answers as a larger one does: sentence vectors, or the logits of a fine-tuned model."""

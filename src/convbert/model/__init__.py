"""The model: a batch read and completed, the encoder, its frozen form, and the heads."""

"""What pre-training and fine-tuning share on top of transformers' Trainer; knows no task."""

"""Text in, noisy batches out."""

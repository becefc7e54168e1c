"""What models that the trainer makes are worth: tables beside those of papers, each of which one command repeats."""

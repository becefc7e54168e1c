"""The trainer: its steps, and what it does with text before them."""

"""The run itself: model, optimizer, steps, and what they leave behind."""

"""How good a model is: its bound on text, and the quality of its samples."""

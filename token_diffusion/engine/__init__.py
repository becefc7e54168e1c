"""Who shares a forward pass, and whose turn it is."""

"""Who computes the forward passes: torch, torch as it is loaded here, and other backends, beside the matrix products alone."""

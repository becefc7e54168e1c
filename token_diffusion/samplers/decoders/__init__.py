"""One file a decoder: what is asked of the network next, and what its answer changes."""

"""The network alone: its layers, types of weights, padding, memory, architectures."""

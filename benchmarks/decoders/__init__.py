"""The decoders: how good their samples are for the network evaluations that they take, and what they add to those."""

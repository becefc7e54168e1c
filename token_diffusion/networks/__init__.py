"""How any network is asked: for logits at some positions, on whatever device, in whatever precision."""

"""What the processor that a network runs on wants of it: threads, memory, the layout and the precision of weights."""

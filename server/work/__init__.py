"""What happens behind the endpoints: who waits, the one thread that owns the networks, and the way back."""

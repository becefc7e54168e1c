"""What a run tells people: curve, samples, model card."""

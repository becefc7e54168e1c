"""Simple English: what the demos write, beside text that was held out of what they have learnt."""

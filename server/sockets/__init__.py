"""The connections themselves: how many there may be, and how they are read."""

"""What a run writes, so that it is whole or not there, and reads again."""

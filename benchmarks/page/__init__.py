"""The player, looked at in a browser as its users have it."""

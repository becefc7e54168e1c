"""The commands of the shell, a file for each kind: its flags, and what it does."""

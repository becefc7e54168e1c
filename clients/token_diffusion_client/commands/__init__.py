"""The command line: each command is a file with `add`, its flags, and `run`, what it does."""

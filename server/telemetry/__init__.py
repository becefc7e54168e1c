"""What can be seen of a server while it runs: counts, lines, spans."""

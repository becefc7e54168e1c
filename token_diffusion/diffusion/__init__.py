"""What noise is, and what it costs: schedules, processes, the bound, the scheduler, the shaping of a distribution."""

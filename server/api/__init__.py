"""What a client sees: endpoints, wire models, events, admission."""

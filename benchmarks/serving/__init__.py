"""A server under load: clients of every kind, and what they are told how soon."""

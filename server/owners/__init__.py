"""Whose requests they are: addresses and holders of keys, and what these may ask for."""

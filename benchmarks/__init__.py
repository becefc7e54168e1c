"""Measurements, each with one command; nothing here is imported by the rest."""

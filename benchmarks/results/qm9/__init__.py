"""Molecules of QM9: what models write of them, and how it is judged."""

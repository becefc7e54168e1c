"""Samplers offline: against other people's loops, against their own forward passes, alone and among others."""

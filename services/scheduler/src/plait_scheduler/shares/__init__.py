"""Weights that operators give to keys: what is kept of them, and how they come into force."""

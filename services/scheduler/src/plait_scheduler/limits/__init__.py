"""Limits that operators set: what is kept of them, and how they come into force."""

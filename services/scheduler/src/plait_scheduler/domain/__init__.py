"""Decisions: pure functions of what was observed. No I/O, no clock, no randomness, no types of the
wire.
"""

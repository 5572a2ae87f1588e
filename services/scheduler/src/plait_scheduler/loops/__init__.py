"""Control loops of one shape: wait for something, decide with `domain`, command the broker, count
what was done.
"""

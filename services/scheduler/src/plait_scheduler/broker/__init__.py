"""The client's side of the broker: converts between the wire and `domain`, and retries connections.
No decisions.
"""

"""The scheduler: decides who gets how much, when and which version.

It observes the broker, decides with the pure functions of `domain`, and commands. It is never on
the hot path of a task: while it is away, the broker goes on with its last decisions.
"""

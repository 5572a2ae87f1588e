"""The share loop: puts the operator's weights in force again after a takeover, and ends those whose
time is over.
"""

from plait_scheduler.loops.limit import LimitLoop


class ShareLoop(LimitLoop):
    """The same turns, with the book of weights."""

    name = "share"

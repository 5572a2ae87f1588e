"""Times and durations of the wire; within the scheduler they are whole milliseconds."""

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp


def to_duration(milliseconds: int) -> Duration:
    """Not below zero."""
    return Duration(seconds=milliseconds // 1000, nanos=milliseconds % 1000 * 1_000_000)


def to_timestamp(milliseconds: int) -> Timestamp:
    """Since 1970."""
    return Timestamp(seconds=milliseconds // 1000, nanos=milliseconds % 1000 * 1_000_000)

"""Requests of the echo contract."""

from datetime import timedelta

from google.protobuf import duration_pb2

from testing.v1 import echo_pb2 as pb


def duration(seconds: float) -> duration_pb2.Duration:
    """A duration on the wire."""
    made = duration_pb2.Duration()
    made.FromTimedelta(timedelta(seconds=seconds))
    return made


def nap(seconds: float) -> pb.SleepRequest:
    """A sleep."""
    return pb.SleepRequest(duration=duration(seconds))


def entry(account: str, number: int) -> pb.AppendRequest:
    """An entry of an account; its id is unique to both."""
    return pb.AppendRequest(
        account=account, entry=pb.Entry(id=f"{account}/{number}", number=number)
    )

"""The epoch of the commands of a scheduler that leads."""

import grpc

from plait import errors

# As in control_service.proto.
METADATA_KEY = "plait-scheduler-epoch"


class Epoch:
    """Goes with every command, so that the broker can refuse those of a leader of before."""

    def __init__(self) -> None:
        # None: nothing is checked.
        self.number: int | None = None

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What a command carries."""
        return ((METADATA_KEY, str(self.number)),) if self.number is not None else ()


def deposed_by(error: grpc.aio.AioRpcError) -> int | None:
    """The epoch for which the broker refused a command; None: it failed for another reason."""
    if errors.reason(error) != errors.Reason.LEADERSHIP_LOST:
        return None
    return int(errors.metadata(error).get("epoch", "0"))

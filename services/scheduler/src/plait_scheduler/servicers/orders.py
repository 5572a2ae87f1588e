"""What all orders of operators say: for how long they hold, why, and who gives them."""

from plait.control.v1.limit_service_pb2 import SetLimitRequest
from plait.control.v1.share_service_pb2 import SetShareRequest

VALID_MS_MIN = 1_000
YEAR_MS = 365 * 24 * 3600 * 1000
REASON_MAX = 1_000
SET_BY_MAX = 200

Order = SetLimitRequest | SetShareRequest


def faults(order: Order) -> list[tuple[str, str]]:
    """What cannot hold: field and why."""
    found = []
    valid = order.HasField("valid_for")
    if valid and not VALID_MS_MIN <= order.valid_for.ToMilliseconds() <= YEAR_MS:
        found.append(("valid_for", "is not within 1 s to 365 days"))
    if len(order.reason) > REASON_MAX:
        found.append(("reason", f"is longer than {REASON_MAX} characters"))
    if not 1 <= len(order.set_by) <= SET_BY_MAX:
        found.append(("set_by", f"is not within 1 to {SET_BY_MAX} characters"))
    return found


def expire_ms(order: Order, now_ms: int) -> int:
    """When it ends by itself, in milliseconds since 1970; 0: it does not."""
    return now_ms + order.valid_for.ToMilliseconds() if order.HasField("valid_for") else 0

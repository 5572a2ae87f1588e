"""gRPC status codes and which of them a task is retried for."""

NAMES = (
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
)
OK = NAMES.index("OK")
INTERNAL = NAMES.index("INTERNAL")
UNAVAILABLE = NAMES.index("UNAVAILABLE")

# The task column of the shared table of status codes. The others are never retried: they are no
# failure, the caller's fault, or will be the same the next time.
RETRYABLE = frozenset(
    NAMES.index(name)
    for name in (
        "UNAVAILABLE",
        "RESOURCE_EXHAUSTED",
        "ABORTED",
        "DEADLINE_EXCEEDED",
        "INTERNAL",
        "UNKNOWN",
    )
)


def code_name(code: int) -> str:
    """The name of a code, or its number where it has none."""
    return NAMES[code] if 0 <= code < len(NAMES) else f"code {code}"

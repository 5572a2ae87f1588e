"""The channel to the broker."""

from collections.abc import Sequence

import grpc
from opentelemetry.instrumentation.grpc import aio_client_interceptors, filters

from plait_scheduler.broker.rpc_spans import RpcTracerProvider

# Every unary call of the scheduler ends by then.
CALL_SECONDS = 10.0
MESSAGE_BYTES_MAX = 16 * 1024 * 1024

_OPTIONS: Sequence[tuple[str, int]] = (
    # Exactly one layer retries, and that is broker/retry.py.
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # A stream over a dead connection would wait for ever.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    # An announced contract may be large.
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
)


def open_channel(address: str) -> grpc.aio.Channel:
    """Opens a channel, which connects when it is first used."""
    # Observe lives as long as the connection; a span of days tells nothing.
    spans = aio_client_interceptors(
        RpcTracerProvider(), filter_=filters.negate(filters.method_name("Observe"))
    )
    return grpc.aio.insecure_channel(address, options=_OPTIONS, interceptors=spans)

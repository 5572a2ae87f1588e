"""Where the broker is and how a channel to it is opened."""

import os
from typing import Final

import grpc

import plait

DEFAULT_ADDRESS: Final = "127.0.0.1:7420"
CLIENT: Final = f"plait-python/{plait.__version__}"

# Frames hold up to 1 MiB beside one payload of the broker's limit; the margin is generous because
# the broker checks.
_MESSAGE_BYTES_MAX: Final = 64 * 1024 * 1024

# docs/protocol.md §3: full jitter between 50 ms and 2 s before another stream is tried.
RECONNECT_MIN_S: Final = 0.05
RECONNECT_MAX_S: Final = 2.0

FRAME_TASKS_MAX: Final = 256
FRAME_BYTES_MAX: Final = 1024 * 1024

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", _MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", _MESSAGE_BYTES_MAX),
    # Exactly one layer retries, and it is not this one.
    ("grpc.enable_retries", 0),
    # A broker that was restarted is found again at once.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 3000),
    ("grpc.max_reconnect_backoff_ms", 2000),
    # A peer that vanished without a word is noticed on a stream that only waits.
    ("grpc.keepalive_time_ms", 15_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    # Room for large networks; loopback does not care.
    ("grpc.http2.lookahead_bytes", 1024 * 1024),
    # Channels with equal options share connections otherwise; a client is one connection of its
    # own.
    ("grpc.use_local_subchannel_pool", 1),
)


def address(given: str | None) -> str:
    """The broker's address: the one given, else PLAIT_ADDRESS, else 127.0.0.1:7420."""
    return given or os.environ.get("PLAIT_ADDRESS") or DEFAULT_ADDRESS


def open_channel(target: str) -> grpc.aio.Channel:
    """A channel to the broker. Must be called on the event loop that will use it."""
    return grpc.aio.insecure_channel(target, options=_OPTIONS)

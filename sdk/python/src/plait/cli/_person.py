"""Who is at the command line."""

import getpass
import socket


def myself() -> str:
    """ "user@host"; taken on trust."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        # No such user: a container, mostly.
        user = "unknown"
    return f"{user}@{socket.gethostname()}"

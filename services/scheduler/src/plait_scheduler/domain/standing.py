"""Where an announced contract stands among the versions of a service that are known."""

import enum
from collections.abc import Iterable


class Standing(enum.Enum):
    """What becomes of it, if nothing speaks against it."""

    # It is in force already.
    SAME = "same"
    # It is compared with the one in force, and takes its place.
    REPLACES = "replaces"
    # It was accepted before, and is served or submitted beside the one in force.
    BESIDE = "beside"
    # So is this, but it was not known.
    NEW_BESIDE = "new beside"


def standing(
    *,
    version: int | None,
    in_force: int | None,
    attached: Iterable[int],
    for_worker: bool,
    replace: bool,
) -> Standing:
    """`version` is its number if it is known, `in_force` the one in force if there is one, and
    `attached` are those that attached workers announced.

    A worker that serves an earlier version does not undo a later one that others serve; once none
    of those is left, it goes back to its own. What submitters announce replaces nothing.
    """
    if in_force is None or replace:
        return Standing.SAME if version is not None and version == in_force else Standing.REPLACES
    if version is None:
        return Standing.REPLACES if for_worker else Standing.NEW_BESIDE
    if version == in_force:
        return Standing.SAME
    if not for_worker or any(other > version for other in attached):
        return Standing.BESIDE
    return Standing.REPLACES

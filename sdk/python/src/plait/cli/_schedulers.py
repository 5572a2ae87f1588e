"""The commands of `plait scheduler`."""

import asyncio
import json
import time
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from plait.cli._api import Api
from plait.cli._command import Exit, Stop
from plait.cli._output import age
from plait.control.v1 import key_value_service_pb2 as pb
from plait.control.v1 import key_value_service_pb2_grpc as pb_grpc

# What schedulers agree by on who leads.
_LEADER_KEY = "scheduler/leader"
_LEASE_KEY = "scheduler/leader-lease"
_LOOK_S = 0.1


async def get_scheduler(api: Api) -> Exit:
    """The one that leads."""
    found = await _read(api)
    leader = found.get(_LEADER_KEY)
    said: dict[str, Any] = json.loads(leader.value) if leader else {}
    if leader is None or not said.get("scheduler"):
        raise Stop(Exit.NOT_FOUND, "no scheduler leads")
    alive = await _renews(api, found, said["lease_ms"] / 1000)
    since = Timestamp(seconds=said["since_ms"] // 1000)
    shown = {
        "scheduler": said["scheduler"],
        "address": said["address"],
        "epoch": leader.version,
        "since": since.ToJsonString(),
        "leaseMs": said["lease_ms"],
        "state": "LEADS" if alive else "SILENT",
    }
    lines = (
        ("scheduler", said["scheduler"]),
        ("address", said["address"]),
        ("epoch", str(leader.version)),
        ("since", f"{since.ToJsonString()} ({age(since)})"),
        ("state", "LEADS" if alive else f"SILENT for its lease of {said['lease_ms']} ms"),
    )
    api.output.data(shown, "\n".join(f"{name:<10} {value}" for name, value in lines))
    return Exit.OK


async def _read(api: Api) -> dict[str, pb.Entry]:
    space = pb_grpc.KeyValueServiceStub(api.channel)
    request = pb.ListEntriesRequest(prefix=_LEADER_KEY)
    answer = await space.ListEntries(request, timeout=api.timeout)
    return {each.key: each for each in answer.entries}


async def _renews(api: Api, before: dict[str, pb.Entry], seconds: float) -> bool:
    """Whether the lease is renewed while it lasts."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        await asyncio.sleep(_LOOK_S)
        if (await _read(api)).get(_LEASE_KEY) != before.get(_LEASE_KEY):
            return True
    return False

"""The scheduler, which writes down what the broker tells it: one line of JSON for all figures.

    recording_scheduler.py FILE [ARGUMENT...]

FILE gets {"at_ms": by the monotonic clock, "figures": plait.control.v1.Figures}; the arguments are
the scheduler's.
"""

import json
import sys
import time
from pathlib import Path

from google.protobuf import json_format

from plait.control.v1 import control_service_pb2 as pb
from plait_scheduler.broker import control
from plait_scheduler.broker.events import to_event
from plait_scheduler.domain.events import Event
from plait_scheduler.main import main


def record(path: Path) -> None:
    """From now on, until this process ends."""
    file = path.open("w", buffering=1)

    def noted(response: pb.ObserveResponse) -> Event | None:
        if response.WhichOneof("event") == "figures":
            figures = json_format.MessageToDict(response.figures)
            line = {"at_ms": int(time.monotonic() * 1000), "figures": figures}
            file.write(json.dumps(line, separators=(",", ":")) + "\n")
        return to_event(response)

    vars(control)["to_event"] = noted


if __name__ == "__main__":
    record(Path(sys.argv.pop(1)))
    sys.exit(main())

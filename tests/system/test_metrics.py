"""Metrics of real processes: what an operator sees of an outage and of what it did."""

import re
import sys
from pathlib import Path

from testing.v1 import echo_pb2 as pb
from tests.support.mesh import ROOT, Mesh
from tests.support.metrics import Metrics, scrape
from tests.support.waiting import eventually

ECHO = "/testing.v1.EchoService/Echo"
TASKS = 40
PATIENCE_S = 60.0
CLOSED, OPEN = 0, 2


def documented() -> set[str]:
    """Names in the tables of docs/metrics.md."""
    page = (ROOT / "docs/metrics.md").read_text()
    return set(re.findall(r"^\| `(plait_\w+)` \|", page, re.MULTILINE))


def used(path: str) -> set[str]:
    """Names in rules or a dashboard, without what a histogram adds to its own."""
    names = set(re.findall(r"\bplait_\w+", (ROOT / path).read_text()))
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in names}


def test_rules_and_dashboard_ask_for_what_there_is():
    for path in ("docs/metrics/alerts.yaml", "docs/metrics/grafana.json"):
        assert used(path)
        assert used(path) <= documented(), path


async def test_what_is_told_is_what_is_documented(tmp_path: Path):
    places = ("PLAIT_BROKER_METRICS_LISTEN", "PLAIT_SCHEDULER_METRICS_LISTEN")
    async with Mesh(tmp_path, env=dict.fromkeys(places, "127.0.0.1:0")) as mesh:
        assert mesh.broker is not None
        assert mesh.scheduler is not None
        processes = (mesh.broker, mesh.scheduler)
        told = [(await scrape(each.ready["metrics"])).families for each in processes]
    assert told[0] | told[1] == documented()


async def test_an_outage_is_seen_and_so_is_its_end(tmp_path: Path):
    outage = tmp_path / "away"
    outage.touch()
    arguments = ("--metrics-listen", "127.0.0.1:0")
    env = {"PLAIT_SCHEDULER_METRICS_LISTEN": "127.0.0.1:0"}
    async with Mesh(tmp_path, env=env, broker_args=arguments) as mesh:
        program = str(ROOT / "tests/support/outage_worker.py")
        await mesh.start("outage", [sys.executable, program, str(outage)])
        assert mesh.broker is not None
        assert mesh.scheduler is not None
        place = mesh.broker.ready["metrics"]

        async def broker() -> Metrics:
            return await scrape(place)

        def parked(found: Metrics) -> float:
            return found.total("plait_queue_depth", state="PARKED")

        def state(found: Metrics) -> float:
            return found.value("plait_breaker_state", method=ECHO)

        async with mesh.caller() as caller:
            requests = (pb.EchoRequest(payload=b"%d" % number) for number in range(TASKS))
            tasks = [task async for task in caller.plait.submit_many(caller.echo.Echo, requests)]
            # Those between attempts come to rest as their pauses end.
            # Between two openings probes go, after which all may rest while it is half open.
            found = await eventually(
                broker,
                lambda found: (parked(found), state(found)) == (TASKS, OPEN),
                PATIENCE_S,
            )
            assert found.total("plait_tasks_submitted_total", method=ECHO) == TASKS
            assert found.total("plait_tasks_total", method=ECHO) == 0
            assert found.total("plait_attempts_total", method=ECHO, code="UNAVAILABLE") >= 20
            assert max(age for _, age in found.samples["plait_oldest_age_seconds"]) > 0
            decided = await scrape(mesh.scheduler.ready["metrics"])
            assert decided.value("plait_scheduler_leads") == 1
            opened = {"loop": "breaker", "what": "open"}
            assert decided.value("plait_scheduler_decisions_total", **opened) >= 1
            assert decided.value("plait_scheduler_breaker_state", method=ECHO) > CLOSED
            outage.unlink()
            for task in tasks:
                await task.result()
            found = await eventually(broker, lambda found: state(found) == CLOSED, PATIENCE_S)
            assert found.total("plait_tasks_total", method=ECHO, state="SUCCEEDED") == TASKS
            assert found.total("plait_task_duration_seconds_count", method=ECHO) == TASKS
            assert parked(found) == 0

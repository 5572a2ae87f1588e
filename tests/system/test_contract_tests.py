"""`plait contract test` with workers in four languages: they agree, and an odd one is found."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import pytest_asyncio

from tests.support.mesh import ROOT, WORKER_LANGUAGES, Mesh

SERVICE = "testing.v1.EchoService"
SCALARS = "testing.v1.Scalars"
PATIENCE_S = 60.0
NAMES = {f"echo-{language}" for language in WORKER_LANGUAGES}

# What the languages' libraries do, whatever a handler does: protobuf-es takes a byte order mark
# from the front of a text, and prost keeps no unknown fields.
KNOWN = {
    (f"{SCALARS}.string_value = string byte order mark", "echo-typescript"),
    (f"{SCALARS}.choice_text = string byte order mark", "echo-typescript"),
    (f"{SCALARS}.texts = every string", "echo-typescript"),
    (f"{SCALARS}.counts = every string", "echo-typescript"),
    (f"{SCALARS} = unknown fields", "echo-rust"),
}


@dataclass(frozen=True)
class Said:
    """How the command ended, and what it said."""

    code: int
    stdout: str
    stderr: str

    def report(self, method: str) -> dict[str, Any]:
        """What it says of one method, as JSON."""
        (found,) = (
            each
            for each in json.loads(self.stdout)["methods"]
            if each["method"] == f"{SERVICE}/{method}"
        )
        return dict(found)

    def failures(self, method: str) -> set[tuple[str, str, str]]:
        """Kinds, cases and workers."""
        return {
            (each["kind"], each["case"], worker)
            for each in self.report(method)["failures"]
            for worker in each["workers"] or [""]
        }


async def contract_test(mesh: Mesh, *arguments: str) -> Said:
    """Runs `plait contract test`."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "plait.cli", "contract", "test", *arguments),
        *("--address", mesh.address),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(PATIENCE_S):
            stdout, stderr = await process.communicate()
    except TimeoutError:
        process.kill()
        raise
    assert process.returncode is not None
    return Said(process.returncode, stdout.decode(), stderr.decode())


def methods(*names: str) -> list[str]:
    """The flags that select methods of the echo service."""
    return [part for name in names for part in ("--method", f"{SERVICE}/{name}")]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def four(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    """A mesh with a worker in each language."""
    async with Mesh(tmp_path_factory.mktemp("four")) as running:
        async with asyncio.TaskGroup() as starting:
            for language in WORKER_LANGUAGES:
                starting.create_task(running.start_worker(language))
        yield running


@pytest.mark.timeout(120)
async def test_four_languages_agree_but_for_what_their_libraries_do(four: Mesh, tmp_path: Path):
    said = await contract_test(
        four,
        *methods("Echo", "Append", "Sleep", "Scalars"),
        *("--ignore", "length", "--deadline", "2", "--seed", "7", "--cases", "5", "--yes"),
        *("--json", "--junit", str(tmp_path / "junit.xml")),
    )
    assert said.code == 1, said.stderr
    assert f"declare no idempotence, and will run many times at {four.address}" in said.stderr
    assert f"{SERVICE}/Sleep" in said.stderr
    assert f"{SERVICE}/Append" not in said.stderr
    for method in ("Echo", "Append", "Sleep"):
        assert said.failures(method) == set()
        assert said.report(method)["notes"] == []
    named = {each for each in said.failures("Scalars") if "of seed 7" not in each[1]}
    assert named == {("DIFFERS", *each) for each in KNOWN}
    for method in ("Echo", "Append", "Sleep", "Scalars"):
        report = said.report(method)
        assert {each["name"] for each in report["workers"]} == NAMES
        assert {each["answered"] for each in report["workers"]} == {report["cases"]}
        assert {each["notCovered"] for each in report["workers"]} == {0}
    assert said.report("Scalars")["cases"] > 130

    suites = ElementTree.parse(tmp_path / "junit.xml").getroot()
    found = {each.get("name", ""): each for each in suites}
    scalars = found[f"{SERVICE}/Scalars"]
    assert scalars.get("tests") == str(said.report("Scalars")["cases"])
    failed = {each.get("name", "") for each in scalars if each.find("failure") is not None}
    assert {case for case, _ in KNOWN} <= failed
    assert found[f"{SERVICE}/Append"].get("failures") == "0"


@pytest.mark.timeout(120)
async def test_a_worker_that_is_different_is_found_and_named(four: Mesh):
    command = [sys.executable, str(ROOT / "tests/support/odd_worker.py")]
    odd = await four.start("odd", command)
    padded = f"{SCALARS}.string_value = string padded"
    endless = "testing.v1.SleepRequest.duration = Duration max"
    quick = "testing.v1.SleepRequest.duration = Duration 0"
    try:
        said = await contract_test(
            four,
            *methods("Echo", "Scalars", "Sleep"),
            *("--case", padded, "--case", endless, "--case", quick, "--deadline", "2"),
            *("--case", "testing.v1.EchoRequest = unset", "--json", "--yes"),
        )
    finally:
        await odd.kill()
    assert said.code == 1, said.stderr
    assert said.failures("Scalars") == {("DIFFERS", padded, "odd")}
    (trimmed,) = said.report("Scalars")["failures"]
    assert "values.string_value: '  a\\t\\r\\n' there, 'a' here" in trimmed["text"]
    assert said.failures("Echo") == {("DIFFERS", "testing.v1.EchoRequest = unset", "odd")}
    (refused,) = said.report("Echo")["failures"]
    assert "odd: FAILED_PRECONDITION: 'there is nothing to echo'" in refused["text"]
    assert said.failures("Sleep") == {("OVERRUN", endless, "odd")}


async def test_nothing_is_sent_before_it_is_said_that_the_mesh_is_for_tests(four: Mesh):
    said = await contract_test(four, *methods("Once"))
    assert said.code == 2
    assert four.address in said.stderr
    assert "--yes" in said.stderr


async def test_one_failure_is_repeated_by_the_command_that_it_prints(four: Mesh):
    case = f"{SCALARS} = unknown fields"
    said = await contract_test(four, *methods("Scalars"), "--case", case, "--yes")
    assert said.code == 1
    assert "DIFFERS by echo-rust" in said.stdout
    assert f"--method {SERVICE}/Scalars --case '{case}'" in said.stdout
    ignored = await contract_test(
        four, *methods("Scalars"), "--case", case, "--ignore", "?", "--yes"
    )
    assert ignored.code == 0, ignored.stdout
    # Where only one worker counts, there is nothing to differ from.
    alone = await contract_test(
        four, *methods("Scalars"), "--case", case, "--worker", "echo-rust", "--yes"
    )
    assert alone.code == 0, alone.stdout


async def test_a_method_that_nobody_serves_is_not_covered(fresh: Mesh, tmp_path: Path):
    contract = tmp_path / "lonely.proto"
    contract.write_text(
        'syntax = "proto3"; package lonely.v1; message Ping {} message Pong {}\n'
        "service LonelyService { rpc Ask(Ping) returns (Pong); }\n"
    )
    pushed = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "plait.cli", "contract", "push", str(contract)),
        *("-I", str(tmp_path), "--address", fresh.address),
        stdout=asyncio.subprocess.DEVNULL,
    )
    assert await pushed.wait() == 0
    said = await contract_test(fresh, "--service", "lonely.v1.LonelyService", "--yes")
    assert said.code == 1
    assert "NOT_COVERED" in said.stdout

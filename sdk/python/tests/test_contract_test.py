"""`plait contract test` on the command line, and the fixture `plait_contract`."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import grpc
import pytest
from sdk.python.tests.contracts import HERE, REPOSITORY, shop
from sdk.python.tests.shops import receipt, servicer
from sdk.python.tests.test_cli import plait, process

from plait.testing import ContractTest, Mesh

SOURCE = str(HERE / "protos/shop/v1/shop.proto")
INCLUDES = ("-I", str(HERE / "protos"), "-I", str(REPOSITORY / "proto"))
CHARGE = "shop.v1.OrderService/Charge"


async def charge(request: Any, context: Any) -> Any:
    return receipt(request)


async def trimming(request: Any, context: Any) -> Any:
    request.order_id = request.order_id.strip()
    return receipt(request)


def worker(name: str, handler: Any) -> tuple[Any, Any]:
    """A servicer with a name, and what adds it."""
    made = servicer(Charge=handler)
    type(made).__name__ = name
    return made, shop.add_OrderServiceServicer_to_server


def test_cases_are_listed_without_a_mesh():
    nobody = "127.0.0.1:1"
    listed = plait(*("contract", "test", "--list", SOURCE, *INCLUDES), address=nobody)
    assert listed.returncode == 0, listed.stderr
    assert f"{CHARGE}  shop.v1.ChargeRequest.amount = int64 max" in listed.stdout
    # One that streams cannot be a task.
    assert "FeedService" not in listed.stdout
    chosen = ("--method", CHARGE, "--seed", "3", "--cases", "2", "--json")
    again = plait(*("contract", "test", "--list", SOURCE, *INCLUDES, *chosen), address=nobody)
    cases = json.loads(again.stdout)["methods"][CHARGE]
    assert [each["name"] for each in cases[-2:]] == [
        "shop.v1.ChargeRequest = random 1 of seed 3",
        "shop.v1.ChargeRequest = random 2 of seed 3",
    ]
    assert max(each["bytes"] for each in cases) == 1 << 20


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--case", "nothing"), 'no case has the name "nothing"'),
        (("--method", "shop.v1.OrderService/Nothing"), "no contract declares"),
        (("--service", "shop.v1.Nothing"), "the files declare no"),
    ],
)
def test_what_is_not_there_is_said(flags, said):
    done = plait("contract", "test", "--list", SOURCE, *INCLUDES, *flags)
    assert done.returncode == 3
    assert said in done.stderr


def test_a_reader_that_goes_away_is_no_error():
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "plait.cli", "contract", "test", "--list", SOURCE, *INCLUDES],
            stdout=write,
            stderr=subprocess.PIPE,
            text=True,
            timeout=50,
            check=False,
        )
    finally:
        os.close(write)
    assert done.stderr == ""


def test_a_mesh_that_is_away_is_said():
    done = process("contract", "test", "--address", "127.0.0.1:1", "--yes", "--timeout", "5")
    assert done.returncode == 4
    assert "cannot reach Plait" in done.stderr


def test_workers_that_agree_pass(plait_mesh: Mesh):
    same = [worker("Same", charge), worker("Other", charge)]
    ContractTest(plait_mesh.address)("shop.v1.OrderService", methods=[CHARGE], serve=same, seed=1)


def test_a_worker_that_differs_is_named(plait_mesh: Mesh):
    told: dict[str, list[str]] = {}
    workers = [worker("Same", charge), worker("Other", charge), worker("Odd", trimming)]
    test = ContractTest(plait_mesh.address, lambda case, wrong: told.update({case: list(wrong)}))
    test("shop.v1.OrderService", methods=[CHARGE], serve=workers)
    wrong = {case: texts for case, texts in told.items() if texts}
    (case,) = wrong
    assert case == f"{CHARGE}: shop.v1.ChargeRequest.order_id = string padded"
    assert "DIFFERS by Odd" in wrong[case][0]
    assert len(told) > 15
    with pytest.raises(AssertionError, match="DIFFERS by Odd"):
        ContractTest(plait_mesh.address)(methods=[CHARGE], serve=workers)


def test_codes_of_errors_are_compared(plait_mesh: Mesh):
    async def precondition(request: Any, context: Any) -> Any:
        if request.amount < 0:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "it is negative")
        return receipt(request)

    async def range_(request: Any, context: Any) -> Any:
        if request.amount < 0:
            await context.abort(grpc.StatusCode.OUT_OF_RANGE, "it is negative")
        return receipt(request)

    workers = [worker("Same", precondition), worker("Other", precondition), worker("Odd", range_)]
    with pytest.raises(AssertionError) as failed:
        ContractTest(plait_mesh.address)(methods=[CHARGE], serve=workers)
    text = str(failed.value)
    assert text.count("DIFFERS by Odd") == 2
    assert "Odd: OUT_OF_RANGE: 'it is negative'" in text
    assert "FAILED_PRECONDITION: 'it is negative'" in text


def test_nothing_to_test_is_an_error(plait_mesh: Mesh):
    with pytest.raises(LookupError, match=r"no contract declares nobody\.v1\.NobodyService"):
        ContractTest(plait_mesh.address)("nobody.v1.NobodyService")


def test_the_fixture_reports_each_case(plait_mesh: Mesh, tmp_path: Path):
    (tmp_path / "test_inner.py").write_text(
        textwrap.dedent("""
            from sdk.python.tests.test_contract_test import CHARGE, charge, trimming, worker

            def test_inner(plait_contract):
                same = [worker("Same", charge), worker("Other", charge)]
                plait_contract(methods=[CHARGE], serve=[*same, worker("Odd", trimming)])
        """)
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(
        [*command, "--rootdir", str(tmp_path), "--plait-address", plait_mesh.address],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout.count("DIFFERS by Odd") >= 1
    assert "order_id = string padded" in done.stdout
    assert "subtests passed" in done.stdout

"""The command line: what it prints, where, and how it ends."""

import contextlib
import functools
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from sdk.python.tests.contracts import HERE, REPOSITORY

from plait._processes import Process
from plait.cli import cli
from plait.testing import Mesh


@dataclass(frozen=True)
class Result:
    """How a command ended, and what it said."""

    returncode: int
    stdout: str
    stderr: str


Run = Callable[..., Result]


def plait(
    *arguments: str, cwd: Path | None = None, address: str = "", stdin: str | None = None
) -> Result:
    """Runs a command, in this process: another one would take longer to start than to run."""
    with contextlib.chdir(cwd or Path.cwd()):
        done = CliRunner().invoke(
            cli, list(arguments), input=stdin, env={"PLAIT_ADDRESS": address or None}
        )
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return Result(done.exit_code, done.stdout, done.stderr)


def process(*arguments: str, **options: Any) -> "subprocess.CompletedProcess[str]":
    """Runs a command as a process."""
    command = [sys.executable, "-m", "plait.cli", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=50, check=False, **options
    )


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `plait init` and `plait gen` write."""
    folder = tmp_path_factory.mktemp("project")
    assert plait("init", cwd=folder).returncode == 0
    generated = plait("gen", cwd=folder)
    assert generated.returncode == 0, generated.stderr
    return folder


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    """One of its own, since queues are paused and tasks are listed."""
    with Mesh() as started:
        yield started


@pytest.fixture(scope="module")
def run(mesh: Mesh) -> Run:
    """Runs the command line against the mesh."""
    return functools.partial(plait, address=mesh.address)


@pytest.fixture(scope="module")
def greeter(project: Path, mesh: Mesh, run: Run) -> Iterator[str]:
    """The project's worker runs; the method it serves."""
    # Its contract first: then a call waits for the worker, however long that takes to start.
    pushed = run("contract", "push", "greeter.proto", cwd=project)
    assert pushed.returncode == 0, pushed.stderr
    worker = Process(
        "worker",
        [sys.executable, str(project / "worker.py")],
        project / "worker.log",
        {"PLAIT_ADDRESS": mesh.address},
    )
    yield "greeter.v1.GreeterService/Greet"
    assert worker.terminate(10) == 0


def test_help_imports_little():
    program = "import sys, plait.cli; assert not {'grpc', 'rich', 'google'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=50)
    shown = process("--help")
    assert shown.returncode == 0
    assert "Run a method as a durable task" in shown.stdout


def test_every_command_is_listed_with_its_help():
    shown = plait("--help").stdout
    for name in ("bench", "call", "contract", "dev", "gen", "init", "queue", "submit", "task"):
        assert plait(name, "--help").returncode == 0, name
        assert f"  {name} " in shown


def test_version():
    assert plait("--version").stdout.startswith("plait 0.")


def test_a_call_prints_its_result(run, greeter):
    done = run("call", greeter, '{"name": "you"}')
    assert (done.returncode, json.loads(done.stdout)) == (0, {"text": "Hello, you!"})
    assert done.stderr.startswith("task t")


def test_a_request_from_a_file_and_from_stdin(run, greeter, tmp_path):
    (tmp_path / "request.json").write_text('{"name": "file"}')
    from_file = run("call", greeter, f"@{tmp_path / 'request.json'}", "-o", "jsonl")
    assert from_file.stdout == '{"text": "Hello, file!"}\n'
    from_stdin = run("call", greeter, "-", stdin='{"name": "stdin"}')
    assert json.loads(from_stdin.stdout) == {"text": "Hello, stdin!"}
    assert run("call", greeter, "@/nothing/here").returncode == 2


def test_a_task_from_submission_to_its_end(run, greeter):
    task = run("submit", greeter, '{"name": "B"}', "--key", "k-1", "-H", "tenant: a").stdout.strip()
    watched = run("task", "watch", task)
    assert watched.returncode == 0
    assert watched.stdout.splitlines()[-1].startswith("SUCCEEDED")
    shown = run("task", "get", task).stdout
    for part in (task, "k-1", "tenant=a", '{"name": "B"}', '{"text": "Hello, B!"}', "COMPLETED"):
        assert part in shown
    as_json = json.loads(run("task", "get", task, "-o", "json").stdout)
    assert as_json["state"] == "TASK_STATE_SUCCEEDED"
    listed = run("task", "list", "--method", greeter, "--state", "succeeded", "-o", "jsonl").stdout
    assert task in [json.loads(line)["id"] for line in listed.splitlines()]
    table = run("task", "list", "--limit", "1")
    assert table.stdout.splitlines()[0].split() == [
        "ID",
        "STATE",
        "METHOD",
        "ATTEMPT",
        "AGE",
        "ERROR",
    ]
    assert len(table.stdout.splitlines()) == 2


def test_a_paused_queue_keeps_its_tasks(run, greeter):
    queue = "greeter.v1.GreeterService"
    paused = run("queue", "pause", queue, "--reason", "test")
    assert "(paused)" in paused.stdout
    waited = run("call", greeter, "{}", "--timeout", "2")
    assert waited.returncode == 5
    task = waited.stderr.split()[1]
    parked = run("task", "list", "--state", "PARKED", "-o", "json").stdout
    assert [each["id"] for each in json.loads(parked)["tasks"]] == [task]
    cancelled = run("task", "cancel", task, "--reason", "no longer")
    assert cancelled.stdout == f"{task} CANCELLED\n"
    assert run("task", "watch", task).returncode == 1
    assert "(paused)" not in run("queue", "resume", queue).stdout
    assert json.loads(run("queue", "get", queue, "-o", "json").stdout)["name"] == queue
    assert queue in run("queue", "list").stdout


def test_workers_and_contracts_are_listed(run, greeter):
    run("call", greeter, "{}")
    workers = json.loads(run("worker", "list", "--method", greeter, "-o", "json").stdout)
    assert len(workers["workers"]) == 1
    assert greeter in run("contract", "list").stdout


def test_what_cannot_be_run_again_is_not(run, greeter):
    task = run("submit", greeter, "{}").stdout.strip()
    run("task", "watch", task)
    assert run("task", "retry", task).returncode == 6
    assert run("task", "retry").returncode == 2
    counted = run("task", "retry", "--filter", 'state = "FAILED"', "--dry-run")
    assert (counted.returncode, counted.stdout) == (0, "0 would be run again\n")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["call", "nobody.v1.Service/Method"], 3, "no contract declares nobody.v1.Service"),
        (["call", "greeter.v1.GreeterService/Nope"], 3, "it has Greet"),
        (["call", "greeter.v1.GreeterService/Greet", '{"nme": 1}'], 2, "nme"),
        (["call", "greeter"], 2, "no method"),
        (["submit", "greeter.v1.GreeterService/Greet", "{}", "-H", "x"], 2, "no header"),
        (["task", "get", "t00000000ffffffff"], 3, "TASK_NOT_FOUND"),
        (["task", "list", "--filter", "state >"], 2, "filter"),
        (["queue", "get", "nobody"], 3, "QUEUE_NOT_FOUND"),
    ],
)
def test_exit_codes(run, greeter, arguments, code, said):
    done = run(*arguments)
    assert done.returncode == code
    assert said in done.stderr
    assert not done.stdout


def test_a_broker_that_is_not_there():
    done = process("task", "list", "--address", "127.0.0.1:1")
    assert done.returncode == 4
    assert "cannot reach Plait at 127.0.0.1:1" in done.stderr


def test_a_contract_with_a_wrong_policy_is_refused(run, tmp_path):
    text = (HERE / "protos/shop/v1/shop.proto").read_text()
    (tmp_path / "shop.proto").write_text(text.replace('"entry.id"', '"entry.nothing"'))
    refused = run("contract", "check", "shop.proto", cwd=tmp_path)
    assert refused.returncode == 6
    assert "entry.nothing" in refused.stderr
    assert "shop.v1" not in run("contract", "list").stdout


def test_a_contract_from_a_descriptor_set(run, tmp_path):
    compiled = tmp_path / "shop.binpb"
    command = [
        *(sys.executable, "-m", "grpc_tools.protoc", f"-I{HERE / 'protos'}"),
        *(f"-I{REPOSITORY / 'proto'}", f"-I{REPOSITORY / 'third_party'}"),
        *("--include_imports", f"--descriptor_set_out={compiled}", "shop/v1/shop.proto"),
    ]
    subprocess.run(command, check=True, timeout=50)
    checked = run(
        *("contract", "check", str(compiled), "--service", "shop.v1.OrderService", "-o", "json")
    )
    assert checked.returncode == 0, checked.stderr
    methods = json.loads(checked.stdout)["methods"]
    assert {each["method"] for each in methods} == {
        "/shop.v1.OrderService/Charge",
        "/shop.v1.OrderService/Post",
        "/shop.v1.OrderService/Settle",
    }
    assert run("contract", "check", str(compiled), "--service", "x.Y").returncode == 3


def _stock(folder: Path, fields: str, option: str = "") -> str:
    """A contract of one method, in a file that is written anew."""
    (folder / "stock.proto").write_text(
        'syntax = "proto3"; package stock.v1; import "plait/v1/options.proto";'
        f"message Item {{ {fields} }}"
        "service StockService { rpc Count(Item) returns (Item) {"
        f"option (plait.v1.task) = {{ {option} }}; }} }}"
    )
    return "stock.proto"


def test_a_contract_that_changes_is_checked_allowed_and_logged(run, tmp_path):
    contract = functools.partial(run, "contract", cwd=tmp_path)
    _stock(tmp_path, "string id = 1; int32 count = 2;")
    assert "stock.v1.StockService: new" in contract("check", "stock.proto").stdout
    assert contract("push", "stock.proto").returncode == 0
    assert "nothing changes" in contract("check", "stock.proto").stdout

    _stock(tmp_path, "string id = 1; string count = 2; int32 more = 3;", "priority: 1")
    checked = contract("check", "stock.proto")
    # The scheduler of the tests is one for development.
    assert (checked.returncode, checked.stderr) == (
        0,
        "development tolerates what would be refused\n",
    )
    assert checked.stdout.splitlines() == [
        "stock.v1.StockService",
        "  refused:",
        "    stock.v1.Item.count: field 2 was int32 and is string now (FIELD_TYPE_CHANGED)",
        "      to do: leave the field as it was and add another one under a new number",
        "  harmless:",
        "    stock.v1.StockService.Count: priority was 4 and is 1 now (POLICY_CHANGED)",
        "    stock.v1.Item.more: field 3 is new (FIELD_ADDED)",
    ]
    assert contract("push", "stock.proto", "--allow", " ").returncode == 2
    pushed = contract("push", "stock.proto", "--allow", "nobody counts yet")
    assert pushed.returncode == 0, pushed.stderr

    shown = contract("show", "stock.v1.StockService")
    for part in ("version 2", "allowed by ", "@", "nobody counts yet", "was int32 and is string"):
        assert part in shown.stdout
    as_json = json.loads(contract("show", "stock.v1.StockService", "-o", "json").stdout)
    assert as_json["decision"]["reason"] == "nobody counts yet"
    assert as_json["methods"][0]["method"] == "/stock.v1.StockService/Count"
    lines = contract("log", "stock.v1.StockService").stdout.splitlines()
    assert lines[0].split() == [
        "DECIDED",
        "VERSION",
        "WORKERS",
        "CONTRACT",
        "BROKE",
        "ALLOWED",
        "BY",
        "REASON",
    ]
    assert "nobody counts yet" in lines[1]
    assert len(lines) == 3
    assert contract("log", "stock.v1.Nothing").returncode == 3
    assert contract("show", "stock.v1.Nothing").returncode == 3


def test_a_check_needs_the_scheduler(tmp_path):
    _stock(tmp_path, "string id = 1;")
    with Mesh(scheduler=False) as alone:
        done = plait("contract", "check", "stock.proto", cwd=tmp_path, address=alone.address)
    assert (done.returncode, done.stderr) == (4, "no scheduler runs\n")


def test_files_that_do_not_compile(tmp_path):
    (tmp_path / "broken.proto").write_text("nonsense")
    done = process("gen", cwd=tmp_path)
    assert done.returncode == 2
    assert "broken.proto:1:1" in done.stderr


def test_init_touches_nothing_that_exists(project):
    before = (project / "worker.py").read_text()
    assert plait("init", cwd=project).returncode == 6
    assert (project / "worker.py").read_text() == before
    assert plait("init", "Bad Name", cwd=project).returncode == 2


def test_gen_writes_typed_code(project):
    assert {"greeter_pb2.py", "greeter_pb2_grpc.py", "greeter_pb2.pyi"} <= {
        path.name for path in project.iterdir()
    }


def test_the_first_project_is_small(project):
    assert len((project / "greeter.proto").read_text().splitlines()) <= 12


def test_dev_runs_everything_and_drains(project, tmp_path):
    dev = Process(
        "dev",
        [
            *(sys.executable, "-m", "plait.cli", "dev", "--listen", "127.0.0.1:0"),
            *("--data-dir", str(tmp_path), "--", sys.executable, str(project / "worker.py")),
        ],
        tmp_path / "dev.log",
    )
    address = dev.wait_ready(40)
    done = plait(
        *("call", "greeter.v1.GreeterService/Greet", '{"name": "dev"}', "--address", address),
        *("--timeout", "20"),
    )
    # The worker may still be on its way: then its contract is not known yet.
    while done.returncode == 3:
        done = plait("call", "greeter.v1.GreeterService/Greet", "{}", "--address", address)
    assert done.returncode == 0, done.stderr
    assert dev.terminate(40) == 0


def test_bench_measures(mesh):
    done = plait(
        *("bench", "--address", mesh.address, "--tasks", "500", "--calls", "5", "-o", "json")
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["language"] == "python"
    assert figures["synced"] is True
    assert figures["tasks_per_s"] > 0
    assert 0 < figures["p50_ms"] <= figures["p99_ms"]

"""The public names, their types, and how errors are read."""

import subprocess
import sys
from typing import TYPE_CHECKING

import grpc
import pytest
from google.rpc import error_details_pb2

import plait
from plait import _statuses, errors
from plait.v1 import errors_pb2, task_pb2, task_service_pb2, task_service_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from typing import assert_type

    async def responses_are_inferred(client: plait.Client) -> None:
        """Never run: mypy holds these types."""
        stub = task_service_pb2_grpc.TaskServiceStub(client.channel())
        request = task_service_pb2.GetTaskRequest(id="")
        task = await client.submit(stub.GetTask, request, key="k", delay=1.5)
        assert_type(task, plait.Task[task_service_pb2.GetTaskResponse])
        assert_type(await task.result(), task_service_pb2.GetTaskResponse)
        assert_type(await stub.GetTask(request, timeout=1), task_service_pb2.GetTaskResponse)
        assert_type(
            client.call_many(stub.GetTask, [request]),
            AsyncIterator[task_service_pb2.GetTaskResponse],
        )
        assert_type(
            client.submit_many(stub.GetTask, [request]),
            AsyncIterator[plait.Task[task_service_pb2.GetTaskResponse]],
        )
        await client.submit(stub.GetTask, task_pb2.Task())  # type: ignore[misc]  # is refused


def test_public_names_are_loaded_when_they_are_used():
    for name in plait.__all__:
        assert getattr(plait, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        plait.nothing  # noqa: B018  # reading it is the test


def test_importing_plait_imports_nothing_heavy():
    program = "import plait, sys; assert not {'grpc', 'google.protobuf'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=50)


def test_reasons_are_those_of_the_api():
    names = {name.removeprefix("ERROR_REASON_") for name, _ in errors_pb2.ErrorReason.items()}
    assert {each.value for each in errors.Reason} == names - {"UNSPECIFIED"}


def test_states_are_those_of_the_api():
    names = {name.removeprefix("TASK_STATE_") for name, _ in task_pb2.TaskState.items()}
    assert {each.value for each in plait.TaskState} == names - {"UNSPECIFIED"}
    final = {each for each in plait.TaskState if each.final}
    assert final == {"SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED"}


def test_errors_are_read():
    delay = error_details_pb2.RetryInfo()
    delay.retry_delay.FromMilliseconds(1500)
    error = errors.new(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        errors.Reason.QUEUE_FULL,
        "queue x is full",
        {"queue": "x"},
        delay,
    )
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert errors.reason(error) == "QUEUE_FULL"
    assert errors.metadata(error) == {"queue": "x"}
    assert errors.retry_after(error) == 1.5
    assert errors.detail(error, error_details_pb2.BadRequest) is None


@pytest.mark.parametrize(
    "error",
    [
        ValueError("boom"),
        grpc.RpcError(),
        _statuses.from_parts(5, "not found", b""),
        _statuses.from_parts(5, "not found", b"\xff\xff"),
    ],
)
def test_errors_of_others_have_no_reason(error):
    assert errors.reason(error) is None
    assert errors.metadata(error) == {}
    assert errors.retry_after(error) is None


def test_an_unknown_code_is_unknown():
    assert _statuses.from_parts(99, "?", b"").code() is grpc.StatusCode.UNKNOWN


async def test_options_nest():
    from plait import _options

    with plait.options(key="a", priority=1), plait.options(priority=2):
        said = _options.current.get()
        assert (said.key, said.priority) == ("a", 2)
    assert _options.current.get() is _options.NONE


async def test_a_client_must_be_open():
    client = plait.connect("127.0.0.1:1")
    with pytest.raises(RuntimeError, match="not open"):
        client.channel()
    opened = await client
    opened.channel()
    await opened.close()


def test_the_address(monkeypatch):
    monkeypatch.delenv("PLAIT_ADDRESS", raising=False)
    assert plait.connect().address == "127.0.0.1:7420"
    monkeypatch.setenv("PLAIT_ADDRESS", "127.0.0.1:9")
    assert plait.connect().address == "127.0.0.1:9"
    assert plait.connect("127.0.0.1:8").address == "127.0.0.1:8"

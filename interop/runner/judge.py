"""Whether what came is what a case expects."""

from collections.abc import Iterator
from typing import Any

from google.rpc import code_pb2

from interop.runner import messages
from plait.conformance.v1 import client_driver_pb2 as api
from plait.v1 import task_pb2

EXPECT_FIELDS = {
    "code", "message", "reason", "details", "trailers", "response", "same", "responses", "tasks",
    "task_of", "other_than", "states", "state", "took", "last",
}  # fmt: skip
STATE_PREFIX = "TASK_STATE_"


def differences(
    expected: dict[str, Any], answer: api.ClientResponse, method: str, request: bytes
) -> Iterator[str]:
    """What is not as expected of a driver's answer, a line each."""
    if unknown := expected.keys() - EXPECT_FIELDS:
        yield f"the case is wrong: what is {sorted(unknown)}?"
    code = code_pb2.Code.Name(answer.error.code)
    if code != (wanted := expected.get("code", "OK")):
        yield f"code is {code}, not {wanted}: {answer.error.message} {answer.reason}"
        return
    texts = (("message", answer.error.message), ("reason", answer.reason))
    for name, text in texts:
        if name in expected and text != expected[name]:
            yield f"{name} is {text!r}, not {expected[name]!r}"
    yield from _details(expected, answer)
    for key, text in expected.get("trailers", {}).items():
        if answer.trailers.get(key) != text:
            yield f"trailer {key} is {answer.trailers.get(key)!r}, not {text!r}"
    yield from _responses(expected, answer, method, request)
    if "tasks" in expected and len(answer.tasks) != expected["tasks"]:
        yield f"there are {len(answer.tasks)} tasks, not {expected['tasks']}"
    yield from _states(expected, [state_name(state) for state in answer.states])


def _details(expected: dict[str, Any], answer: api.ClientResponse) -> Iterator[str]:
    if "details" not in expected:
        return
    found = [messages.plain(detail) for detail in answer.error.details]
    if len(found) != len(expected["details"]):
        yield f"details are {found}, not {expected['details']}"
        return
    for index, (wanted, is_) in enumerate(zip(expected["details"], found, strict=True)):
        yield from within(wanted, is_, f"details[{index}]")


def _responses(
    expected: dict[str, Any], answer: api.ClientResponse, method: str, request: bytes
) -> Iterator[str]:
    if expected.get("same"):
        sent = messages.plain(messages.response(method, request))
        came = messages.plain(messages.response(method, answer.responses[0]))
        if repr(sent) != repr(came):
            yield f"what came back is not what was sent: {_short(came)}, not {_short(sent)}"
    if "response" in expected:
        came = messages.plain(messages.response(method, answer.responses[0]))
        yield from within(expected["response"], came, "response")
    if "last" in expected:
        came = messages.plain(messages.response(method, answer.responses[-1]))
        yield from within(expected["last"], came, "the last response")
    if "responses" in expected and len(answer.responses) != expected["responses"]:
        yield f"there are {len(answer.responses)} responses, not {expected['responses']}"


def _states(expected: dict[str, Any], states: list[str]) -> Iterator[str]:
    if "state" in expected and (not states or states[-1] not in one_or_more(expected["state"])):
        yield f"the state is {states[-1:]}, not {expected['state']}"
    if "states" in expected and (missing := in_order(expected["states"], states)):
        yield f"{missing} was not seen in its place: {states}"


def in_order(wanted: list[str], states: list[str]) -> str | None:
    """The first state that does not come after those before it; None: all do."""
    rest = iter(states)
    return next((state for state in wanted if state not in rest), None)


def state_name(state: "task_pb2.TaskState.ValueType") -> str:
    """As cases write it: "RUNNING"."""
    return task_pb2.TaskState.Name(state).removeprefix(STATE_PREFIX)


def one_or_more(value: Any) -> list[Any]:
    """A list of what may be a list."""
    return value if isinstance(value, list) else [value]


def within(wanted: Any, found: Any, where: str) -> Iterator[str]:
    """Where a value does not hold all that is wanted.

    A mapping may hold more. {$any: true} is anything that is there, {$begins: text} begins with it,
    {$least: n} and {$most: n} bound a number or seconds.
    """
    if isinstance(wanted, dict):
        if bounds := wanted.keys() & {"$any", "$begins", "$least", "$most"}:
            yield from _bounds(wanted, bounds, found, where)
            return
        for key, value in wanted.items():
            inner = found.get(key) if isinstance(found, dict) else None
            yield from within(value, inner, f"{where}.{key}")
    elif isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        for index, (value, inner) in enumerate(zip(wanted, found, strict=True)):
            yield from within(value, inner, f"{where}[{index}]")
    elif wanted in (0, "", False, None) and found is None:
        return  # JSON leaves defaults out
    elif repr(wanted) != repr(found) and str(wanted) != found:
        yield f"{where} is {_short(found)}, not {_short(wanted)}"


def _bounds(wanted: dict[str, Any], bounds: set[str], found: Any, where: str) -> Iterator[str]:
    if found is None:
        yield f"{where} is not there"
        return
    if not str(found).startswith(wanted.get("$begins", "")):
        yield f"{where} is {_short(found)}, and does not begin with {wanted['$begins']}"
    number = float(str(found).removesuffix("s")) if bounds & {"$least", "$most"} else 0.0
    if "$least" in wanted and number < wanted["$least"]:
        yield f"{where} is {found}, less than {wanted['$least']}"
    if "$most" in wanted and number > wanted["$most"]:
        yield f"{where} is {found}, more than {wanted['$most']}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 300 else f"{text[:300]}… ({len(text)} characters)"

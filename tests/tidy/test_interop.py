"""The conformance runner judges as it says, and its cases are sound."""

import pytest
import yaml
from google.rpc import code_pb2

from interop.runner import cases, judge, messages, report, steps, versions
from interop.runner.report import Known, Result
from plait.conformance.v1 import client_driver_pb2 as api
from testing.v1 import echo_pb2


def answer(**fields) -> api.ClientResponse:
    return api.ClientResponse(**fields)


def test_there_are_cases_enough_and_each_request_is_one() -> None:
    found = cases.load()
    assert len(found) >= 150
    for case in found:
        for step in case.steps:
            assert not step.keys() - steps.STEP_FIELDS, case.id
            method = next((step[kind] for kind in ("call", "submit") if kind in step), None)
            if method and "raw" not in step:
                messages.request(method, step.get("request", {}))
            if not step.keys() & {"task", "children"}:  # what those expect are a task's fields
                assert not step.get("expect", {}).keys() - judge.EXPECT_FIELDS, case.id


def test_each_makes_a_case_of_every_combination(tmp_path) -> None:
    entry = {"name": "{a}-{b}", "each": {"a": [1, 2], "b": ["x"]}, "steps": [{"v": "{a}"}]}
    (tmp_path / "s.yaml").write_text(yaml.safe_dump([entry]))
    found = cases.load(tmp_path)
    assert [case.id for case in found] == ["s/1-x", "s/2-x"]
    assert found[1].steps == ({"v": 2},), "a value that stands alone keeps its type"


@pytest.mark.parametrize("fault", [{"what": 1}, {"name": "same"}])
def test_a_case_that_is_not_one_is_refused(tmp_path, fault) -> None:
    entries = [{"name": "same", "steps": []}, {"name": "other", "steps": [], **fault}]
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(entries))
    with pytest.raises(cases.CaseError):
        cases.load(tmp_path)


@pytest.mark.parametrize(
    ("expected", "same"),
    [
        ({"code": "NOT_FOUND"}, True),
        ({"code": "NOT_FOUND", "message": "gone"}, True),
        ({"code": "NOT_FOUND", "message": "other"}, False),
        ({"code": "NOT_FOUND", "reason": "TASK_NOT_FOUND"}, False),
        ({"code": "NOT_FOUND", "trailers": {"x-a": "1"}}, True),
        ({"code": "NOT_FOUND", "trailers": {"x-a": "2"}}, False),
        ({"code": "NOT_FOUND", "details": []}, True),
        ({"code": "NOT_FOUND", "details": [{}]}, False),
        ({"code": "NOT_FOUND", "unknown": 1}, False),
        ({"code": "ABORTED"}, False),
        ({}, False),
    ],
)
def test_an_error_is_judged(expected, same) -> None:
    got = answer(trailers={"x-a": "1"})
    got.error.code, got.error.message = code_pb2.NOT_FOUND, "gone"
    assert (not list(judge.differences(expected, got, "Echo", b""))) is same


def test_what_comes_back_is_compared_with_what_was_sent() -> None:
    sent = echo_pb2.EchoRequest(payload=b"a").SerializeToString()
    other = echo_pb2.EchoResponse(payload=b"b").SerializeToString()
    assert not list(judge.differences({"same": True}, answer(responses=[sent]), "Echo", sent))
    assert list(judge.differences({"same": True}, answer(responses=[other]), "Echo", sent))


@pytest.mark.parametrize(
    ("wanted", "found", "same"),
    [
        ({"a": 1}, {"a": 1, "b": 2}, True),
        ({"a": 1}, {"b": 2}, False),
        ({"a": 0}, {}, True),
        ({"a": 5}, {"a": "5"}, True),
        (-0.0, 0.0, False),
        ({"$any": True}, None, False),
        ({"$begins": "00-"}, "00-a", True),
        ({"$begins": "00-"}, "01-a", False),
        ({"$least": 2, "$most": 3}, "2.5s", True),
        ({"$least": 2}, 1, False),
        ({"$most": 2}, 3, False),
        ([1, 2], [1], False),
    ],
)
def test_values_are_compared(wanted, found, same) -> None:
    assert (not list(judge.within(wanted, found, "it"))) is same


def test_states_come_in_their_order() -> None:
    seen = ["READY", "RUNNING", "BACKOFF", "SUCCEEDED"]
    assert judge.in_order(["RUNNING", "SUCCEEDED"], seen) is None
    assert judge.in_order(["SUCCEEDED", "RUNNING"], seen) == "RUNNING"


def test_an_expected_failure_that_passes_is_told() -> None:
    results = [
        Result("go", "rust", "a/one", "wrong", 0.1),
        Result("go", "rust", "a/two", None, 0.1),
        Result("go", "go", "a/three", "wrong", 0.1),
    ]
    known = [Known("a/one", "why", worker="rust"), Known("a/two", "why"), Known("b/other", "why")]
    verdict = report.judge(results, known)
    assert [result.case for result in verdict.unexpected] == ["a/three"]
    assert verdict.passed_all_the_same == [known[1]]
    assert not verdict.ok
    assert report.judge(results[:1], known[:1]).ok
    assert "| go | 1/2 | 0/1 |" in report.matrix(verdict)


def test_old_and_new_builds_have_a_matrix_of_their_own() -> None:
    results = [
        Result("go", "rust", "versions/old_client_and_old_worker", None, 0.1),
        Result("go", "rust", "versions/new_client_and_new_worker", "wrong", 0.1),
        Result("go", "python", "values/some", "wrong", 0.1),
    ]
    lines = report.version_matrix(report.judge(results, [])).splitlines()
    assert lines[0] == "| client \\ worker | rust |"
    assert lines[2] == "| go, old | by old and new |"
    assert lines[3] == "| go, new | **new_client_and_new_worker** |"


def test_what_an_old_client_does_not_know_is_another_field_of_the_same_message() -> None:
    plain = echo_pb2.ScalarsRequest.FromString(versions.PLAIN)
    noted = echo_pb2.ScalarsRequest.FromString(versions.NOTED)
    assert noted != plain
    noted.values.DiscardUnknownFields()
    assert noted == plain

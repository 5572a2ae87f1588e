"""What options come to, and every way in which they can be wrong."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait_scheduler.domain.codes import NAMES, RETRYABLE
from plait_scheduler.domain.contract import (
    Contract,
    FieldShape,
    Kind,
    MessageShape,
    MethodShape,
    PolicyOption,
    ServiceShape,
    Span,
)
from plait_scheduler.domain.policy import KeyKind, KeyPath, Latency, MethodPolicy, RateLimit
from plait_scheduler.domain.policy_compiler import Compiled, compile_contract
from plait_scheduler.domain.schedule import Missed, Overlap, Schedule
from plait_scheduler.domain.units import DAY_MS, HOUR_MS
from services.scheduler.tests.contracts import FILE, SERVICE, orders, source

SUBJECT = f"{SERVICE}.Place"


def compiled(task: str = "", defaults: str = "") -> MethodPolicy:
    result = compile_contract(orders(task, defaults))
    assert result.violations == ()
    (policy,) = result.policies
    return policy


def refused(task: str = "", defaults: str = "") -> dict[str, str]:
    """Descriptions by field, of a contract that must be refused."""
    result = compile_contract(orders(task, defaults))
    assert result.policies == ()
    assert {violation.file for violation in result.violations} == {FILE}
    assert {violation.subject for violation in result.violations} <= {SUBJECT, SERVICE}
    return {violation.field: violation.description for violation in result.violations}


def test_what_nobody_sets_is_the_documented_default():
    policy = compiled()
    assert policy.method == "/shop.v1.Orders/Place"
    assert policy.queue == SERVICE
    assert policy.deadline_ms == 24 * HOUR_MS
    assert policy.attempt_timeout_ms == 60_000
    assert policy.retry.max_attempts == 20
    assert policy.retry.initial_backoff_ms == 200
    assert policy.retry.max_backoff_ms == 60_000
    assert policy.retry.multiplier_permille == 2000
    assert policy.retry.codes == RETRYABLE
    assert policy.idempotency_key is None
    assert policy.idempotency_window_ms == policy.retention_ms == 24 * HOUR_MS
    assert policy.ordering_key is None
    assert policy.priority == 4
    assert policy.latency is Latency.STANDARD
    assert not policy.at_most_once
    assert policy.dead_letter_retention_ms == 0
    assert policy.rate_limit is None
    assert (policy.concurrency_limit, policy.concurrency_per_key) == (0, 0)
    assert policy.breaker is not None
    assert policy.breaker.min_calls == 20
    assert policy.cache_ttl_ms == 0


def test_the_retryable_codes_are_the_task_column_of_the_shared_table():
    file = Path(__file__).parents[3] / "interop/vectors/error_codes.json"
    codes = json.loads(file.read_text())["codes"]
    assert [each["code"] for each in codes] == list(NAMES)
    assert {each["number"] for each in codes if each["task_retried"]} == RETRYABLE


def test_a_method_wins_over_its_service_field_by_field():
    policy = compiled(
        task="retry {max_attempts: 3} priority: 0",
        defaults='queue: "Q" priority: 9 retry {max_attempts: 7 initial_backoff {seconds: 2}}',
    )
    assert policy.queue == "Q"
    assert policy.priority == 0
    assert policy.retry.max_attempts == 3
    assert policy.retry.initial_backoff_ms == 2000


@pytest.mark.parametrize("latency", Latency)
def test_a_latency_class_is_taken_by_its_name(latency: Latency):
    assert compiled(f"latency_class: LATENCY_CLASS_{latency.name}").latency is latency
    assert compiled("", f"latency_class: LATENCY_CLASS_{latency.name}").latency is latency


def test_a_fairness_key_is_the_limit_key():
    policy = compiled('fairness_key: "id"')
    assert policy.fair_by_key
    assert policy.limit_key == KeyPath("id", (1,), KeyKind.STRING)
    assert policy.concurrency_per_key == 0
    limited = compiled('fairness_key: "id" concurrency {key: "id" per_key_limit: 2}')
    assert (limited.fair_by_key, limited.limit_key) == (True, policy.limit_key)


def test_a_method_turns_defaults_off():
    policy = compiled(
        task='ordering_key: "" dead_letter {enabled: false} concurrency {limit: 0}',
        defaults='ordering_key: "nowhere" dead_letter {enabled: true} concurrency {limit: 5}',
    )
    assert policy.ordering_key is None
    assert policy.dead_letter_retention_ms == 0
    assert policy.concurrency_limit == 0


def test_a_duration_is_one_value():
    policy = compiled(
        task="deadline {seconds: 90}", defaults="deadline {seconds: 70 nanos: 500000000}"
    )
    assert policy.deadline_ms == 90_000


def test_the_attempt_timeout_follows_a_short_deadline():
    assert compiled("deadline {seconds: 5}").attempt_timeout_ms == 5_000


def test_the_idempotency_window_follows_the_retention():
    assert compiled("retention {seconds: 60}").idempotency_window_ms == 60_000


def test_dead_letters_are_kept_as_long_as_results_at_least():
    assert compiled("dead_letter {enabled: true}").dead_letter_retention_ms == 30 * DAY_MS
    policy = compiled("dead_letter {enabled: true} retention {seconds: 5184000}")
    assert policy.dead_letter_retention_ms == 60 * DAY_MS


def test_at_most_once_starts_once():
    policy = compiled("delivery: DELIVERY_AT_MOST_ONCE")
    assert policy.at_most_once
    assert policy.retry.max_attempts == 1


def test_rate_limits_have_defaults():
    assert compiled("rate_limit {limit: 50}").rate_limit == RateLimit(50, 1000, 50, by_key=False)
    policy = compiled('rate_limit {limit: 5 period {seconds: 60} burst: 9 key: "id"}')
    assert policy.rate_limit == RateLimit(5, 60_000, 9, by_key=True)
    assert policy.limit_key == KeyPath("id", (1,), KeyKind.STRING)


def test_a_multiplier_is_kept_to_three_decimals():
    assert compiled("retry {multiplier: 1.23456}").retry.multiplier_permille == 1235


def test_codes_are_taken_out_and_put_back():
    policy = compiled(
        task="retry {retryable_codes: INTERNAL}",
        defaults="retry {non_retryable_codes: INTERNAL non_retryable_codes: ABORTED}",
    )
    assert policy.retry.codes == RETRYABLE - {NAMES.index("ABORTED")}
    policy = compiled(
        task="retry {non_retryable_codes: UNKNOWN}",
        defaults="retry {retryable_codes: UNKNOWN}",
    )
    assert policy.retry.codes == RETRYABLE - {NAMES.index("UNKNOWN")}


@pytest.mark.parametrize(
    ("path", "numbers", "kind"),
    [
        ("id", (1,), KeyKind.STRING),
        ("number", (2,), KeyKind.INT),
        ("item.sku", (3, 1), KeyKind.STRING),
        ("item.digest", (3, 2), KeyKind.BYTES),
        ("parent.parent.id", (16, 16, 1), KeyKind.STRING),
        ("urgent", (7,), KeyKind.BOOL),
        ("level", (8,), KeyKind.INT),
        ("name", (9,), KeyKind.STRING),
        ("code", (10,), KeyKind.FIXED64),
        ("shift", (11,), KeyKind.SINT),
        ("count", (12,), KeyKind.UINT),
        ("f32", (13,), KeyKind.FIXED32),
        ("sf32", (14,), KeyKind.SFIXED32),
        ("sf64", (15,), KeyKind.SFIXED64),
    ],
)
def test_key_paths_become_field_numbers(path: str, numbers: tuple[int, ...], kind: KeyKind):
    assert compiled(f'idempotency_key: "{path}"').idempotency_key == KeyPath(path, numbers, kind)
    assert compiled(f'ordering_key: "{path}"').ordering_key == KeyPath(path, numbers, kind)


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("order_id", 'shop.v1.Order has no field "order_id"'),
        ("nubmer", 'did you mean "number"?'),
        ("item.skus", 'did you mean "sku"?'),
        ("items.sku", "shop.v1.Order.items is repeated"),
        ("item.tags", "shop.v1.Item.tags is repeated"),
        ("by_name.value", "shop.v1.Order.by_name is a map"),
        ("weight", "shop.v1.Order.weight is a double"),
        ("item", "shop.v1.Order.item is a message"),
        ("id.sku", "shop.v1.Order.id is a string, no message to go into"),
        ("item..sku", "has an empty element"),
        (".id", "has an empty element"),
        ("id.", "has an empty element"),
        (".".join(["parent"] * 16 + ["id"]), "at most 16"),
    ],
)
@pytest.mark.parametrize("field", ["idempotency_key", "ordering_key"])
def test_paths_that_name_no_key_are_refused(field: str, path: str, why: str):
    found = refused(f'{field}: "{path}"')
    assert list(found) == [f"task.{field}"]
    assert why in found[f"task.{field}"]


def test_a_default_of_its_own_is_no_key():
    contract = Contract(
        "d",
        (
            ServiceShape(
                "s.S",
                "s.proto",
                (MethodShape("M", "s.R", "s.R", task=PolicyOption({"ordering_key": "k"})),),
            ),
        ),
        {"s.R": MessageShape("s.R", (FieldShape("k", 1, Kind.STRING, has_default=True),))},
    )
    (violation,) = compile_contract(contract).violations
    assert "a default of its own" in violation.description


def test_a_default_key_that_a_method_lacks_names_the_method_and_the_way_out():
    found = refused(defaults='ordering_key: "customer"')
    assert list(found) == ["task_defaults.ordering_key"]
    assert 'sets ordering_key: "" itself' in found["task_defaults.ordering_key"]


YEAR_S = 365 * 86_400


@pytest.mark.parametrize(
    ("task", "field", "why"),
    [
        ('queue: "a b"', "queue", "is not 1 to 128"),
        ('queue: ""', "queue", "is not 1 to 128"),
        (f'queue: "{"q" * 129}"', "queue", "is not 1 to 128"),
        ('queue: "é"', "queue", "is not 1 to 128"),
        ("deadline {seconds: 0}", "deadline", "0 ms is not within 1 ms to 365 d"),
        (f"deadline {{seconds: {YEAR_S + 1}}}", "deadline", "is not within 1 ms to 365 d"),
        ("deadline {seconds: -5}", "deadline", "is not within"),
        ("deadline {nanos: 500000}", "deadline", "whole milliseconds"),
        ("deadline {seconds: 1 nanos: -1000000}", "deadline", "whole milliseconds"),
        ("deadline {nanos: 1000000000}", "deadline", "whole milliseconds"),
        ("attempt_timeout {seconds: 0}", "attempt_timeout", "is not within"),
        (
            "deadline {seconds: 5} attempt_timeout {seconds: 6}",
            "attempt_timeout",
            "6 s for one attempt is more than the deadline of 5 s",
        ),
        ("retry {max_attempts: 0}", "retry.max_attempts", "0 is not within 1 to 1000"),
        ("retry {max_attempts: 1001}", "retry.max_attempts", "1001 is not within"),
        ("retry {initial_backoff {seconds: 0}}", "retry.initial_backoff", "is not within"),
        ("retry {initial_backoff {seconds: 61}}", "retry.initial_backoff", "of 1 min is below"),
        ("retry {max_backoff {nanos: 1000000}}", "retry.max_backoff", "is below"),
        ("retry {multiplier: 0.9994}", "retry.multiplier", "0.9994 is not within 1 to 10"),
        ("retry {multiplier: 10.001}", "retry.multiplier", "10.001 is not within"),
        ("retry {multiplier: nan}", "retry.multiplier", "nan is not within"),
        ("retry {multiplier: inf}", "retry.multiplier", "inf is not within"),
        ("retry {retryable_codes: OK}", "retry.retryable_codes", "OK is never retried"),
        ("retry {retryable_codes: CANCELLED}", "retry.retryable_codes", "CANCELLED is never"),
        ("retry {retryable_codes: DATA_LOSS}", "retry.retryable_codes", "DATA_LOSS is never"),
        ("retry {retryable_codes: NOT_FOUND}", "retry.retryable_codes", "NOT_FOUND is never"),
        ("retry {non_retryable_codes: OK}", "retry.non_retryable_codes", "no code of a failure"),
        (
            "retry {retryable_codes: ABORTED non_retryable_codes: ABORTED}",
            "retry.retryable_codes",
            "ABORTED is in non_retryable_codes as well",
        ),
        (
            "delivery: DELIVERY_AT_MOST_ONCE retry {max_attempts: 2}",
            "retry.max_attempts",
            "contradict DELIVERY_AT_MOST_ONCE",
        ),
        ("idempotency_window {seconds: 60}", "idempotency_window", "shorter than the retention"),
        ("priority: 10", "priority", "10 is not within 0 to 9"),
        ("priority: -1", "priority", "-1 is not within 0 to 9"),
        ("latency_class: 4", "latency_class", "4 is not within 0 to 3"),
        ("queue_weight: 0", "queue_weight", "0 is not within 1 to 1000"),
        ("queue_weight: 1001", "queue_weight", "1001 is not within 1 to 1000"),
        ("rate_limit {}", "rate_limit.limit", "is required"),
        ("rate_limit {limit: 0}", "rate_limit.limit", "0 is not within"),
        ("rate_limit {limit: 1000000001}", "rate_limit.limit", "is not within"),
        ("rate_limit {limit: 1 period {seconds: 0}}", "rate_limit.period", "is not within"),
        ("rate_limit {limit: 1 burst: 0}", "rate_limit.burst", "is not within"),
        ('rate_limit {limit: 1 key: "ids"}', "rate_limit.key", "has no field"),
        ("concurrency {limit: -1}", "concurrency.limit", "is not within"),
        ("concurrency {per_key_limit: 1}", "concurrency.per_key_limit", "needs concurrency.key"),
        ('concurrency {key: "id"}', "concurrency.key", "no effect"),
        (
            'concurrency {key: "id" per_key_limit: 1} rate_limit {limit: 1 key: "number"}',
            "concurrency.key",
            "a task has one limit key",
        ),
        (
            'rate_limit {limit: 1 key: "number"} fairness_key: "id"',
            "fairness_key",
            '"id" differs from "number" of rate_limit.key; a task has one limit key',
        ),
        ('fairness_key: "ids"', "fairness_key", "has no field"),
        ("retention {seconds: -1}", "retention", "is not within"),
        ("dead_letter {retention {seconds: 60}}", "dead_letter.retention", "is shorter"),
        ("breaker {min_calls: 0}", "breaker.min_calls", "is not within"),
        ("breaker {failure_permille: 1001}", "breaker.failure_permille", "is not within"),
        ("breaker {window {nanos: 9000000}}", "breaker.window", "9 ms is not within 10 ms"),
        ("breaker {open {seconds: 5} open_max {seconds: 4}}", "breaker.open_max", "is below"),
        ("breaker {half_open_probes: 0}", "breaker.half_open_probes", "is not within"),
        ("cacheable {ttl {seconds: -1}}", "cacheable.ttl", "is not within"),
        (
            "cacheable {ttl {seconds: 1}} delivery: DELIVERY_AT_MOST_ONCE",
            "cacheable",
            "contradicts DELIVERY_AT_MOST_ONCE",
        ),
    ],
)
def test_what_cannot_hold_is_refused(task: str, field: str, why: str):
    found = refused(task)
    assert list(found) == [f"task.{field}"]
    assert why in found[f"task.{field}"]


def test_methods_of_a_queue_say_one_weight():
    body = (
        "message M {} service S { option (plait.v1.task_defaults) = {queue: 'q'};"
        "rpc A(M) returns (M) { option (plait.v1.task) = {queue_weight: 2}; }"
        "rpc B(M) returns (M);"
        "rpc C(M) returns (M) { option (plait.v1.task) = {%s}; } }"
    )
    (violation,) = compile_contract(source(body % "queue_weight: 3", "shop.v1.S")).violations
    assert (violation.file, violation.subject) == (FILE, "shop.v1.S.C")
    assert violation.field == "task.queue_weight"
    assert "3 differs from 2 of /shop.v1.S/A" in violation.description
    for other in ("queue_weight: 2", "queue: 'r' queue_weight: 3", ""):
        compiled = compile_contract(source(body % other, "shop.v1.S"))
        assert [policy.queue_weight for policy in compiled.policies][:2] == [2, 0]


def test_every_fault_is_told_at_once():
    found = refused('queue: "?" priority: 11 ordering_key: "nope"', defaults="retention {nanos: 1}")
    assert set(found) == {
        "task.queue",
        "task.priority",
        "task.ordering_key",
        "task_defaults.retention",
    }


def test_cached_answers_need_a_method_without_effects():
    effects = source(
        "message M {} service S { rpc Get(M) returns (M) { option idempotency_level = IDEMPOTENT;"
        "option (plait.v1.task) = {cacheable {ttl {seconds: 1}}}; } }",
        "shop.v1.S",
    )
    (violation,) = compile_contract(effects).violations
    assert violation.field == "task.cacheable"
    none = source(
        "message M {} service S { rpc Get(M) returns (M) { option idempotency_level = "
        "NO_SIDE_EFFECTS; option (plait.v1.task) = {cacheable {ttl {seconds: 1}}}; } }",
        "shop.v1.S",
    )
    (policy,) = compile_contract(none).policies
    assert policy.cache_ttl_ms == 1000


def test_streams_are_left_out_and_refused_with_a_policy():
    body = (
        "message M {{}} service S {{ rpc One(M) returns (M); rpc Many(M) returns (stream M) {} }}"
    )
    silent = compile_contract(source(body.format("{}"), "shop.v1.S"))
    assert [policy.method for policy in silent.policies] == ["/shop.v1.S/One"]
    loud = body.format("{ option (plait.v1.task) = {priority: 1}; }")
    (violation,) = compile_contract(source(loud, "shop.v1.S")).violations
    assert violation.text.startswith("shop/v1/orders.proto: shop.v1.S.Many: task: a streaming")


def test_a_service_name_too_long_for_a_key_is_refused():
    name = "S" * 201
    contract = Contract("d", (ServiceShape(name, "s.proto", ()),))
    (violation,) = compile_contract(contract).violations
    assert re.search("201 characters", violation.description)


# Properties: whatever is written, the outcome is a whole policy or a list of faults.

SPANS = st.builds(Span, st.integers(-10, 10**9), st.integers(-10, 2 * 10**9))
PATHS = st.sampled_from(["", "id", "m.id", "m.m.id", "list", "m", "nope", "..", "f"])
CODES = st.lists(st.integers(-1, 20), max_size=3).map(tuple)
VALUES = {
    "queue": st.text(max_size=4),
    "deadline": SPANS,
    "attempt_timeout": SPANS,
    "retry.max_attempts": st.integers(-1, 1100),
    "retry.initial_backoff": SPANS,
    "retry.max_backoff": SPANS,
    "retry.multiplier": st.floats(),
    "retry.retryable_codes": CODES,
    "retry.non_retryable_codes": CODES,
    "idempotency_key": PATHS,
    "idempotency_window": SPANS,
    "ordering_key": PATHS,
    "priority": st.integers(-2, 12),
    "latency_class": st.integers(-1, 5),
    "queue_weight": st.integers(-1, 1002),
    "fairness_key": PATHS,
    "rate_limit": st.just(True),
    "rate_limit.limit": st.integers(-1, 10**10),
    "rate_limit.burst": st.integers(-1, 10**10),
    "rate_limit.key": PATHS,
    "concurrency.limit": st.integers(-1, 100),
    "concurrency.key": PATHS,
    "concurrency.per_key_limit": st.integers(-1, 100),
    "delivery": st.integers(-1, 4),
    "retention": SPANS,
    "dead_letter.enabled": st.booleans(),
    "dead_letter.retention": SPANS,
    "breaker.open": SPANS,
    "breaker.open_max": SPANS,
    "cacheable.ttl": SPANS,
}


def option_of(values: Any) -> PolicyOption:
    return PolicyOption(values)


OPTIONS = st.fixed_dictionaries({}, optional=VALUES).map(option_of) | st.none()
REQUEST = MessageShape(
    "s.R",
    (
        FieldShape("id", 1, Kind.STRING),
        FieldShape("m", 2, Kind.MESSAGE, type_name="s.R"),
        FieldShape("list", 3, Kind.STRING, repeated=True),
        FieldShape("f", 4, Kind.FLOAT),
    ),
)


def contract_of(defaults: PolicyOption | None, *tasks: PolicyOption | None) -> Contract:
    methods = tuple(MethodShape(f"M{i}", "s.R", "s.R", task=task) for i, task in enumerate(tasks))
    return Contract("d", (ServiceShape("s.S", "s.proto", methods, defaults),), {"s.R": REQUEST})


def assert_holds(policy: MethodPolicy) -> None:
    assert 1 <= policy.attempt_timeout_ms <= policy.deadline_ms <= 365 * DAY_MS
    assert 1 <= policy.retry.max_attempts <= 1000
    assert 1 <= policy.retry.initial_backoff_ms <= policy.retry.max_backoff_ms
    assert 1000 <= policy.retry.multiplier_permille <= 10_000
    assert policy.retry.codes <= RETRYABLE
    assert 0 <= policy.retention_ms <= policy.idempotency_window_ms
    assert 0 <= policy.priority <= 9
    assert not (policy.at_most_once and policy.retry.max_attempts > 1)
    assert not 0 < policy.dead_letter_retention_ms < policy.retention_ms
    assert policy.limit_key is not None or not policy.concurrency_per_key
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,128}", policy.queue)


@given(defaults=OPTIONS, first=OPTIONS, second=OPTIONS)
def test_a_contract_is_compiled_whole_or_refused_whole(
    defaults: PolicyOption | None, first: PolicyOption | None, second: PolicyOption | None
):
    result = compile_contract(contract_of(defaults, first, second))
    if result.violations:
        assert result.policies == ()
        for violation in result.violations:
            assert violation.file == "s.proto"
            assert violation.subject in ("s.S.M0", "s.S.M1")
            assert violation.field.startswith(("task.", "task_defaults."))
            assert violation.description
    else:
        assert [policy.method for policy in result.policies] == ["/s.S/M0", "/s.S/M1"]
        for policy in result.policies:
            assert_holds(policy)


@given(defaults=OPTIONS, task=OPTIONS)
def test_what_a_method_repeats_of_its_service_changes_nothing(
    defaults: PolicyOption | None, task: PolicyOption | None
):
    """Merging first and compiling then is the same as compiling both."""
    merged = {**(defaults.values if defaults else {}), **(task.values if task else {})}
    apart = compile_contract(contract_of(defaults, task))
    together = compile_contract(contract_of(None, PolicyOption(merged)))
    # Codes are told apart by who wrote them: a method takes back what its service took out.
    if "retry.retryable_codes" in merged and "retry.non_retryable_codes" in merged:
        return
    assert apart.policies == together.policies
    assert faults(apart) == faults(together)


def faults(result: Compiled) -> set[str]:
    return {
        violation.field.removeprefix("task_defaults.").removeprefix("task.")
        for violation in result.violations
    }


def test_a_schedule_is_compiled():
    policy = compiled(
        'schedule: {cron: "30 2 * * 1-5" timezone: "Europe/Berlin" jitter: {seconds: 90} '
        "overlap: OVERLAP_POLICY_BUFFER_ONE missed: MISSED_POLICY_ALL "
        "catch_up_window: {seconds: 3600}}"
    )
    assert policy.schedule == Schedule(
        name=f"{SERVICE}.Place",
        method=f"/{SERVICE}/Place",
        cron="30 2 * * 1-5",
        timezone="Europe/Berlin",
        jitter_ms=90_000,
        overlap=Overlap.BUFFER_ONE,
        missed=Missed.ALL,
        catch_up_ms=HOUR_MS,
        managed=True,
    )
    every = compiled("schedule: {every: {seconds: 5}}").schedule
    assert every is not None
    assert (every.every_ms, every.overlap, every.missed) == (5000, Overlap.SKIP, Missed.ONCE)
    assert compiled().schedule is None


@pytest.mark.parametrize(
    ("task", "field", "says"),
    [
        ('schedule: {cron: "61 * * * *"}', "schedule.cron", "Bad minute"),
        ('schedule: {cron: "0 0 30 2 *"}', "schedule.cron", "Bad day-of-month"),
        ('schedule: {cron: "@daily" timezone: "Mars"}', "schedule.timezone", "no time zone"),
        ("schedule: {}", "schedule.every", "exactly one"),
        ('schedule: {cron: "@daily" every: {seconds: 1}}', "schedule.cron", "exactly one"),
        ("schedule: {every: {nanos: 1000000}}", "schedule.every", "100 ms"),
        ("schedule: {every: {nanos: 1}}", "schedule.every", "whole milliseconds"),
        (
            "schedule: {every: {seconds: 1} catch_up_window: {seconds: 1}}",
            "schedule.catch_up_window",
            "not within 10 s",
        ),
        ("schedule: {every: {seconds: 1} overlap: 9}", "schedule.overlap", "no policy"),
        ("schedule: {every: {seconds: 1}} ordering_key: 'id'", "schedule", "empty in the default"),
    ],
)
def test_a_schedule_that_cannot_hold_is_refused(task: str, field: str, says: str):
    assert says in refused(task)[f"task.{field}"]


def test_a_key_that_is_a_number_may_be_of_a_schedule():
    assert compiled("schedule: {every: {seconds: 1}} ordering_key: 'number'").schedule


def test_a_schedule_is_no_default_of_a_service():
    found = refused(defaults="schedule: {every: {seconds: 1}}")
    assert "of a method" in found["task_defaults.schedule"]

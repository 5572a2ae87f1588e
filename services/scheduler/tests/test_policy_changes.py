"""Every field of a policy is compared; what tasks in flight mind is told with those tasks."""

import dataclasses

import pytest

from plait_scheduler.domain.change import Change, Effect, Look, Part
from plait_scheduler.domain.compatibility import compare
from plait_scheduler.domain.policy import MethodPolicy
from services.scheduler.tests.contracts import SERVICE, orders

PLACE = "/shop.v1.Orders/Place"
ALIVE = frozenset({Part.UNFINISHED, Part.DEAD_LETTER})
UNFINISHED = frozenset({Part.UNFINISHED})
DEAD = frozenset({Part.DEAD_LETTER})


def changes(old: str, new: str) -> list[Change]:
    """What is found between two options of the method."""
    before = dataclasses.replace(orders(old), digest="old")
    after = dataclasses.replace(orders(new), digest="new")
    return compare(before, after, SERVICE)


@pytest.mark.parametrize(
    ("old", "new", "kind", "look"),
    [
        ("", 'ordering_key: "id"', "KEY_PATH_CHANGED", Look((PLACE,), ALIVE)),
        ('ordering_key: "id"', "", "KEY_PATH_CHANGED", Look((PLACE,), ALIVE)),
        (
            'idempotency_key: "id"',
            'idempotency_key: "item.sku"',
            "KEY_PATH_CHANGED",
            Look((PLACE,), ALIVE),
        ),
        (
            'rate_limit: {limit: 1 key: "id"}',
            'rate_limit: {limit: 1 key: "name"}',
            "KEY_PATH_CHANGED",
            Look((PLACE,), ALIVE),
        ),
        (
            'ordering_key: "id" queue: "a"',
            'ordering_key: "id" queue: "b"',
            "QUEUE_CHANGED",
            Look((PLACE,), UNFINISHED),
        ),
        (
            "deadline: {seconds: 100}",
            "deadline: {seconds: 60}",
            "DEADLINE_SHORTENED",
            Look((PLACE,), UNFINISHED, age_ms=60_000),
        ),
        (
            "retry: {max_attempts: 3}",
            "retry: {max_attempts: 2}",
            "ATTEMPTS_REDUCED",
            Look((PLACE,), UNFINISHED, attempts=2),
        ),
        ("", "delivery: DELIVERY_AT_MOST_ONCE", "DELIVERY_CHANGED", Look((PLACE,), ALIVE)),
        (
            "dead_letter: {enabled: true}",
            "dead_letter: {enabled: true retention: {seconds: 86400}}",
            "DEAD_LETTERS_SHORTENED",
            Look((PLACE,), DEAD, age_ms=86_400_000),
        ),
        ("dead_letter: {enabled: true}", "", "DEAD_LETTERS_SHORTENED", Look((PLACE,), DEAD)),
    ],
)
def test_what_some_tasks_mind(old: str, new: str, kind: str, look: Look):
    minded = [change for change in changes(old, new) if change.effect is not Effect.HARMLESS]
    assert [(c.kind, c.subject, c.effect, c.look) for c in minded] == [
        (kind, f"{SERVICE}.Place", Effect.NEEDS_DRAIN, look)
    ]
    assert minded[0].advice


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('queue: "a"', 'queue: "b"', 'queue was "a" and is "b" now'),
        ("deadline: {seconds: 60}", "deadline: {seconds: 61}", "deadline was 1 min and is 61 s"),
        ("attempt_timeout: {seconds: 5}", "", "attempt_timeout was 5 s and is 1 min"),
        ("retry: {max_attempts: 3}", "retry: {max_attempts: 4}", "max_attempts was 3 and is 4"),
        ("", "retry: {initial_backoff: {seconds: 2}}", "initial_backoff was 200 ms and is 2 s"),
        ("", "retry: {max_backoff: {seconds: 2}}", "max_backoff was 1 min and is 2 s"),
        ("", "retry: {multiplier: 1.5}", "multiplier was 2.0 and is 1.5"),
        ("", "retry: {non_retryable_codes: ABORTED}", "codes that are retried was ABORTED, "),
        ("idempotency_window: {seconds: 172800}", "", "idempotency_window was 2 d and is 1 d"),
        ("priority: 1", "", "priority was 1 and is 4"),
        ("latency_class: LATENCY_CLASS_CRITICAL", "", "class was CRITICAL and is STANDARD"),
        ("queue_weight: 5", "", "queue_weight was 5 and is 1"),
        (
            'concurrency: {key: "id" per_key_limit: 1}',
            'concurrency: {key: "id" per_key_limit: 1} fairness_key: "id"',
            "fairness_key was none and is a turn for each limit key",
        ),
        ("", "rate_limit: {limit: 5}", "rate_limit was unlimited and is 5 in 1 s, 5 at once"),
        ("", "concurrency: {limit: 5}", "concurrency.limit was 0 and is 5"),
        (
            'concurrency: {key: "id" per_key_limit: 1}',
            'concurrency: {key: "id" per_key_limit: 2}',
            "per_key_limit was 1 and is 2",
        ),
        ("retention: {seconds: 60}", "retention: {seconds: 30}", "retention was 1 min and is 30 s"),
        ("", "dead_letter: {enabled: true}", "kept not at all and are kept for 30 d"),
        ("", "breaker: {disabled: true}", "is off now"),
        ("", "breaker: {min_calls: 7}", "of 7 in"),
        ("", 'schedule: {cron: "0 3 * * *"}', 'schedule was none and is "0 3 * * *" in UTC'),
        ("schedule: {every: {seconds: 90}}", "", "schedule was every 90 s, jitter 0 ms, overlap"),
        ("cacheable: {ttl: {seconds: 5}}", "", "cacheable.ttl was 5 s and is 0 ms"),
    ],
)
def test_what_no_task_minds_is_told(old: str, new: str, said: str):
    found = changes(old, new)
    assert {change.effect for change in found} == {Effect.HARMLESS}
    assert any(said in change.description for change in found), found


def test_every_field_of_a_policy_is_compared():
    """A field that is added to policies is added here, and to what is compared."""
    compared = {
        *("queue", "deadline_ms", "attempt_timeout_ms", "retry", "idempotency_key"),
        *("idempotency_window_ms", "ordering_key", "priority", "at_most_once", "retention_ms"),
        *("dead_letter_retention_ms", "rate_limit", "concurrency_limit", "concurrency_per_key"),
        *("limit_key", "breaker", "cache_ttl_ms", "schedule", "latency"),
        *("queue_weight", "fair_by_key"),
    }
    names = {field.name for field in dataclasses.fields(MethodPolicy)}
    assert names - compared == {"method", "contract"}
    assert changes("priority: 2", "priority: 2") == []

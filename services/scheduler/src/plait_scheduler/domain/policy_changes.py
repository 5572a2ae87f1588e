"""Changes of a method's policy, as the broker enforces it: which ones tasks in flight do not mind,
and which ones some of them do.

Tasks that were accepted keep their deadline and priority, and the keys that were taken by the old
paths. They are retried, repeated and kept by the policy in force.
"""

from collections.abc import Iterator

from plait_scheduler.domain.change import Change, Effect, Look, Part
from plait_scheduler.domain.codes import code_name
from plait_scheduler.domain.policy import KeyPath, MethodPolicy
from plait_scheduler.domain.units import format_ms

DRAIN = "pause who submits and wait until these tasks are done; redrive or cancel dead letters"
_ALIVE = frozenset({Part.UNFINISHED, Part.DEAD_LETTER})
_WAITING = frozenset({Part.UNFINISHED})
_DEAD = frozenset({Part.DEAD_LETTER})
_KEYS = ("idempotency_key", "ordering_key", "limit_key")


def policy_changes(subject: str, old: MethodPolicy, new: MethodPolicy) -> Iterator[Change]:
    """Every field of the policy that differs."""
    yield from _keys(subject, old, new)
    yield from _queue(subject, old, new)
    yield from _times(subject, old, new)
    yield from _attempts(subject, old, new)
    yield from _dead_letters(subject, old, new)
    for name, before, after in _others(old, new):
        if before != after:
            text = f"{name} was {before} and is {after} now"
            yield Change("POLICY_CHANGED", subject, text)


def _keys(subject: str, old: MethodPolicy, new: MethodPolicy) -> Iterator[Change]:
    """Changed keys. A submitter keeps what it resolved, so that also a key that is new would be
    missing.
    """
    for key in _KEYS:
        before, after = getattr(old, key), getattr(new, key)
        if _where(before) == _where(after):
            continue
        text = f"{key} was {_quoted(before)} and is {_quoted(after)} now"
        advice = f"{DRAIN}; or keep the key and declare a new method"
        look = Look((old.method,), _ALIVE)
        yield Change("KEY_PATH_CHANGED", subject, text, Effect.NEEDS_DRAIN, advice, look)


def _where(key: KeyPath | None) -> object:
    """What is read from a request: names may change."""
    return (key.numbers, key.kind) if key else None


def _quoted(key: KeyPath | None) -> str:
    return f'"{key.path}"' if key else "none"


def _queue(subject: str, old: MethodPolicy, new: MethodPolicy) -> Iterator[Change]:
    if old.queue == new.queue:
        return
    text = f'queue was "{old.queue}" and is "{new.queue}" now'
    if old.ordering_key is None:
        yield Change("QUEUE_CHANGED", subject, f"{text}; tasks that wait move with it")
        return
    text += "; a key's tasks in the old queue and in the new one would run side by side"
    look = Look((old.method,), _WAITING)
    yield Change("QUEUE_CHANGED", subject, text, Effect.NEEDS_DRAIN, DRAIN, look)


def _times(subject: str, old: MethodPolicy, new: MethodPolicy) -> Iterator[Change]:
    if new.deadline_ms < old.deadline_ms:
        text = _was("deadline", old.deadline_ms, new.deadline_ms)
        text += "; tasks have waited longer than that"
        advice = "wait until these tasks are done, or add workers first; or choose a longer one"
        look = Look((old.method,), _WAITING, age_ms=new.deadline_ms)
        yield Change("DEADLINE_SHORTENED", subject, text, Effect.NEEDS_DRAIN, advice, look)
    elif new.deadline_ms > old.deadline_ms:
        text = _was("deadline", old.deadline_ms, new.deadline_ms)
        yield Change("POLICY_CHANGED", subject, f"{text}; tasks that wait keep theirs")
    if old.retention_ms != new.retention_ms:
        text = _was("retention", old.retention_ms, new.retention_ms)
        yield Change("POLICY_CHANGED", subject, f"{text}, for results that there are as well")


def _attempts(subject: str, old: MethodPolicy, new: MethodPolicy) -> Iterator[Change]:
    before, after = old.retry.max_attempts, new.retry.max_attempts
    if old.at_most_once != new.at_most_once:
        text = f"delivery was {_delivery(old)} and is {_delivery(new)} now"
        look = Look((old.method,), _ALIVE)
        yield Change("DELIVERY_CHANGED", subject, text, Effect.NEEDS_DRAIN, DRAIN, look)
    elif after < before:
        text = f"retry.max_attempts was {before} and is {after} now; tasks have had as many"
        look = Look((old.method,), _WAITING, attempts=after)
        yield Change("ATTEMPTS_REDUCED", subject, text, Effect.NEEDS_DRAIN, DRAIN, look)
    elif after > before:
        text = f"retry.max_attempts was {before} and is {after} now"
        yield Change("POLICY_CHANGED", subject, text)


def _delivery(policy: MethodPolicy) -> str:
    return "AT_MOST_ONCE" if policy.at_most_once else "AT_LEAST_ONCE"


def _dead_letters(subject: str, old: MethodPolicy, new: MethodPolicy) -> Iterator[Change]:
    before, after = old.dead_letter_retention_ms, new.dead_letter_retention_ms
    if before == after:
        return
    text = f"dead letters were kept {_kept(before)} and are kept {_kept(after)} now"
    if after > before:
        yield Change("POLICY_CHANGED", subject, text)
        return
    text += "; some would be lost at once"
    advice = "redrive or cancel these dead letters first"
    look = Look((old.method,), _DEAD, age_ms=after)
    yield Change("DEAD_LETTERS_SHORTENED", subject, text, Effect.NEEDS_DRAIN, advice, look)


def _kept(retention_ms: int) -> str:
    return f"for {format_ms(retention_ms)}" if retention_ms else "not at all"


def _was(name: str, before: int, after: int) -> str:
    return f"{name} was {format_ms(before)} and is {format_ms(after)} now"


def _others(old: MethodPolicy, new: MethodPolicy) -> Iterator[tuple[str, object, object]]:
    """What is left, which no task in flight minds."""
    for name, kind in (
        ("attempt_timeout", "attempt_timeout_ms"),
        ("idempotency_window", "idempotency_window_ms"),
        ("cacheable.ttl", "cache_ttl_ms"),
    ):
        yield name, format_ms(getattr(old, kind)), format_ms(getattr(new, kind))
    for field in ("initial_backoff", "max_backoff"):
        before, after = (getattr(each.retry, f"{field}_ms") for each in (old, new))
        yield f"retry.{field}", format_ms(before), format_ms(after)
    before, after = (each.retry.multiplier_permille / 1000 for each in (old, new))
    yield "retry.multiplier", before, after
    yield "the codes that are retried", _codes(old), _codes(new)
    yield "priority", old.priority, new.priority
    yield "latency_class", old.latency.name, new.latency.name
    yield "fairness_key", _fair(old), _fair(new)
    yield "queue_weight", old.queue_weight or 1, new.queue_weight or 1
    yield "rate_limit", _rate(old), _rate(new)
    yield "concurrency.limit", old.concurrency_limit, new.concurrency_limit
    yield "concurrency.per_key_limit", old.concurrency_per_key, new.concurrency_per_key
    yield "breaker", _breaker(old), _breaker(new)
    yield "schedule", _schedule(old), _schedule(new)


def _fair(policy: MethodPolicy) -> str:
    return "a turn for each limit key" if policy.fair_by_key else "none"


def _codes(policy: MethodPolicy) -> str:
    return ", ".join(sorted(code_name(code) for code in policy.retry.codes)) or "none"


def _rate(policy: MethodPolicy) -> str:
    rate = policy.rate_limit
    if rate is None:
        return "unlimited"
    per = ", each key" if rate.by_key else ""
    return f"{rate.limit} in {format_ms(rate.period_ms)}, {rate.burst} at once{per}"


def _schedule(policy: MethodPolicy) -> str:
    schedule = policy.schedule
    if schedule is None:
        return "none"
    times = f'"{schedule.cron}" in {schedule.timezone or "UTC"}'
    if schedule.every_ms:
        times = f"every {format_ms(schedule.every_ms)}"
    return (
        f"{times}, jitter {format_ms(schedule.jitter_ms)}, overlap {schedule.overlap.value}, "
        f"missed {schedule.missed.value} within {format_ms(schedule.catch_up_ms)}"
    )


def _breaker(policy: MethodPolicy) -> str:
    breaker = policy.breaker
    if breaker is None:
        return "off"
    return (
        f"open at {breaker.failure_permille} permille of {breaker.min_calls} in "
        f"{format_ms(breaker.window_ms)}, for {format_ms(breaker.open_ms)} to "
        f"{format_ms(breaker.open_max_ms)}, {breaker.half_open_probes} probes"
    )

"""Compiles a contract's options into one policy a method, or says everything that is wrong with
them.

The numbers are those of proto/plait/v1/options.proto. Streaming methods are no tasks: they are left
out, and refused where they carry a policy of their own.
"""

import re
from dataclasses import dataclass, replace

from plait_scheduler.domain.codes import OK, RETRYABLE, code_name
from plait_scheduler.domain.contract import Contract, MethodShape, ServiceShape
from plait_scheduler.domain.key_path import KeyPathError, resolve_key_path
from plait_scheduler.domain.policy import (
    Breaker,
    KeyPath,
    Latency,
    MethodPolicy,
    RateLimit,
    Retry,
)
from plait_scheduler.domain.policy_fields import PolicyFields, Range
from plait_scheduler.domain.schedule_policy import compile_schedule
from plait_scheduler.domain.units import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS, format_ms
from plait_scheduler.domain.violation import Violation

DEADLINE_MS = DAY_MS
ATTEMPT_TIMEOUT_MS = MINUTE_MS
RETENTION_MS = DAY_MS
DEAD_LETTER_RETENTION_MS = 30 * DAY_MS
MAX_ATTEMPTS = 20
INITIAL_BACKOFF_MS = 200
MAX_BACKOFF_MS = MINUTE_MS
MULTIPLIER_PERMILLE = 2000
PRIORITY = 4
RATE_PERIOD_MS = SECOND_MS
RATE_MAX = 10**9
QUEUE_WEIGHT_MAX = 1000
CONCURRENCY_MAX = 2**31 - 1
# The name is part of a key in the broker's key space, whose keys have at most 256 bytes.
SERVICE_NAME_MAX = 200

_QUEUE = re.compile(r"[A-Za-z0-9._-]{1,128}", re.ASCII)
# Values of plait.v1.Delivery.
_DELIVERIES = {0: False, 1: False, 2: True}
# Values of plait.v1.LatencyClass.
_LATENCIES = {0: Latency.STANDARD, 1: Latency.CRITICAL, 2: Latency.STANDARD, 3: Latency.BACKGROUND}


@dataclass(frozen=True, slots=True)
class Compiled:
    """What a contract comes to."""

    # Empty where there are violations.
    policies: tuple[MethodPolicy, ...]
    # Everything that is wrong.
    violations: tuple[Violation, ...]


def compile_contract(contract: Contract) -> Compiled:
    """Compiles every unary method of the contract's services."""
    violations: list[Violation] = []
    policies: list[MethodPolicy] = []
    weights: dict[str, MethodPolicy] = {}
    for service in contract.services:
        violations += _service_violations(service)
    for service, method in contract.unary():
        fields = PolicyFields(service, method)
        policy = _Compiler(contract, fields).policy()
        policies.append(replace(policy, schedule=compile_schedule(fields, policy)))
        if policy.queue_weight:
            _compare_weights(fields, policy, weights.setdefault(policy.queue, policy))
        violations += fields.violations
    if violations:
        return Compiled((), tuple(violations))
    return Compiled(tuple(policies), ())


def _compare_weights(fields: PolicyFields, policy: MethodPolicy, first: MethodPolicy) -> None:
    """Refuses a weight that differs from that of the queue's first method that says one."""
    if policy.queue_weight != first.queue_weight:
        fields.refuse(
            "queue_weight",
            f"{policy.queue_weight} differs from {first.queue_weight} of {first.method}; queue "
            f'"{policy.queue}" has one weight, so say it once or the same everywhere',
        )


def _service_violations(service: ServiceShape) -> list[Violation]:
    """What is wrong with a service before any field is read."""
    found: list[Violation] = []
    if len(service.name) > SERVICE_NAME_MAX:
        text = f"the name has {len(service.name)} characters; at most {SERVICE_NAME_MAX}"
        found.append(Violation(service.file, service.name, "", text))
    unknown = list(service.unknown_options)
    if service.task_defaults is not None:
        unknown += [f"task_defaults.{path}" for path in service.task_defaults.unknown]
    found += [Violation(service.file, service.name, field, _UNKNOWN) for field in unknown]
    for method in service.methods:
        found += _method_violations(service, method)
    return found


def _method_violations(service: ServiceShape, method: MethodShape) -> list[Violation]:
    """What is wrong with a method before any field is read."""
    subject = f"{service.name}.{method.name}"
    unknown = list(method.unknown_options)
    if method.task is not None:
        unknown += [f"task.{path}" for path in method.task.unknown]
    found = [Violation(service.file, subject, field, _UNKNOWN) for field in unknown]
    if method.task is not None and method.streaming:
        found.append(Violation(service.file, subject, "task", _STREAMING))
    return found


_UNKNOWN = "is not known to this version of the scheduler; it is refused, since it would be ignored"
_STREAMING = "a streaming method cannot be a task; remove the policy or the stream"


class _Compiler:
    """Compiles one method. Faults go to the fields; the policy is of use only if there are none."""

    def __init__(self, contract: Contract, fields: PolicyFields) -> None:
        self._contract = contract
        self._fields = fields

    def policy(self) -> MethodPolicy:
        service, method = self._fields.service, self._fields.method
        deadline_ms = self._fields.duration("deadline", DEADLINE_MS)
        retention_ms = self._fields.duration("retention", RETENTION_MS, low=0)
        at_most_once = self._at_most_once()
        concurrency_limit, per_key_limit = self._concurrency()
        return MethodPolicy(
            method=service.path(method),
            contract=self._contract.digest,
            queue=self._queue(),
            deadline_ms=deadline_ms,
            attempt_timeout_ms=self._attempt_timeout(deadline_ms),
            retry=self._retry(at_most_once),
            idempotency_key=self._key("idempotency_key"),
            idempotency_window_ms=self._idempotency_window(retention_ms),
            ordering_key=self._key("ordering_key"),
            priority=self._fields.integer("priority", PRIORITY, Range(0, 9)),
            at_most_once=at_most_once,
            retention_ms=retention_ms,
            dead_letter_retention_ms=self._dead_letter_retention(retention_ms),
            rate_limit=self._rate_limit(),
            concurrency_limit=concurrency_limit,
            concurrency_per_key=per_key_limit,
            limit_key=self._limit_key(),
            breaker=self._breaker(),
            cache_ttl_ms=self._cache_ttl(at_most_once),
            latency=self._latency(),
            queue_weight=self._queue_weight(),
            fair_by_key=self._fields.text("fairness_key") != "",
        )

    def _queue(self) -> str:
        queue = self._fields.text("queue")
        if not self._fields.has("queue"):
            return self._fields.service.name
        if not _QUEUE.fullmatch(queue):
            self._fields.refuse("queue", f'"{queue}" is not 1 to 128 of A-Z a-z 0-9 . _ -')
        return queue

    def _attempt_timeout(self, deadline_ms: int) -> int:
        default = min(ATTEMPT_TIMEOUT_MS, deadline_ms)
        timeout = self._fields.duration("attempt_timeout", default)
        if timeout > deadline_ms:
            self._fields.refuse(
                "attempt_timeout",
                f"{format_ms(timeout)} for one attempt is more than the deadline of "
                f"{format_ms(deadline_ms)} for all of them",
            )
        return timeout

    def _at_most_once(self) -> bool:
        value = self._fields.integer("delivery", 0, Range(0, max(_DELIVERIES)))
        return _DELIVERIES[value]

    def _latency(self) -> Latency:
        value = self._fields.integer("latency_class", 0, Range(0, max(_LATENCIES)))
        return _LATENCIES[value]

    def _queue_weight(self) -> int:
        if not self._fields.has("queue_weight"):
            return 0
        return self._fields.integer("queue_weight", 0, Range(1, QUEUE_WEIGHT_MAX))

    def _retry(self, at_most_once: bool) -> Retry:
        fields = self._fields
        attempts_default = 1 if at_most_once else MAX_ATTEMPTS
        attempts = fields.integer("retry.max_attempts", attempts_default, Range(1, 1000))
        if at_most_once and attempts > 1:
            fields.refuse(
                "retry.max_attempts",
                f"{attempts} attempts contradict DELIVERY_AT_MOST_ONCE; set it to 1",
            )
        initial = fields.duration("retry.initial_backoff", INITIAL_BACKOFF_MS)
        longest = fields.duration("retry.max_backoff", MAX_BACKOFF_MS)
        if longest < initial:
            at = "retry.max_backoff" if fields.has("retry.max_backoff") else "retry.initial_backoff"
            fields.refuse(
                at,
                f"max_backoff of {format_ms(longest)} is below "
                f"initial_backoff of {format_ms(initial)}",
            )
        growth = fields.permille("retry.multiplier", MULTIPLIER_PERMILLE, Range(1000, 10_000))
        return Retry(attempts, initial, longest, growth, self._codes())

    def _codes(self) -> frozenset[int]:
        fields = self._fields
        wanted, unwanted = "retry.retryable_codes", "retry.non_retryable_codes"
        more, fewer = fields.codes(wanted), fields.codes(unwanted)
        for code in more:
            if code not in RETRYABLE:
                allowed = ", ".join(sorted(code_name(c) for c in RETRYABLE))
                fields.refuse(wanted, f"{code_name(code)} is never retried; only {allowed} are")
        for code in fewer:
            if code == OK or code_name(code).startswith("code "):
                fields.refuse(unwanted, f"{code_name(code)} is no code of a failure")
        same_level = fields.of_method(wanted) == fields.of_method(unwanted)
        if same_level:
            for code in sorted(set(more) & set(fewer)):
                fields.refuse(wanted, f"{code_name(code)} is in non_retryable_codes as well")
        if fields.of_method(unwanted):
            return RETRYABLE - set(fewer)
        return (RETRYABLE - set(fewer)) | (set(more) & RETRYABLE)

    def _idempotency_window(self, retention_ms: int) -> int:
        window = self._fields.duration("idempotency_window", retention_ms, low=0)
        if window < retention_ms:
            self._fields.refuse(
                "idempotency_window",
                f"{format_ms(window)} is shorter than the retention of results of "
                f"{format_ms(retention_ms)}: a key is kept while its task can be read",
            )
        return window

    def _dead_letter_retention(self, retention_ms: int) -> int:
        default = max(DEAD_LETTER_RETENTION_MS, retention_ms)
        kept = self._fields.duration("dead_letter.retention", default)
        if kept < retention_ms:
            self._fields.refuse(
                "dead_letter.retention",
                f"{format_ms(kept)} is shorter than the retention of results of "
                f"{format_ms(retention_ms)}",
            )
        return kept if self._fields.flag("dead_letter.enabled") else 0

    def _rate_limit(self) -> RateLimit | None:
        fields = self._fields
        if not fields.has("rate_limit"):
            return None
        if not fields.has("rate_limit.limit"):
            fields.refuse("rate_limit.limit", "is required with rate_limit")
        limit = fields.integer("rate_limit.limit", 1, Range(1, RATE_MAX))
        period = fields.duration("rate_limit.period", RATE_PERIOD_MS)
        burst = fields.integer("rate_limit.burst", limit, Range(1, RATE_MAX))
        return RateLimit(limit, period, burst, fields.text("rate_limit.key") != "")

    def _concurrency(self) -> tuple[int, int]:
        fields = self._fields
        allowed = Range(0, CONCURRENCY_MAX)
        limit = fields.integer("concurrency.limit", 0, allowed)
        per_key = fields.integer("concurrency.per_key_limit", 0, allowed)
        key = fields.text("concurrency.key")
        if per_key and not key:
            fields.refuse("concurrency.per_key_limit", "needs concurrency.key")
        if key and not per_key:
            fields.refuse("concurrency.key", "has no effect without concurrency.per_key_limit")
        return limit, per_key

    def _limit_key(self) -> KeyPath | None:
        first, found = "", None
        for field in ("rate_limit.key", "concurrency.key", "fairness_key"):
            key = self._key(field)
            if key and found and key != found:
                self._fields.refuse(
                    field,
                    f'"{key.path}" differs from "{found.path}" of {first}; '
                    "a task has one limit key",
                )
            if key and not found:
                first, found = field, key
        return found

    def _key(self, field: str) -> KeyPath | None:
        path = self._fields.text(field)
        if not path:
            return None
        try:
            return resolve_key_path(path, self._fields.method.request, self._contract.messages)
        except KeyPathError as error:
            hint = ""
            if not self._fields.of_method(field):
                hint = f'; a method without such a key sets {field}: "" itself'
            self._fields.refuse(field, f"{error}{hint}")
            return None

    def _breaker(self) -> Breaker | None:
        fields = self._fields
        opened = fields.duration("breaker.open", 5 * SECOND_MS)
        longest = fields.duration("breaker.open_max", max(MINUTE_MS, opened))
        if longest < opened:
            fields.refuse(
                "breaker.open_max", f"{format_ms(longest)} is below open of {format_ms(opened)}"
            )
        breaker = Breaker(
            min_calls=fields.integer("breaker.min_calls", 20, Range(1, 1_000_000)),
            failure_permille=fields.integer("breaker.failure_permille", 500, Range(1, 1000)),
            window_ms=fields.duration("breaker.window", 10 * SECOND_MS, low=10, high=HOUR_MS),
            open_ms=opened,
            open_max_ms=longest,
            half_open_probes=fields.integer("breaker.half_open_probes", 3, Range(1, 1000)),
        )
        return None if fields.flag("breaker.disabled") else breaker

    def _cache_ttl(self, at_most_once: bool) -> int:
        ttl = self._fields.duration("cacheable.ttl", 0, low=0)
        if ttl and at_most_once:
            self._fields.refuse(
                "cacheable",
                "contradicts DELIVERY_AT_MOST_ONCE: only answers without effects may be cached",
            )
        if ttl and self._fields.method.declared_with_effects:
            self._fields.refuse(
                "cacheable",
                "contradicts idempotency_level IDEMPOTENT, which has effects",
            )
        return ttl

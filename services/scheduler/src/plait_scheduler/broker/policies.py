"""Compiled policies as messages of the wire."""

from plait.control.v1 import control_service_pb2 as pb
from plait.v1 import contract_service_pb2 as contract_pb
from plait.v1 import options_pb2
from plait_scheduler.broker.times import to_duration
from plait_scheduler.domain.policy import KeyKind, KeyPath, Latency, MethodPolicy
from plait_scheduler.domain.routes import Route

_KINDS = {
    KeyKind.STRING: contract_pb.KEY_KIND_STRING,
    KeyKind.BYTES: contract_pb.KEY_KIND_BYTES,
    KeyKind.INT: contract_pb.KEY_KIND_INT,
    KeyKind.UINT: contract_pb.KEY_KIND_UINT,
    KeyKind.SINT: contract_pb.KEY_KIND_SINT,
    KeyKind.BOOL: contract_pb.KEY_KIND_BOOL,
    KeyKind.FIXED32: contract_pb.KEY_KIND_FIXED32,
    KeyKind.FIXED64: contract_pb.KEY_KIND_FIXED64,
    KeyKind.SFIXED32: contract_pb.KEY_KIND_SFIXED32,
    KeyKind.SFIXED64: contract_pb.KEY_KIND_SFIXED64,
}
_LATENCIES = {
    Latency.CRITICAL: options_pb2.LATENCY_CLASS_CRITICAL,
    Latency.STANDARD: options_pb2.LATENCY_CLASS_STANDARD,
    Latency.BACKGROUND: options_pb2.LATENCY_CLASS_BACKGROUND,
}


def to_method_policy(policy: MethodPolicy, route: Route | None = None) -> pb.MethodPolicy:
    """The policy as the broker enforces it."""
    rate = policy.rate_limit
    return pb.MethodPolicy(
        info=to_method_info(policy, route),
        deadline_ms=policy.deadline_ms,
        attempt_timeout_ms=policy.attempt_timeout_ms,
        max_attempts=policy.retry.max_attempts,
        initial_backoff_ms=policy.retry.initial_backoff_ms,
        max_backoff_ms=policy.retry.max_backoff_ms,
        multiplier_permille=policy.retry.multiplier_permille,
        retryable_codes=sum(1 << code for code in policy.retry.codes),
        idempotency_window_ms=policy.idempotency_window_ms,
        priority=policy.priority,
        at_most_once=policy.at_most_once,
        retention_ms=policy.retention_ms,
        dead_letter_retention_ms=policy.dead_letter_retention_ms,
        rate_limit=rate.limit if rate else 0,
        rate_period_ms=rate.period_ms if rate else 0,
        rate_burst=rate.burst if rate else 0,
        rate_by_key=rate.by_key if rate else False,
        concurrency_limit=policy.concurrency_limit,
        concurrency_per_key=policy.concurrency_per_key,
        latency_class=_LATENCIES[policy.latency],
        queue_weight=policy.queue_weight,
        fair_by_key=policy.fair_by_key,
    )


def to_method_limits(policy: MethodPolicy) -> pb.MethodLimits:
    """Its limits alone."""
    rate = policy.rate_limit
    return pb.MethodLimits(
        method=policy.method,
        rate_limit=rate.limit if rate else 0,
        rate_period_ms=rate.period_ms if rate else 0,
        rate_burst=rate.burst if rate else 0,
        rate_by_key=rate.by_key if rate else False,
        concurrency_limit=policy.concurrency_limit,
        concurrency_per_key=policy.concurrency_per_key,
    )


def to_method_info(policy: MethodPolicy, route: Route | None = None) -> contract_pb.MethodInfo:
    """What submitters and workers need to know of it."""
    return contract_pb.MethodInfo(
        method=policy.method,
        queue=policy.queue,
        idempotency_key=_key_path(policy.idempotency_key),
        ordering_key=_key_path(policy.ordering_key),
        limit_key=_key_path(policy.limit_key),
        deadline=to_duration(policy.deadline_ms),
        attempt_timeout=to_duration(policy.attempt_timeout_ms),
        contract=policy.contract,
        route=route.route if route else "",
        served_routes=route.served if route else (),
    )


def _key_path(path: KeyPath | None) -> contract_pb.KeyPath | None:
    if path is None:
        return None
    return contract_pb.KeyPath(path=path.path, numbers=path.numbers, kind=_KINDS[path.kind])

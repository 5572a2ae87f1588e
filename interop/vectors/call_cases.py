"""The cases of calls.json with their expected values, worked out by hand from gRPC's A6 and the
rules in README.md.

Nothing here is computed by a machine under test: the table is the documented one, and every step of
the others says what is to come out.
"""

from __future__ import annotations

from typing import Any

SCHEMA = 1

# (code, retried, retried when idempotent, breaker, limiter). RESOURCE_EXHAUSTED is retried only
# with a pushback.
TABLE = [
    ("OK", False, False, "success", "ok"),
    ("CANCELLED", False, False, "ignore", "ignore"),
    ("UNKNOWN", False, True, "failure", "ok"),
    ("INVALID_ARGUMENT", False, False, "success", "ok"),
    ("DEADLINE_EXCEEDED", False, True, "failure", "drop"),
    ("NOT_FOUND", False, False, "success", "ok"),
    ("ALREADY_EXISTS", False, False, "success", "ok"),
    ("PERMISSION_DENIED", False, False, "success", "ok"),
    ("RESOURCE_EXHAUSTED", False, False, "failure", "drop"),
    ("FAILED_PRECONDITION", False, False, "success", "ok"),
    ("ABORTED", True, True, "success", "ok"),
    ("OUT_OF_RANGE", False, False, "success", "ok"),
    ("UNIMPLEMENTED", False, False, "success", "ok"),
    ("INTERNAL", False, True, "failure", "ok"),
    ("UNAVAILABLE", True, True, "failure", "ignore"),
    ("DATA_LOSS", False, False, "failure", "ok"),
    ("UNAUTHENTICATED", False, False, "success", "ok"),
]

BUDGET = {"max_tokens": 10, "token_ratio_permille": 100}
RETRY = {
    "max_attempts": 3,
    "deadline_ms": 1_000,
    "idempotent": False,
    "initial_ms": 100,
    "max_ms": 5_000,
    "multiplier_permille": 2_000,
    "jitter_low_permille": 0,
    "jitter_high_permille": 1_000,
    **BUDGET,
}
HEDGE = {"max_attempts": 2, "delay_ms": 50, "deadline_ms": 1_000, **BUDGET}
GRADIENT = {
    "initial": 20,
    "min": 1,
    "max": 200,
    "queue": 4,
    "tolerance_permille": 1_500,
    "smoothing_permille": 200,
    "long_window": 600,
    "warmup": 10,
}

Steps = list[dict[str, Any]]


def cases() -> list[dict[str, Any]]:
    """Every vector."""
    limiter = {**GRADIENT, "initial": 2, "window_ms": 1_000, "window_calls": 2, "waiting_max": 1}
    delay = {"samples": 6, "samples_min": 3, "permille": 950, "delay_ms_min": 10}
    return [
        vector("status_class", "every_code", {}, status_steps()),
        *(vector("retry", name, config, steps) for name, config, steps in retry_cases()),
        *(vector("hedge", name, config, steps) for name, config, steps in hedge_cases()),
        vector("hedge_delay", "nearest_rank_of_the_latest", delay, delay_steps()),
        vector("limiter_drop", "a_drop_takes_a_tenth", GRADIENT, drop_steps()),
        vector("limiter_drop", "never_below_min", {**GRADIENT, "initial": 1}, lowest_steps()),
        vector("call_limiter", "line_window_and_drop", limiter, limiter_steps()),
        vector("call_limiter", "who_leaves_the_line_is_not_admitted", limiter, leaving_steps()),
    ]


def vector(kind: str, name: str, config: dict[str, Any], steps: Steps) -> dict[str, Any]:
    return {"kind": kind, "name": name, "config": config, "steps": steps}


def status_steps() -> Steps:
    steps: Steps = []
    for code, plain, idempotent, breaker, limiter in TABLE:
        for is_idempotent, retried in ((False, plain), (True, idempotent)):
            for pushback_ms in (None, 100, 0, -1):
                asked = code == "RESOURCE_EXHAUSTED" and pushback_ms is not None
                retry = (retried or asked) and pushback_ms != -1
                stop = pushback_ms == -1 and code != "OK"
                budget = "success" if code == "OK" else "failure" if retry or stop else "none"
                given = {"code": code, "idempotent": is_idempotent, "pushback_ms": pushback_ms}
                out = {"retry": retry, "budget": budget, "breaker": breaker, "limiter": limiter}
                steps.append({"in": given, "out": out})
    return steps


def began(t: int = 0) -> dict[str, Any]:
    return {"in": {"op": "start", "t": t}, "out": {"send": 1}}


def failed(
    t: int, code: str, pushback_ms: int | None = None, rnd_ppm: int = 500_000
) -> dict[str, Any]:
    return {"op": "status", "t": t, "code": code, "pushback_ms": pushback_ms, "rnd_ppm": rnd_ppm}


def sent(attempt: int, at: int, tokens: int) -> dict[str, Any]:
    return {"send": attempt, "at": at, "tokens_milli": tokens}


def over(tokens: int, *, stop_above: bool) -> dict[str, Any]:
    return {"end": True, "stop_above": stop_above, "tokens_milli": tokens}


def pair(given: dict[str, Any], out: dict[str, Any]) -> dict[str, Any]:
    return {"in": given, "out": out}


def retry_cases() -> list[tuple[str, dict[str, Any], Steps]]:
    down = "UNAVAILABLE"
    idempotent = {**RETRY, "idempotent": True}
    return [
        (
            # Half of 100 ms, then half of 200 ms; the third failure is the last.
            "backs_off_and_gives_up_after_max_attempts",
            RETRY,
            [
                began(),
                pair(failed(10, down), sent(2, 60, 9_000)),
                pair(failed(70, down), sent(3, 170, 8_000)),
                pair(failed(180, down), over(7_000, stop_above=True)),
            ],
        ),
        (
            "success_pays_back_a_tenth",
            RETRY,
            [
                began(),
                pair(failed(10, down), sent(2, 60, 9_000)),
                pair(failed(70, "OK"), over(9_100, stop_above=False)),
            ],
        ),
        (
            # Retried while more than half of the tokens are left: four times, then never.
            "budget_ends_retries_for_all_calls",
            RETRY,
            [
                began(),
                pair(failed(0, down), sent(2, 50, 9_000)),
                pair(failed(50, down), sent(3, 150, 8_000)),
                pair(failed(150, down), over(7_000, stop_above=True)),
                began(200),
                pair(failed(200, down), sent(2, 250, 6_000)),
                pair(failed(250, down), over(5_000, stop_above=True)),
                began(300),
                pair(failed(300, down), over(4_000, stop_above=True)),
                began(400),
                pair(failed(400, "OK"), over(4_100, stop_above=False)),
                began(500),
                pair(failed(500, down), over(3_100, stop_above=True)),
            ],
        ),
        (
            "pushback_is_obeyed_exactly_and_resets_the_backoff",
            {**RETRY, "max_attempts": 5},
            [
                began(),
                pair(failed(0, down), sent(2, 50, 9_000)),
                pair(failed(50, down), sent(3, 150, 8_000)),
                pair(failed(150, down, 33, 999_999), sent(4, 183, 7_000)),
                # Half of 100 ms again.
                pair(failed(190, down), sent(5, 240, 6_000)),
                pair(failed(240, down), over(5_000, stop_above=True)),
            ],
        ),
        (
            "pushback_of_nothing_is_at_once",
            RETRY,
            [began(), pair(failed(7, "RESOURCE_EXHAUSTED", 0), sent(2, 7, 9_000))],
        ),
        (
            "negative_pushback_stops_and_costs",
            RETRY,
            [began(), pair(failed(7, down, -1), over(9_000, stop_above=True))],
        ),
        (
            "negative_pushback_costs_also_with_a_code_never_retried",
            RETRY,
            [began(), pair(failed(7, "NOT_FOUND", -1), over(9_000, stop_above=True))],
        ),
        (
            "resource_exhausted_without_a_pushback_is_not_retried",
            RETRY,
            [began(), pair(failed(7, "RESOURCE_EXHAUSTED"), over(10_000, stop_above=False))],
        ),
        (
            # 1000 ms in all: 99 ms are smaller than the 100 that are left, 100 are not.
            "a_wait_as_long_as_the_time_left_is_not_begun",
            RETRY,
            [
                began(),
                pair(failed(900, down, 99), sent(2, 999, 9_000)),
                began(2_000),
                pair(failed(2_900, down, 100), over(8_000, stop_above=True)),
                began(4_000),
                pair(failed(5_000, down, 0), over(7_000, stop_above=True)),
            ],
        ),
        (
            "internal_needs_idempotency",
            RETRY,
            [began(), pair(failed(7, "INTERNAL"), over(10_000, stop_above=False))],
        ),
        (
            "internal_of_an_idempotent_method_is_retried",
            idempotent,
            [
                began(),
                pair(failed(7, "INTERNAL"), sent(2, 57, 9_000)),
                pair(failed(60, "DEADLINE_EXCEEDED"), sent(3, 160, 8_000)),
                pair(failed(160, "UNKNOWN"), over(7_000, stop_above=True)),
            ],
        ),
        (
            "one_attempt_is_not_retried",
            {**RETRY, "max_attempts": 1},
            [began(), pair(failed(7, down), over(9_000, stop_above=True))],
        ),
    ]


def hedge_out(
    send: int | None = None,
    wake: int | None = None,
    cancel: tuple[int, ...] = (),
    end: tuple[int, str, bool] | None = None,
    tokens: int = 10_000,
) -> dict[str, Any]:
    ended = None
    if end is not None:
        ended = {"attempt": end[0], "code": end[1], "stop_above": end[2]}
    return {
        "send": send,
        "wake": wake,
        "cancel": list(cancel),
        "end": ended,
        "tokens_milli": tokens,
    }


def start(t: int = 0) -> dict[str, Any]:
    return {"op": "start", "t": t}


def wake(t: int) -> dict[str, Any]:
    return {"op": "wake", "t": t}


def status(t: int, attempt: int, code: str, pushback_ms: int | None = None) -> dict[str, Any]:
    given = {"op": "status", "t": t, "attempt": attempt}
    return given | {"code": code, "pushback_ms": pushback_ms}


def hedge_cases() -> list[tuple[str, dict[str, Any], Steps]]:
    return [*hedges_that_win(), *hedges_that_fail(), *hedges_with_pushback()]


def hedges_that_win() -> list[tuple[str, dict[str, Any], Steps]]:
    first = pair(start(), hedge_out(send=1, wake=50))
    return [
        (
            # A success fills no bucket that is full.
            "a_quick_answer_needs_no_hedge",
            HEDGE,
            [first, pair(status(20, 1, "OK"), hedge_out(end=(1, "OK", False)))],
        ),
        (
            "after_the_delay_the_hedge_is_sent_and_wins",
            HEDGE,
            [
                first,
                pair(wake(49), hedge_out(wake=50)),
                pair(wake(50), hedge_out(send=2, wake=1_000)),
                pair(status(70, 2, "OK"), hedge_out(cancel=(1,), end=(2, "OK", False))),
                # What was cancelled says so, or answers after all: both change nothing.
                pair(status(71, 1, "OK"), hedge_out()),
                pair(wake(1_000), hedge_out()),
            ],
        ),
        (
            "the_first_may_win_as_well",
            HEDGE,
            [
                first,
                pair(wake(60), hedge_out(send=2, wake=1_000)),
                pair(status(61, 1, "OK"), hedge_out(cancel=(2,), end=(1, "OK", False))),
            ],
        ),
        (
            "three_attempts_are_a_delay_apart",
            {**HEDGE, "max_attempts": 3},
            [
                first,
                pair(wake(50), hedge_out(send=2, wake=100)),
                pair(wake(100), hedge_out(send=3, wake=1_000)),
                pair(status(101, 2, "OK"), hedge_out(cancel=(1, 3), end=(2, "OK", False))),
            ],
        ),
    ]


def hedges_that_fail() -> list[tuple[str, dict[str, Any], Steps]]:
    first = pair(start(), hedge_out(send=1, wake=50))
    down = "UNAVAILABLE"
    return [
        (
            "a_failure_that_is_not_fatal_sends_the_next_at_once",
            HEDGE,
            [
                first,
                pair(status(5, 1, down), hedge_out(send=2, wake=1_000, tokens=9_000)),
                pair(status(9, 2, "OK"), hedge_out(end=(2, "OK", False), tokens=9_100)),
            ],
        ),
        (
            "all_failed_ends_with_the_last",
            HEDGE,
            [
                first,
                pair(wake(50), hedge_out(send=2, wake=1_000)),
                pair(status(60, 2, down), hedge_out(wake=1_000, tokens=9_000)),
                pair(status(70, 1, "INTERNAL"), hedge_out(end=(1, "INTERNAL", True), tokens=8_000)),
            ],
        ),
        (
            "a_fatal_status_ends_it",
            HEDGE,
            [
                first,
                pair(wake(50), hedge_out(send=2, wake=1_000)),
                pair(
                    status(60, 2, "NOT_FOUND"),
                    hedge_out(cancel=(1,), end=(2, "NOT_FOUND", False)),
                ),
            ],
        ),
        (
            "the_deadline_covers_all",
            HEDGE,
            [
                first,
                pair(wake(50), hedge_out(send=2, wake=1_000)),
                pair(wake(999), hedge_out(wake=1_000)),
                pair(
                    wake(1_000),
                    hedge_out(cancel=(1, 2), end=(0, "DEADLINE_EXCEEDED", True)),
                ),
            ],
        ),
        (
            "no_hedge_at_the_deadline",
            {**HEDGE, "deadline_ms": 50},
            [
                pair(start(), hedge_out(send=1, wake=50)),
                pair(wake(50), hedge_out(cancel=(1,), end=(0, "DEADLINE_EXCEEDED", True))),
            ],
        ),
        (
            "a_failure_at_the_deadline_sends_nothing",
            HEDGE,
            [
                first,
                pair(status(1_000, 1, down), hedge_out(end=(1, down, True), tokens=9_000)),
            ],
        ),
        (
            # An open breaker, say. Nothing is paid for it.
            "a_hedge_that_could_not_be_sent_stops_more",
            {**HEDGE, "max_attempts": 3},
            [
                first,
                pair(wake(50), hedge_out(send=2, wake=100)),
                pair({"op": "refused", "t": 50, "attempt": 2}, hedge_out(wake=1_000)),
                pair(wake(100), hedge_out(wake=1_000)),
                pair(status(200, 1, "OK"), hedge_out(end=(1, "OK", False))),
                pair(start(300), hedge_out(send=1, wake=350)),
                pair(status(310, 1, down), hedge_out(send=2, wake=360, tokens=9_000)),
                pair(
                    {"op": "refused", "t": 310, "attempt": 2},
                    hedge_out(end=(1, down, True), tokens=9_000),
                ),
            ],
        ),
        (
            # Of two tokens more than one has to be left.
            "the_budget_refuses_the_hedge_and_the_first_goes_on",
            {**HEDGE, "max_tokens": 2},
            [
                pair(start(), hedge_out(send=1, wake=50, tokens=2_000)),
                pair(status(5, 1, down), hedge_out(end=(1, down, True), tokens=1_000)),
                pair(start(100), hedge_out(send=1, wake=150, tokens=1_000)),
                pair(wake(150), hedge_out(wake=1_100, tokens=1_000)),
                # Refused once is refused for this call, though there is a token by now.
                pair(status(160, 1, "OK"), hedge_out(end=(1, "OK", False), tokens=1_100)),
                pair(start(200), hedge_out(send=1, wake=250, tokens=1_100)),
                pair(wake(250), hedge_out(send=2, wake=1_200, tokens=1_100)),
            ],
        ),
    ]


def hedges_with_pushback() -> list[tuple[str, dict[str, Any], Steps]]:
    first = pair(start(), hedge_out(send=1, wake=50))
    down = "UNAVAILABLE"
    return [
        (
            "negative_pushback_stops_more_and_the_others_go_on",
            {**HEDGE, "max_attempts": 3},
            [
                first,
                pair(wake(50), hedge_out(send=2, wake=100)),
                pair(status(60, 1, down, -1), hedge_out(wake=1_000, tokens=9_000)),
                pair(wake(100), hedge_out(wake=1_000, tokens=9_000)),
                pair(status(110, 2, down), hedge_out(end=(2, down, True), tokens=8_000)),
            ],
        ),
        (
            "negative_pushback_ends_it_where_nothing_is_under_way",
            HEDGE,
            [first, pair(status(5, 1, down, -1), hedge_out(end=(1, down, True), tokens=9_000))],
        ),
        (
            "pushback_moves_the_next_and_the_delay_goes_on_after_it",
            {**HEDGE, "max_attempts": 3},
            [
                first,
                pair(status(10, 1, down, 200), hedge_out(wake=210, tokens=9_000)),
                pair(wake(50), hedge_out(wake=210, tokens=9_000)),
                pair(wake(210), hedge_out(send=2, wake=260, tokens=9_000)),
                pair(wake(260), hedge_out(send=3, wake=1_000, tokens=9_000)),
            ],
        ),
        (
            "pushback_beyond_the_deadline_ends_it",
            HEDGE,
            [first, pair(status(10, 1, down, 990), hedge_out(end=(1, down, True), tokens=9_000))],
        ),
        (
            "resource_exhausted_is_fatal_without_a_pushback",
            HEDGE,
            [
                first,
                pair(
                    status(10, 1, "RESOURCE_EXHAUSTED"),
                    hedge_out(end=(1, "RESOURCE_EXHAUSTED", False)),
                ),
                pair(start(100), hedge_out(send=1, wake=150)),
                pair(
                    status(110, 1, "RESOURCE_EXHAUSTED", 0),
                    hedge_out(wake=110, tokens=9_000),
                ),
                pair(wake(110), hedge_out(send=2, wake=1_100, tokens=9_000)),
            ],
        ),
    ]


def delay_steps() -> Steps:
    # Of n of the latest 6 the ceil(0.95 n)-th, which is the greatest of so few; at least 10.
    told = [(5, None), (3, None), (7, 10), (40, 40), (12, 40), (1, 40), (2, 40), (2, 40)]
    told += [(2, 40), (2, 12), (2, 10)]
    return [pair({"latency_ms": ms}, {"delay_ms": delay}) for ms, delay in told]


def drop_steps() -> Steps:
    # 20, then 18, 16.2, 14.58, whatever the time and however few calls are under way.
    dropped = [(200, 18), (1, 16), (200, 14)]
    steps = [
        pair({"rtt_us": 1_000, "inflight": inflight, "dropped": True}, {"limit": limit})
        for inflight, limit in dropped
    ]
    # 14.58 * 0.8 + (14.58 + 4) * 0.2 = 15.38. The drops' times were not remembered.
    grown = pair({"rtt_us": 90_000, "inflight": 200, "dropped": False}, {"limit": 15})
    return [*steps, grown]


def lowest_steps() -> Steps:
    given = {"rtt_us": 0, "inflight": 1, "dropped": True}
    return [pair(given, {"limit": 1}), pair(given, {"limit": 1})]


def acquire(admit: str, inflight: int, waiting: int, limit: int = 2) -> dict[str, Any]:
    out = {"admit": admit, "limit": limit, "inflight": inflight, "waiting": waiting}
    return pair({"op": "acquire"}, out)


def release(t: int, rtt_us: int, outcome: str, *out: int) -> dict[str, Any]:
    admitted, limit, inflight, waiting = out
    given = {"op": "release", "t": t, "rtt_us": rtt_us, "outcome": outcome}
    state = {"limit": limit, "inflight": inflight, "waiting": waiting}
    return pair(given, {"admitted": admitted} | state)


def limiter_steps() -> Steps:
    return [
        acquire("now", 1, 0),
        acquire("now", 2, 0),
        acquire("wait", 2, 1),
        acquire("refuse", 2, 1),
        # Ends, and the one that waits comes in. The first window begins.
        release(500, 1_000, "ok", 1, 2, 2, 0),
        # After 999 ms the window has not ended; what is ignored is never counted.
        release(1_499, 0, "ignore", 0, 2, 1, 0),
        acquire("now", 2, 0),
        # It has ended: 2 * 0.8 + (2 * 1 + 4) * 0.2 = 2.8.
        release(1_500, 3_000, "ok", 0, 2, 1, 0),
        acquire("now", 2, 0),
        # The next one: 2.8 * 0.8 + (2.8 + 4) * 0.2 = 3.6, so three may call.
        release(1_600, 2_000, "ok", 0, 2, 1, 0),
        acquire("now", 2, 0),
        acquire("wait", 2, 1),
        release(2_500, 2_000, "ok", 1, 3, 2, 0),
        acquire("now", 3, 0, limit=3),
        acquire("wait", 3, 1, limit=3),
        # A drop in the window: 3.6 * 0.9 = 3.24, and the next 2.916.
        release(3_000, 0, "drop", 1, 3, 3, 0),
        release(3_500, 2_000, "ok", 0, 3, 2, 0),
        release(4_000, 0, "drop", 0, 3, 1, 0),
        release(4_500, 0, "drop", 0, 2, 0, 0),
    ]


def leaving_steps() -> Steps:
    return [
        acquire("now", 1, 0),
        acquire("now", 2, 0),
        acquire("wait", 2, 1),
        pair({"op": "leave"}, {"limit": 2, "inflight": 2, "waiting": 0}),
        acquire("wait", 2, 1),
        release(0, 1_000, "ok", 1, 2, 2, 0),
        release(1, 1_000, "ok", 0, 2, 1, 0),
        release(2, 1_000, "ok", 0, 2, 0, 0),
    ]

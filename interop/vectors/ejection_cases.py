"""The cases of ejection.json with their expected values, worked out by hand from gRPC's A50 and the
rules in README.md.
"""

from __future__ import annotations

from typing import Any

SCHEMA = 1

FAILURES = {"threshold": 50, "enforcement": 100, "minimum_hosts": 2, "request_volume": 10}
RATES = {"stdev_factor": 1_900, "enforcement": 100, "minimum_hosts": 5, "request_volume": 10}
CONFIG: dict[str, Any] = {
    "interval_ms": 1_000,
    "base_ejection_ms": 2_500,
    "max_ejection_ms": 6_000,
    "max_ejected_percent": 50,
    "failure_percentage": FAILURES,
    "success_rate": None,
    "draws": [0],
}

Steps = list[dict[str, Any]]


def cases() -> list[dict[str, Any]]:
    """Every vector."""
    rates = {**CONFIG, "failure_percentage": None, "success_rate": RATES}
    half = {**CONFIG, "failure_percentage": {**FAILURES, "enforcement": 40}, "draws": [40, 39]}
    short = {**CONFIG, "max_ejection_ms": 1_000}
    return [
        vector("one_that_fails_is_left_out_and_comes_back", CONFIG, one_of_three()),
        vector("each_ejection_is_longer_up_to_the_longest", CONFIG, longer()),
        vector("the_longest_is_at_least_the_first", short, not_shorter()),
        vector("only_more_than_the_share_counts", CONFIG, shares()),
        vector("few_calls_judge_nobody", CONFIG, few()),
        vector("one_alone_stays", CONFIG, alone()),
        vector("half_may_go_and_one_more_where_they_are_odd", CONFIG, bounded()),
        vector("calls_of_an_earlier_interval_do_not_count", CONFIG, earlier()),
        vector("who_is_left_out_is_not_judged_again", CONFIG, late_reports()),
        vector("hosts_that_go_are_forgotten", CONFIG, gone()),
        vector("no_call_for_long_brings_everybody_back", CONFIG, idle()),
        vector("a_share_of_ejections_is_made", half, drawn()),
        vector("far_below_the_mean_is_left_out", rates, below_mean()),
        vector("equal_hosts_are_not_far_below", rates, alike()),
        vector("too_few_hosts_have_no_mean", rates, few_hosts()),
    ]


def vector(name: str, config: dict[str, Any], steps: Steps) -> dict[str, Any]:
    return {"kind": "ejection", "name": name, "config": config, "steps": steps}


def hosts(t: int, names: str, out: str = "") -> dict[str, Any]:
    return {"in": {"op": "hosts", "t": t, "hosts": list(names)}, "out": {"ejected": list(out)}}


def report(t: int, host: str, good: int, bad: int, out: str = "") -> dict[str, Any]:
    given = {"op": "report", "t": t, "host": host, "good": good, "bad": bad}
    return {"in": given, "out": {"ejected": list(out)}}


def look(t: int, out: str = "") -> dict[str, Any]:
    return {"in": {"op": "look", "t": t}, "out": {"ejected": list(out)}}


def one_of_three() -> Steps:
    return [
        hosts(0, "abc"),
        report(10, "a", 10, 0),
        report(20, "b", 10, 0),
        report(30, "c", 0, 10),
        look(999),
        look(1_000, "c"),
        # 2,500 ms, and the first sweep after them.
        look(3_500, "c"),
        look(3_999, "c"),
        look(4_000),
    ]


def longer() -> Steps:
    """2.5 s, 5 s, and 6 s where it would be 7.5 s; a well interval takes one step back."""
    failing = (10, 0), (0, 10)
    steps = [hosts(0, "ab")]

    def fails(t: int) -> None:
        for host, (good, bad) in zip("ab", failing, strict=True):
            steps.append(report(t, host, good, bad))

    fails(500)
    steps += [look(1_000, "b"), look(3_999, "b"), look(4_000)]
    # Out since 4,000 + 1,000: the sweep at 4,000 let it in and took no step back.
    fails(4_500)
    steps += [look(5_000, "b"), look(10_000, "b"), look(11_000)]
    fails(11_500)
    # Its third: 6 s, not 7.5 s.
    steps += [look(12_000, "b"), look(18_000, "b"), look(19_000)]
    # Two intervals without a fault: back from 3 to 1, so that the next is the second.
    steps += [look(21_500)]
    fails(21_600)
    steps += [look(22_000, "b"), look(27_000, "b"), look(28_000)]
    return steps


def not_shorter() -> Steps:
    return [
        hosts(0, "ab"),
        report(1, "a", 10, 0),
        report(2, "b", 0, 10),
        look(1_000, "b"),
        look(3_999, "b"),
        look(4_000),
    ]


def shares() -> Steps:
    return [
        hosts(0, "ab"),
        report(1, "a", 10, 0),
        report(2, "b", 10, 10),
        look(1_000),
        report(1_001, "a", 10, 0),
        report(1_002, "b", 10, 11),
        look(2_000, "b"),
    ]


def few() -> Steps:
    return [
        hosts(0, "ab"),
        report(1, "a", 10, 0),
        report(2, "b", 0, 9),
        look(1_000),
        # One with enough calls, where two are asked for.
        report(1_001, "b", 0, 10),
        report(1_002, "a", 9, 0),
        look(2_000),
    ]


def alone() -> Steps:
    return [hosts(0, "a"), report(1, "a", 0, 100), look(1_000), look(2_000)]


def bounded() -> Steps:
    return [
        hosts(0, "abcd"),
        *(report(1, host, 0, 10) for host in "abcd"),
        # Of four two: after them half is out.
        look(1_000, "ab"),
        hosts(10_000, "efg"),
        *(report(10_001, host, 0, 10) for host in "efg"),
        # Of three a third is out before the second goes, which is less than half.
        look(11_000, "ef"),
    ]


def earlier() -> Steps:
    return [
        hosts(0, "ab"),
        report(1, "a", 10, 0),
        report(500, "b", 0, 5),
        report(1_500, "b", 0, 5),
        report(1_501, "a", 10, 0),
        look(2_000),
    ]


def late_reports() -> Steps:
    """What was under way when it was left out ends later, and tells nothing new."""
    return [
        hosts(0, "abc"),
        *(report(1, host, 10, 0) for host in "ab"),
        report(2, "c", 0, 10),
        look(1_000, "c"),
        *(report(1_001, host, 10, 0, "c") for host in "ab"),
        report(1_002, "c", 0, 10, "c"),
        look(2_000, "c"),
        look(3_999, "c"),
        look(4_000),
    ]


def gone() -> Steps:
    return [
        hosts(0, "abc"),
        *(report(1, host, 10, 0) for host in "ab"),
        report(2, "c", 0, 10),
        look(1_000, "c"),
        # The others keep what they have.
        hosts(1_100, "bcd", "c"),
        hosts(1_200, "ab"),
        # Of nobody that is there.
        report(1_250, "c", 0, 10),
        # It came again, and begins anew.
        hosts(1_300, "abc"),
    ]


def idle() -> Steps:
    return [
        hosts(0, "ab"),
        report(1, "a", 10, 0),
        report(2, "b", 0, 10),
        look(1_000, "b"),
        look(86_400_000),
        report(86_400_001, "a", 10, 0),
        report(86_400_002, "b", 0, 10),
        # As long as the first one: all is forgiven.
        look(86_401_000, "b"),
        look(86_403_999, "b"),
        look(86_404_000),
    ]


def drawn() -> Steps:
    """40 in 100: a draw of 40 lets it be, one of 39 does not."""
    return [
        hosts(0, "ab"),
        report(1, "a", 10, 0),
        report(2, "b", 0, 10),
        look(1_000),
        report(1_001, "a", 10, 0),
        report(1_002, "b", 0, 10),
        look(2_000, "b"),
    ]


def below_mean() -> Steps:
    """Rates of 1, 1, 1, 1 and 0.5: mean 0.9, deviation 0.2, so below 0.52 is out."""
    return [
        hosts(0, "abcde"),
        *(report(1, host, 20, 0) for host in "abcd"),
        report(2, "e", 10, 10),
        look(1_000, "e"),
    ]


def alike() -> Steps:
    """All fail alike: nobody is below the mean, however low that is."""
    return [
        hosts(0, "abcde"),
        *(report(1, host, 2, 18) for host in "abcde"),
        look(1_000),
    ]


def few_hosts() -> Steps:
    return [
        hosts(0, "abcde"),
        *(report(1, host, 20, 0) for host in "abcd"),
        report(2, "e", 0, 9),
        look(1_000),
    ]

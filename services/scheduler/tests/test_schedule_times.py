"""When schedules run: both changes of the clocks by name, and everything against an oracle."""

from datetime import UTC, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from plait_scheduler.domain.schedule_times import (
    CronTimes,
    IntervalTimes,
    Times,
    TimesError,
    lag_ms,
    parse_span,
    parse_times,
    parse_zone,
)
from services.scheduler.tests.cron_oracle import Expression, Field, changes_of_clocks

# Of Europe, America and Australia; half an hour in Lord Howe; at midnight in Havana, Beirut, Cairo
# and Sao Paulo; back in Ramadan in Casablanca; no change in Kathmandu.
ZONES = (
    *("Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Havana", "Asia/Beirut"),
    *("Africa/Cairo", "America/Sao_Paulo", "Africa/Casablanca", "Asia/Kathmandu", "Pacific/Apia"),
)
RANGES = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 6))


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1000)


def texts(times: Times, after: str, until: str) -> list[str]:
    """Its times as UTC text."""
    found = []
    at = times.after(ms(after))
    while at is not None and at <= ms(until):
        found.append(datetime.fromtimestamp(at / 1000, UTC).strftime("%m-%d %H:%M"))
        at = times.after(at)
    return found


def berlin(cron: str) -> Times:
    return parse_times(cron, 0, 0, "Europe/Berlin")


class TestClocksGoForward:
    """In Berlin on 2026-03-29, 02:00 is 03:00 at once: 01:00 UTC."""

    def test_a_fixed_time_that_does_not_exist_runs_as_the_clocks_have_changed(self):
        found = texts(berlin("30 2 * * *"), "2026-03-28T12:00Z", "2026-03-31T00:00Z")
        assert found == ["03-29 01:00", "03-30 00:30"]

    def test_several_that_do_not_exist_run_once(self):
        found = texts(berlin("0,15,30 2,3 * * *"), "2026-03-28T12:00Z", "2026-03-29T12:00Z")
        assert found == ["03-29 01:00", "03-29 01:15", "03-29 01:30"]

    def test_a_star_runs_by_what_the_clock_shows(self):
        found = texts(berlin("*/30 * * * *"), "2026-03-29T00:00Z", "2026-03-29T02:00Z")
        assert found == ["03-29 00:30", "03-29 01:00", "03-29 01:30", "03-29 02:00"]
        assert not texts(berlin("*/30 2 * * *"), "2026-03-29T00:00Z", "2026-03-29T12:00Z")


class TestClocksGoBack:
    """In Berlin on 2026-10-25, 03:00 is 02:00 again: 01:00 UTC."""

    def test_a_fixed_time_that_comes_twice_runs_the_first_time(self):
        found = texts(berlin("30 2 * * *"), "2026-10-24T12:00Z", "2026-10-27T00:00Z")
        assert found == ["10-25 00:30", "10-26 01:30"]

    def test_asked_between_the_two_it_has_run(self):
        """01:15 UTC is 02:15 for the second time, before 02:30 for the second time."""
        found = texts(berlin("30 2 * * *"), "2026-10-25T01:15Z", "2026-10-27T00:00Z")
        assert found == ["10-26 01:30"]

    def test_a_star_runs_at_both(self):
        found = texts(berlin("30 * * * *"), "2026-10-25T00:00Z", "2026-10-25T02:00Z")
        assert found == ["10-25 00:30", "10-25 01:30"]


@cache
def changes(zone: str) -> list[datetime]:
    return changes_of_clocks(ZoneInfo(zone), 2016, 2028)


@st.composite
def fields(draw: st.DrawFn, low: int, high: int) -> Field:
    kind = draw(st.sampled_from(["star", "star", "step", "list", "range"]))
    if kind == "star":
        return Field("*", frozenset(range(low, high + 1)))
    if kind == "step":
        step = draw(st.integers(2, 30))
        return Field(f"*/{step}", frozenset(range(low, high + 1, step)))
    if kind == "range":
        first = draw(st.integers(low, high))
        last = draw(st.integers(first, high))
        step = draw(st.integers(1, 5))
        text = f"{first}-{last}" + (f"/{step}" if step > 1 else "")
        # One number with a step goes on to the end of the range.
        end = high if first == last and step > 1 else last
        if first == last and step > 1:
            end = 7 if (low, high) == (0, 6) else high
        return Field(text, frozenset(range(first, end + 1, step)))
    numbers = draw(st.sets(st.integers(low, high), min_size=1, max_size=4))
    return Field(",".join(map(str, sorted(numbers))), frozenset(numbers))


@st.composite
def expressions(draw: st.DrawFn) -> Expression:
    minute, hour, day, month, weekday = (fields(low, high) for low, high in RANGES)
    anything = st.just(Field("*", frozenset(range(32))))
    return Expression(
        draw(minute), draw(hour), draw(anything | day), draw(anything | month), draw(weekday)
    )


# Examples are readable as they are; to shrink them takes longer than a test may.
@settings(deadline=None, max_examples=150, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(st.sampled_from(ZONES), expressions(), st.data())
def test_times_are_those_of_the_oracle(zone: str, expression: Expression, data: st.DataObject):
    """Over three days, most often around a change of the clocks."""
    days = changes(zone) or [datetime(2024, 2, 28, tzinfo=UTC)]
    day = data.draw(st.sampled_from(days))
    after = day + timedelta(minutes=data.draw(st.integers(-2000, 2000)))
    until = after + timedelta(days=3)
    expected = expression.between(after, until, ZoneInfo(zone))
    times = CronTimes(expression.text, ZoneInfo(zone))
    after_ms, until_ms = (int(each.timestamp() * 1000) for each in (after, until))
    found = times.latest(after_ms, until_ms, 5000)
    assert [datetime.fromtimestamp(at / 1000, UTC) for at in found] == expected, expression.text
    most = data.draw(st.integers(1, 20))
    assert times.latest(after_ms, until_ms, most) == found[-most:]
    # Asked at any time, the next one is the same.
    at = data.draw(st.integers(after_ms, until_ms))
    following = next((each for each in found if each > at), None)
    said = times.after(at)
    assert said == following if following else said is None or said > until_ms


@given(
    st.integers(100, 10**9),
    st.integers(0, 10**12),
    st.integers(0, 2 * 10**12),
    st.integers(0, 10**6),
    st.integers(1, 50),
)
def test_an_interval_is_the_same_distance_between_all(
    every: int, anchor: int, after: int, span: int, most: int
):
    times = IntervalTimes(every, anchor)
    first = times.after(after)
    assert first is not None
    assert after < first <= after + every
    assert (first - anchor) % every == 0
    until = after + span
    assert times.latest(after, until, most) == list(range(first, until + 1, every))[-most:]


@given(st.text("nz-*", max_size=8), st.integers(0, 10**12), st.integers(0, 10**8))
def test_jitter_is_the_same_everywhere_and_ends_before_the_next_run(
    name: str, fire: int, jitter: int
):
    lag = lag_ms(name, fire, fire + 60_000, jitter)
    assert lag == lag_ms(name, fire, fire + 60_000, jitter)
    assert 0 <= lag < max(1, min(jitter, 60_000))


def test_jitter_spreads():
    lags = {lag_ms(f"s{n}", 0, None, 1_000_000) for n in range(100)}
    assert len(lags) == 100
    assert max(lags) - min(lags) > 800_000


@pytest.mark.parametrize(
    ("cron", "says"),
    [
        ("* * * *", "4 fields"),
        ("* * * * * *", "for seconds use every"),
        ("61 * * * *", "Bad minute"),
        ("0 0 30 2 *", "Bad day-of-month"),
        ("0 0 * * FOO", "Bad day-of-week"),
        ("@fortnightly", "1 fields"),
        ("@every soon", "no time such as"),
        ("@every 1ms", "100 ms to 365 d"),
        ("", "exactly one"),
        ("0 0 * * " + "1," * 200 + "1", "characters"),
    ],
)
def test_what_is_no_expression_is_refused(cron: str, says: str):
    with pytest.raises(TimesError, match=says):
        parse_times(cron, 0, 0, "")


@settings(deadline=None, max_examples=300)
@given(st.text("0123456789*/,-#LW? SUNJANMO@", max_size=24))
def test_any_text_is_times_or_an_error(text: str):
    try:
        times = parse_times(text, 0, 0, "Europe/Berlin")
    except TimesError:
        return
    first = times.after(0)
    assert first is not None
    assert first > 0


@pytest.mark.parametrize(
    ("text", "span"),
    [("90s", 90_000), ("1h30m", 5_400_000), ("500ms", 500), ("2d", 172_800_000), ("1m1ms", 60_001)],
)
def test_spans_are_read(text: str, span: int):
    assert parse_span(text) == span


@pytest.mark.parametrize("text", ["", "5", "s", "5x", "-5s", "0s", "1.5h"])
def test_what_is_no_span_is_refused(text: str):
    with pytest.raises(TimesError):
        parse_span(text)


@pytest.mark.parametrize(
    "name", ["Europe/Nowhere", "../etc/passwd", "/etc/passwd", "europe berlin"]
)
def test_what_is_no_zone_is_refused(name: str):
    with pytest.raises(TimesError, match="no time zone"):
        parse_zone(name)

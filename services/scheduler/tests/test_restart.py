"""Pauses between deaths and the next start."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait_scheduler.domain.restart import (
    Restart,
    RestartConfig,
    RestartHistory,
    after_death,
    with_attempts,
)

CONFIG = RestartConfig()


def die(times: int, every_ms: int, lived_ms: int, rnd: float) -> list[Restart]:
    """So many deaths, evenly spaced."""
    restarts, history = [], RestartHistory()
    for number in range(times):
        restart = after_death(CONFIG, history, lived_ms, number * every_ms, rnd)
        history = restart.history
        restarts.append(restart)
    return restarts


def test_pauses_double_up_to_the_longest():
    delays = [r.delay_ms for r in die(12, every_ms=CONFIG.window_ms, lived_ms=0, rnd=1)]
    assert delays == [100, 200, 400, 800, 1600, 3200, 6400, *[10_000] * 5]


def test_a_healthy_life_begins_anew():
    restarts = die(5, every_ms=CONFIG.window_ms, lived_ms=CONFIG.healthy_ms, rnd=1)
    assert {r.delay_ms for r in restarts} == {CONFIG.first_ms}


def test_a_crash_loop_is_told_once_and_slows_down():
    restarts = die(10, every_ms=1000, lived_ms=900, rnd=0)
    assert [r.loop_began for r in restarts] == [n == CONFIG.deaths_max - 1 for n in range(10)]
    assert {r.delay_ms for r in restarts[: CONFIG.deaths_max - 1]} == {0}
    assert {r.delay_ms for r in restarts[CONFIG.deaths_max - 1 :]} == {CONFIG.longest_ms // 2}


def test_a_crash_loop_ends_and_may_begin_again():
    history = die(CONFIG.deaths_max, 1000, 900, 1)[-1].history
    much_later = 10 * CONFIG.window_ms
    calm = after_death(CONFIG, history, CONFIG.healthy_ms, much_later, 1)
    assert not calm.history.looping
    for number in range(1, CONFIG.deaths_max):
        calm = after_death(CONFIG, calm.history, 0, much_later + number, 1)
    assert calm.loop_began


def test_deaths_with_attempts_are_no_crash_loop_but_pauses_grow():
    history, delays = RestartHistory(), []
    for number in range(20):
        now_ms = number * 1000
        history = after_death(CONFIG, history, 900, now_ms, 1).history
        restart = with_attempts(CONFIG, history, now_ms, 1)
        history = restart.history
        delays.append(restart.delay_ms)
        assert not history.looping
        assert history.deaths_ms == ()
        assert not restart.loop_began
    assert delays == [100, 200, 400, 800, 1600, 3200, 6400, *[10_000] * 13]


def test_a_crash_loop_is_over_where_its_last_death_was_with_attempts():
    last = die(CONFIG.deaths_max, 1000, 900, 1)[-1]
    assert last.loop_began
    died_ms = (CONFIG.deaths_max - 1) * 1000
    excused = with_attempts(CONFIG, last.history, died_ms, 1)
    assert not excused.history.looping
    assert excused.delay_ms < last.delay_ms
    # The other deaths count, so one more of that kind is a loop again.
    assert after_death(CONFIG, excused.history, 0, died_ms + 1000, 1).loop_began


@given(
    deaths=st.lists(st.tuples(st.integers(0, 100_000), st.integers(0, 20_000)), max_size=60),
    rnd=st.floats(0, 1, exclude_max=True),
)
def test_pauses_are_bounded_and_so_is_what_is_remembered(deaths: list[tuple[int, int]], rnd: float):
    history, now = RestartHistory(), 0
    for pause, lived in deaths:
        now += pause
        restart = after_death(CONFIG, history, lived, now, rnd)
        history = restart.history
        assert 0 <= restart.delay_ms <= CONFIG.longest_ms
        assert len(history.deaths_ms) <= CONFIG.deaths_max


@pytest.mark.parametrize(
    "config",
    [
        RestartConfig(first_ms=0),
        RestartConfig(first_ms=2, longest_ms=1),
        RestartConfig(deaths_max=1),
        RestartConfig(window_ms=0),
    ],
)
def test_what_makes_no_sense_is_refused(config: RestartConfig):
    with pytest.raises(ValueError, match=r"pause|crash loop"):
        config.validate()

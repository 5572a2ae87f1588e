"""When a process that died is started again, and when it counts as one that cannot live."""

from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True)
class RestartConfig:
    """What restarts go by, in milliseconds."""

    # Bound of the first pause; each death in a row doubles it.
    first_ms: int = 100
    # Bound of every pause.
    longest_ms: int = 10_000
    # A life this long is a healthy one, and the pauses begin anew.
    healthy_ms: int = 10_000
    # So many deaths within the window are a crash loop.
    deaths_max: int = 5
    window_ms: int = 60_000

    def validate(self) -> None:
        """Raises ValueError."""
        if not 0 < self.first_ms <= self.longest_ms:
            raise ValueError("the first pause is not within 0 to the longest")
        if self.deaths_max < 2 or self.window_ms <= 0:
            raise ValueError("a crash loop needs a window and two deaths")


@dataclass(frozen=True, slots=True)
class RestartHistory:
    """What is remembered of a process from death to death."""

    # Unhealthy lives in a row.
    in_a_row: int = 0
    # When it died, within the window.
    deaths_ms: tuple[int, ...] = field(default=())
    # Whether it was in a crash loop at its last death.
    looping: bool = False


@dataclass(frozen=True, slots=True)
class Restart:
    """What a death leads to."""

    # To be remembered.
    history: RestartHistory
    # The pause before the next start.
    delay_ms: int
    # Whether the crash loop began with this death; worth telling once.
    loop_began: bool


def after_death(
    config: RestartConfig, history: RestartHistory, lived_ms: int, now_ms: int, rnd: float
) -> Restart:
    """Decides on the next start. `rnd` is a random number from 0 to 1: the jitter is full.

    A process in a crash loop is started all the same, since its user may be mending it, but not
    sooner than half of the longest pause.
    """
    in_a_row = 1 if lived_ms >= config.healthy_ms else history.in_a_row + 1
    recent = tuple(at for at in history.deaths_ms if at > now_ms - config.window_ms)
    deaths = (*recent, now_ms)[-config.deaths_max :]
    looping = len(deaths) == config.deaths_max
    least = config.longest_ms // 2 if looping else 0
    bound = config.longest_ms if looping else _bound(config, in_a_row)
    delay = least + int(rnd * (bound - least))
    remembered = replace(history, in_a_row=in_a_row, deaths_ms=deaths, looping=looping)
    return Restart(remembered, delay, looping and not history.looping)


def with_attempts(
    config: RestartConfig, history: RestartHistory, died_ms: int, rnd: float
) -> Restart:
    """Decides again on a death of which it came out that attempts were under way.

    A task may have ended the process, and each such death costs that task one of its attempts: so
    it ends by itself and is no crash loop. The pause stays, since the fault may be the process's.
    """
    deaths = tuple(at for at in history.deaths_ms if at != died_ms)
    remembered = replace(history, deaths_ms=deaths, looping=False)
    return Restart(remembered, int(rnd * _bound(config, history.in_a_row)), loop_began=False)


def _bound(config: RestartConfig, in_a_row: int) -> int:
    # Doubling for ever would make a number of a million digits.
    return min(config.first_ms << min(max(in_a_row, 1) - 1, 32), config.longest_ms)

"""Who leads, whatever becomes of messages, processes and clocks."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from plait_scheduler.domain.leadership import (
    LEASE_MS,
    LEASE_MS_MAX,
    LOOKS,
    RENEWALS,
    SKEW_PERMILLE,
    Candidate,
    Role,
    View,
)

LEASE = 1000
NAMES = ("a", "b", "c")


@dataclass
class Broker:
    """Two keys and a fence, as the real broker keeps them."""

    version: int = 0
    leader: tuple[int, str] = (0, "")
    renewal: int = 0
    # Commands that were taken: epoch and who sent it.
    taken: list[tuple[int, str]] = field(default_factory=list)
    # On the true clock: when what was taken last of an epoch was sent, and when both keys came to
    # be as they are.
    sent_ms: dict[int, int] = field(default_factory=dict)
    since_ms: dict[View, int] = field(default_factory=dict)

    def view(self) -> View:
        return View(self.leader[0], self.leader[1], self.renewal, LEASE)

    def take(self, who: str, expected: int, sent_ms: int, now_ms: int) -> int | None:
        if self.leader[0] != expected:
            return None
        self.version += 1
        self.leader = (self.version, who)
        self._took(sent_ms, now_ms)
        return self.version

    def renew(self, epoch: int, sent_ms: int, now_ms: int) -> int | None:
        """None: done; else the present epoch."""
        if epoch != self.leader[0]:
            return self.leader[0]
        self.version += 1
        self.renewal = self.version
        self._took(sent_ms, now_ms)
        return None

    def _took(self, sent_ms: int, now_ms: int) -> None:
        epoch = self.leader[0]
        self.sent_ms[epoch] = max(sent_ms, self.sent_ms.get(epoch, sent_ms))
        self.since_ms[self.view()] = now_ms

    def command(self, who: str, epoch: int) -> None:
        if epoch == self.leader[0]:
            self.taken.append((epoch, who))


@dataclass
class Message:
    """On its way to the broker, or back."""

    who: str
    arrive: Callable[[], "Callable[[], None]"]


class Schedulers(RuleBasedStateMachine):
    """Three schedulers, whose clocks are set to anything and run at different rates; each message
    is late, lost on its way there or back, or arrives out of order; a process that is paused for
    long does what it was about to do, late.
    """

    def __init__(self) -> None:
        super().__init__()
        self.broker = Broker()
        self.now_ms = 0
        self.there: list[Message] = []
        self.back: list[tuple[str, Callable[[], None]]] = []

    @initialize(
        rates=st.tuples(*[st.integers(1000, 1000 + SKEW_PERMILLE)] * len(NAMES)),
        offsets=st.tuples(*[st.integers(-(10**9), 10**9)] * len(NAMES)),
    )
    def begin(self, rates: tuple[int, ...], offsets: tuple[int, ...]) -> None:
        self.clocks = dict(zip(NAMES, zip(rates, offsets, strict=True), strict=True))
        self.all = {name: Candidate(name, LEASE) for name in NAMES}

    def clock(self, who: str) -> int:
        rate, offset = self.clocks[who]
        return offset + self.now_ms * rate // 1000

    @rule(pause_ms=st.integers(1, 3 * LEASE))
    def time_passes(self, pause_ms: int) -> None:
        self.now_ms += pause_ms

    @rule(who=st.sampled_from(NAMES))
    def acts(self, who: str) -> None:
        """Looks, or renews and commands."""
        one = self.all[who]
        if one.role is not Role.LEADER:
            self.there.append(Message(who, lambda: self._look(who)))
            return
        name, epoch, sent_ms, asked_ms = one.scheduler, one.epoch, self.now_ms, self.clock(who)
        renew = Message(who, lambda: self._renew(who, epoch, sent_ms, asked_ms))
        self.there.append(renew)
        self.there.append(Message(who, lambda: self._command(name, epoch)))

    @rule(who=st.sampled_from(NAMES))
    def acts_undisturbed(self, who: str) -> None:
        """The same, and what it leads to, with no delay; what is late stays late."""
        late, self.there, self.back = (self.there, self.back), [], []
        self.acts(who)
        self._deliver()
        self.there, self.back = late

    def _deliver(self) -> None:
        while self.there or self.back:
            self.back += [(each.who, each.arrive()) for each in self.there]
            answers, self.there, self.back = self.back, [], []
            for _, answer in answers:
                answer()

    @rule(data=st.data(), lost=st.booleans())
    def a_message_arrives(self, data: st.DataObject, lost: bool) -> None:
        if self.there:
            message = self.there.pop(data.draw(st.integers(0, len(self.there) - 1)))
            answer = message.arrive()
            if not lost:
                self.back.append((message.who, answer))

    @rule(data=st.data())
    def a_message_is_lost(self, data: st.DataObject) -> None:
        if self.there:
            self.there.pop(data.draw(st.integers(0, len(self.there) - 1)))

    @rule(data=st.data())
    def an_answer_arrives(self, data: st.DataObject) -> None:
        if self.back:
            self.back.pop(data.draw(st.integers(0, len(self.back) - 1)))[1]()

    @rule(who=st.sampled_from(NAMES))
    def is_killed(self, who: str) -> None:
        """And starts again, under another name as every process has."""
        self.back = [each for each in self.back if each[0] != who]
        self.all[who] = Candidate(f"{self.all[who].scheduler}'", LEASE)

    def _look(self, who: str) -> Callable[[], None]:
        one, view = self.all[who], self.broker.view()

        def answer() -> None:
            if self.all[who] is not one or one.role is Role.LEADER:
                return
            version = one.saw(view, self.clock(who))
            if version is not None:
                if view.leader not in ("", one.scheduler):
                    assert self.now_ms - self.broker.since_ms[view] >= LEASE
                sent_ms, asked_ms = self.now_ms, self.clock(who)
                take = Message(who, lambda: self._take(one, version, sent_ms, asked_ms))
                self.there.append(take)

        return answer

    def _take(
        self, one: Candidate, version: int, sent_ms: int, asked_ms: int
    ) -> Callable[[], None]:
        epoch = self.broker.take(one.scheduler, version, sent_ms, self.now_ms)

        def answer() -> None:
            if one not in self.all.values() or one.role is Role.LEADER:
                return
            if epoch is None:
                one.outrun()
            else:
                one.elected(epoch, asked_ms)

        return answer

    def _renew(self, who: str, epoch: int, sent_ms: int, asked_ms: int) -> Callable[[], None]:
        one, other = self.all[who], self.broker.renew(epoch, sent_ms, self.now_ms)

        def answer() -> None:
            if self.all[who] is not one or one.epoch != epoch:
                return
            if other is None:
                one.renewed(asked_ms)
            else:
                one.deposed(other)

        return answer

    def _command(self, name: str, epoch: int) -> Callable[[], None]:
        # Under the name of who sent it, who may have been killed since.
        self.broker.command(name, epoch)
        return lambda: None

    @invariant()
    def commands_are_taken_from_one_leader_after_the_other(self) -> None:
        epochs = [epoch for epoch, _ in self.broker.taken]
        assert epochs == sorted(epochs)
        assert len(set(self.broker.taken)) == len(set(epochs))

    @invariant()
    def who_believes_to_lead_said_so_in_the_last_lease(self) -> None:
        for who, one in getattr(self, "all", {}).items():
            if one.leads(self.clock(who)):
                assert self.now_ms - self.broker.sent_ms[one.epoch] <= LEASE

    def teardown(self) -> None:
        """Once messages arrive and processes run, one leads and the others stand by, soon."""
        if not hasattr(self, "all"):
            return
        self.there, self.back = [], []
        for _ in range(3 * LOOKS * RENEWALS):
            self.now_ms += LEASE // LOOKS
            for who in NAMES:
                self.acts_undisturbed(who)
        leading = [who for who in NAMES if self.all[who].leads(self.clock(who))]
        assert len(leading) == 1
        assert self.broker.leader == (
            self.all[leading[0]].epoch,
            self.all[leading[0]].scheduler,
        )
        assert all(self.all[who].role is Role.STANDBY for who in NAMES if who not in leading)


TestSchedulers = Schedulers.TestCase
TestSchedulers.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)


def test_nobody_leads_so_it_does():
    one = Candidate("a", LEASE)
    assert one.saw(View(), 0) == 0
    one.elected(7, asked_ms=100)
    assert one.leads(1099)
    assert not one.leads(1100)
    one.renewed(asked_ms=500)
    one.renewed(asked_ms=300)
    assert one.leads(1499)
    assert not one.leads(1500)


def test_a_leader_that_is_silent_for_its_own_lease_is_replaced():
    one = Candidate("a", LEASE)
    view = View(epoch=3, leader="b", renewal=4, lease_ms=2000)
    assert one.saw(view, 0) is None
    assert one.role is Role.LOOKING
    assert one.saw(view, 2100) is None
    assert one.saw(view, 2101) == 3


def test_a_leader_that_is_heard_of_is_not():
    one = Candidate("a", LEASE)
    for renewal in range(1, 20):
        assert one.saw(View(3, "b", renewal, LEASE), renewal * 900) is None
    assert one.role is Role.STANDBY
    # Another one took the lead: it is given its time.
    assert one.saw(View(30, "c", 19, LEASE), 100_000) is None


def test_a_lead_that_was_given_away_is_taken_at_once():
    one = Candidate("a", LEASE)
    assert one.saw(View(3, "b", 4, LEASE), 0) is None
    assert one.saw(View(5, "", 4, LEASE), 1) == 5


def test_an_election_whose_answer_was_lost_is_held_again():
    one = Candidate("a", LEASE)
    assert one.saw(View(3, "a", 0, LEASE), 0) == 3


@pytest.mark.parametrize(("name", "lease_ms"), [("", LEASE_MS), ("a", 0), ("a", LEASE_MS_MAX + 1)])
def test_what_makes_no_sense_is_refused(name: str, lease_ms: int):
    with pytest.raises(ValueError, match=r"candidate|lease"):
        Candidate(name, lease_ms)

"""A version that anybody rejects is sent to nobody; all get the last one that all accepted."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from plait_scheduler.domain.acceptance import REJECTED_MAX, Acceptance


@dataclass(frozen=True)
class Thing:
    version: str


OLD, NEW, NEWER = Thing("old"), Thing("new"), Thing("newer")


def test_what_nobody_rejected_is_sent():
    acceptance: Acceptance[str, Thing] = Acceptance()
    assert acceptance.choose("k", NEW) is NEW
    acceptance.accept({"k": OLD})
    assert acceptance.choose("k", NEW) is NEW


def test_a_rejected_version_is_replaced_by_the_last_accepted_one():
    acceptance: Acceptance[str, Thing] = Acceptance()
    acceptance.accept({"k": OLD})
    acceptance.reject({"k": NEW})
    assert acceptance.choose("k", NEW) is OLD
    # The next version gets its chance, and another resource is not concerned.
    assert acceptance.choose("k", NEWER) is NEWER
    assert acceptance.choose("another", NEW) is NEW


def test_one_that_others_had_accepted_is_no_longer_good():
    acceptance: Acceptance[str, Thing] = Acceptance()
    acceptance.accept({"k": OLD})
    acceptance.accept({"k": NEW})
    acceptance.reject({"k": NEW})
    acceptance.accept({"k": NEW})
    assert acceptance.choose("k", NEW) is OLD


def test_where_nothing_was_accepted_the_candidate_is_sent():
    acceptance: Acceptance[str, Thing] = Acceptance()
    acceptance.reject({"k": NEW})
    assert acceptance.choose("k", NEW) is NEW


def test_what_is_forgotten_starts_anew():
    acceptance: Acceptance[str, Thing] = Acceptance()
    acceptance.accept({"k": OLD})
    acceptance.reject({"k": NEW})
    acceptance.forget({"another"})
    assert acceptance.choose("k", NEW) is NEW


STEPS = st.lists(st.tuples(st.booleans(), st.integers(0, REJECTED_MAX - 1)), max_size=60)


@given(STEPS, st.integers(0, REJECTED_MAX - 1))
def test_a_rejected_version_is_sent_only_where_there_is_no_other(steps, candidate):
    acceptance: Acceptance[str, Thing] = Acceptance()
    rejected: set[str] = set()
    for accepts, number in steps:
        thing = Thing(str(number))
        if accepts:
            acceptance.accept({"k": thing})
        else:
            acceptance.reject({"k": thing})
            rejected.add(thing.version)
    chosen = acceptance.choose("k", Thing(str(candidate)))
    assert chosen.version not in rejected or chosen.version == str(candidate)

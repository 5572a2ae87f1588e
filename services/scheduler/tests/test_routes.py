"""Routes: a worker is given only what its contract knows every field of."""

from dataclasses import replace
from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from plait_scheduler.domain.contract import Contract, FieldShape, Kind, MethodShape
from plait_scheduler.domain.routes import Route, assign, covers, method_of, shape_of
from plait_scheduler.domain.standing import Standing, standing
from services.scheduler.tests.contracts import MESSAGES, orders
from services.scheduler.tests.test_contract_properties import MESSAGES as NAMES
from services.scheduler.tests.test_contract_properties import NEW_NUMBERS, contracts

PLACE = "/shop.v1.Orders/Place"
FIRST = orders()
MORE = orders(messages=MESSAGES.replace("string id = 1; }\n", "string id = 1; string by = 2; }\n"))
MOST = orders(messages=MESSAGES.replace("string id = 1; }\n", "string id = 1; bytes by = 3; }\n"))
OTHER = orders(messages=MESSAGES.replace("int64 number = 2", "string number = 2"))
RENAMED = orders(messages=MESSAGES.replace("int64 number = 2", "int64 count_of = 2"))
VALUE = orders(messages=MESSAGES.replace("LEVEL_HIGH = 1;", "LEVEL_HIGH = 1; LEVEL_LOW = 2;"))


def routes(
    contract: Contract,
    in_force: Contract | None,
    now: dict[str, Route],
    *earlier: dict[str, Route],
    version: int = 2,
) -> dict[str, Route]:
    return assign(contract, contract.services[0], in_force, now, earlier, version)


def test_the_first_contract_goes_by_the_method():
    (place,) = routes(FIRST, None, {}, version=1).values()
    assert (place.route, place.served) == (PLACE, (PLACE,))


def test_what_knows_more_takes_what_was_before_and_not_the_other_way_round():
    first = routes(FIRST, None, {}, version=1)
    (more,) = routes(MORE, FIRST, first).values()
    assert (more.route, more.served) == (f"{PLACE}@2", (PLACE, f"{PLACE}@2"))
    (value,) = routes(VALUE, FIRST, first).values()
    assert value.served == (PLACE, f"{PLACE}@2")


def test_a_change_that_no_message_has_changes_no_route():
    first = routes(FIRST, None, {}, version=1)
    assert routes(orders("priority: 1"), FIRST, first) == first
    assert routes(RENAMED, FIRST, first) == first


def test_what_breaks_bytes_takes_nothing_of_the_other():
    first = routes(FIRST, None, {}, version=1)
    (other,) = routes(OTHER, FIRST, first).values()
    assert other.served == (f"{PLACE}@2",)
    # Neither knows all of the other.
    second = routes(MORE, FIRST, first)
    (most,) = routes(MOST, MORE, second, first, version=3).values()
    assert (most.route, most.served) == (f"{PLACE}@3", (f"{PLACE}@3",))


def test_an_earlier_contract_has_its_routes_again():
    first = routes(FIRST, None, {}, version=1)
    second = routes(MORE, FIRST, first)
    assert routes(FIRST, MORE, second, first, version=3) == first
    # One of before anybody told of it: those in force do its tasks.
    (place,) = routes(FIRST, MORE, second, version=3).values()
    assert (place.route, place.served) == (f"{PLACE}@2", (f"{PLACE}@3",))


def test_a_contract_in_force_from_before_there_were_routes_goes_by_its_methods():
    (more,) = routes(MORE, FIRST, {}).values()
    assert more.served == (PLACE, f"{PLACE}@2")
    (same,) = routes(FIRST, FIRST, {}).values()
    assert same.served == (PLACE,)


@given(contracts(), st.sampled_from(NAMES), NEW_NUMBERS)
def test_whoever_knows_a_field_more_reads_the_other(old: Contract, name: str, number: int):
    message = old.messages[name]
    added = replace(message, fields=(*message.fields, FieldShape("new", number, Kind.BYTES)))
    new = replace(old, digest="new", messages={**old.messages, name: added})
    for (_, before), (_, after) in zip(old.unary(), new.unary(), strict=True):
        reached = name in old.reached(before.request, before.response)
        assert covers(new, after, old, before)
        assert covers(old, before, new, after) is not reached
        assert (shape_of(old, before) == shape_of(new, after)) is not reached


@st.composite
def histories(draw: st.DrawFn) -> list[Contract]:
    """Versions that grow out of one another, lose fields again, or have nothing in common."""
    made = [draw(contracts())]
    for _ in range(draw(st.integers(0, 4))):
        contract, name = draw(st.sampled_from(made)), draw(st.sampled_from(NAMES))
        message, number = contract.messages[name], draw(NEW_NUMBERS)
        others = tuple(field for field in message.fields if field.number != number)
        kind = draw(st.sampled_from([Kind.BYTES, Kind.INT32, Kind.INT64]))
        more = (FieldShape("new", number, kind),) if draw(st.booleans()) else ()
        changed = {**contract.messages, name: replace(message, fields=(*others, *more))}
        made.append(replace(contract, messages=changed))
    return [*made, *draw(st.lists(contracts(), max_size=1))]


@given(histories())
def test_a_worker_serves_only_what_it_knows(versions: list[Contract]):
    """Whatever comes after what, in any order and again."""
    known: list[tuple[Contract, dict[str, Route]]] = []
    for number, contract in enumerate([*versions, *reversed(versions)], 1):
        in_force, now = known[-1] if known else (None, {})
        earlier = [each for _, each in known]
        made = routes(contract, in_force, now, *earlier, version=number)
        assert routes(contract, contract, made, *earlier, version=number + 1) == made
        known.append((contract, made))
    for (worker, served), (client, sent) in product(known, known):
        methods = dict(_methods(client))
        for path, reader in _methods(worker):
            assert all(method_of(route) == path for route in served[path].served)
            if sent[path].route in served[path].served:
                assert covers(worker, reader, client, methods[path])


def _methods(contract: Contract) -> list[tuple[str, MethodShape]]:
    return [(service.path(method), method) for service, method in contract.unary()]


def stand(version: int | None, in_force: int | None, *attached: int, **how: bool) -> Standing:
    said = {"for_worker": False, "replace": False, **how}
    return standing(version=version, in_force=in_force, attached=attached, **said)


def test_what_workers_announce_is_in_force_unless_a_later_one_is_served():
    worker = {"for_worker": True}
    assert stand(None, None, **worker) is Standing.REPLACES
    assert stand(None, 1, 1, **worker) is Standing.REPLACES
    assert stand(2, 2, 1, 2, **worker) is Standing.SAME
    assert stand(1, 2, 1, 2, **worker) is Standing.BESIDE
    assert stand(1, 2, 1, **worker) is Standing.REPLACES
    assert stand(1, 2, **worker) is Standing.REPLACES
    assert stand(3, 2, 2, **worker) is Standing.REPLACES


def test_what_submitters_announce_replaces_nothing():
    assert stand(None, None) is Standing.REPLACES
    assert stand(None, 1) is Standing.NEW_BESIDE
    assert stand(2, 1) is Standing.BESIDE
    assert stand(1, 1) is Standing.SAME


def test_an_operator_decides():
    assert stand(1, 2, 2, replace=True) is Standing.REPLACES
    assert stand(None, 2, 2, replace=True) is Standing.REPLACES
    assert stand(2, 2, 3, replace=True) is Standing.SAME

"""Any contract fits itself, what is added breaks nothing, and a break is found wherever it is
planted.
"""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from plait_scheduler.domain.change import Effect
from plait_scheduler.domain.compatibility import compare
from plait_scheduler.domain.contract import (
    Contract,
    EnumShape,
    FieldShape,
    Kind,
    MessageShape,
    MethodShape,
    PolicyOption,
    Reserved,
    ServiceShape,
)

SERVICE = "s.S"
MESSAGES = ("s.A", "s.B", "s.C", "s.D")
ENUM = "s.E"
NUMBERS = range(1, 6)
NEW_NUMBERS = st.integers(100, 110)


@st.composite
def fields(draw: st.DrawFn, message: int, number: int) -> FieldShape:
    """A field; messages refer to the next one, so that each is reached through those before."""
    kind = draw(st.sampled_from(list(Kind)))
    named = {Kind.MESSAGE: MESSAGES[min(message + 1, 3)], Kind.GROUP: MESSAGES[message]}
    name = f"f{number}"
    return FieldShape(
        name=name,
        number=number,
        kind=kind,
        repeated=draw(st.booleans()),
        type_name={**named, Kind.ENUM: ENUM}.get(kind, ""),
        json_name=draw(st.sampled_from(["", name, f"j{number}"])),
        oneof=draw(st.sampled_from(["", "", "x", "y"])),
    )


@st.composite
def contracts(draw: st.DrawFn) -> Contract:
    """A service of two methods whose messages form a chain, each reached from the first."""
    messages = {}
    for index, name in enumerate(MESSAGES):
        numbers = draw(st.sets(st.sampled_from(NUMBERS), min_size=1))
        made = [draw(fields(index, number)) for number in sorted(numbers)]
        link = FieldShape("next", 50, Kind.MESSAGE, type_name=MESSAGES[min(index + 1, 3)])
        choice = FieldShape("choice", 51, Kind.ENUM, type_name=ENUM)
        messages[name] = MessageShape(name, (*made, link, choice))
    values = (("ZERO", 0), ("ONE", 1), ("UNO", 1), ("TWO", 2))
    priority = PolicyOption({"priority": draw(st.integers(0, 9))})
    methods = (
        MethodShape("Do", MESSAGES[0], MESSAGES[1], task=priority),
        MethodShape("See", MESSAGES[0], MESSAGES[0]),
    )
    service = ServiceShape(SERVICE, "s.proto", methods)
    return Contract("old", (service,), messages, {ENUM: EnumShape(ENUM, values)})


def found(old: Contract, new: Contract, known: bool = False) -> set[tuple[str, str]]:
    """What is not harmless."""
    changes = compare(old, replace(new, digest="new"), SERVICE, known)
    return {(c.kind, c.subject) for c in changes if c.effect is not Effect.HARMLESS}


def with_message(contract: Contract, message: MessageShape) -> Contract:
    return replace(contract, messages={**contract.messages, message.name: message})


def with_field(contract: Contract, name: str, old: FieldShape, *new: FieldShape) -> Contract:
    """A field is replaced, or goes."""
    message = contract.messages[name]
    kept = tuple(field for field in message.fields if field is not old)
    return with_message(contract, replace(message, fields=(*kept, *new)))


PLACES = st.tuples(st.sampled_from(MESSAGES), st.integers(0, 100))


def place(contract: Contract, where: tuple[str, int]) -> FieldShape:
    """One of the fields, link and choice included."""
    all_of_them = contract.messages[where[0]].fields
    return all_of_them[where[1] % len(all_of_them)]


@given(contracts())
def test_a_contract_fits_itself(contract: Contract):
    assert compare(contract, replace(contract, digest="new"), SERVICE) == []


@given(contracts(), st.sampled_from(MESSAGES), NEW_NUMBERS, st.sampled_from(list(Kind)))
def test_what_is_added_breaks_nothing(contract: Contract, name: str, number: int, kind: Kind):
    field = FieldShape(f"f{number}", number, kind, type_name=MESSAGES[0])
    message = contract.messages[name]
    more = with_message(contract, replace(message, fields=(*message.fields, field)))
    (service,) = contract.services
    method = MethodShape("New", MESSAGES[3], MESSAGES[3])
    more = replace(more, services=(replace(service, methods=(*service.methods, method)),))
    values = (*contract.enums[ENUM].values, ("NEW", number))
    more = replace(more, enums={ENUM: EnumShape(ENUM, values)})
    assert found(contract, more) == set()
    kinds = {each.kind for each in compare(contract, replace(more, digest="new"), SERVICE)}
    assert kinds == {"FIELD_ADDED", "METHOD_ADDED", "ENUM_VALUE_ADDED"}


@given(contracts(), PLACES)
def test_a_field_that_goes_is_found_and_may_go_when_it_is_reserved(contract, where):
    field = place(contract, where)
    if field.name == "next":
        return
    gone = with_field(contract, where[0], field)
    assert found(contract, gone) == {("FIELD_REMOVED", f"{where[0]}.{field.name}")}
    assert found(contract, gone, known=True) == set()
    reserved = Reserved(((field.number, field.number),), (field.name,))
    kept = with_message(gone, replace(gone.messages[where[0]], reserved=reserved))
    assert found(contract, kept) == set()


@given(contracts(), PLACES)
def test_another_cardinality_is_found(contract: Contract, where: tuple[str, int]):
    field = place(contract, where)
    other = with_field(contract, where[0], field, replace(field, repeated=not field.repeated))
    subject = f"{where[0]}.{field.name}"
    assert found(contract, other) == {("FIELD_CARDINALITY_CHANGED", subject)}
    assert found(contract, other, known=True) == {("FIELD_CARDINALITY_CHANGED", subject)}


@given(contracts(), PLACES)
def test_another_encoding_is_found(contract: Contract, where: tuple[str, int]):
    field = place(contract, where)
    if field.name == "next":
        return
    kind = Kind.DOUBLE if field.kind is not Kind.DOUBLE else Kind.STRING
    other = with_field(contract, where[0], field, replace(field, kind=kind, type_name=""))
    assert ("FIELD_TYPE_CHANGED", f"{where[0]}.{field.name}") in found(contract, other)


@given(contracts(), PLACES)
def test_another_name_is_found(contract: Contract, where: tuple[str, int]):
    field = place(contract, where)
    subject = f"{where[0]}.{field.name}"
    renamed = with_field(contract, where[0], field, replace(field, name="other"))
    assert found(contract, renamed) == {("FIELD_RENAMED", subject)}
    in_json = with_field(contract, where[0], field, replace(field, json_name="other"))
    assert found(contract, in_json) == {("FIELD_JSON_NAME_CHANGED", subject)}


@given(contracts(), PLACES)
def test_a_move_into_or_out_of_a_oneof_is_found(contract: Contract, where: tuple[str, int]):
    field = place(contract, where)
    moved = with_field(contract, where[0], field, replace(field, oneof="" if field.oneof else "x"))
    assert ("FIELD_ONEOF_CHANGED", f"{where[0]}.{field.name}") in found(contract, moved)


@given(contracts())
def test_a_oneof_may_have_another_name(contract: Contract):
    named = contract
    for name in MESSAGES:
        message = contract.messages[name]
        renamed = tuple(replace(f, oneof=f"{f.oneof}2" if f.oneof else "") for f in message.fields)
        named = with_message(named, replace(message, fields=renamed))
    assert found(contract, named) == set()


@given(contracts(), st.sampled_from(["ONE", "TWO", "ZERO"]))
def test_a_value_that_goes_or_is_renamed_is_found(contract: Contract, name: str):
    values = contract.enums[ENUM].values
    number = dict(values)[name]
    gone = EnumShape(ENUM, tuple(each for each in values if each[1] != number))
    names = {each for each, its in values if its == number}
    assert found(contract, replace(contract, enums={ENUM: gone})) == {
        ("ENUM_VALUE_REMOVED", f"{ENUM}.{each}") for each in names
    }
    renamed = EnumShape(ENUM, tuple(("X", n) if each == name else (each, n) for each, n in values))
    assert found(contract, replace(contract, enums={ENUM: renamed})) == {
        ("ENUM_VALUE_RENAMED", f"{ENUM}.{name}")
    }


@given(contracts(), st.sampled_from(["request", "response"]), st.sampled_from([0, 1]))
def test_another_type_of_a_method_is_found(contract: Contract, part: str, index: int):
    (service,) = contract.services
    method = service.methods[index]
    if part == "request":
        method = replace(method, request=MESSAGES[3])
    else:
        method = replace(method, response=MESSAGES[3])
    methods = (*service.methods[:index], method, *service.methods[index + 1 :])
    other = replace(contract, services=(replace(service, methods=methods),))
    kind = f"{part.upper()}_TYPE_CHANGED"
    assert (kind, f"{SERVICE}.{method.name}") in found(contract, other)


@given(contracts(), contracts())
def test_bytes_break_the_same_both_ways(one: Contract, other: Contract):
    kinds = {"FIELD_TYPE_CHANGED", "FIELD_CARDINALITY_CHANGED", "FIELD_ONEOF_CHANGED"}
    forth = {each for each in found(one, other) if each[0] in kinds}
    back = {each for each in found(other, one) if each[0] in kinds}
    assert forth == back

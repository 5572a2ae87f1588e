"""Descriptor sets become contracts; what is broken or not known is refused with a reason."""

import pytest
from google.protobuf import descriptor_pb2
from hypothesis import given
from hypothesis import strategies as st

from plait_scheduler.descriptors.contract_reader import ContractReadError, read_contract
from plait_scheduler.domain.contract import Kind
from plait_scheduler.domain.policy_compiler import compile_contract
from services.scheduler.tests.contracts import FILE, SERVICE, compile_set, orders_set


def edited(descriptor_set: bytes) -> tuple[descriptor_pb2.FileDescriptorSet, ...]:
    return (descriptor_pb2.FileDescriptorSet.FromString(descriptor_set),)


def read(files: descriptor_pb2.FileDescriptorSet, *services: str):
    return read_contract(files.SerializeToString(), services or [SERVICE], "d")


def test_every_message_that_is_reached_is_read():
    (files,) = edited(orders_set())
    contract = read(files)
    assert {"shop.v1.Order", "shop.v1.Item", "shop.v1.Receipt"} <= set(contract.messages)
    by_name = contract.messages["shop.v1.Order"].field("by_name")
    assert by_name is not None
    assert by_name.is_map
    assert contract.messages[by_name.type_name].field("value") is not None


def test_files_may_come_in_any_order():
    (files,) = edited(orders_set())
    backwards = descriptor_pb2.FileDescriptorSet(file=reversed(files.file))
    assert read(backwards).services == read(files).services


def test_well_known_types_need_not_be_sent():
    contract = read_contract(
        compile_set(
            'import "google/protobuf/wrappers.proto"; service S { rpc Get(M) returns (M) {'
            'option (plait.v1.task) = {ordering_key: "user.value"}; } }'
            "message M { google.protobuf.StringValue user = 1; }"
        ),
        ["shop.v1.S"],
        "d",
    )
    (policy,) = compile_contract(contract).policies
    assert policy.ordering_key is not None
    assert policy.ordering_key.numbers == (1, 1)


def test_a_default_of_proto2_is_seen():
    contract = read_contract(
        compile_set(
            "message M { optional string plain = 1; optional string own = 2 [default = 'x'];"
            " optional int32 zero = 3 [default = 0]; }"
            "service S { rpc Get(M) returns (M); }",
            syntax="proto2",
        ),
        ["shop.v1.S"],
        "d",
    )
    fields = {field.name: field.has_default for field in contract.messages["shop.v1.M"].fields}
    assert fields == {"plain": False, "own": True, "zero": False}


def test_a_group_is_no_message():
    contract = read_contract(
        compile_set(
            "message M { optional group G = 1 { optional string id = 1; } }"
            "service S { rpc Get(M) returns (M) {"
            'option (plait.v1.task) = {ordering_key: "g.id"}; } }',
            syntax="proto2",
        ),
        ["shop.v1.S"],
        "d",
    )
    assert contract.messages["shop.v1.M"].fields[0].kind is Kind.GROUP
    (violation,) = compile_contract(contract).violations
    assert "is a group" in violation.description


@pytest.mark.parametrize(
    ("services", "why"),
    [([], "no service is named"), (["shop.v1.Nope"], "does not declare shop.v1.Nope")],
)
def test_services_must_be_there(services: list[str], why: str):
    with pytest.raises(ContractReadError, match=why):
        read_contract(orders_set(), services, "d")


def test_an_import_that_is_missing_is_named():
    (files,) = edited(orders_set())
    rest = descriptor_pb2.FileDescriptorSet(file=[f for f in files.file if f.name == FILE])
    with pytest.raises(ContractReadError, match="is imported, but not in the descriptor set"):
        read(rest)


def test_a_type_that_is_missing_is_refused():
    (files,) = edited(orders_set())
    del files.file[-1].message_type[0]
    with pytest.raises(ContractReadError, match=FILE):
        read(files)


def test_imports_in_a_circle_are_refused():
    files = descriptor_pb2.FileDescriptorSet()
    files.file.add(name="a.proto", dependency=["b.proto"]).service.add(name="S")
    files.file.add(name="b.proto", dependency=["a.proto"])
    with pytest.raises(ContractReadError, match="in a circle"):
        read(files, "S")


@given(st.binary(max_size=200))
def test_any_bytes_are_a_contract_or_refused(data: bytes):
    with pytest.raises(ContractReadError):
        read_contract(data, ["s.S"], "d")


@given(st.data())
def test_damaged_sets_are_a_contract_or_refused(data: st.DataObject):
    good = bytearray(orders_set('ordering_key: "id"'))
    for _ in range(data.draw(st.integers(1, 3))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    try:
        contract = read_contract(bytes(good), [SERVICE], "d")
    except ContractReadError:
        return
    compile_contract(contract)


# The contract's author may have a newer options.proto than this program.


def with_policy_bytes(more: bytes) -> descriptor_pb2.FileDescriptorSet:
    """The set of a method whose policy holds more bytes than this program can write."""
    (files,) = edited(orders_set("priority: 3"))
    options = files.file[-1].service[0].method[0].options
    raw = options.SerializeToString()
    options.ParseFromString(raw + tag(50710, 2) + bytes([len(more)]) + more)
    return files


def tag(number: int, wire: int) -> bytes:
    value, out = number << 3 | wire, b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


@pytest.mark.parametrize(
    ("more", "field"),
    [
        (tag(99, 0) + b"\x01", "task.99"),
        (tag(4, 2) + b"\x02" + tag(9, 0) + b"\x01", "task.retry.9"),
        (tag(2, 2) + b"\x04" + tag(1, 0) + b"\x05" + tag(7, 0) + b"\x01", "task.deadline.7"),
    ],
)
def test_a_policy_field_that_is_not_known_is_refused(more: bytes, field: str):
    (violation,) = compile_contract(read(with_policy_bytes(more))).violations
    assert violation.subject == f"{SERVICE}.Place"
    assert violation.field == field
    assert "not known" in violation.description


def test_an_option_of_ours_that_is_not_known_is_refused():
    (files,) = edited(orders_set())
    ours = next(file for file in files.file if file.package == "plait.v1")
    for extendee, name, number in (
        ("MethodOptions", "quota", 50711),
        ("ServiceOptions", "quota_defaults", 50712),
    ):
        ours.extension.add(
            name=name,
            number=number,
            extendee=f".google.protobuf.{extendee}",
            label=descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL,
            type=descriptor_pb2.FieldDescriptorProto.TYPE_INT32,
        )
    service = files.file[-1].service[0]
    service.method[0].options.ParseFromString(tag(50711, 0) + b"\x01")
    service.options.ParseFromString(tag(50712, 0) + b"\x01")
    found = {(v.subject, v.field) for v in compile_contract(read(files)).violations}
    assert found == {(f"{SERVICE}.Place", "quota"), (SERVICE, "quota_defaults")}


def test_options_of_others_are_nobodys_business():
    (files,) = edited(orders_set())
    service = files.file[-1].service[0]
    service.method[0].options.ParseFromString(tag(60000, 0) + b"\x01")
    assert compile_contract(read(files)).violations == ()

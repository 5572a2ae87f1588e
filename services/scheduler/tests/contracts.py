"""Contracts for tests, written as proto files."""

import functools
import subprocess
import sys
import tempfile
from pathlib import Path

from google.protobuf import descriptor_pb2

from plait_scheduler.descriptors.contract_reader import read_contract
from plait_scheduler.domain.contract import Contract

ROOT = Path(__file__).parents[3]
FILE = "shop/v1/orders.proto"
SERVICE = "shop.v1.Orders"
MESSAGES = """
message Item { string sku = 1; bytes digest = 2; repeated string tags = 3; }
message Order {
  string id = 1;
  int64 number = 2;
  Item item = 3;
  repeated Item items = 4;
  map<string, Item> by_name = 5;
  double weight = 6;
  bool urgent = 7;
  Level level = 8;
  oneof customer { string name = 9; fixed64 code = 10; }
  sint32 shift = 11;
  uint64 count = 12;
  fixed32 f32 = 13;
  sfixed32 sf32 = 14;
  sfixed64 sf64 = 15;
  Order parent = 16;
}
enum Level { LEVEL_UNSPECIFIED = 0; LEVEL_HIGH = 1; }
message Receipt { string id = 1; }
"""


@functools.cache
def compile_set(source: str, syntax: str = "proto3") -> bytes:
    """The descriptor set of a file with this body, as a worker announces it."""
    text = f'syntax = "{syntax}";\npackage shop.v1;\nimport "plait/v1/options.proto";\n{source}'
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, FILE)
        path.parent.mkdir(parents=True)
        path.write_text(text)
        out = Path(folder, "set.binpb")
        arguments = [f"-I{folder}", f"-I{ROOT / 'proto'}", f"-I{ROOT / 'third_party'}"]
        arguments += ["--include_imports", f"--descriptor_set_out={out}", FILE]
        subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *arguments], check=True)
        return without_well_known(out.read_bytes())


def without_well_known(descriptor_set: bytes) -> bytes:
    """Leaves out google/protobuf, as the protocol says."""
    parsed = descriptor_pb2.FileDescriptorSet.FromString(descriptor_set)
    kept = [file for file in parsed.file if not file.name.startswith("google/protobuf/")]
    return descriptor_pb2.FileDescriptorSet(file=kept).SerializeToString(deterministic=True)


def orders_set(task: str = "", defaults: str = "", messages: str = MESSAGES) -> bytes:
    """A service with one method, whose option has this body, and defaults with that one."""
    option = f"option (plait.v1.task) = {{ {task} }};" if task else ""
    of_service = f"option (plait.v1.task_defaults) = {{ {defaults} }};" if defaults else ""
    return compile_set(
        f"{messages}\nservice Orders {{ {of_service}\n"
        f"rpc Place(Order) returns (Receipt) {{ {option} }} }}"
    )


def orders(task: str = "", defaults: str = "", messages: str = MESSAGES) -> Contract:
    """The same, read."""
    return read_contract(orders_set(task, defaults, messages), [SERVICE], "digest")


def source(source: str, *services: str, digest: str = "digest") -> Contract:
    """The contract of a file with this body."""
    return read_contract(compile_set(source), services or [SERVICE], digest)

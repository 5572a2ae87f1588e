"""The contract of the tests, generated into a folder of the run, and brokers to run them against."""

import importlib
import sys
import tempfile
from importlib import resources
from pathlib import Path
from types import SimpleNamespace

import pytest
from grpc_tools import protoc

_HERE = Path(__file__).parent
_REPOSITORY = _HERE.parents[2]


def _generate() -> Path:
    out = Path(tempfile.mkdtemp(prefix="plait-test-gen-"))
    status = protoc.main(
        [
            "protoc",
            f"-I{_HERE / 'protos'}",
            f"-I{_REPOSITORY / 'proto'}",
            f"-I{_REPOSITORY / 'third_party'}",
            f"-I{resources.files('grpc_tools') / '_proto'}",
            f"--python_out={out}",
            f"--grpc_python_out={out}",
            "shop/v1/shop.proto",
        ]
    )
    if status != 0:
        raise RuntimeError(f"protoc ended with {status}")
    return out


# Before collection: test modules use the messages in their parameters.
sys.path[:0] = [str(_generate()), str(_HERE)]


@pytest.fixture(scope="session")
def shop() -> SimpleNamespace:
    """The generated modules of shop.v1, as one."""
    pb2 = importlib.import_module("shop.v1.shop_pb2")
    grpc_module = importlib.import_module("shop.v1.shop_pb2_grpc")
    return SimpleNamespace(**{**vars(pb2), **vars(grpc_module)})

"""The contract of the fault tests, compiled from fault.proto on first use."""

import functools
import importlib
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

_HERE = Path(__file__).parent
_ROOT = _HERE.parents[1]


@functools.cache
def modules() -> tuple[ModuleType, ModuleType]:
    """The messages, and the stubs."""
    with tempfile.TemporaryDirectory(prefix="plait-fault-") as folder:
        subprocess.run(
            [
                *(sys.executable, "-m", "grpc_tools.protoc"),
                *(f"-I{_HERE}", f"-I{_ROOT / 'proto'}", f"-I{_ROOT / 'third_party'}"),
                *(f"--python_out={folder}", f"--grpc_python_out={folder}"),
                str(_HERE / "fault.proto"),
            ],
            check=True,
        )
        sys.path.insert(0, folder)
        try:
            return importlib.import_module("fault_pb2"), importlib.import_module("fault_pb2_grpc")
        finally:
            sys.path.remove(folder)


def messages() -> Any:
    """fault_pb2; Any, since it is made at run time."""
    return modules()[0]


def stubs() -> Any:
    """fault_pb2_grpc."""
    return modules()[1]

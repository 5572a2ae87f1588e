"""The contract of the tests: generated into a folder of the run, and imported from there."""

import atexit
import importlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[2]


def _generate() -> Path:
    out = Path(tempfile.mkdtemp(prefix="plait-test-gen-"))
    atexit.register(shutil.rmtree, out, ignore_errors=True)
    subprocess.run(
        [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            f"-I{HERE / 'protos'}",
            f"-I{REPOSITORY / 'proto'}",
            f"-I{REPOSITORY / 'third_party'}",
            f"--python_out={out}",
            f"--grpc_python_out={out}",
            "shop/v1/shop.proto",
        ],
        check=True,
    )
    return out


def _load() -> Any:
    sys.path.insert(0, str(_generate()))
    messages = importlib.import_module("shop.v1.shop_pb2")
    services = importlib.import_module("shop.v1.shop_pb2_grpc")
    return SimpleNamespace(**{**vars(messages), **vars(services)})


# The messages, stubs and servicers of shop.v1.
shop: Any = _load()

"""The conformance suite's reference peers share nothing with an SDK, and read keys as all do."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.message import DecodeError

from interop.reference import keys
from plait.v1 import contract_service_pb2 as contracts
from tests.tidy.conftest import ROOT

VECTORS = json.loads((ROOT / "interop/vectors/field_paths.json").read_text())["vectors"]
LOADED = """
import json, sys
from interop.reference.__main__ import generated_only
generated_only()
from interop.reference import client, serving
files = [getattr(module, "__file__", None) for module in sys.modules.values()]
print(json.dumps([name for name in files if name]))
"""


def test_they_load_no_sdk(root: Path):
    told = subprocess.run(
        [sys.executable, "-c", LOADED], cwd=root, check=True, capture_output=True, text=True
    )
    files = [Path(name) for name in json.loads(told.stdout)]
    sdk = root / "sdk/python"
    assert any(file.is_relative_to(sdk / "gen/plait") for file in files)
    assert any(file.is_relative_to(root / "interop/reference") for file in files)
    assert not [file for file in files if file.is_relative_to(sdk / "src")]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda each: each["name"])
def test_field_path(vector):
    kind = contracts.KeyKind.Value(f"KEY_KIND_{vector['kind']}")
    path = contracts.KeyPath(numbers=vector["numbers"], kind=kind)
    payload = bytes.fromhex(vector["message_hex"])
    if "error" in vector:
        with pytest.raises((DecodeError, UnicodeDecodeError)):
            keys.text(path, payload)
    else:
        assert keys.text(path, payload) == vector["text"]

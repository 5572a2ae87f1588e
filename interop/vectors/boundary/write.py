"""Writes interop/vectors/boundary_cases.json anew, from the contracts here and Python's cases.

    python interop/vectors/boundary/write.py

Whoever changes a case looks at the difference, and changes Go's generator, too.
"""

import base64
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from plait._boundary.cases import Case, boundary_cases
from plait._descriptors import pool_of

HERE = Path(__file__).parent
OUT = HERE.parent / "boundary_cases.json"
LIMIT = 200_000
REQUESTS = ("boundary.v1.Everything", "boundary.v1.Order", "boundary.v1.Old", "boundary.v1.Tree")
# A longer payload is its size and its SHA-256.
HEX_MAX = 120


def compiled() -> bytes:
    """The descriptors of the contracts, without google/protobuf."""
    with tempfile.NamedTemporaryFile(suffix=".binpb") as out:
        command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{HERE}", "--include_imports"]
        command += [
            f"--descriptor_set_out={out.name}",
            "boundary.proto",
            "ruled.proto",
            "old.proto",
        ]
        subprocess.run(command, check=True)
        return Path(out.name).read_bytes()


def vector(case: Case) -> dict[str, Any]:
    """One case as the file has it."""
    made: dict[str, Any] = {"name": case.name}
    if len(case.payload) <= HEX_MAX:
        made["hex"] = case.payload.hex()
    else:
        made["size"] = len(case.payload)
        made["sha256"] = hashlib.sha256(case.payload).hexdigest()
    if case.breaks:
        made["breaks"] = case.breaks
    return made


def document() -> dict[str, Any]:
    """The whole file."""
    contract = compiled()
    pool = pool_of(contract)
    requests = [
        {
            "request": name,
            "cases": [
                vector(case) for case in boundary_cases(pool.FindMessageTypeByName(name), LIMIT)
            ],
        }
        for name in REQUESTS
    ]
    encoded = base64.b64encode(contract).decode()
    return {"schema": 1, "limit": LIMIT, "descriptor_set": encoded, "vectors": requests}


if __name__ == "__main__":
    lines = json.dumps(document(), ensure_ascii=True, indent=1)
    OUT.write_text(lines + "\n")

"""python -m interop.reference: the reference worker; with --client, the runner's client."""

import argparse
import asyncio
import sys
import types
from pathlib import Path

GEN = Path(__file__).parents[2] / "sdk/python/gen/plait"


def generated_only() -> None:
    """Makes `plait` the generated modules and nothing else: the SDK is not even there."""
    bare = types.ModuleType("plait")
    bare.__path__ = [str(GEN)]
    sys.modules["plait"] = bare


def main() -> None:
    parser = argparse.ArgumentParser(prog="interop.reference", description=__doc__)
    parser.add_argument("--concurrency", type=int, default=256, help="attempts at once")
    parser.add_argument("--client", action="store_true", help="be the conformance runner's client")
    said = parser.parse_args()
    generated_only()
    from interop.reference import client, serving

    asyncio.run(client.drive() if said.client else serving.serve(said.concurrency))


if __name__ == "__main__":
    main()

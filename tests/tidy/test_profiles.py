"""Cargo's profiles: what they must not say."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_panics_unwind_in_every_profile() -> None:
    """A worker answers a handler's panic with UNKNOWN and lives on, in releases too; the broker
    ends its process by a hook of its own."""
    profiles = tomllib.loads((ROOT / "Cargo.toml").read_text())["profile"]
    assert "release" in profiles
    assert {name: own.get("panic", "unwind") for name, own in profiles.items()} == dict.fromkeys(
        profiles, "unwind"
    )

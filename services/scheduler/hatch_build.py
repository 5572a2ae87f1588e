"""Puts the generated package plait_xds into the scheduler's wheel.

An editable install finds it where it is generated: it would hold a copy that grows old otherwise.
"""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_GENERATED = Path("../../sdk/python/gen/plait_xds")


class Generated(BuildHookInterface[Any]):
    """Told of each wheel that is built."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Adds the package, but to editable wheels."""
        if version != "editable":
            source = (Path(self.root) / _GENERATED).resolve(strict=True)
            build_data["force_include"][str(source)] = "plait_xds"

"""Puts the generated packages plait_xds and plait_keda into the scheduler's wheel.

An editable install finds them where they are generated: it would hold copies that grow old
otherwise.
"""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_GENERATED = Path("../../sdk/python/gen")
_PACKAGES = ("plait_xds", "plait_keda")


class Generated(BuildHookInterface[Any]):
    """Told of each wheel that is built."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Adds the packages, but to editable wheels."""
        if version != "editable":
            for package in _PACKAGES:
                source = (Path(self.root) / _GENERATED / package).resolve(strict=True)
                build_data["force_include"][str(source)] = package

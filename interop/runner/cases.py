"""Cases: data in YAML, one file a suite.

A case is a list of steps. `each` makes a case of several: one for every combination of its values,
which stand for their names in braces, in the case's name too. A text that is nothing but a name in
braces becomes the value itself, a number for example.
"""

import base64
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parents[1] / "cases"
CASE_FIELDS = {"name", "why", "each", "steps"}
_NAME = re.compile(r"\{(\w+)\}")
# Steps that disturb what other cases share.
_ALONE = ("worker", "broker", "client", "pause")


class CaseError(ValueError):
    """A file of cases is not what it should be."""


@dataclass(frozen=True, slots=True)
class Case:
    """One case, its values put in."""

    id: str
    """Its file and its name: "errors/code_ABORTED"."""
    steps: tuple[dict[str, Any], ...]
    """What to do, in order."""

    @property
    def alone(self) -> bool:
        """Whether nothing else may run meanwhile."""
        return any(step.keys() & set(_ALONE) for step in self.steps)


def load(folder: Path = FOLDER) -> list[Case]:
    """All cases of a folder, by file and place in it. Raises CaseError."""
    found = [case for path in sorted(folder.glob("*.yaml")) for case in _file(path)]
    if len(ids := [case.id for case in found]) != len(set(ids)):
        twice = sorted(name for name in set(ids) if ids.count(name) > 1)
        raise CaseError(f"names are there twice: {', '.join(twice)}")
    return found


def _file(path: Path) -> Iterator[Case]:
    for entry in yaml.safe_load(path.read_text()) or []:
        if unknown := entry.keys() - CASE_FIELDS:
            raise CaseError(f"{path.name}: {entry.get('name')}: what is {sorted(unknown)}?")
        each: dict[str, list[Any]] = entry.get("each", {})
        for chosen in itertools.product(*each.values()):
            values = dict(zip(each, chosen, strict=True))
            name = fill(entry["name"], values)
            yield Case(f"{path.stem}/{name}", tuple(fill(entry["steps"], values)))


def fill(value: Any, values: dict[str, Any]) -> Any:
    """A copy with names in braces replaced; a name that is not among the values stays."""
    if isinstance(value, dict):
        if len(value) == 1 and (made := _made(*next(iter(value.items())), values)) is not None:
            return made
        return {fill(key, values): fill(entry, values) for key, entry in value.items()}
    if isinstance(value, list):
        return [fill(entry, values) for entry in value]
    if not isinstance(value, str):
        return value
    if (whole := _NAME.fullmatch(value)) and whole[1] in values:
        return values[whole[1]]
    return _NAME.sub(lambda name: str(values.get(name[1], name[0])), value)


def _made(kind: str, said: Any, values: dict[str, Any]) -> Any:
    """A value that is too long to be written out: {$bytes: 1000}, {$text: 1000}, {$ascii: 1000}."""
    if kind not in ("$bytes", "$text", "$ascii"):
        return None
    said = fill(said, values)
    if not str(said).isdigit():
        return None  # the name of a value that comes later
    match kind:
        case "$bytes":
            pattern = bytes(range(256)) * (int(said) // 256 + 1)
            return base64.b64encode(pattern[: int(said)]).decode()
        case "$ascii":
            return "x" * int(said)
        case "$text":
            return "é€😀x" * (int(said) // 10) + "x" * (int(said) % 10)
    return None

"""What the package exports is what sdk/surface.toml lists for Python: no name less, none more."""

import ast
import inspect
import pkgutil
import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import is_dataclass
from enum import EnumType
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import plait

_SURFACE = Path(__file__).parents[2] / "surface.toml"
_LANGUAGES = ("python", "go", "rust", "typescript")

# The command line is a program; the generated package has a lock of its own, `make breaking`.
_NO_PART = {"cli", "v1", "control"}

# Other languages read the file line by line, and know these lines only.
_LINE = re.compile(
    r"""(\#.*)?
    | \[\w+\."[\w.\[\]]+"\]
    | ((absent|only)\.)?(python|go|rust|typescript)\ =\ (".+"|\[".+"\])""",
    re.VERBOSE,
)


def _listed() -> list[str]:
    names: list[str] = []
    for entries in tomllib.loads(_SURFACE.read_text()).values():
        for canonical, entry in entries.items():
            if "python" in {*entry.get("only", ["python"])} - entry.get("absent", {}).keys():
                said = entry.get("python", canonical)
                names += [said] if isinstance(said, str) else said
    return names


def _exported() -> Iterator[str]:
    homes = {id(getattr(plait, name)) for name in plait.__all__}
    for name in plait.__all__:
        value = getattr(plait, name)
        if not isinstance(value, ModuleType):
            yield from _names_of(name, value)
    for found in pkgutil.iter_modules(plait.__path__):
        if found.name.startswith("_") or found.name in _NO_PART:
            continue
        module = __import__(f"plait.{found.name}", fromlist=["*"])
        for name in _defined(module):
            value = getattr(module, name)
            if id(value) not in homes and not isinstance(value, TypeVar):
                yield from _names_of(f"{found.name}.{name}", value)


def _defined(module: ModuleType) -> Iterator[str]:
    """Public names that the module defines, or exports by `import X as X`. What else it imports
    is not its own."""
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names: list[str] = [node.name]
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [each.id for each in targets if isinstance(each, ast.Name)]
        elif isinstance(node, ast.ImportFrom):
            names = [each.name for each in node.names if each.asname == each.name]
        else:
            names = []
        yield from (name for name in names if not name.startswith("_"))


def _names_of(name: str, value: Any) -> Iterator[str]:
    yield name
    if inspect.isfunction(value) or inspect.isclass(value):
        yield from (f"{name}.{each}" for each in _keywords(value))
    if isinstance(value, type):
        members = {*vars(value), *vars(value).get("__annotations__", {}), *_attributes(value)}
        # The members of an enumeration are held to the contract and to the vectors.
        hidden = set(value.__members__) if isinstance(value, EnumType) else set()
        for each in sorted(members - hidden):
            if not each.startswith("_"):
                yield from _names_of(f"{name}.{each}", vars(value).get(each))


def _keywords(function: Any) -> Iterator[str]:
    """Parameters that are given by name only. Those of a dataclass are its fields."""
    if not isinstance(function, EnumType) and not is_dataclass(function):
        # A plain class of the language's own, such as a TypedDict, has no signature to speak of.
        # Nor is a constructor without a documentation for users.
        code = vars(function).get("__init__") if isinstance(function, type) else function
        if inspect.isfunction(code) and code.__doc__:
            for each in inspect.signature(code).parameters.values():
                if each.kind is each.KEYWORD_ONLY:
                    yield each.name


def _attributes(cls: type) -> Iterator[str]:
    """What the methods assign to `self`."""
    for node in ast.walk(ast.parse(inspect.getsource(cls))):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and isinstance(node.value, ast.Name)
            and node.value.id == "self"
        ):
            yield node.attr


def test_every_export_is_listed_and_every_listed_name_is_exported():
    listed, exported = _listed(), set(_exported())
    assert sorted(name for name, times in Counter(listed).items() if times > 1) == [], (
        "listed twice"
    )
    assert sorted(set(listed) - exported) == [], "in sdk/surface.toml, not in the package"
    assert sorted(exported - set(listed)) == [], "in the package, not in sdk/surface.toml"


def test_the_file_has_only_lines_that_every_language_reads():
    text = _SURFACE.read_text()
    strange = [line for line in text.splitlines() if not _LINE.fullmatch(line)]
    assert strange == []
    for entries in tomllib.loads(text).values():
        for name, entry in entries.items():
            absent, only = entry.get("absent", {}), entry.get("only", {})
            here = set(only or _LANGUAGES) - absent.keys()
            assert here, f"{name} is nowhere"
            assert entry.keys() - {"absent", "only"} <= here, f"{name} is spelled and absent"

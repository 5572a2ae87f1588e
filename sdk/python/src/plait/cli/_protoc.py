"""The compiler inside grpcio-tools, with Plait's own files always importable."""

import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FileDescriptor

from plait.cli._command import Exit, Stop
from plait.v1 import options_pb2


def compile_set(
    files: Sequence[Path], includes: Sequence[Path]
) -> descriptor_pb2.FileDescriptorSet:
    """The descriptors of .proto files and all they import, imports first. Raises Stop for files
    that do not compile; the compiler's words are on stderr."""
    with tempfile.TemporaryDirectory(prefix="plait-protoc-") as folder:
        out = Path(folder, "contract.binpb")
        _run(files, includes, [f"--descriptor_set_out={out}", "--include_imports"])
        return descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes())


def generate(files: Sequence[Path], includes: Sequence[Path], out: Path) -> None:
    """Writes Python messages, stubs and servicers; type stubs, too, where mypy-protobuf is
    installed. Raises Stop as `compile_set` does."""
    out.mkdir(parents=True, exist_ok=True)
    arguments = [f"--python_out={out}", f"--grpc_python_out={out}"]
    plugins = Path(sys.executable).parent
    for name, flag in (("mypy", "mypy"), ("mypy_grpc", "mypy_grpc")):
        plugin = plugins / f"protoc-gen-{name}"
        if plugin.is_file():
            arguments += [f"--plugin=protoc-gen-{name}={plugin}", f"--{flag}_out=quiet:{out}"]
    if not (plugins / "protoc-gen-mypy").is_file():
        arguments.append(f"--pyi_out={out}")
    _run(files, includes, arguments)


def import_name(file: Path, includes: Sequence[Path]) -> str:
    """The name of a file as others import it: relative to the first include that holds it."""
    for include in includes or (Path(),):
        if file.resolve().is_relative_to(include.resolve()):
            return file.resolve().relative_to(include.resolve()).as_posix()
    where = ", ".join(map(str, includes or (Path(),)))
    raise Stop(Exit.USAGE, f"{file} is not below {where}; say -I")


def _run(files: Sequence[Path], includes: Sequence[Path], arguments: Sequence[str]) -> None:
    if importlib.util.find_spec("grpc_tools") is None:
        raise Stop(Exit.USAGE, "the compiler is missing: pip install grpcio-tools")
    names = [import_name(file, includes) for file in files]
    with tempfile.NamedTemporaryFile(suffix=".binpb") as ours:
        # Where the include path has a file of the same name, that one is taken.
        ours.write(_plait_files().SerializeToString())
        ours.flush()
        command = [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            f"--descriptor_set_in={ours.name}",
            *(f"-I{include}" for include in includes or (Path(),)),
            *arguments,
            *names,
        ]
        if subprocess.run(command, check=False).returncode != 0:
            raise Stop(Exit.USAGE, "the files do not compile")


def _plait_files() -> descriptor_pb2.FileDescriptorSet:
    """plait/v1/options.proto and what it imports, google/rpc included."""
    made = descriptor_pb2.FileDescriptorSet()
    seen: set[str] = set()

    def add(file: FileDescriptor) -> None:
        if file.name in seen:
            return
        seen.add(file.name)
        for dependency in file.dependencies:
            add(dependency)
        file.CopyToProto(made.file.add())

    add(options_pb2.DESCRIPTOR)
    return made

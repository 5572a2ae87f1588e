"""`plait gen`: Python code from .proto files."""

from pathlib import Path

import click


@click.command("gen")
@click.argument("files", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "-I",
    "--include",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Where imports are, repeatable.  [default: .]",
)
@click.option(
    "--out", default=Path(), type=click.Path(path_type=Path), help="Where to write.  [default: .]"
)
def gen_command(files: tuple[Path, ...], include: tuple[Path, ...], out: Path) -> None:
    """Generate messages, stubs and servicers from FILES; by default every .proto below here.

    plait/v1/options.proto and google/rpc need not be on the include path. Type stubs come with
    mypy-protobuf, where it is installed.
    """
    from plait.cli import _protoc
    from plait.cli._command import Exit, Stop

    try:
        sources = files or tuple(
            sorted(
                path
                for path in Path().rglob("*.proto")
                if not any(part.startswith(".") for part in path.parts)
            )
        )
        if not sources:
            raise Stop(Exit.NOT_FOUND, "there is no .proto file here")
        _protoc.generate(sources, include, out)
    except Stop as stop:
        click.echo(str(stop), err=True)
        raise SystemExit(int(stop.code)) from None
    for source in sources:
        click.echo(source, err=True)

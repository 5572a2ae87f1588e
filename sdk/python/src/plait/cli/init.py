"""`plait init`: a project to start from."""

import re
from pathlib import Path

import click

_PROTO = """\
syntax = "proto3";
package {package};
import "plait/v1/options.proto";

service {service} {{
  rpc Greet(GreetRequest) returns (GreetResponse) {{
    option (plait.v1.task) = {{retry: {{max_attempts: 5}}}};
  }}
}}
message GreetRequest {{ string name = 1; }}
message GreetResponse {{ string text = 1; }}
"""

_WORKER = """\
import asyncio, plait
from {name}_pb2 import GreetResponse
from {name}_pb2_grpc import {service}Servicer, add_{service}Servicer_to_server

class {title}({service}Servicer):
    async def Greet(self, request, context):
        return GreetResponse(text=f"Hello, {{request.name}}!")

async def main():
    async with plait.connect() as p:
        await p.worker().serve({title}(), add_{service}Servicer_to_server).run()

asyncio.run(main())
"""

_README = """\
# {name}

    plait gen                                  # {name}_pb2.py, {name}_pb2_grpc.py
    plait dev -- python worker.py              # broker, scheduler and the worker

and in another terminal:

    plait call {package}.{service}/Greet '{{"name": "you"}}'
    plait task list
"""


@click.command("init")
@click.argument("name", default="greeter")
@click.option(
    "--dir",
    "folder",
    default=Path(),
    type=click.Path(file_okay=False, path_type=Path),
    help="Where.  [default: .]",
)
def init_command(name: str, folder: Path) -> None:
    """Write NAME.proto, worker.py and README.md. Nothing that exists is touched."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise click.UsageError(f'"{name}" is no name: lower case letters, digits and _')
    title = "".join(part.capitalize() for part in name.split("_"))
    words = {"name": name, "title": title, "service": f"{title}Service", "package": f"{name}.v1"}
    files = {f"{name}.proto": _PROTO, "worker.py": _WORKER, "README.md": _README}
    taken = [file for file in files if (folder / file).exists()]
    if taken:
        click.echo(f"{', '.join(taken)}: there already", err=True)
        raise SystemExit(6)
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in files.items():
        (folder / file).write_text(text.format(**words))
        click.echo(folder / file, err=True)

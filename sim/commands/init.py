"""`sim init`: a commented scenario to start from."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from sim.base import files
from sim.base.errors import ParameterError, suggest
from sim.commands.command import app, note
from sim.commands.exit import Exit

TEMPLATE = """\
{schema_line}
version: 1
name: {name}                     # the results go to outputs/{name}/
description: A deep network that narrows to a loss.

graph:                           # one kind; `sim list families` shows them all
  kind: mlp
  widths: [784, {{repeat: 512, times: 16}}, 10]
  activation: relu
  batch: 8192
  dtype: float32
  loss: cross_entropy            # the scalar loss; `none` leaves the outputs

wrt: parameters                  # the training gradient; `input` for the Jacobian of outputs by inputs
optimizer: adam                  # none | sgd | momentum | adam: its state stays in memory

device: h100-sxm                 # for times; `sim list devices`, or rates and sizes of your own
budget: 250 MB                   # marks what fits; `sim run --strict` fails where nothing does

strategies:                      # `sim list strategies`; a list or a range of values is tried one by one
  - reverse_full
  - reverse_checkpointed: {{schedule: sqrt}}
  - reverse_checkpointed: {{schedule: uniform, segments: {{from: 2, to: 8}}}}
  - reverse_checkpointed: {{schedule: binomial, slots: {{from: 2, to: 8}}}}
  - reverse_offload: {{prefetch: [1, 2, 4]}}
"""


@app.command()
def init(
    file: Annotated[Path, typer.Argument(help="The file to write, or a name for it.")] = Path("scenario.yaml"),
    source: Annotated[
        str | None, typer.Option("--from", metavar="NAME", help="A shipped scenario to start from, such as resnet50.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a file that is there.")] = False,
) -> Exit:
    """Write a commented scenario to start from."""
    from sim.scenario import shipped
    from sim.scenario.scenario import SAFE_NAME

    path = file if file.suffix in (".yaml", ".yml") else file.with_name(f"{file.name}.yaml")
    if not re.fullmatch(SAFE_NAME, path.stem):
        raise ParameterError(
            f"{path}: got {path.stem!r} as the name of a scenario, expected letters, digits, '_', '-' and '.'"
        )
    if path.exists() and not force:
        raise ParameterError(f"{path}: this file is there already; --force overwrites it")
    if source is not None and source not in shipped.names():
        raise ParameterError(f"--from: there is no shipped scenario '{source}'{suggest(source, shipped.names())}")
    schema = _schema_line(path.parent)
    files.write(
        path, TEMPLATE.format(schema_line=schema, name=path.stem) if source is None else _copy(source, path, schema)
    )
    note(f"wrote {path}; compute it with: sim run {path}")
    return Exit.FINE


def _copy(source: str, path: Path, schema: str) -> str:
    """The text of a shipped scenario, under the name of its new file."""
    from sim.scenario import shipped

    text = (shipped.folder() / f"{source}.yaml").read_text(encoding="utf-8")
    body = re.sub(r"^# yaml-language-server: .*\n", "", text)
    return f"{schema}\n" + re.sub(r"(?m)^name: .*$", f"name: {path.stem}", body, count=1)


def _schema_line(folder: Path) -> str:
    """The line that tells an editor where the schema is, and how to make it where it is not."""
    line = "# yaml-language-server: $schema=schema.json"
    exists = (folder / "schema.json").is_file()
    return line if exists else f"{line}\n# (for completion in editors: sim schema > schema.json)"

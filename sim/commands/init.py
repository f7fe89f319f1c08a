"""`sim init`: a commented scenario to start from."""

from __future__ import annotations

import re
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from sim.base import files
from sim.base.errors import ParameterError, suggest
from sim.commands.command import app, note
from sim.commands.exit import Exit

GRAPHS = {
    "chain": """\
  kind: chain
  length: 1000                   # steps, or layers
  activation_bytes: 8 MB         # a state; sizes have units, and are one for all steps or a list
  residual_bytes: 0              # what a step tapes for its adjoint beside states
  forward_seconds: 0.5 s         # measured times; without them those of the device's rates
  vjp_seconds: 1 s
  needs: input                   # the states that a step's adjoint reads: none | input | output | both
""",
    "cnn": """\
  kind: cnn
  preset: resnet18               # vgg16 | vgg19 | resnet18 | resnet50 | unet, or `layers:` of your own
  image: [3, 224, 224]           # channels, height, width
  batch: 32
  dtype: float32
  loss: cross_entropy            # the scalar loss; `none` leaves the outputs
""",
    "dag": """\
  kind: dag                      # operations without derivatives, forward and backward alike
  nodes:                         # or `file: graph.json` (node-link JSON, CSV, a log of DTR)
    - {{name: a, cost: 4.0e+9, bytes: 64 MB}}
    - {{name: b, cost: 4.0e+9, bytes: 64 MB, inputs: [a]}}
    - {{name: c, cost: 4.0e+9, bytes: 16 MB, inputs: [b], workspace: 8 MB}}   # workspace: while it runs
    - {{name: d, cost: 1.0e+9, bytes: 16 MB, inputs: [c, a]}}
  outputs: [d]                   # what remains in memory to the end
""",
    "jax": """\
  kind: jax                      # needs the extra `jax`
  factory: "model:make"          # model.py beside this file: make() returns the function and its parameters
  inputs:                        # by the names of the function's arguments
    x: {{shape: [32, 64], dtype: float32}}
""",
    "layers": """\
  kind: layers
  inputs: {{x: {{shape: [64, 512]}}}}   # the batch first
  layers:                        # each reads the one before, or what its `inputs` name
    - {{name: up, op: linear, features: 2048}}
    - {{name: act, op: gelu}}
    - {{name: down, op: linear, features: 512}}
    - {{name: add, op: add, inputs: [down, x]}}
    - {{name: own, output_shape: [64, 512], forward_flops: 1.0e+9, residual_bytes: 4096}}   # costs of your own
""",
    "mlp": """\
  kind: mlp
  widths: [784, {{repeat: 512, times: 16}}, 10]
  activation: relu               # relu | tanh | sigmoid | gelu | silu | none
  batch: 8192
  dtype: float32
  loss: cross_entropy            # the scalar loss; `none` leaves the outputs
""",
    "onnx": """\
  kind: onnx                     # needs the extra `onnx`
  file: model.onnx               # beside this file
  batch: 32                      # the size of its symbolic batch dimension
""",
    "torch": """\
  kind: torch                    # needs the extra `torch`; traced without memory
  factory: "model:make"          # model.py beside this file: make() returns the nn.Module
  inputs:                        # by the names of the arguments of forward, the batch first
    x: {{shape: [32, 3, 224, 224], dtype: float32}}
  loss: cross_entropy            # none if the model returns its loss
  granularity: modules           # what a node is: an operation, a leaf module, or an element of a container
""",
    "transformer": """\
  kind: transformer
  layers: 12                     # decoder blocks
  hidden: 768                    # features of a token
  heads: 12
  sequence: 1024                 # tokens of a sample
  vocab: 50257                   # 0 leaves the blocks alone
  attention: flash               # explicit keeps a sequence² tensor of each head, flash none
  batch: 8
  dtype: bfloat16
  loss: cross_entropy
""",
}
"""The section `graph:` of each kind."""
TEMPLATE = """\
{schema_line}
version: 1
name: {name}                     # the results go to outputs/{name}/
description: One sentence about what is asked.

graph:                           # `sim explain {kind}` tells every key
{graph}
{question}
"""
QUESTION = """\
wrt: parameters                  # the training gradient; `input` for the Jacobian of outputs by inputs
optimizer: adam                  # none | sgd | momentum | adam: its state stays in memory

device: h100-sxm                 # for times; `sim list devices`, or rates and sizes of your own
budget: 250 MB                   # marks what fits; `sim run --strict` fails where nothing does

strategies:                      # `sim list strategies`; a list or a range of values is tried one by one
  - reverse_full
  - reverse_checkpointed: {schedule: sqrt}
  - reverse_checkpointed: {schedule: uniform, segments: {from: 2, to: 8}}
  - reverse_checkpointed: {schedule: binomial, slots: {from: 2, to: 8}}
  - reverse_offload: {prefetch: [1, 2, 4]}"""
OTHER_QUESTIONS = {
    "chain": """\
wrt: input
device: {preset: cpu-server, memory: 64 GB, to_disk: 2 GB/s, from_disk: 2 GB/s}   # or a device of your own

strategies:                      # `sim list schedules`; a list or a range of values is tried one by one
  - reverse_full
  - reverse_checkpointed: {schedule: binomial, slots: [10, 50]}   # checkpoints in memory
  - reverse_checkpointed: {schedule: disk, slots: 10}             # and any number on disk""",
    "dag": """\
strategies:
  - in_order                     # every operation once
  - reorder                      # the smallest peak of an order alone
  - rematerialize: {budget: [95%, 90%]}   # the least work within a share of the peak of the order given""",
}
"""What is asked of kinds that have no parameters."""


class Kind(Enum):
    """The kinds of graph, as typer wants them."""

    chain = "chain"
    cnn = "cnn"
    dag = "dag"
    jax = "jax"
    layers = "layers"
    mlp = "mlp"
    onnx = "onnx"
    torch = "torch"
    transformer = "transformer"


@app.command()
def init(
    file: Annotated[Path, typer.Argument(help="The file to write, or a name for it.")] = Path("scenario.yaml"),
    source: Annotated[
        str | None, typer.Option("--from", metavar="NAME", help="A shipped scenario to start from, such as resnet50.")
    ] = None,
    kind: Annotated[
        Kind | None, typer.Option("--kind", "-k", help="The kind of graph, each key explained; mlp unless given.")
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
    if source is not None and kind is not None:
        raise ParameterError("--kind: got both --from and --kind, expected one of them")
    schema = _schema_line(path.parent)
    chosen = (kind or Kind.mlp).value
    files.write(path, scenario(chosen, path.stem, schema) if source is None else _copy(source, path, schema))
    note(f"wrote {path}; compute it with: sim run {path}")
    return Exit.FINE


def _copy(source: str, path: Path, schema: str) -> str:
    """The text of a shipped scenario, under the name of its new file."""
    from sim.scenario import shipped

    text = (shipped.folder() / f"{source}.yaml").read_text(encoding="utf-8")
    body = re.sub(r"^# yaml-language-server: .*\n", "", text)
    return f"{schema}\n" + re.sub(r"(?m)^name: .*$", f"name: {path.stem}", body, count=1)


def scenario(kind: str, name: str, schema_line: str) -> str:
    """The text of a commented scenario of a kind of graph."""
    graph, question = GRAPHS[kind].format().rstrip("\n"), OTHER_QUESTIONS.get(kind, QUESTION)
    return TEMPLATE.format(schema_line=schema_line, name=name, kind=kind, graph=graph, question=f"\n{question}")


def _schema_line(folder: Path) -> str:
    """The line that tells an editor where the schema is: beside the file, or with the program."""
    from sim.scenario import shipped

    here = (folder / "schema.json").is_file()
    place = "schema.json" if here else (shipped.folder() / "schema.json").resolve().as_uri()
    return f"# yaml-language-server: $schema={place}"

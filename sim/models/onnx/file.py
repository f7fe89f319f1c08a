"""ONNX files as plain data: nodes, graph inputs and the shape of every tensor. Nothing else here knows protobuf.

Weights are never read: only their shapes count. Files whose external data are missing are fine.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PlainValidator, WithJsonSchema

from sim.base.errors import GraphError, suggest
from sim.models.importers import extra
from sim.models.onnx.shapes import LARGEST_KEPT, inferred, line
from sim.ops.rule import Shape

_DTYPES = {"float": "float32", "double": "float64"}


@dataclass(frozen=True, slots=True)
class PackageFile:
    """A file inside an installed package, written `package:path/inside/it`."""

    package: str
    inside: str

    def __str__(self) -> str:
        return f"{self.package}:{self.inside}"


def parse_file(value: Any) -> Path | PackageFile:
    """Parse the place of a model, as a person writes it.

    Raises
    ------
    ValueError
        With what was expected instead.
    """
    if isinstance(value, Path | PackageFile):
        return value
    if not isinstance(value, str) or not value:
        raise ValueError("a path, or a file of an installed package such as onnx:backend/model.onnx")
    package, colon, inside = value.partition(":")
    if colon and len(package) > 1 and package.isidentifier():
        return PackageFile(package, inside)
    return Path(value)


ModelFile = Annotated[
    Path | PackageFile,
    PlainValidator(parse_file),
    WithJsonSchema({"type": "string"}),
    Field(description="A path, relative to the scenario file, or package:path inside an installed package."),
]


@dataclass(frozen=True, slots=True)
class TensorType:
    """Shape and dtype of a tensor; an open dimension is its name, or `None` where it has none."""

    shape: tuple[int | str | None, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class OnnxNode:
    """One operation; inputs left out are ''. Operators outside the standard carry their domain: `com.x.Op`."""

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]

    @property
    def label(self) -> str:
        """Its name, or that of its first output where it has none."""
        return self.name or next(filter(None, self.outputs), "")

    def __str__(self) -> str:
        return f"node '{self.label}' ({self.op})"

    def error(self, problem: str) -> GraphError:
        """The error of this operation."""
        return GraphError(f"{self}: {problem}", node=self.label)


@dataclass(frozen=True)
class OnnxModel:
    """A model with the shapes that inference found; `batch` is what its inputs' first dimension says.

    `inputs` are those that a caller feeds: graph inputs with an initializer are constants.
    """

    name: str
    opset: int
    batch: int
    nodes: tuple[OnnxNode, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    tensors: Mapping[str, TensorType]

    def resolved(self, tensor: str, node: OnnxNode) -> tuple[Shape, str]:
        """Shape and dtype of a tensor that `node` reads or makes.

        Raises
        ------
        GraphError
            Naming the node, and the dimensions to give.
        """
        kind = self.tensors.get(tensor)
        if kind is None:
            why = "it depends on computed values, or the operands do not fit together"
            raise node.error(f"the shape of '{tensor}' cannot be inferred; {why}")
        return _closed(kind.shape, f"{node}: the shape of '{tensor}'"), kind.dtype


def read(file: Path | PackageFile, *, dims: Mapping[str, int], batch: int | None) -> OnnxModel:
    """The model in a file, with symbolic dimensions set to `dims`, a symbolic batch to `batch` (or 1).

    Raises
    ------
    GraphError
        If there is no such file, if it holds no model, or if inputs have dimensions that are not given.
    """
    onnx, inliner = extra("onnx", "onnx", "onnx.inliner")
    file = parse_file(file)
    path = located(file)
    try:
        return _model(onnx, inliner, _parsed(onnx, path, str(file)), path.stem, str(file), dims=dims, batch=batch)
    except UnicodeDecodeError as error:  # text is decoded when it is read, not when the file is parsed
        raise GraphError(f"file: {file}: this is no ONNX model ({line(error)})", key="file") from None


def _model(
    onnx: Any, inliner: Any, proto: Any, name: str, file: str, *, dims: Mapping[str, int], batch: int | None
) -> OnnxModel:
    if proto.functions:
        proto = inliner.inline_local_functions(proto)
    _check_operands(onnx, proto.graph.node, file)
    constants = {i.name for i in proto.graph.initializer} | {i.values.name for i in proto.graph.sparse_initializer}
    fed = [v for v in proto.graph.input if v.name not in constants]
    _set_dimensions(proto.graph, fed, dims, batch)
    _drop_weights(onnx, proto.graph)
    proto = inferred(proto, file)
    graph = proto.graph
    tensors = {i.name: TensorType(tuple(i.dims), _dtype(onnx, i.data_type)) for i in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        kind = value.type.tensor_type
        if kind.HasField("shape"):
            tensors[value.name] = TensorType(tuple(map(_dim, kind.shape.dim)), _dtype(onnx, kind.elem_type))
    inputs = tuple(v.name for v in fed)
    for tensor in inputs:
        if tensor not in tensors:
            raise GraphError(
                f"file: {file}: input '{tensor}' has no shape; only tensors with a rank can be imported", key="file"
            )
        _closed(tensors[tensor].shape, f"dims: the shape of input '{tensor}'")
    return OnnxModel(
        name=name,
        opset=max((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), default=1),
        batch=_own_batch(inputs, tensors),
        nodes=tuple(_node(onnx, n) for n in graph.node),
        inputs=inputs,
        outputs=tuple(o.name for o in graph.output),
        tensors=tensors,
    )


def located(file: Path | PackageFile) -> Path:
    if isinstance(file, Path):
        return file
    spec = importlib.util.find_spec(file.package)
    folders = spec.submodule_search_locations if spec else None
    if not folders:
        raise GraphError(f"file: {file}: no package '{file.package}' is installed", key="file")
    return Path(folders[0]) / file.inside


def _parsed(onnx: Any, path: Path, file: str) -> Any:
    try:
        proto = onnx.load_model(str(path), load_external_data=False)
    except OSError as error:
        raise GraphError(f"file: {file}: {(error.strerror or str(error)).lower()}", key="file") from None
    except Exception as error:  # each of protobuf's parsers has exceptions of its own
        raise GraphError(f"file: {file}: this is no ONNX model ({line(error)})", key="file") from None
    if not proto.graph.node:
        raise GraphError(f"file: {file}: this is no ONNX model: it has no nodes", key="file")
    return proto


def _check_operands(onnx: Any, nodes: Sequence[Any], file: str) -> None:
    """Raise `GraphError` unless every node makes a tensor, and reads one if its operator reads any."""
    for node in nodes:
        if not isinstance(node.op_type, str):
            raise GraphError(f"file: {file}: this is no ONNX model: an operator's name is no text", key="file")
        standard = not node.domain and onnx.defs.has(node.op_type)
        reads = standard and onnx.defs.get_schema(node.op_type).min_input > 0
        if not node.output or (reads and not node.input):
            what = "makes no tensor" if not node.output else "reads no tensor"
            raise GraphError(f"file: {file}: {_node(onnx, node)} {what}; the model is damaged", key="file")


def _set_dimensions(graph: Any, fed: Sequence[Any], dims: Mapping[str, int], batch: int | None) -> None:
    """Give symbolic dimensions their sizes, everywhere; open ones without a name are called `input.axis`."""
    for value in fed:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.dim_value < 1 and not dim.dim_param:
                dim.dim_param = f"{value.name}.{axis}"
    leading = [v.type.tensor_type.shape.dim[0].dim_param for v in fed if v.type.tensor_type.shape.dim]
    sizes = dict(dims)
    if leading and leading[0]:
        sizes.setdefault(leading[0], batch or 1)
    values = [*graph.input, *graph.value_info, *graph.output]
    shapes = [v.type.tensor_type.shape for v in values if v.type.HasField("tensor_type")]
    symbolic = [d for s in shapes for d in s.dim if d.dim_param]
    names = {d.dim_param for d in symbolic}
    for name in dims:
        if name not in names:
            what = suggest(name, names) if names else "; all dimensions of this model have sizes"
            raise GraphError(f"dims: the model has no dimension '{name}'{what}", key="dims")
    for dim in symbolic:
        if dim.dim_param in sizes:
            dim.dim_value = sizes[dim.dim_param]


def _drop_weights(onnx: Any, graph: Any) -> None:
    """Replace large constants by graph inputs of their shape, so that inference need not carry their values."""
    declared = {v.name for v in graph.input}
    kept = []
    for tensor in graph.initializer:
        if math.prod(tensor.dims) <= LARGEST_KEPT and tensor.data_location != onnx.TensorProto.EXTERNAL:
            kept.append(tensor)
        elif tensor.name not in declared:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _closed(shape: Sequence[int | str | None], what: str) -> Shape:
    """The shape, if all its dimensions are numbers."""
    if all(isinstance(d, int) for d in shape):
        return tuple(d for d in shape if isinstance(d, int))
    dims = ", ".join("?" if d is None else str(d) for d in shape)
    names = ", ".join(f"{d}: 1" for d in dict.fromkeys(d for d in shape if isinstance(d, str)))
    advice = f"give its sizes, such as dims: {{{names}}}" if names else "it depends on computed values"
    raise GraphError(f"{what} is open: ({dims}); {advice}")


def _own_batch(inputs: Sequence[str], tensors: Mapping[str, TensorType]) -> int:
    first = [tensors[i].shape[0] for i in inputs if tensors[i].shape]
    return first[0] if first and isinstance(first[0], int) else 1


def _dim(dim: Any) -> int | str | None:
    """A number, or the name that the file gives; `unk__` is how inference names what it does not know."""
    if dim.dim_value > 0:
        return int(dim.dim_value)
    return None if dim.dim_param.startswith("unk__") else dim.dim_param or None


def _dtype(onnx: Any, number: int) -> str:
    name: str = onnx.TensorProto.DataType.Name(number).lower()
    return _DTYPES.get(name, name)


def _node(onnx: Any, node: Any) -> OnnxNode:
    simple = (onnx.AttributeProto.INT, onnx.AttributeProto.INTS, onnx.AttributeProto.FLOAT, onnx.AttributeProto.STRING)
    return OnnxNode(
        name=node.name,
        op=node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}",
        inputs=tuple(node.input),
        outputs=tuple(node.output),
        attributes={a.name: _plain(onnx.helper.get_attribute_value(a)) for a in node.attribute if a.type in simple},
    )


def _plain(value: Any) -> Any:
    """Text, a number, or a tuple of numbers."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value if isinstance(value, int | float) else tuple(value)

"""Convolutional networks, by a list of layers or by the name of a published one."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PlainValidator, WithJsonSchema

from sim.base.errors import GraphError
from sim.base.registry import Count
from sim.graphs.graph import Graph
from sim.models.families import Batch, cnn_layers, families
from sim.models.families.cnn_layers import Layer
from sim.models.families.cnn_presets import PRESETS
from sim.ops import GraphBuilder, Loss, add_loss
from sim.ops.core import Dtype

LayerEntry = Annotated[Layer, PlainValidator(cnn_layers.parse), WithJsonSchema(cnn_layers.schema())]


@families.register("cnn")
def cnn(
    *,
    preset: Annotated[
        Literal["vgg16", "vgg19", "resnet18", "resnet50", "unet"] | None, Field(description="A published network.")
    ] = None,
    layers: Annotated[
        list[LayerEntry] | None,
        Field(min_length=1, description="Layers in order: relu, {conv: {channels: 64, kernel: 3}}, {add: [[…], []]}"),
    ] = None,
    image: Annotated[
        list[Count] | None, Field(min_length=3, max_length=3, description="[channels, height, width]")
    ] = None,
    batch: Batch = 1,
    dtype: Dtype = "float32",
    classes: Annotated[Count | None, Field(description="Outputs of a preset.")] = None,
    loss: Annotated[Loss, Field(description="Adds the scalar loss node; none leaves the outputs.")] = "none",
) -> Graph:
    """A convolutional network: a preset, or a list of layers that reads an image.

    Presets are the published ones, in training mode: VGG with dropout, ResNets with batch
    normalization, U-Net with padded convolutions. Flattening is a view and no node. A loss is the mean
    over all predictions; `cross_entropy` has its classes in dimension 1.

    Raises
    ------
    GraphError
        Naming the layer, where a shape does not fit.
    """
    if (preset is None) == (layers is None):
        raise GraphError("a cnn needs either 'preset' or 'layers'" + (", not both" if preset else ""))
    builder = GraphBuilder()
    if preset is not None:
        published = PRESETS[preset]
        size = tuple(image or published.image)
        net = [cnn_layers.parse(layer) for layer in published.layers(classes or published.classes)]
    else:
        if image is None:
            raise GraphError("'layers' need an 'image': [channels, height, width]", key="layers")
        if classes is not None:
            raise GraphError("'classes' goes with a preset; among 'layers' give {linear: classes}", key="classes")
        size, net = tuple(image), list(layers or ())
    x = cnn_layers.build(builder, net, builder.input("x", (batch, *size), dtype))
    if not builder.nodes:
        raise GraphError("'layers' make no node; flattening alone computes nothing", key="layers")
    add_loss(builder, x, loss, axis=1)
    return builder.graph(preset or "cnn", batch=batch)

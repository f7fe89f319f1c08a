"""The JSON Schema of scenarios, made from the models that check them; editors complete and check with it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sim import strategies
from sim.base.registry import Entry
from sim.parallel import schedules as pipeline_schedules
from sim.scenario.parallel import MOST_PASSES, NOT_PARALLEL, OF_GRAPHS
from sim.scenario.points import admitted_types
from sim.scenario.scenario import SAFE_NAME, ScenarioFile, graph_kinds
from sim.simulation.device import PRESETS, DeviceModel

DIALECT = "https://json-schema.org/draft/2020-12/schema"
# What pydantic leaves under its own names on types that have a validator before them.
_BOUNDS = {
    "ge": "minimum", "le": "maximum", "gt": "exclusiveMinimum", "lt": "exclusiveMaximum",
    "min_length": "minItems", "max_length": "maxItems",
}  # fmt: skip

Schema = dict[str, Any]


def schema_text() -> str:
    """The JSON Schema of scenarios, as `sim schema` prints it."""
    return json.dumps(scenario_schema(), indent=1, ensure_ascii=False) + "\n"


def scenario_schema() -> Schema:
    """The schema of a scenario file, JSON Schema draft 2020-12."""
    schema = _standard(ScenarioFile.model_json_schema())
    definitions: dict[str, Schema] = {"range": _RANGE, **schema.pop("$defs")}
    axis = definitions["AxisFile"]["properties"]
    axis["values"] = _swept(axis["values"], {"array", "number"})
    properties = schema["properties"]
    properties["version"] |= {"const": 1}
    properties["name"]["pattern"] = f"^{SAFE_NAME}$"
    properties["graph"] = _graph(definitions) | {"description": properties["graph"]["description"]}
    properties["device"] = _device() | {"description": properties["device"]["description"]}
    about, asked = properties["strategies"]["description"], properties["strategies"]["anyOf"][0]
    properties["strategies"] = {"description": about, **asked, "items": _strategies(definitions)}
    axes = properties["sweep"]["anyOf"][0]
    axes["additionalProperties"] = {"anyOf": [axes["additionalProperties"], {"$ref": "#/$defs/range"}]}
    properties["parallel"] = {"description": properties["parallel"]["description"], "$ref": "#/$defs/ParallelFile"}
    definitions["PipelineFile"]["properties"] |= _pipeline(definitions)
    schema["oneOf"] = [
        {"required": ["graph", "strategies"], "not": {"required": ["parallel"]}},
        {
            "required": ["parallel"],
            "not": _any_of(NOT_PARALLEL),
            "anyOf": [
                {"required": ["graph"]},
                {"not": _any_of(OF_GRAPHS)},
            ],
        },
    ]
    return {"$schema": DIALECT, "title": "A scenario of sim", **schema, "$defs": definitions}


def _graph(definitions: dict[str, Schema]) -> Schema:
    kinds = graph_kinds()
    return {
        "type": "object",
        "required": ["kind"],
        "properties": {"kind": {"description": "What the graph is made from.", "enum": sorted(kinds)}},
        "allOf": [
            _when("kind", name, _parameters(entry, definitions, sweeps=False, also={"kind": {"const": name}}))
            for name, entry in sorted(kinds.items())
        ],
    }


def _any_of(keys: Sequence[str]) -> Schema:
    return {"anyOf": [{"required": [key]} for key in keys]}


def _pipeline(definitions: dict[str, Schema]) -> Schema:
    """The keys of a pipeline that are tried value by value."""
    registry = pipeline_schedules.load()
    named = {name: _parameters(entry, definitions, sweeps=False) for name, entry in sorted(registry.items())}
    one: Schema = {
        "anyOf": [
            {"enum": sorted(registry)},
            {
                "type": "object",
                "properties": named,
                "additionalProperties": False,
                "minProperties": 1,
                "maxProperties": 1,
            },
        ]
    }
    about = {key: part["description"] for key, part in definitions["PipelineFile"]["properties"].items()}
    keys: dict[str, Schema] = {"schedule": {"anyOf": [one, {"type": "array", "items": one, "minItems": 1}]}}
    for key in ("stages", "micro_batches", "chunks"):
        keys[key] = _swept({"type": "integer", "minimum": 1, "maximum": MOST_PASSES}, {"integer"})
    return {key: {"description": about[key], **part} for key, part in keys.items()}


def _strategies(definitions: dict[str, Schema]) -> Schema:
    registry = strategies.load()
    bare = [name for name, entry in sorted(registry.items()) if not entry.schema.get("required")]
    with_parameters = {}
    for name, entry in sorted(registry.items()):
        with_parameters[name] = {"description": entry.summary, **_strategy(entry, definitions)}
    return {
        "anyOf": [
            {"enum": bare},
            {
                "type": "object",
                "properties": with_parameters,
                "additionalProperties": False,
                "minProperties": 1,
                "maxProperties": 1,
            },
        ]
    }


def _strategy(entry: Entry[Any], definitions: dict[str, Schema]) -> Schema:
    if entry.variants is None:
        parameters = _parameters(entry, definitions, sweeps=True)
        return parameters if parameters.get("required") else {"anyOf": [parameters, {"type": "null"}]}
    key, registry = entry.variants
    names = sorted(registry)
    shapes = {
        name: _parameters(registry[name], definitions, sweeps=True, also={key: {"const": name}}) for name in names
    }
    about = {"description": f"Which {key}; a list tries several."}
    several = {key: about | {"type": "array"}}
    for shape in shapes.values():
        several = {**shape["properties"], **several}
    return {
        "type": "object",
        "required": [key],
        "properties": {
            key: about | {"anyOf": [{"enum": names}, {"type": "array", "items": {"enum": names}, "minItems": 1}]}
        },
        "allOf": [
            *(_when(key, name, shape) for name, shape in shapes.items()),
            {
                "if": {"properties": {key: {"type": "array"}}},
                "then": {"properties": several, "additionalProperties": False},
            },
        ],
    }


def _when(key: str, name: str, then: Schema) -> Schema:
    return {"if": {"properties": {key: {"const": name}}, "required": [key]}, "then": then}


def _parameters(
    entry: Entry[Any], definitions: dict[str, Schema], *, sweeps: bool, also: Mapping[str, Schema] | None = None
) -> Schema:
    """The schema of an entry's parameters; with `sweeps` each may be a list or a range of what it takes."""
    schema = _standard(entry.schema)
    definitions |= {f"{entry.name}.{name}": part for name, part in schema.pop("$defs", {}).items()}
    if sweeps:
        schema["properties"] = {
            name: _swept(part, admitted_types(entry, name)) for name, part in schema.get("properties", {}).items()
        }
    schema["properties"] = {**(also or {}), **schema.get("properties", {})}
    return {"description": entry.summary, **schema}


def _swept(value: Schema, admitted: set[str]) -> Schema:
    about = {key: value[key] for key in ("description", "default") if key in value}
    alternatives = [{k: v for k, v in value.items() if k not in about}]
    if "array" not in admitted:
        alternatives.append({"type": "array", "items": alternatives[0], "minItems": 1})
    if "object" not in admitted and admitted & {"integer", "number"}:
        alternatives.append({"$ref": "#/$defs/range"})
    return about | {"anyOf": alternatives}


_END: Schema = {"type": ["number", "string"]}
_RANGE: Schema = {
    "description": "From … to, both included, by a step (1 unless given) or by a factor.",
    "type": "object",
    "required": ["from", "to"],
    "properties": {
        "from": {"description": "The first value.", **_END},
        "to": {"description": "What no value exceeds.", **_END},
        "step": {"description": "The difference of two values; 1 unless given.", **_END},
        "factor": {"description": "The ratio of two values.", "type": "number", "exclusiveMinimum": 1},
    },
    "additionalProperties": False,
    "not": {"required": ["step", "factor"]},
}


def _device() -> Schema:
    own = _standard(DeviceModel.model_json_schema())
    presets = {"enum": sorted(PRESETS)}
    own["properties"]["preset"] |= presets
    own["anyOf"] = [{"required": ["preset"]}, {"required": ["flops", "bandwidth"]}]
    file = {"type": "string", "pattern": r"\.ya?ml$", "description": "A file that `sim calibrate --output` wrote."}
    return {"anyOf": [presets, file, own, {"type": "null"}]}


def _standard(part: Any) -> Any:
    """The schema with standard keywords alone, and without the titles that only repeat names."""
    if isinstance(part, list):
        return [_standard(p) for p in part]
    if not isinstance(part, dict):
        return part
    result = {}
    for key, value in part.items():
        if key in ("properties", "$defs") and isinstance(value, dict):
            result[key] = {name: _standard(inner) for name, inner in value.items()}
        elif key != "title":
            result[_BOUNDS.get(key, key)] = _standard(value)
    return result

"""Straight-line Python functions of recorded calls, which drop each tensor after its last use, and their peaks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch.fx import Node

from sim.models.torch.recorded import storage, tensors_of


@dataclass(frozen=True)
class Rebuilt:
    """A tensor made again as a view of another one's memory."""

    node: Node
    base: Node


@dataclass(frozen=True)
class Body:
    """Calls in order with what goes in and out.

    `owned` arrive in a list that the function empties, so that each is freed after its last use;
    `held` stay with the caller. `rebuilt` are views of held tensors, made before the first call.
    """

    calls: Sequence[Node]
    owned: Sequence[Node]
    held: Sequence[Node]
    outputs: Sequence[Node | None]
    rebuilt: Sequence[Rebuilt] = ()


def needed(calls: Sequence[Node], outputs: Sequence[Node | None], keep: Callable[[Node], bool]) -> list[Node]:
    """The calls that an output depends on, and those that `keep` asks for."""
    live = {n for n in outputs if n is not None}
    order = []
    for node in reversed(calls):
        if node in live or keep(node):
            live.update(node.all_input_nodes)
            order.append(node)
    return order[::-1]


def last_uses(body: Body) -> list[list[Node]]:
    """For each call, the values that nothing reads after it."""
    kept = {n for n in body.outputs if n is not None}
    seen = set(kept)
    out: list[list[Node]] = []
    for node in reversed(body.calls):
        dying = [n for n in dict.fromkeys([node, *node.all_input_nodes]) if n not in seen]
        seen.update(dying)
        out.append(dying)
    return out[::-1]


def peak_bytes(body: Body) -> int:
    """The most bytes that the function holds at once beside what its caller holds.

    Tensors that share memory are counted once; a call's results live together with what it reads.
    """
    held = {storage(t) for n in body.held for t in tensors_of(n)}
    size: dict[int, int] = {}
    count: dict[int, int] = {}
    live = 0

    def enter(node: Node) -> int:
        added = 0
        for t in tensors_of(node):
            s = storage(t)
            if s in held:
                continue
            if not count.get(s):
                size[s] = int(t.untyped_storage().nbytes())
                added += size[s]
            count[s] = count.get(s, 0) + 1
        return added

    def leave(node: Node) -> int:
        freed = 0
        for t in tensors_of(node):
            s = storage(t)
            if s in held:
                continue
            count[s] -= 1
            if not count[s]:
                freed += size[s]
        return freed

    for node in body.owned:
        live += enter(node)
    peak = live
    used = {n for call in body.calls for n in call.all_input_nodes} | {n for n in body.outputs if n is not None}
    live -= sum(leave(n) for n in body.owned if n not in used)
    entered = {*body.owned, *body.held, *(r.node for r in body.rebuilt)}
    owned = set(body.owned)
    for node, dying in zip(body.calls, last_uses(body), strict=True):
        live += enter(node)
        entered.add(node)
        peak = max(peak, live)
        held_views = set(body.held) | {r.node for r in body.rebuilt}
        live -= sum(leave(n) for n in dying if n not in held_views or n in owned)
    return peak


def function(body: Body) -> Callable[..., list[Any]]:
    """`run(owned: list, held: sequence) -> outputs`, compiled; it empties `owned`."""
    names: dict[Node, str] = {}
    scope: dict[str, Any] = {}

    def name(node: Node) -> str:
        return names.setdefault(node, f"v{len(names)}")

    def constant(value: Any) -> str:
        if value is None or isinstance(value, bool | int | str):
            return repr(value)
        scope[f"c{len(scope)}"] = value
        return f"c{len(scope) - 1}"

    def text(value: Any) -> str:
        if isinstance(value, Node):
            return name(value)
        if isinstance(value, list | tuple):
            inner = ", ".join(text(v) for v in value)
            return f"[{inner}]" if isinstance(value, list) else f"({inner}{',' if len(value) == 1 else ''})"
        return constant(value)

    lines = ["def run(owned, held):"]
    if body.owned:
        lines.append(f"    {', '.join(name(n) for n in body.owned)}, = owned")
        lines.append("    owned.clear()")
    used = {n for call in body.calls for n in call.all_input_nodes} | {n for n in body.outputs if n is not None}
    if body.held:
        lines.append(f"    {', '.join(name(n) for n in body.held)}, = held")
    for r in body.rebuilt:
        base, target = tensors_of(r.base)[0], tensors_of(r.node)[0]
        offset = target.storage_offset() - base.storage_offset()
        same = target.shape == base.shape and target.stride() == base.stride() and not offset
        view = (
            f".as_strided({tuple(target.shape)}, {tuple(target.stride())}, {name(r.base)}.storage_offset() + {offset})"
        )
        lines.append(f"    {name(r.node)} = {name(r.base)}{'' if same else view}")
    unused = [name(n) for n in body.owned if n not in used]
    if unused:
        lines.append(f"    del {', '.join(unused)}")
    for node, dying in zip(body.calls, last_uses(body), strict=True):
        arguments = [text(a) for a in node.args] + [f"{k}={text(v)}" for k, v in node.kwargs.items()]
        lines.append(f"    {name(node)} = {constant(node.target)}({', '.join(arguments)})")
        if dying:
            lines.append(f"    del {', '.join(name(n) for n in dying)}")
    lines.append(f"    return [{', '.join('None' if n is None else name(n) for n in body.outputs)}]")
    exec(compile("\n".join(lines), "<piece>", "exec"), scope)
    run: Callable[..., list[Any]] = scope["run"]
    return run

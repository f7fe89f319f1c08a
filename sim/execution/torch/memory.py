"""A meter of what PyTorch really holds: the bytes of distinct storages alive, call by call, and its flops."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode


class LiveBytes(TorchDispatchMode):  # type: ignore[misc]
    """A context that counts the storages of the calls inside it: `live_bytes` now and `peak_bytes` at most.

    Memory that was there before (parameters, inputs) does not count, nor does what a kernel holds
    inside a call.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live_bytes = 0
        self.peak_bytes = 0
        self._sizes: dict[int, int] = {}
        self._watches: dict[int, Any] = {}

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Let Dynamo compile inside this context: what the compiled code calls is counted."""
        return True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        before = {t.untyped_storage()._cdata for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        for t in pytree.tree_leaves(out):
            if isinstance(t, torch.Tensor):
                self._watch(t, before)
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        return out

    def _watch(self, tensor: Any, before: set[int]) -> None:
        memory = tensor.untyped_storage()
        key = memory._cdata
        if key in before or key in self._sizes:
            return
        self._sizes[key] = memory.nbytes()
        self.live_bytes += self._sizes[key]
        self._watches[key] = weakref.ref(memory, lambda _: self._gone(key))

    def _gone(self, key: int) -> None:
        self.live_bytes -= self._sizes.pop(key)
        self._watches.pop(key, None)

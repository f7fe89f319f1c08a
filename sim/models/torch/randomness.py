"""Random numbers drawn again: the state of a generator before a call, and the call once more from that state."""

from __future__ import annotations

from typing import Any

import torch


def random_state(device: torch.device) -> Any:
    """The state of a device's generator, in memory of its own that calls can be seen to make."""
    state = torch.get_rng_state() if device.type == "cpu" else torch.cuda.get_rng_state(device)
    return state.clone()


def drawn_again(state: Any, device: torch.device, call: Any, /, *args: Any, **kwargs: Any) -> Any:
    """What a call gives from this state of its device's generator, whose present state stays."""
    present = random_state(device)
    _set(device, state)
    try:
        return call(*args, **kwargs)
    finally:
        _set(device, present)


def _set(device: torch.device, state: Any) -> None:
    if device.type == "cpu":
        torch.set_rng_state(state)
    else:
        torch.cuda.set_rng_state(state, device)


def state_like(tensor: Any) -> Any:
    """A fake tensor of the state's size, for a call that makes this fake tensor."""
    size = torch.get_rng_state().numel() if tensor.device.type == "cpu" else torch.cuda.get_rng_state().numel()
    with tensor.fake_mode:
        return torch.empty(size, dtype=torch.uint8, device="cpu")

"""Models under budgets in PyTorch: what tests of the backend and of its plans train, and how."""

from __future__ import annotations

import copy

import models
import pytest
import torch
from torch import nn

import sim.torch
from sim.execution.torch.memory import LiveBytes


def most_slow(cases, *quick):
    """Cases of which all but a few are slow: each compiles a model."""
    return [pytest.param(*case, marks=[] if case[0] in quick else [pytest.mark.slow]) for case in cases]


class WithLoss(nn.Module):
    """A model and its loss in one: what the caller computes is a scalar."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x, labels=None):
        out = self.model(x)
        if labels is None:
            return out.square().mean()
        return nn.functional.cross_entropy(out.flatten(0, -2), labels.flatten())


def gpt():
    return WithLoss(models.GPT(dropout=0.1)), (torch.randint(0, 101, (8, 32)), torch.randint(0, 101, (8, 32)))


def cnn():
    layers = [m for k in range(6) for m in (nn.Conv2d(8 if k else 3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())]
    return WithLoss(nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(10))), (
        torch.randn(8, 3, 16, 16),
        torch.arange(8),
    )


def unet():
    return WithLoss(models.UNet(channels=8)), (torch.randn(4, 1, 32, 32),)


def mlp():
    return WithLoss(models.mlp(width=64, depth=16)), (torch.randn(512, 64),)


CASES = {"gpt": gpt, "cnn": cnn, "unet": unet, "mlp": mlp}


def compiled_within(module, **question):
    """A copy of a module under a budget, and its backend; priced in flops, so that the plan is always the same."""
    backend = sim.torch.backend(**{"minimize": "flops", "effort": 1.0, **question})
    planned = copy.deepcopy(module)
    return torch.compile(planned, backend=backend, fullgraph=True), planned, backend


def trained(call, parameters, inputs, steps=3):
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    losses = []
    for step in range(steps):
        torch.manual_seed(step)
        optimizer.zero_grad()
        loss = call(*inputs)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def peak_of(call, inputs):
    """Live bytes of one step beyond what is there before."""
    with LiveBytes() as live:
        call(*inputs).backward()
    return live.peak_bytes


def assert_same(plain, planned):
    for (name, p), q in zip(plain.named_parameters(), planned.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None), name
        assert p.grad is None or torch.equal(p.grad, q.grad), name
    for name, value in plain.state_dict().items():
        assert torch.equal(value, planned.state_dict()[name]), name

"""What people do around a step within a budget: accumulation, scaling, adapters, evaluation, data parallel training.

The bits are those of PyTorch's own compiler front with eager kernels; in float32 they are those of plain training too.
"""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs torch: pip install 'ad-tradeoff-sim[torch]'")

import models  # noqa: E402
from torch import nn  # noqa: E402

import sim.torch  # noqa: E402

torch.set_num_threads(1)  # sums in one order, and no waiting for other processes
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")


class Model(nn.Module):
    """A GPT and its loss, always with the same weights at first."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gpt = models.GPT(layers=2, dropout=0.1)

    def forward(self, ids):
        return nn.functional.cross_entropy(self.gpt(ids).flatten(0, 1), ids.flatten())


class Adapted(nn.Module):
    """A frozen linear layer beside a trained one of low rank."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Linear(base.in_features, 4, bias=False)
        self.up = nn.Linear(4, base.out_features, bias=False)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


def _adapted(model: Model) -> Model:
    model.requires_grad_(False)
    for block in model.gpt.blocks:
        block.mlp[0] = Adapted(block.mlp[0])
    return model


def _tied(model: Model) -> Model:
    model.gpt.head.weight = model.gpt.tokens.weight
    return model


def _trained(call, model, batches):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    losses = []
    for ids in batches:
        optimizer.zero_grad()
        loss = call(ids)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def _accumulated(call, model, batches):
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    losses = []
    for k, ids in enumerate(batches):
        loss = call(ids) / 2
        loss.backward()
        losses.append(loss.item())
        if k % 2:
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
    return losses


def _scaled(call, model, batches):
    optimizer, scaler = torch.optim.AdamW(model.parameters(), lr=1e-3, foreach=True), torch.amp.GradScaler("cpu")
    losses = []
    for ids in batches:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = call(ids)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    return losses


def _evaluated(call, model, batches):
    losses = _trained(call, model, batches[:2])
    model.eval()
    with torch.no_grad():
        losses.append(call(batches[2]).item())
    model.train()
    return losses + _trained(call, model, batches[2:])


LOOPS: dict[str, Any] = {
    "plain": (_trained, lambda model: model, True),
    "accumulated, clipped": (_accumulated, lambda model: model, True),
    "evaluated between": (_evaluated, lambda model: model, True),
    "tied": (_trained, _tied, True),
    "adapters": (_trained, _adapted, True),
    "autocast, scaled": (_scaled, lambda model: model, False),
    "bfloat16": (_trained, lambda model: model.bfloat16(), False),
}


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_gives_the_weights_that_it_gives_without_a_budget(name):
    loop, change, as_plain = LOOPS[name]
    batches = [torch.randint(0, 101, (8, 32)) for _ in range(4)]
    backend = sim.torch.backend(budget="70%", minimize="flops", effort=0.3)
    kinds = ["aot_eager_default_partitioner", backend, *([None] if as_plain else [])]
    results = []
    for kind in kinds:
        torch._dynamo.reset()
        model = change(Model())
        call = model if kind is None else torch.compile(model, backend=kind, fullgraph=True)
        torch.manual_seed(1)
        results.append((loop(call, model, batches), model.state_dict()))
    (losses, state), *others = results
    for found, weights in others:
        assert found == losses
        assert all(torch.equal(t, weights[key]) for key, t in state.items())
    assert all(plan.recomputed and plan.peak_bytes <= plan.budget_bytes for plan in backend.plans)


def test_data_parallel_training_is_one_graph(tmp_path):
    dist = torch.distributed
    if not dist.is_available():
        pytest.skip("needs a build of PyTorch with torch.distributed")
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        batches = [torch.randint(0, 101, (8, 32)) for _ in range(2)]
        results = []
        for planned in (False, True):
            torch._dynamo.reset()
            model = nn.parallel.DistributedDataParallel(Model())
            backend = sim.torch.backend(budget="70%", minimize="flops", effort=0.3)
            torch.manual_seed(1)
            results.append(_trained(torch.compile(model, backend=backend) if planned else model, model, batches))
        assert results[0] == results[1]
        assert len(backend.plans) == 1
    finally:
        dist.destroy_process_group()

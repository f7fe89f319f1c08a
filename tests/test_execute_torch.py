"""Schedules on real tensors: the bits of plain autograd, and the bytes and flops that replay says."""

from __future__ import annotations

import copy

import pytest

torch = pytest.importorskip("torch", reason="needs torch: pip install torch==2.13.0")

import models  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from sim.base.errors import NotApplicable  # noqa: E402
from sim.execution.torch.execute import Runner, execute  # noqa: E402
from sim.execution.torch.memory import LiveBytes  # noqa: E402
from sim.models.torch.program import program  # noqa: E402
from sim.schedules.replay import replay  # noqa: E402
from sim.schedules.schedule import Builder  # noqa: E402
from sim.strategies.checkpointing.segments import uniform  # noqa: E402
from sim.strategies.forward import forward_recompute  # noqa: E402
from sim.strategies.optimal.strategy import optimal_front  # noqa: E402
from sim.strategies.reverse import reverse_full, reverse_offload  # noqa: E402

MIB = 2**20
torch.set_num_threads(1)  # sums in one order, and no waiting for other processes


def _images(batch: int, channels: int, size: int):
    return {"x": torch.randn(batch, channels, size, size)}


def _tokens(batch: int):
    return {"ids": torch.randint(0, 101, (batch, 32))}


CASES = {
    "resnet18": (lambda: models.resnet18(classes=10), lambda: _images(2, 3, 32), "cross_entropy"),
    "resnet50": (lambda: models.resnet50(classes=10), lambda: _images(2, 3, 32), "cross_entropy"),
    "unet": (lambda: models.UNet(channels=8), lambda: _images(2, 1, 32), "mean"),
    "gpt": (lambda: models.GPT(dropout=0.1), lambda: _tokens(4), "cross_entropy"),
}


def _case(name: str):
    torch.manual_seed(0)
    make, inputs, loss = CASES[name]
    module, given = make(), inputs()
    if loss == "cross_entropy":
        out = copy.deepcopy(module)(**given)
        given["labels"] = torch.randint(0, 10, out.shape[:-1])
    return module, given, loss


def _plain(module, inputs, loss):
    """The loss and the gradients of plain autograd, with the random numbers that follow seed 3."""
    torch.manual_seed(3)
    given = dict(inputs)
    labels = given.pop("labels", None)
    out = module(**given)
    if loss == "cross_entropy":
        value = torch.nn.functional.cross_entropy(out.flatten(0, -2), labels.flatten())
    else:
        value = out.sum() if loss == "sum" else out.mean()
    value.backward()
    return value.detach()


def _measured(traced, schedule, module, inputs):
    """Loss, gradients and peak of live bytes above what is resident, without random states."""
    torch.manual_seed(3)
    runner = Runner(traced, schedule)
    named = dict([*module.named_parameters(), *module.named_buffers(), *inputs.items()])
    with torch.no_grad(), LiveBytes() as live:
        (output,), saved = runner.forward(named)
        value = output.clone()
        del output
        gradients = runner.backward(saved, [torch.ones_like(value)])
    return value, gradients, live.peak_bytes - runner.state_bytes


def _peak_with_the_bits_of(plain, expected, traced, schedule, module, inputs):
    """The measured peak of a copy of a module, whose loss, gradients and buffers are those of plain training."""
    twin = copy.deepcopy(module)
    value, gradients, peak = _measured(traced, schedule, twin, inputs)
    assert torch.equal(value, expected)
    for key, p in plain.named_parameters():
        assert torch.equal(p.grad, gradients[key]), key
    for key, buffer in plain.named_buffers():
        assert torch.equal(buffer, twin.get_buffer(key)), key
    return peak


@pytest.mark.slow
@pytest.mark.parametrize("granularity", ["ops", "modules", "blocks"])
@pytest.mark.parametrize("name", CASES)
def test_every_schedule_gives_the_bits_of_plain_autograd_and_the_predicted_peak(name, granularity):
    module, inputs, loss = _case(name)
    plain = copy.deepcopy(module)
    expected = _plain(plain, inputs, loss)
    traced = program(module, inputs, granularity=granularity, loss=loss)
    for schedule in (reverse_full(traced.graph), *(uniform(traced.graph, segments=k) for k in (2, 4))):
        peak = _peak_with_the_bits_of(plain, expected, traced, schedule, module, inputs)
        predicted = replay(schedule).working_bytes
        # The clone of the loss and the seed of its cotangent are the measurement's own.
        if granularity == "ops" and len(schedule.rows) <= 2 * len(traced.graph):  # a full store
            assert peak == pytest.approx(predicted, abs=8)
        assert predicted * 0.9 <= peak <= predicted + 8


@pytest.mark.parametrize("granularity", ["ops", "modules", "blocks"])
def test_inputs_that_no_gradient_reads_are_freed_and_change_no_bit(granularity):
    module, inputs = models.Choosy(), models.choices()
    plain = copy.deepcopy(module)
    expected = _plain(plain, inputs, "mean")
    traced = program(module, inputs, granularity=granularity, loss="mean")
    for schedule in (reverse_full(traced.graph), *(uniform(traced.graph, segments=k) for k in (2, 4))):
        value, gradients, peak = _measured(traced, schedule, copy.deepcopy(module), inputs)
        assert torch.equal(value, expected)
        assert gradients.keys() == {key for key, p in plain.named_parameters() if p.requires_grad}
        for key, gradient in gradients.items():
            assert torch.equal(plain.get_parameter(key).grad, gradient), key
        predicted = replay(schedule).working_bytes
        # The clone of the loss and the seed of its cotangent are the measurement's own.
        assert predicted * 0.9 <= peak <= predicted + 8


@pytest.mark.parametrize("granularity", ["ops", "modules"])
def test_the_peak_of_a_full_store_of_attention_is_that_of_plain_autograd(granularity):
    """Both are at the bias gradient of the last block's MLP. What differs there, with 4·32 tokens of 64 floats:

    plain autograd holds the logits and the loss (the caller's variables), and for each of 3 dropouts of 4·4·32·32
    scores the float by which each is multiplied, where the compiler's front keeps a truth value.
    """
    module, inputs, loss = _case("gpt")
    traced = program(module, inputs, granularity=granularity, loss=loss)
    live = LiveBytes()
    with live:
        _plain(module, inputs, loss)
    logits, dropped = 4 * 32 * 101 * 4, 3 * (4 * 4 * 32 * 32) * (4 - 1)
    predicted = replay(reverse_full(traced.graph))
    assert predicted.peak_at.node == "blocks.2.mlp.2"
    assert live.peak_bytes == predicted.working_bytes + logits + 4 + dropped


@pytest.mark.slow
@pytest.mark.parametrize("granularity", ["modules", "blocks"])
@pytest.mark.parametrize("name", CASES)
def test_optimal_schedules_stay_within_their_budgets(name, granularity):
    module, inputs, loss = _case(name)
    traced = program(module, inputs, granularity=granularity, loss=loss)
    front = optimal_front(traced.graph)
    least = replay(front.schedule(traced.graph, 0)).peak_bytes
    most = replay(reverse_full(traced.graph)).peak_bytes
    plain = copy.deepcopy(module)
    _plain(plain, inputs, loss)
    for budget in (least, (2 * least + most) // 3, (least + 2 * most) // 3):
        schedule = front.schedule(traced.graph, front.within(budget))
        _, gradients, peak = _measured(traced, schedule, copy.deepcopy(module), inputs)
        predicted = replay(schedule)
        assert predicted.peak_bytes <= budget
        # The workspace of a VJP is that of a full store, and may be more where a schedule keeps values longer.
        assert predicted.working_bytes * 0.9 <= peak <= predicted.working_bytes * 1.01
        for key, p in plain.named_parameters():
            assert torch.equal(p.grad, gradients[key]), key


class _Odd(torch.nn.Module):
    """What models do besides layers in a row."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(6, 6)
        self.again = torch.nn.Linear(6, 6)
        self.normed = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(6, 6))
        self.scale = torch.nn.Parameter(torch.ones(6))
        self.register_buffer("table", torch.arange(6.0))

    def forward(self, x):
        x = self.first(x)
        with torch.no_grad():
            norm = x.norm(dim=-1, keepdim=True)
        y = self.again(self.again(x / norm))
        y = y + x.detach() * self.scale + self.table.view(1, 6)
        a, b, c = y.chunk(3, dim=-1)
        z = torch.cat([c * a, b.sigmoid(), torch.where(a > 0, a, b * 0.5)], -1)
        z = self.normed(z) + z.t().contiguous().t()
        noise = torch.rand_like(z)
        z = z * noise
        z += y
        largest, _ = z.topk(2, dim=-1)
        return torch.nn.functional.dropout(z, 0.5).sum(-1) + largest.prod(-1) + z[:, 1:3].mean(-1)


@pytest.mark.parametrize("granularity", ["ops", "modules", "blocks"])
def test_odd_operations_keep_the_gradient_of_autograd(granularity):
    torch.manual_seed(0)
    module, inputs = _Odd(), {"x": torch.randn(5, 6)}
    plain = copy.deepcopy(module)
    expected = _plain(plain, inputs, "sum")
    traced = program(module, inputs, granularity=granularity, loss="sum")
    for schedule in (reverse_full(traced.graph), *(uniform(traced.graph, segments=k) for k in (2, 3, 7))):
        value, gradients, peak = _measured(traced, schedule, copy.deepcopy(module), inputs)
        assert torch.equal(value, expected)
        for key, p in plain.named_parameters():
            assert torch.allclose(p.grad, gradients[key], rtol=1e-5, atol=1e-6), key
        assert peak <= replay(schedule).working_bytes + 8


class _Rounded(torch.autograd.Function):
    """Rounding whose gradient is written by hand: that of the identity, doubled."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x.sign())
        return x.round()

    @staticmethod
    def backward(ctx, g):
        (sign,) = ctx.saved_tensors
        return 2 * g * sign


class _Around(torch.nn.Module):
    """Something unusual between two layers."""

    def __init__(self, act, second=None):
        super().__init__()
        self.first, self.second = torch.nn.Linear(6, 6), second or torch.nn.Linear(6, 6)
        self.register_buffer("count", torch.ones(6))
        self.act = act

    def forward(self, x):
        return self.second(self.act(self, self.first(x).tanh())).sin()


def _hooked(m, x):
    x = x * 2
    x.register_hook(lambda g: 3 * g)
    return x


def _into_view(m, x):
    x = x * 2
    x[:, 0] = x[:, 1].exp()
    return x


def _counting(m, x):
    m.count += 1
    return x * m.count


def _lower(m, x):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return m.first(x).float()


def _seen_later(m, x):
    y = x.clone()
    flat = y.view(-1)
    y.mul_(2)
    return flat.view_as(x) + x


def _slope(m, x):
    return torch.func.grad(lambda y: m.second(y).tanh().sum())(x) + x


def _tied_beside_a_bias(m, x):
    return torch.nn.functional.linear(x, m.first.weight, m.second.bias)


UNUSUAL = {
    "custom gradient": _Around(lambda m, x: _Rounded.apply(3 * x)),
    "hook on a tensor": _Around(_hooked),
    "write into a view": _Around(_into_view),
    "buffer read after its update": _Around(_counting),
    "autocast": _Around(_lower),
    "write seen by a view": _Around(_seen_later),
    "gradient inside": _Around(_slope),
    "weight shared beside a bias": _Around(_tied_beside_a_bias),
    "spectral norm": _Around(
        lambda m, x: x, torch.nn.utils.parametrizations.spectral_norm(torch.nn.Linear(6, 6))
    ),
    "random numbers": _Around(lambda m, x: torch.nn.functional.dropout(x * torch.rand_like(x), 0.3)),
    "checkpoint": _Around(
        lambda m, x: torch.utils.checkpoint.checkpoint(lambda y: m.second(y).relu(), x, use_reentrant=False)
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", UNUSUAL)
def test_what_people_do_between_layers_keeps_the_bits_of_autograd(what):
    torch.manual_seed(0)
    module, inputs = UNUSUAL[what], {"x": torch.randn(5, 6)}
    plain = copy.deepcopy(module)
    expected = _plain(plain, inputs, "sum")
    for granularity in ("ops", "blocks"):
        traced = program(module, inputs, granularity=granularity, loss="sum")
        for schedule in (reverse_full(traced.graph), *(uniform(traced.graph, segments=k) for k in (2, 3))):
            peak = _peak_with_the_bits_of(plain, expected, traced, schedule, module, inputs)
            assert peak <= replay(schedule).peak_bytes


@pytest.mark.slow
def test_the_mlp_of_the_reference_takes_its_measured_bytes_and_flops():
    """REFERENCE section 9: PyTorch 2.13 on the CPU, measured; segments of 4, 2 and 1 linear layers."""
    torch.manual_seed(0)
    module, inputs = models.mlp(512, 16), {"input": torch.randn(2048, 512)}
    traced = program(module, inputs, loss="sum")
    published = {None: 69.002, 4: 36.023, 2: 42.004, 1: 69.002}
    for layers, mebibytes in published.items():
        graph = traced.graph
        schedule = reverse_full(graph) if layers is None else uniform(graph, segments=16 // layers)
        _, _, peak = _measured(traced, schedule, module, inputs)
        assert round(peak / MIB, 3) == mebibytes
        assert round(replay(schedule).working_bytes / MIB, 3) == mebibytes
    with FlopCounterMode(display=False) as counter:
        execute(traced, reverse_full(traced.graph), module, inputs)
    assert round(counter.get_total_flops() / 1e9, 4) == 50.4659


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n == "resnet50")) for n in CASES])
def test_flops_of_products_are_those_that_pytorch_counts(name):
    module, inputs, loss = _case(name)
    traced = program(module, inputs, granularity="modules", loss=loss)
    schedule = uniform(traced.graph, segments=3)
    with FlopCounterMode(display=False) as counter:
        execute(traced, schedule, module, inputs)
    costs = [node.attributes["contraction_flops"] for node in traced.graph.nodes]
    n = len(costs)
    predicted = sum(costs[row % n][row // n] for row in schedule.rows.tolist())
    assert counter.get_total_flops() == predicted


def test_a_schedule_that_copies_is_refused():
    module, inputs, loss = _case("unet")
    traced = program(module, inputs, loss=loss)
    with pytest.raises(NotApplicable, match="copies between device and host"):
        Runner(traced, reverse_offload(traced.graph))


def test_frozen_parameters_get_no_gradient_and_the_others_keep_theirs():
    module, inputs, loss = _case("resnet18")
    for p in module.layer1.parameters():
        p.requires_grad_(False)
    plain = copy.deepcopy(module)
    _plain(plain, inputs, loss)
    traced = program(module, inputs, granularity="blocks", loss=loss)
    gradients = execute(traced, uniform(traced.graph, segments=3), module, inputs).gradients
    assert set(gradients) == {n for n, p in module.named_parameters() if p.requires_grad}
    for key, p in plain.named_parameters():
        assert p.grad is None or torch.equal(p.grad, gradients[key])


def test_schedules_of_forward_mode_are_refused():
    traced = program(models.mlp(8, 2), {"input": torch.randn(4, 8)}, loss="sum")
    with pytest.raises(NotApplicable, match="one sweep"):
        Runner(traced, forward_recompute(traced.graph, chunk=1))


def test_a_module_without_a_loss_is_refused_by_execute():
    module, x = models.mlp(8, 2), torch.randn(4, 8)
    traced = program(module, {"input": x})
    with pytest.raises(NotApplicable, match="import it with a loss"):
        execute(traced, reverse_full(traced.graph, chunk=traced.graph.output_scalars), module, {"input": x})


def test_a_schedule_of_another_graph_is_refused():
    x = {"input": torch.randn(4, 8)}
    first, second = (program(models.mlp(8, 2), x, loss="sum") for _ in range(2))
    with pytest.raises(NotApplicable, match="another graph"):
        Runner(first, reverse_full(second.graph))


def test_the_tester_sees_memory_that_is_held_too_long():
    with LiveBytes() as live:
        held = [torch.zeros(256) for _ in range(3)]
        del held
        torch.zeros(256)
    assert (live.peak_bytes, live.live_bytes) == (3 * 1024, 0)


def test_evaluating_everything_twice_changes_nothing():
    module, inputs, loss = _case("unet")
    plain = copy.deepcopy(module)
    _plain(plain, inputs, loss)
    traced = program(module, inputs, granularity="blocks", loss=loss)
    builder = Builder(traced.graph)
    builder.forward(range(len(traced.graph)))
    builder.forward(range(len(traced.graph)))
    builder.vjp(range(len(traced.graph) - 1, -1, -1))
    gradients = execute(traced, builder.build(), module, inputs).gradients
    for key, p in plain.named_parameters():
        assert torch.equal(p.grad, gradients[key])

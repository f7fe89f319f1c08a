"""Training with `backend=sim.torch.backend(…)` in `torch.compile`: the bits of plain training, within the budget."""

from __future__ import annotations

import copy
import dataclasses

import pytest

torch = pytest.importorskip("torch", reason="needs torch: pip install 'ad-tradeoff-sim[torch]'")

import models  # noqa: E402
from torch import nn  # noqa: E402
from torch_training import (  # noqa: E402
    CASES,
    WithLoss,
    assert_same,
    cnn,
    compiled_within,
    gpt,
    mlp,
    most_slow,
    peak_of,
    trained,
)

import sim.torch  # noqa: E402
from sim.base.errors import ParameterError  # noqa: E402
from sim.execution.torch.memory import LiveBytes  # noqa: E402

torch.set_num_threads(1)  # sums in one order, and no waiting for other processes
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning"),
    pytest.mark.usefixtures("nothing_compiled"),
]


BUDGETS = [("gpt", "60%"), ("cnn", "70%"), ("unet", "60%"), ("mlp", "50%")]


@pytest.mark.parametrize(("name", "budget"), most_slow(BUDGETS, "mlp"))
def test_training_within_a_budget_is_plain_training_bit_for_bit(name, budget):
    torch.manual_seed(0)
    plain, inputs = CASES[name]()
    compiled, planned, backend = compiled_within(plain, budget=budget)
    expected = trained(plain, plain.parameters(), inputs)
    assert trained(compiled, planned.parameters(), inputs) == expected
    assert_same(plain, planned)
    (plan,) = backend.plans
    assert plan.recomputed
    assert plan.peak_bytes <= plan.budget_bytes
    planned.zero_grad()
    measured = peak_of(compiled, inputs) + plan.resident_bytes
    assert plan.peak_bytes * 0.99 <= measured <= plan.peak_bytes
    plain.zero_grad()
    full = peak_of(plain, inputs) + plan.resident_bytes
    assert full == pytest.approx(plan.full_store_bytes, rel=0.1)


@pytest.mark.slow
def test_prices_fall_and_peaks_rise_with_the_budget():
    torch.manual_seed(0)
    plain, inputs = gpt()
    plans = []
    for share in (100, 80, 65, 50):
        torch._dynamo.reset()
        compiled, _, backend = compiled_within(plain, budget=f"{share}%", effort=2.0)
        compiled(*inputs)
        plans += backend.plans
    assert plans[0].price == plans[0].full_store_price
    assert [p.price for p in plans] == sorted(p.price for p in plans)
    assert [p.peak_bytes for p in plans] == sorted((p.peak_bytes for p in plans), reverse=True)
    assert all(p.peak_bytes <= p.budget_bytes for p in plans)


@pytest.mark.slow
def test_an_overhead_gives_the_smallest_peak_within_it():
    torch.manual_seed(0)
    plain, inputs = mlp()
    plans = []
    for overhead in ("0%", "10%", 0.3):
        torch._dynamo.reset()
        compiled, _, backend = compiled_within(plain, max_overhead=overhead)
        compiled(*inputs)
        plans += backend.plans
    for plan, most in zip(plans, (0.0, 0.1, 0.3), strict=True):
        assert plan.overhead <= most
    assert plans[0].peak_bytes > plans[1].peak_bytes > plans[2].peak_bytes


def test_a_chain_recomputes_what_its_budget_asks_for():
    """Linear layers of equal width under a budget for 12 activations of 16: each one dropped is computed again once."""
    plain, inputs = mlp()
    compiled, _, backend = compiled_within(plain, budget="80%")
    compiled(*inputs)
    (plan,) = backend.plans
    assert {operation for _, operation, _ in plan.recomputed} <= {"addmm", "relu"}
    assert all(path.startswith("model.") for path, _, _ in plan.recomputed)
    assert all(line.partition(":")[0].endswith(".py") for _, _, line in plan.recomputed)


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = 1.0
        self.first, self.second = nn.Linear(16, 64), nn.Linear(64, 16)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x):
        return (self.second(self.dropout(self.first(x).relu())).tanh() * self.scale).square().sum()


def _grow_dropout(module):
    module.dropout.p = 0.9


def _change_attribute(module):
    module.scale = 22.0


def _add_hook(module):
    module.first.register_forward_hook(lambda _module, _given, out: out * 3)


def _add_hook_before(module):
    module.second.register_forward_pre_hook(lambda _module, given: (given[0].square(),))


def _freeze(module):
    module.first.requires_grad_(False)


def _replace_part(module):
    module.second = nn.Sequential(nn.Linear(64, 16), nn.GELU()).requires_grad_()
    with torch.no_grad():
        for p in module.second.parameters():
            p.fill_(0.01)


CHANGES = [_grow_dropout, _change_attribute, _add_hook, _add_hook_before, _freeze, _replace_part, nn.Module.eval]


@pytest.mark.parametrize("change", most_slow([(change,) for change in CHANGES], _change_attribute))
def test_a_model_that_is_changed_between_steps_is_planned_anew(change):
    torch.manual_seed(0)
    plain, x = Scaled(), torch.randn(32, 16)
    compiled, planned, backend = compiled_within(plain, max_overhead="50%", effort=0.1)
    for changes in ((), (change,)):
        for module in (plain, planned):
            module.zero_grad()
            for apply in changes:
                apply(module)
        torch.manual_seed(1)
        expected = plain(x)
        expected.backward()
        torch.manual_seed(1)
        loss = compiled(x)
        loss.backward()
        assert torch.equal(loss, expected)
        assert_same(plain, planned)
    assert len(backend.plans) == 2


@pytest.mark.slow
def test_other_shapes_and_dtypes_are_planned_for_themselves():
    torch.manual_seed(0)
    plain = Scaled().eval()
    compiled, planned, backend = compiled_within(plain, max_overhead="50%", effort=0.1)
    for batch in (32, 48, 16, 32):
        for module in (plain, planned):
            module.zero_grad()
        x = torch.randn(batch, 16)
        for call in (plain, compiled):
            call(x).backward()
        assert_same(plain, planned)
    assert len({plan.peak_bytes for plan in backend.plans}) == 3
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected, found = plain(x), compiled(x)
    assert torch.equal(expected, found)
    for module in (plain, planned):
        module.double().zero_grad()
    for call in (plain, compiled):
        call(x.double()).backward()
    assert_same(plain, planned)


def test_evaluation_without_gradients_makes_no_plan():
    plain, x = Scaled().eval(), torch.randn(32, 16)
    compiled, _, backend = compiled_within(plain, budget="50%")
    with torch.no_grad():
        assert torch.equal(compiled(x), plain(x))
    assert backend.plans == []


class Exp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.exp()

    @staticmethod
    def backward(ctx, cotangent):
        (x,) = ctx.saved_tensors
        return cotangent * x.exp() * 1.5  # no derivative of exp: what is written here is what counts


@dataclasses.dataclass
class Output:
    loss: torch.Tensor
    logits: torch.Tensor


class Net(nn.Module):
    """Two layers with something between them; `body` is a function of the module and of the first one's result."""

    def __init__(self, body) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.second.weight = self.first.weight  # tied
        self.register_buffer("average", torch.ones(8))
        self.body = body

    def forward(self, x, labels=None):
        return self.body(self, self.first(x).tanh(), labels)


def _writes_buffer(net, x, _):
    net.average.mul_(0.9).add_(x.detach().mean(0), alpha=0.1)
    return net.second((x * net.average).relu_())


def _draws(net, x, _):
    noise = torch.rand_like(x)
    return net.second(nn.functional.dropout(x * noise, 0.3).sin() + torch.randn_like(x))


def _rotates(net, x, _):
    def rotary(x):
        angles = torch.arange(x.shape[0], dtype=x.dtype)[:, None] * net.average
        return angles.cos(), angles.sin()

    cos, sin = rotary(x)
    return net.second(x * cos + x.flip(-1) * sin)


def _attends(net, x, _):
    query, key, value = (net.second(x).view(1, 2, -1, 8) * k for k in (1, 2, 3))
    return nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)


BODIES = {
    "custom gradient": lambda net, x, _: net.second(Exp.apply(x)).tanh(),
    "keyword and dataclass": lambda net, x, labels: Output((net.second(x) - labels).square().mean(), net.second(x)),
    "buffer written": _writes_buffer,
    "random numbers": _draws,
    "two tensors between parts": _rotates,
    "attention": _attends,
    "views returned": lambda net, x, _: (net.second(x).t(), x, x[:, 2:].relu(), net.first.weight.view(-1)),
    "parts of a split": lambda net, x, _: torch.cat(
        [a.exp() * b for a, b in zip(x.chunk(2, -1), x.split([4, 4], -1), strict=True)], -1
    ),
    "scatter": lambda net, x, _: x.new_zeros(3, 8).index_add(0, torch.arange(len(x)) % 3, net.second(x)).relu(),
    "numbers from data": lambda net, x, _: net.second(x).topk(3, -1)[0].logsumexp(-1),
    "written in place": lambda net, x, _: net.second(x).mul_(2).add_(1).relu_() * x,
    "checkpoint inside": lambda net, x, _: torch.utils.checkpoint.checkpoint(
        lambda y: nn.functional.dropout(net.second(y).relu(), 0.5), x, use_reentrant=False
    ).sin(),
}


def _scalar(out):
    parts = [out.loss, out.logits] if isinstance(out, Output) else list(out) if isinstance(out, tuple) else [out]
    return sum((t * (i + 1)).sum() for i, t in enumerate(parts))


@pytest.mark.parametrize("name", most_slow([(name,) for name in BODIES], "buffer written", "attention"))
def test_whatever_pytorch_traces_keeps_its_gradient(name):
    """Equal bit for bit to PyTorch's own compiler front with eager kernels, and to plain training but for roundings.

    (The front may make the cotangent of a sum contiguous, for which another product kernel rounds otherwise.)
    """
    torch.manual_seed(0)
    plain, x, labels = Net(BODIES[name]), torch.randn(6, 8), torch.randn(6, 8)
    compiled, planned, backend = compiled_within(plain, max_overhead="40%", effort=0.2)
    own = copy.deepcopy(plain)
    own_compiled = torch.compile(own, backend="aot_eager_default_partitioner", fullgraph=True)
    for step in range(2):
        losses = []
        for call in (plain, own_compiled, compiled):
            torch.manual_seed(step)
            loss = _scalar(call(x, labels=labels))
            loss.backward()
            losses.append(loss)
        assert torch.equal(losses[1], losses[2])
        torch.testing.assert_close(losses[0], losses[2], rtol=1e-6, atol=1e-6)
        assert_same(own, planned)
        for p, q in zip(plain.parameters(), planned.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-5, atol=1e-5)
        for p, q in zip(plain.buffers(), planned.buffers(), strict=True):
            assert torch.equal(p, q)
    (plan,) = backend.plans
    assert plan.peak_bytes <= plan.full_store_bytes


def test_an_input_that_wants_a_gradient_gets_it():
    torch.manual_seed(0)
    plain = Scaled()
    compiled, _, _ = compiled_within(plain.eval(), budget="95%")
    x = torch.randn(32, 16, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    plain(x).backward()
    compiled(y).backward()
    assert torch.equal(x.grad, y.grad)


def test_results_that_the_caller_holds_count_as_long_as_the_caller_has_them():
    """Logits of 512·256 floats beside small layers: no step takes less than them and their cotangent."""

    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(*[nn.Linear(16, 16), nn.Tanh()] * 3, nn.Linear(16, 256))

        def forward(self, x):
            return self.layers(x)

    torch.manual_seed(0)
    x, plain = torch.randn(512, 16), Wide()
    compiled, _, backend = compiled_within(plain, max_overhead="100%", effort=0.3)
    for _ in range(2):
        with LiveBytes() as live:
            logits = compiled(x)
            logits.mul(torch.arange(256.0)).sum().backward()
    (plan,) = backend.plans
    logits = 512 * 256 * 4
    working = plan.peak_bytes - plan.resident_bytes
    assert working >= 2 * logits
    outside = logits + 256 * 4 + 16  # the product, its factors, the loss and its cotangent
    assert working * 0.99 <= live.peak_bytes <= working + outside


def test_a_budget_that_is_too_small_names_the_smallest_that_is_not():
    torch.manual_seed(0)
    plain, inputs = mlp()
    compiled, _, _ = compiled_within(plain, budget="10 kB")
    with pytest.raises(Exception, match=r"budget: got 10.0 kB \(10000 bytes\), expected at least") as caught:
        compiled(*inputs)
    least = int(str(caught.value).split("expected at least")[1].split("(")[1].split(" bytes")[0])
    compiled, planned, backend = compiled_within(plain, budget=least)
    compiled(*inputs).backward()
    plain(*inputs).backward()
    assert_same(plain, planned)
    assert backend.plans[0].peak_bytes <= least < backend.plans[0].full_store_bytes


def test_a_reserve_is_left_of_the_budget():
    plain, inputs = mlp()
    compiled, _, backend = compiled_within(plain, budget=2_000_000, reserve="300 kB")
    compiled(*inputs)
    assert backend.plans[0].peak_bytes <= 1_700_000


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ({}, "got none of them, expected exactly one of budget, max_overhead and plan"),
        ({"budget": 1, "max_overhead": 0.1}, "got budget and max_overhead, expected exactly one"),
        ({"budget": "8 GBit"}, "budget: got '8 GBit', expected a size such as 80 GB or 64 GiB or a share such as 60%"),
        ({"budget": "x%"}, "budget: got 'x%', expected a percentage"),
        ({"max_overhead": "-5%"}, "max_overhead: got '-5%', expected a percentage such as 5%"),
        ({"budget": 1, "inner": "inducter"}, "inner: got 'inducter', expected eager or inductor; did you mean"),
        ({"budget": 1, "minimize": "time"}, "minimize: got 'time', expected seconds or flops"),
        ({"budget": 1, "reserve": "much"}, "reserve: got 'much', expected a size"),
    ],
)
def test_wrong_arguments_are_refused_at_once(question, message):
    with pytest.raises(ParameterError) as caught:
        sim.torch.backend(**question)
    assert message in str(caught.value)


def _breaking(net, x, _):
    torch._dynamo.graph_break()
    return net.second(x)


def test_a_step_of_several_graphs_is_refused_at_the_line_that_breaks_it():
    backend = sim.torch.backend(budget="90%", minimize="flops")
    compiled = torch.compile(Net(_breaking), backend=backend)
    with pytest.raises(Exception, match=r"breaks into several graphs at .*test_torch_backend.py:\d+ .*fullgraph=True"):
        compiled(torch.randn(4, 8)).sum().backward()


class Parts(nn.Module):
    """Two parts that Dynamo traces, in a forward that it leaves to Python."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Net(_draws), Scaled()

    @torch._dynamo.disable(recursive=False)
    def forward(self, x):
        return self.second(self.first(x).repeat(1, 2))


def test_a_step_that_dynamo_traces_in_parts_is_refused():
    backend = sim.torch.backend(budget="100%", minimize="flops")
    with pytest.raises(Exception, match="a second function trains under this backend"):
        torch.compile(Parts(), backend=backend)(torch.randn(4, 8)).backward()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_inductor_runs_both_halves():
    torch.manual_seed(0)
    plain, inputs = WithLoss(models.mlp(width=32, depth=3)), (torch.randn(64, 32),)
    compiled, planned, backend = compiled_within(plain, max_overhead="100%", effort=0.1, inner="inductor")
    for call in (plain, compiled):
        call(*inputs).backward()
    for p, q in zip(plain.parameters(), planned.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-5)
    assert backend.plans[0].recomputed


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.p = nn.Linear(16, 48), nn.Linear(16, 16), 0.0

    def forward(self, x):
        query, key, value = (t.unflatten(-1, (2, 8)).transpose(1, 2) for t in self.first(x).chunk(3, -1))
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, dropout_p=self.p)
        return self.second(mixed.transpose(1, 2).flatten(2).sin()).square().sum()


@pytest.mark.slow
def test_a_call_that_comes_to_draw_random_numbers_draws_the_same_ones_again():
    """Attention without dropout is the same call as with it: a plan that runs it again must not be taken for both."""
    torch.manual_seed(0)
    plain, x = Attention(), torch.randn(4, 32, 16)
    compiled, planned, backend = compiled_within(plain, max_overhead="100%", effort=0.3)
    for p in (0.0, 0.5):
        plain.p = planned.p = p
        for module in (plain, planned):
            module.zero_grad()
        for call in (plain, compiled):
            torch.manual_seed(1)
            call(x).backward()
        assert_same(plain, planned)
    for plan in backend.plans:
        counts = [plan.rows.count(r) for r, row in enumerate(plan.joint.rows) if row.ordered and row.state is None]
        assert counts == [1] * len(counts)


class Dropouts(nn.Module):
    """Layers between which random numbers are drawn, into results larger than anything else."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(8))

    def forward(self, x):
        for layer in self.layers:
            x = nn.functional.dropout(layer(x).relu(), 0.3)
        return x.square().mean()


def test_random_numbers_are_drawn_again_where_a_plan_runs_dropout_again():
    torch.manual_seed(0)
    plain, x = Dropouts(), torch.randn(1024, 64)
    compiled, planned, backend = compiled_within(plain, budget="60%", effort=0.5)
    expected = trained(plain, plain.parameters(), (x,))
    assert trained(compiled, planned.parameters(), (x,)) == expected
    assert_same(plain, planned)
    (plan,) = backend.plans
    assert any("dropout" in operation for _, operation, _ in plan.recomputed)
    measured = peak_of(compiled, (x,)) + plan.resident_bytes
    assert 0.99 * plan.peak_bytes <= measured <= plan.peak_bytes <= plan.budget_bytes


class Outer(nn.Module):
    """Results that are large and cheap to make again, behind layers that take more than they do."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(16, 512), nn.Tanh(), nn.Linear(512, 512), nn.Tanh(), nn.Linear(512, 1))
        self.row = nn.Parameter(torch.ones(256))

    def forward(self, x):
        return self.layers(x) * self.row


def test_results_are_not_let_go_to_be_made_again():
    torch.manual_seed(0)
    plain, x = Outer(), torch.randn(512, 16)
    compiled, _, backend = compiled_within(plain, max_overhead="100%", effort=0.5)
    for _ in range(2):
        plain.zero_grad()
        with LiveBytes() as live:
            results = compiled(x)
            results.sum().backward()
    (plan,) = backend.plans
    assert live.peak_bytes <= plan.peak_bytes - plan.resident_bytes + 16


def test_a_batch_norm_that_runs_again_updates_its_averages_once():
    torch.manual_seed(0)
    plain, inputs = cnn()
    compiled, planned, backend = compiled_within(plain, max_overhead="60%", effort=0.5)
    expected = trained(plain, plain.parameters(), inputs)
    assert trained(compiled, planned.parameters(), inputs) == expected
    assert_same(plain, planned)
    assert any("batch_norm" in operation for _, operation, _ in backend.plans[0].recomputed)

"""Training under a plan: an ordinary loop, with the losses and weights of plain training."""

from __future__ import annotations

import copy
import json

import pytest

torch = pytest.importorskip("torch", reason="needs torch: pip install torch==2.13.0")

import models  # noqa: E402

import sim.torch  # noqa: E402
from sim.base.errors import NotApplicable  # noqa: E402
from sim.execution.torch.memory import LiveBytes  # noqa: E402
from sim.models.torch.program import program  # noqa: E402
from sim.schedules.plan import plan_of  # noqa: E402
from sim.schedules.replay import replay  # noqa: E402
from sim.strategies.checkpointing.segments import uniform  # noqa: E402

torch.set_num_threads(1)  # sums in one order, and no waiting for other processes


@pytest.fixture(autouse=True)
def _afresh():
    torch._dynamo.reset()


def _plan(module, inputs, *, granularity="modules", loss="cross_entropy", segments=3):
    graph = program(module, inputs, granularity=granularity, loss=loss).graph
    return json.loads(json.dumps(plan_of(uniform(graph, segments=segments))))


def _gpt_batch(batch: int = 4):
    return {"ids": torch.randint(0, 101, (batch, 32)), "labels": torch.randint(0, 101, (batch, 32))}


def _train(module, batches):
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)
    losses = []
    for batch in batches:
        optimizer.zero_grad()
        logits = module(batch["ids"])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("granularity", ["ops", "modules", "blocks"])
def test_training_under_a_plan_is_plain_training_bit_for_bit(granularity):
    torch.manual_seed(0)
    plain = models.GPT(dropout=0.1)
    planned = copy.deepcopy(plain)
    batches = [_gpt_batch() for _ in range(4)]
    sim.torch.apply(planned, _plan(planned, batches[0], granularity=granularity))
    torch.manual_seed(1)
    expected = _train(plain, batches)
    torch.manual_seed(1)
    assert _train(planned, batches) == expected
    for name, p in plain.state_dict().items():
        assert torch.equal(p, planned.state_dict()[name])


def test_running_averages_are_updated_once_a_step():
    torch.manual_seed(0)
    plain = models.resnet18(classes=10)
    planned = copy.deepcopy(plain)
    x = torch.randn(2, 3, 32, 32)
    labels = torch.randint(0, 10, (2,))
    sim.torch.apply(planned, _plan(planned, {"x": x, "labels": labels}, granularity="blocks"))
    for _ in range(2):
        for module in (plain, planned):
            torch.nn.functional.cross_entropy(module(x), labels).backward()
    for name, buffer in plain.named_buffers():
        assert torch.equal(buffer, planned.get_buffer(name)), name
    for name, p in plain.named_parameters():
        assert torch.equal(p.grad, planned.get_parameter(name).grad), name


def test_a_step_stays_within_the_plan():
    torch.manual_seed(0)
    module = models.mlp(width=64, depth=16)
    x = torch.randn(512, 64)
    schedule = uniform(program(module, {"input": x}, loss="mean").graph, segments=4)
    sim.torch.apply(module, plan_of(schedule))
    module(x).mean().backward()
    module.zero_grad()
    with LiveBytes() as live:
        module(x).mean().backward()
    # A training loop holds the loss, its cotangent and a token to the end, 4 bytes each.
    assert live.peak_bytes <= replay(schedule).working_bytes + 12


def test_the_state_dict_is_that_of_the_plain_module():
    plain = models.resnet18(classes=10)
    planned = sim.torch.apply(copy.deepcopy(plain), _plan(plain, _image_batch(), granularity="blocks"))
    assert list(planned.state_dict()) == list(plain.state_dict())
    plain.load_state_dict(planned.state_dict())
    assert isinstance(planned, models.ResNet)


def _image_batch():
    return {"x": torch.randn(2, 3, 32, 32), "labels": torch.randint(0, 10, (2,))}


def test_evaluation_is_plain():
    module = models.resnet18(classes=10).eval()
    x = torch.randn(2, 3, 32, 32)
    expected = module(x)
    sim.torch.apply(module, _plan(module.train(), _image_batch(), granularity="blocks")).eval()
    assert torch.equal(module(x), expected)


def test_a_copy_of_a_planned_module_trains_its_own_parameters():
    torch.manual_seed(0)
    module = models.GPT()
    batch = _gpt_batch()
    sim.torch.apply(module, _plan(module, batch))
    twin = copy.deepcopy(module)
    with torch.no_grad():
        twin.ln.weight.mul_(2)
    twin(batch["ids"]).sum().backward()
    assert all(p.grad is None for p in module.parameters())
    assert all(p.grad is not None for p in twin.parameters())


def test_a_smaller_last_batch_is_trained_under_the_same_plan():
    torch.manual_seed(0)
    plain = models.GPT()
    planned = sim.torch.apply(copy.deepcopy(plain), _plan(plain, _gpt_batch(4)))
    batch = _gpt_batch(3)
    for module in (plain, planned):
        module(batch["ids"]).square().mean().backward()
    for name, p in plain.named_parameters():
        assert torch.equal(p.grad, planned.get_parameter(name).grad), name


def test_a_larger_batch_is_refused():
    module = models.GPT()
    sim.torch.apply(module, _plan(module, _gpt_batch(2)))
    with pytest.raises(NotApplicable, match=r"input 'ids' is \(4, 32\), but the plan was made for \(2, 32\)"):
        module(_gpt_batch(4)["ids"])


@pytest.mark.parametrize(
    ("layers", "message"),
    [(3, "none of its nodes is in blocks.2.attention.out"), (1, "there is no blocks.1.")],
)
def test_a_plan_for_another_model_is_refused(layers, message):
    plan = _plan(models.GPT(layers=2), _gpt_batch())
    with pytest.raises(NotApplicable, match=f"made for another model .*: {message}"):
        sim.torch.apply(models.GPT(layers=layers), plan)


def test_an_input_that_wants_a_gradient_gets_it():
    torch.manual_seed(0)
    plain = models.mlp(width=8, depth=8)
    x = torch.randn(16, 8, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    plain(x).square().sum().backward()
    sim.torch.apply(plain, _plan(plain, {"input": y.detach()}, loss="sum", segments=8))(y).square().sum().backward()
    assert torch.equal(x.grad, y.grad)


@pytest.mark.parametrize("change", ["dropout", "attribute", "hook"])
def test_what_is_changed_after_the_first_step_is_not_ignored(change):
    torch.manual_seed(0)
    plain = models.GPT(layers=1, dropout=0.1)
    planned = sim.torch.apply(copy.deepcopy(plain), _plan(plain, _gpt_batch()))
    ids = _gpt_batch()["ids"]
    for step in range(2):
        for module in (plain, planned):
            module.zero_grad()
            if step and change == "dropout":
                module.blocks[0].attention.dropout.p = 0.8
            if step and change == "attribute":
                module.blocks[0].ln1.eps = 0.5
            if step and change == "hook":
                module.blocks[0].mlp.register_forward_hook(lambda _module, _given, out: out * 46)
            torch.manual_seed(1)
            module(ids).square().mean().backward()
        for name, p in plain.named_parameters():
            assert torch.equal(p.grad, planned.get_parameter(name).grad), name


def test_a_plan_of_a_step_is_followed_call_by_call(tmp_path):
    torch.manual_seed(0)
    plain, ids = models.GPT(layers=1), _gpt_batch()["ids"]
    backend = sim.torch.backend(max_overhead="50%", minimize="flops", effort=0.1)
    torch.compile(copy.deepcopy(plain), backend=backend, fullgraph=True)(ids)
    path = backend.plans[0].write(tmp_path / "plan.json")
    planned = sim.torch.apply(copy.deepcopy(plain), path)
    for module in (plain, planned):
        module(ids).square().mean().backward()
    for name, p in plain.named_parameters():
        assert torch.equal(p.grad, planned.get_parameter(name).grad), name
    (plan,) = planned._sim_plan.backend.plans
    assert plan.rows == backend.plans[0].rows
    with pytest.raises(NotApplicable, match="made for another model"):
        sim.torch.apply(models.GPT(layers=2), path)(ids)


def test_plans_are_read_from_files(tmp_path):
    module = models.mlp(width=8, depth=2)
    x = torch.randn(4, 8)
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(_plan(module, {"input": x}, loss="sum")))
    sim.torch.apply(module, path)(x).sum().backward()
    assert module[0].weight.grad is not None


class _Listed(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)

    def forward(self, x, others=()):
        return self.linear(x) + sum(others)


def test_tensors_inside_lists_have_the_values_of_each_call():
    torch.manual_seed(0)
    plain, x = _Listed(), torch.randn(2, 4)
    planned = sim.torch.apply(copy.deepcopy(plain), _plan(plain, {"x": x}, loss="sum"))
    for k in range(2):
        assert torch.equal(planned(x, [k * x, x]), plain(x, [k * x, x]))


class _Constants(torch.nn.Module):
    """Reads tensors that are made in its forward, and perhaps one that is a plain attribute."""

    def __init__(self, scale=None):
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)
        self.scale = scale

    def forward(self, x):
        shift = torch.tensor([5.0, 6.0, 7.0, 8.0])
        return self.linear(x if self.scale is None else x * self.scale) + shift * torch.arange(4)


def test_constants_of_the_forward_have_their_values():
    torch.manual_seed(0)
    plain, x = _Constants(), torch.randn(2, 4)
    planned = sim.torch.apply(copy.deepcopy(plain), _plan(plain, {"x": x}, loss="sum"))
    assert torch.equal(planned(x), plain(x))


def test_a_tensor_that_is_no_buffer_has_its_present_values():
    torch.manual_seed(0)
    plain, x = _Constants(torch.ones(4)), torch.randn(2, 4)
    planned = sim.torch.apply(copy.deepcopy(plain), _plan(plain, {"x": x}, loss="sum"))
    for _ in range(2):
        assert torch.equal(planned(x), plain(x))
        for module in (plain, planned):
            module.scale = 3 * module.scale


def test_a_plan_that_copies_is_no_order_to_train_by() -> None:
    graph = sim.mlp(widths=[3, 4, 4, 2], batch=2, loss="sum")
    plan = plan_of(sim.schedule(graph, "reverse_offload"))
    with pytest.raises(NotApplicable, match="is no single reverse sweep on the device"):
        sim.torch.apply(torch.nn.Linear(2, 2), plan)

"""Plans of training steps: written and taken up again, refused for other models, priced and told."""

from __future__ import annotations

import json

import pytest

torch = pytest.importorskip("torch", reason="needs torch: pip install 'ad-tradeoff-sim[torch]'")

import models  # noqa: E402
from torch_training import WithLoss, assert_same, compiled_within, gpt, mlp, trained  # noqa: E402

import sim.torch  # noqa: E402

torch.set_num_threads(1)  # sums in one order, and no waiting for other processes
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning"),
    pytest.mark.usefixtures("nothing_compiled"),
]


@pytest.mark.slow
def test_a_plan_that_was_written_is_taken_up_again(tmp_path):
    torch.manual_seed(0)
    plain, inputs = gpt()
    compiled, _, backend = compiled_within(plain, budget="65%")
    compiled(*inputs)
    (plan,) = backend.plans
    path = plan.write(tmp_path / "plan.json")
    torch._dynamo.reset()
    compiled, planned, again = compiled_within(plain, plan=path)
    expected = trained(plain, plain.parameters(), inputs, steps=1)
    assert trained(compiled, planned.parameters(), inputs, steps=1) == expected
    assert_same(plain, planned)
    assert again.plans[0].rows == plan.rows
    assert json.loads(path.read_text())["peak_bytes"] == again.plans[0].peak_bytes == plan.peak_bytes
    smaller = tuple(t[:3] for t in inputs)
    compiled(*smaller).backward()
    assert again.plans[1].peak_bytes < plan.peak_bytes


@pytest.mark.parametrize(
    ("other", "batch", "message"),
    [
        (lambda: models.mlp(width=64, depth=15), 512, "made for another model: the fingerprint"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                (lambda: models.mlp(width=64, depth=16).double(), 512, "made for another dtype: primals_1 is float64"),
                (lambda: models.mlp(width=64, depth=16), 513, r"is \(513, 64\), but the plan was made for \(512, 64\)"),
            )
        ),
    ],
)
def test_a_plan_of_another_model_is_refused_with_what_differs(other, batch, message):
    plain, inputs = mlp()
    compiled, _, backend = compiled_within(plain, budget="80%")
    compiled(*inputs)
    torch._dynamo.reset()
    module = WithLoss(other())
    compiled, _, _ = compiled_within(module, plan=backend.plans[0].to_dict())
    with pytest.raises(Exception, match=message):
        compiled(torch.randn(batch, 64, dtype=next(module.parameters()).dtype))


@pytest.mark.slow
def test_measured_seconds_are_the_price_unless_said_otherwise():
    torch.manual_seed(0)
    plain, inputs = mlp()
    state = torch.get_rng_state()
    compiled, planned, backend = compiled_within(plain, budget="60%", minimize="seconds")
    compiled(*inputs).backward()
    assert torch.equal(torch.get_rng_state(), state)  # measuring draws from streams of its own
    plain(*inputs).backward()
    assert_same(plain, planned)
    (plan,) = backend.plans
    assert plan.unit == "picoseconds"
    assert 0 < plan.overhead < 1
    on_device, _, other = compiled_within(plain, budget="60%", minimize="seconds", device="h100-sxm")
    torch._dynamo.reset()
    on_device(*inputs)
    assert other.plans[0].full_store_price < plan.full_store_price  # nothing here is as fast


def test_calls_are_told_by_the_path_of_their_module():
    """Also below a function that takes the model as an argument, as decorated forwards do."""

    def call(*given):
        return given[0](*given[1:])

    plain, inputs = gpt()
    backend = sim.torch.backend(budget="60%", minimize="flops", effort=0.3)
    torch.compile(call, backend=backend, fullgraph=True)(plain, *inputs)
    paths = {path for path, _, _ in [*backend.plans[0].recomputed, *backend.plans[0].saved]}
    assert paths <= {name for name, _ in plain.named_modules()}
    assert "model.blocks.1.mlp.1" in paths
    assert "model.blocks.0–2.mlp.1 gelu" in str(backend.plans[0])

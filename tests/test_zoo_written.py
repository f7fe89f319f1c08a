"""Models written out, trained within a budget: the losses of plain training, and live bytes as predicted."""

from __future__ import annotations

import dataclasses

import pytest

torch = pytest.importorskip("torch", reason="needs torch: pip install 'ad-tradeoff-sim[torch]'")

from torch import nn  # noqa: E402
from torch_training import assert_same, compiled_within, peak_of, trained  # noqa: E402

torch.set_num_threads(1)  # sums in one order, and no waiting for other processes
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


class GraphNet(nn.Module):
    """Messages along edges, summed at the nodes that they reach (Gilmer et al. 2017, arXiv:1704.01212)."""

    def __init__(self, width: int = 32, rounds: int = 4) -> None:
        super().__init__()
        self.message = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(rounds))
        self.update = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(rounds))

    def forward(self, x, edges):
        source, target = edges
        for message, update in zip(self.message, self.update, strict=True):
            sent = message(torch.cat([x[source], x[target]], -1)).relu()
            got = torch.zeros_like(x).scatter_add(0, target[:, None].expand_as(sent), sent)
            x = update(torch.cat([x, got.index_add(0, source, sent)], -1)).tanh()
        return x.square().mean()


class NeuralOde(nn.Module):
    """200 steps of Euler's method through one layer (Chen et al. 2018, arXiv:1806.07366)."""

    def __init__(self, width: int = 32, steps: int = 200) -> None:
        super().__init__()
        self.rate, self.steps = nn.Linear(width, width), steps

    def forward(self, x):
        for _ in range(self.steps):
            x = x + self.rate(x).tanh() / self.steps
        return x.square().mean()


class Physics(nn.Module):
    """The residual of u'' = −u, with derivatives by u's argument inside (Raissi et al. 2019)."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        layers = [m for k in range(4) for m in (nn.Linear(width if k else 1, width), nn.Tanh())]
        self.u = nn.Sequential(*layers, nn.Linear(width, 1))

    def forward(self, t):
        def slope(f):
            return torch.func.grad(lambda at: f(at).sum())

        second = slope(slope(self.u))
        return (second(t) + self.u(t)).square().mean()


class _Clamp(torch.autograd.Function):
    """Rounding whose gradient is let through where the input is small (Bengio et al. 2013, arXiv:1308.3432)."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.round()

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * (x.abs() < 1)


class Quantized(nn.Module):
    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(6))

    def forward(self, x):
        for layer in self.layers:
            x = layer(_Clamp.apply(2 * x)).sin()
        return x.square().mean()


class Spectral(nn.Module):
    """Layers of norm 1 (Miyato et al. 2018, arXiv:1802.05957), whose buffers each step changes."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        norm = nn.utils.parametrizations.spectral_norm
        self.layers = nn.Sequential(*(m for _ in range(5) for m in (norm(nn.Linear(width, width)), nn.ELU())))

    def forward(self, x):
        return self.layers(x).square().mean()


@dataclasses.dataclass
class Output:
    loss: torch.Tensor
    logits: torch.Tensor


class Dropped(nn.Module):
    """Residual branches left out at random (Huang et al. 2016, arXiv:1603.09382), returned as a dataclass."""

    def __init__(self, width: int = 64, p: float = 0.2) -> None:
        super().__init__()
        self.branches, self.p = nn.ModuleList(nn.Linear(width, width) for _ in range(6)), p

    def forward(self, x):
        for branch in self.branches:
            kept = torch.rand(len(x), 1) >= self.p
            x = x + branch(x).relu() * kept / (1 - self.p)
        return Output(loss=x.square().mean(), logits=x)


class Mobile(nn.Module):
    """Inverted residuals with squeeze and excitation (Tan and Le 2019, arXiv:1905.11946), and a grouped one."""

    def __init__(self, width: int = 8, blocks: int = 3) -> None:
        super().__init__()
        wide = 4 * width
        self.stem = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "grow": nn.Sequential(nn.Conv2d(width, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.SiLU()),
                    "each": nn.Sequential(
                        nn.Conv2d(wide, wide, 3, padding=1, groups=wide if k else 4, bias=False),
                        nn.BatchNorm2d(wide), nn.Hardswish(inplace=True),
                    ),
                    "gate": nn.Sequential(
                        nn.AdaptiveAvgPool2d(1), nn.Conv2d(wide, width, 1), nn.SiLU(), nn.Conv2d(width, wide, 1),
                        nn.Sigmoid(),
                    ),
                    "shrink": nn.Sequential(nn.Conv2d(wide, width, 1, bias=False), nn.BatchNorm2d(width)),
                }
            )
            for k in range(blocks)
        )  # fmt: skip

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            y = block["each"](block["grow"](x))
            x = x + block["shrink"](y * block["gate"](y))
        return x.square().mean()


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(16, 32, num_layers=2, batch_first=True), nn.Linear(32, 4)

    def forward(self, x):
        return self.head(self.lstm(x)[0]).square().mean()


class _Loss(nn.Module):
    """The loss alone of a model that returns more."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *given):
        return self.model(*given).loss


ZOO = {
    "graph network": lambda: (GraphNet(), (torch.randn(64, 32), torch.randint(0, 64, (2, 400)))),
    "neural ODE": lambda: (NeuralOde(), (torch.randn(64, 32),)),
    "PINN": lambda: (Physics(), (torch.randn(256, 1),)),
    "custom gradient": lambda: (Quantized(), (torch.randn(512, 64),)),
    "spectral norm": lambda: (Spectral(), (torch.randn(512, 64),)),
    "drop path": lambda: (_Loss(Dropped()), (torch.randn(512, 64),)),
    "inverted residuals": lambda: (Mobile(), (torch.randn(4, 3, 24, 24),)),
}


@pytest.mark.parametrize("name", ZOO)
def test_a_model_trains_within_half_of_its_memory(name: str) -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    plain, inputs = ZOO[name]()
    compiled, planned, backend = compiled_within(plain, budget="50%", effort=0.3)
    assert trained(compiled, planned.parameters(), inputs) == trained(plain, plain.parameters(), inputs)
    assert_same(plain, planned)
    plan = backend.plans[-1]
    planned.zero_grad()
    measured = peak_of(compiled, inputs) + plan.resident_bytes
    print(f"{name:18} {plan.peak_bytes} bytes predicted, {measured} measured, {plan.overhead:+.1%} flops")
    assert measured <= plan.budget_bytes
    assert plan.peak_bytes * 0.99 <= measured <= plan.peak_bytes


def test_an_lstm_is_refused_with_the_flags_that_allow_it() -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    plain, x = Recurrent(), torch.randn(64, 20, 16)
    compiled, _, _ = compiled_within(plain, budget="80%", effort=0.3)
    with pytest.raises(torch._dynamo.exc.Unsupported, match="allow_rnn"):
        compiled(x)
    with torch._dynamo.config.patch(allow_rnn=True):
        with pytest.raises(torch._dynamo.exc.BackendCompilerFailed, match=r"torch.backends.mkldnn.enabled = False"):
            compiled(x)
        with torch.backends.mkldnn.flags(enabled=False):
            compiled, planned, _ = compiled_within(plain, budget="80%", effort=0.3)
            assert trained(compiled, planned.parameters(), (x,)) == trained(plain, plain.parameters(), (x,))
    assert_same(plain, planned)

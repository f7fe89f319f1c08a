"""PyTorch modules as graphs: what is saved, what it costs, and what is refused with its reason."""

from __future__ import annotations

import dataclasses
import resource
import sys
import textwrap
import time

import pytest

torch = pytest.importorskip("torch", reason="needs torch: pip install torch==2.13.0")

import counts  # noqa: E402
import models  # noqa: E402
from torch import nn  # noqa: E402

from sim.base.errors import GraphError  # noqa: E402
from sim.models.families.mlp import mlp  # noqa: E402
from sim.models.importers import importers  # noqa: E402
from sim.models.torch.importer import Input, from_module, load  # noqa: E402
from sim.schedules import plan  # noqa: E402

torch.set_num_threads(1)
GRANULARITIES = ("ops", "modules", "blocks")


def _saved_by_autograd(module, inputs) -> int:
    """Bytes of the distinct storages that plain autograd holds for backward, parameters and buffers left out."""
    own = {t.untyped_storage()._cdata for t in (*module.parameters(), *module.buffers())}
    seen: dict[int, object] = {}

    def pack(t):
        if t.untyped_storage()._cdata not in own:
            seen[t.untyped_storage()._cdata] = t
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        out = module(**inputs)
    assert out is not None
    return sum(t.untyped_storage().nbytes() for t in seen.values())


def test_a_multilayer_perceptron_is_that_of_the_family():
    """Two independent sources of one graph: op rules on paper, and PyTorch's own recording."""
    family = mlp(widths=[32, 64, 64, 8], batch=16, loss="cross_entropy").columns
    layers = [nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8)]
    inputs = {"input": torch.randn(16, 32), "labels": torch.zeros(16, dtype=torch.long)}
    traced = from_module(nn.Sequential(*layers), inputs, loss="cross_entropy").columns
    for column in ("activation_bytes", "param_size", "needs", "residual_bytes"):
        assert getattr(traced, column).tolist() == getattr(family, column).tolist(), column
    # The loss's flops are counted call by call, the family's by its formula.
    assert traced.forward_flops[:-1].tolist() == family.forward_flops[:-1].tolist()
    assert traced.vjp_flops[1:-1].tolist() == family.vjp_flops[1:-1].tolist()
    assert traced.param_vjp_flops[:-1].tolist() == family.param_vjp_flops[:-1].tolist()


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_a_full_store_of_a_residual_network_saves_what_autograd_does(granularity):
    module, inputs = models.resnet18(classes=10), {"x": torch.randn(2, 3, 64, 64)}
    graph = from_module(module, inputs, granularity=granularity)
    assert counts.saved_bytes(graph) == _saved_by_autograd(module, inputs)


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_full_store_of_attention_saves_what_autograd_does(granularity, dropout):
    """The split of q, k and v, their transposes and the causal masks: each read by one factor or none.

    Of a dropout of the 4·4·32·32 scores in each of 3 layers, autograd keeps floats to multiply by and the compiler's
    front a truth value; of one that drops nothing, the front makes a copy.
    """
    module, inputs = models.GPT(dropout=dropout), {"ids": torch.zeros(4, 32, dtype=torch.long)}
    graph = from_module(module, inputs, granularity=granularity)
    apart = 3 * (4 * 4 * 32 * 32) * ((1 - 4) if dropout else 4)
    assert counts.saved_bytes(graph) == _saved_by_autograd(module, inputs) + apart


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_a_full_store_of_masks_and_indices_saves_what_autograd_does(granularity):
    """But for the input of `gather` (5·8 floats), which autograd keeps for its shape alone."""
    module, inputs = models.Choosy(), models.choices()
    graph = from_module(module, inputs, granularity=granularity)
    assert counts.saved_bytes(graph) == _saved_by_autograd(module, inputs) - 5 * 8 * 4


def test_each_operation_says_what_its_gradient_reads():
    nodes = {n.name: n for n in from_module(models.Choosy(), models.choices(), granularity="ops").nodes}
    assert {name: nodes[name].reads for name in ("mul", "where", "gather", "mm_2", "masked_fill")} == {
        "mul": ("never", "always"),  # by the gate
        "where": ("always", "never", "never"),
        "gather": ("never", "always"),
        "mm_2": ("never", "always"),  # by what the gate makes
        "masked_fill": ("never", "always"),
    }
    assert nodes["frozen"].needs == nodes["add"].needs == "none"
    assert nodes["last"].needs == "input"


def test_resnet50_has_its_published_parameters_and_flops():
    """REFERENCE section 9: 25.6 M parameters, 8.1784 GFLOP in convolutions and the linear layer, 82.13 MiB saved."""
    with torch.device("meta"):
        module, x = models.resnet50(), torch.randn(1, 3, 224, 224)
    graph = from_module(module, {"x": x})
    assert graph.parameter_count == 25_557_032
    products = sum(node.attributes["contraction_flops"][0] for node in graph.nodes)
    assert round(products / 1e9, 4) == 8.1784
    assert round(counts.saved_bytes(graph) / 2**20, 2) == 82.13


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_costs_do_not_depend_on_how_finely_a_model_is_cut(granularity):
    inputs = {"ids": torch.zeros(2, 32, dtype=torch.long)}
    graph, finest = (from_module(models.GPT(), inputs, granularity=g) for g in (granularity, "ops"))
    for column in ("forward_flops", "param_vjp_flops", "param_size"):
        assert getattr(graph.columns, column).sum() == getattr(finest.columns, column).sum(), column
    assert graph.columns.vjp_flops.sum() == finest.columns.vjp_flops.sum()


def test_inputs_may_be_given_by_name_by_place_or_alone():
    module, x = models.mlp(4, 2), torch.randn(3, 4)
    graphs = [from_module(module, given) for given in ({"input": x}, (x,), x)]
    assert len({plan.fingerprint(graph) for graph in graphs}) == 1


@dataclasses.dataclass
class Output:
    loss: torch.Tensor | None
    logits: torch.Tensor


class Labelled(nn.Module):
    """A classifier that returns a loss where it is given labels, as models of `transformers` do."""

    def __init__(self, form) -> None:
        super().__init__()
        self.model, self.form = models.GPT(layers=1), form

    def forward(self, ids, labels=None):
        logits = self.model(ids)
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1))
        return self.form(loss=loss, logits=logits)


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("form", [dict, Output])
def test_a_model_that_returns_its_loss_is_one_with_that_loss_behind_it(form, granularity):
    inputs = {"ids": torch.zeros(2, 32, dtype=torch.long), "labels": torch.zeros(2, 32, dtype=torch.long)}
    own = from_module(Labelled(form), inputs, granularity=granularity)
    behind = from_module(Labelled(form), inputs, granularity=granularity, loss="cross_entropy")
    for column in ("forward_flops", "vjp_flops", "param_vjp_flops", "param_size"):
        assert getattr(own.columns, column).sum() == getattr(behind.columns, column).sum(), column
    assert counts.saved_bytes(own) == counts.saved_bytes(behind)
    assert own.output_scalars == 1


def test_nodes_carry_the_names_of_the_model():
    graph = from_module(models.resnet18(), {"x": torch.randn(2, 3, 32, 32)}, granularity="blocks")
    names = [node.name for node in graph.nodes]
    assert names[:6] == ["conv1", "bn1", "relu", "maxpool", "layer1.0", "layer1.1"]
    assert names[-2:] == ["avgpool", "fc"]


def test_a_tied_head_adds_no_parameters():
    inputs = {"ids": torch.zeros(2, 32, dtype=torch.long)}
    tied, untied = (from_module(models.GPT(tied=t), inputs) for t in (True, False))
    assert untied.parameter_count - tied.parameter_count == 101 * 64
    owners = {n.name: n.param_size for n in tied.nodes if n.name in ("tokens", "head")}
    assert owners == {"tokens": 1, "head": 101 * 64 - 1}  # the head makes the gradient; the other is active too


@pytest.mark.slow
def test_billions_of_parameters_import_in_seconds_without_memory():
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    arguments = {"vocab": 50257, "hidden": 4096, "heads": 32, "layers": 28, "context": 2048, "tied": False}
    ids = {"ids": Input(shape=[1, 2048], dtype="int64")}
    traced = load("models:GPT", ids, granularity="blocks", loss="cross_entropy", arguments=arguments)
    assert traced.graph.parameter_count > 6e9
    assert time.process_time() - start < 60
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 2**30


def test_a_scenario_names_a_factory(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        textwrap.dedent("""
            from torch import nn

            def small(width=4):
                return nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 2))
        """)
    )
    monkeypatch.chdir(tmp_path)
    graph = importers.call(
        "torch", factory="mine:small", inputs={"input": {"shape": [5, 3]}}, loss="cross_entropy", arguments={"width": 7}
    )
    assert [node.output_shape for node in graph.nodes] == [(5, 7), (5, 7), (5, 2), ()]
    assert [i.name for i in graph.inputs] == ["input", "labels"]
    sys.modules.pop("mine")


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("nowhere:f", "there is no module 'nowhere'"),
        ("models:nothing", "'models' has no 'nothing'"),
        ("models:math.pi", "is float, expected a function"),
        ("models:math.factorial", "factory: models:math.factorial raised TypeError"),
        ("builtins:dict", "returned dict, expected an nn.Module"),
    ],
)
def test_a_factory_that_makes_no_module_is_refused(factory, message):
    with pytest.raises(GraphError, match=message):
        load(factory, {"x": Input(shape=[2, 3])})


class _Part(nn.Module):
    """A module whose inner part does what a test asks for."""

    def __init__(self, act):
        super().__init__()
        self.inner = _Inner(act)

    def forward(self, x):
        return self.inner(x)


class _Inner(nn.Module):
    def __init__(self, act):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.register_buffer("count", torch.zeros(3))
        self.act = act

    def forward(self, x):
        return self.act(self, self.linear(x))


def _branch(m, x):
    return x if x.sum() > 0 else -x


def _shape(m, x):
    return x[x > 0]


def _inference(m, x):
    with torch.inference_mode():
        return x * 2


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (_branch, rf"{__file__}:\d+: Data-dependent branching"),
        (_shape, "data-dependent"),
        (_inference, "nothing in the model needs a gradient"),
        (lambda m, x: torch.fft.fft(x), "complex64"),
        (lambda m, x: 1 / 0, rf"{__file__}:\d+: .*ZeroDivisionError"),
        (lambda m, x: m.linear.weight.mul_(2) * x, "leaf Variable that requires grad"),
    ],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_what_cannot_be_traced_is_refused_with_the_reason(act, message):
    with pytest.raises(GraphError, match=message):
        from_module(_Part(act), {"x": torch.randn(4, 3)}, loss="sum")


def test_a_backward_hook_on_a_module_is_refused():
    module = models.mlp(4, 2)
    module[1].register_full_backward_hook(lambda *_: None)
    with pytest.raises(GraphError, match="backwards hooks require compiled autograd"):
        from_module(module, {"input": torch.randn(2, 4)})

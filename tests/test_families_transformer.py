"""Transformers against the published parameters, flops and saved bytes of GPT-2 and of one block."""

import math

import pytest
from counts import contraction_flops, saved_bytes
from hypothesis import given
from hypothesis import strategies as st

from sim.base.errors import GraphError, ParameterError
from sim.graphs.graph import Graph
from sim.models.families import load
from sim.models.families.transformer import transformer as whole_or_share
from sim.models.shards import Shards

GPT2 = {"layers": 12, "hidden": 768, "heads": 12, "sequence": 1024, "vocab": 50257}
SIZES = st.fixed_dictionaries(
    {
        "heads": st.integers(1, 4),
        "head_size": st.integers(1, 8),
        "sequence": st.integers(1, 9),
        "batch": st.integers(1, 5),
    }
)


def transformer(**parameters: object) -> Graph:
    return load().call("transformer", **parameters)


def block(sizes: dict[str, int], **parameters: object) -> Graph:
    hidden = sizes["heads"] * sizes["head_size"]
    return transformer(
        layers=1, hidden=hidden, heads=sizes["heads"], sequence=sizes["sequence"], batch=sizes["batch"], **parameters
    )


def test_gpt2_small_has_the_published_parameters_with_a_tied_head() -> None:
    """Radford et al. 2019, 124,439,808 in the released checkpoint, whose head is the embedding."""
    assert transformer(**GPT2).parameter_count == 124_439_808
    assert transformer(**GPT2, tied=False).parameter_count == 124_439_808 + 50257 * 768


@given(SIZES)
def test_a_block_saves_sixteen_hidden_states_the_softmax_and_four_statistics(sizes: dict[str, int]) -> None:
    """Measured for PyTorch 2.13, float32: 16·T·h·4 + B·a·S²·4 + 16·T bytes."""
    b, a, s = sizes["batch"], sizes["heads"], sizes["sequence"]
    t, h = b * s, a * sizes["head_size"]
    assert saved_bytes(block(sizes)) == 16 * t * h * 4 + b * a * s**2 * 4 + 16 * t


@given(SIZES)
def test_flash_attention_keeps_a_log_sum_exp_in_place_of_the_softmax(sizes: dict[str, int]) -> None:
    b, a, s = sizes["batch"], sizes["heads"], sizes["sequence"]
    t, h = b * s, a * sizes["head_size"]
    graph = block(sizes, attention="flash")
    assert saved_bytes(graph) == 16 * t * h * 4 + b * a * s * 4 + 16 * t
    assert all(len(n.output_shape) == 3 for n in graph.nodes)


@given(SIZES, st.sampled_from(["explicit", "flash"]))
def test_a_block_costs_24_t_h_squared_and_4_t_s_h_flops_in_products(sizes: dict[str, int], attention: str) -> None:
    """Narayanan et al. 2021 (Megatron-LM), appendix: 24·B·s·h² + 4·B·s²·h per layer and forward sweep."""
    t, s, h = sizes["batch"] * sizes["sequence"], sizes["sequence"], sizes["heads"] * sizes["head_size"]
    assert contraction_flops(block(sizes, attention=attention)) == 24 * t * h**2 + 4 * t * s * h


def test_flash_attention_recomputes_the_scores_in_its_derivative() -> None:
    """Five products where the forward has two: 10·B·S²·h flops beside those of the softmax."""
    node = next(
        n for n in transformer(layers=1, hidden=8, heads=2, sequence=4, attention="flash").nodes if "flash" in n.op
    )
    products, scores = 10 * 16 * 8, 2 * 16
    assert node.vjp_flops == products + 6 * scores
    assert node.forward_flops == 4 * 16 * 8 + 5 * scores
    assert node.needs == "both"


def test_the_skip_passes_both_branches_of_a_block() -> None:
    inputs = {n.name: n.inputs for n in transformer(layers=1, hidden=4, heads=1, sequence=2).nodes}
    assert inputs["block1.attn.add"] == ("x", "block1.attn.out")
    assert inputs["block1.mlp.add"] == ("block1.attn.add", "block1.mlp.down")


def test_blocks_are_articulated_by_one_activation() -> None:
    graph = transformer(layers=3, hidden=4, heads=2, sequence=2)
    names = [graph.nodes[p - 1].name for p in graph.articulation_points[1:-1]]
    assert {"block1.mlp.add", "block2.mlp.add"} <= set(names)


def test_token_ids_cannot_be_differentiated() -> None:
    graph = transformer(layers=1, hidden=4, heads=1, sequence=2, vocab=10, loss="cross_entropy")
    assert [i.dtype for i in graph.inputs] == ["int64", "int64"]
    with pytest.raises(GraphError, match="floating dtype"):
        graph.configured(wrt="input")


def test_a_tied_head_pays_for_its_share_of_the_gradient_but_owns_no_memory() -> None:
    head = transformer(layers=1, hidden=4, heads=1, sequence=3, vocab=10, batch=2).nodes[-1]
    assert head.param_size == 0
    assert head.param_vjp_flops == head.vjp_flops == 2 * (2 * 3) * 4 * 10


def test_dropout_keeps_a_byte_a_scalar_on_each_branch() -> None:
    plain = transformer(layers=1, hidden=4, heads=1, sequence=3)
    dropped = transformer(layers=1, hidden=4, heads=1, sequence=3, dropout=0.1)
    assert saved_bytes(dropped) - saved_bytes(plain) == 2 * 3 * 4


def test_rms_norm_keeps_one_statistic_and_has_no_shift() -> None:
    node = transformer(layers=1, hidden=4, heads=1, sequence=3, norm="rms_norm").nodes[0]
    assert node.param_size == 4
    assert node.residual_bytes == 3 * 4


def test_half_precision_halves_activations_but_not_statistics() -> None:
    """T = 3 tokens, h = 4, one head: 16·3·4 scalars and a 3×3 softmax of 2 bytes, statistics of 4."""
    assert saved_bytes(transformer(layers=1, hidden=4, heads=1, sequence=3, dtype="bfloat16")) == 2 * (192 + 9) + 48


def test_a_hidden_size_must_divide_among_the_heads() -> None:
    with pytest.raises(GraphError, match="hidden 10 cannot be divided among 4 heads"):
        transformer(layers=1, hidden=10, heads=4, sequence=3)


LLAMA = {
    "vocab": 128256, "kv_heads": 8, "gated": True, "activation": "silu", "norm": "rms_norm", "positions": "rope",
    "bias": False, "tied": False, "sequence": 8, "attention": "flash", "dtype": "bfloat16",
}  # fmt: skip


@pytest.mark.parametrize(
    ("sizes", "parameters"),
    [
        ({"layers": 32, "hidden": 4096, "heads": 32, "mlp_ratio": 3.5}, 8_030_261_248),
        ({"layers": 80, "hidden": 8192, "heads": 64, "mlp_ratio": 3.5}, 70_553_706_496),
        ({"layers": 126, "hidden": 16384, "heads": 128, "mlp_ratio": 3.25}, 405_853_388_800),
    ],
)
def test_llama_3_has_the_published_parameters(sizes: dict[str, float], parameters: int) -> None:
    """Grattafiori et al. 2024, arXiv:2407.21783, table 3; the counts are those of the released checkpoints."""
    assert transformer(**LLAMA, **sizes).parameter_count == parameters


def test_mixtral_has_the_published_parameters_of_which_a_token_uses_two_experts() -> None:
    """Jiang et al. 2024, Mixtral of experts, arXiv:2401.04088: 46,702,792,704 in the checkpoint, 12.9 B of them used.

    A used parameter is a multiply-add for each token: 2 flops, here of 256 tokens, beside attention's products.
    """
    graph = transformer(
        **{**LLAMA, "vocab": 32000, "sequence": 256}, layers=32, hidden=4096, heads=32, mlp_ratio=3.5, experts=8,
        top_k=2,
    )  # fmt: skip
    assert graph.parameter_count == 46_702_792_704
    attention = 4 * 256**2 * 4096 * 32
    used = (contraction_flops(graph) - attention) // (2 * 256) + 32000 * 4096
    assert used == pytest.approx(12.9e9, rel=0.002)


@given(SIZES, st.integers(1, 3))
def test_a_gated_block_keeps_four_inner_layers_and_the_keys_of_groups(sizes: dict[str, int], groups: int) -> None:
    """Inputs and outputs of two RMS norms, q, attention's output and k, v of their heads; rows; four inner layers.

    Rotated q and k are kept in place of those before; all of 4 bytes.
    """
    b, s, size = sizes["batch"], sizes["sequence"], 2 * sizes["head_size"]
    heads, kv_heads = sizes["heads"] * groups, sizes["heads"]
    t, h = b * s, heads * size
    graph = transformer(
        layers=1, hidden=h, heads=heads, kv_heads=kv_heads, sequence=s, batch=b, attention="flash", gated=True,
        activation="silu", norm="rms_norm", positions="rope", mlp_ratio=3,
    )  # fmt: skip
    inner = 3 * h
    hidden = 6 * t * h + 2 * t * kv_heads * size
    assert saved_bytes(graph) == 4 * (hidden + 4 * t * inner + 2 * t + b * heads * s)


def test_experts_keep_places_for_all_choices_and_no_more() -> None:
    """10 tokens with 2 of 4 experts take 5 places with each, and 7 with a quarter more than that (6.25, rounded up)."""
    for capacity, places in ((1.0, 5), (1.25, 7)):
        graph = transformer(layers=1, hidden=8, heads=2, sequence=10, experts=4, capacity=capacity)
        shapes = {n.name: n.output_shape for n in graph.nodes}
        assert shapes["block1.moe.dispatch"] == shapes["block1.moe.down"] == (1, 4, places, 8)
        assert shapes["block1.moe.up"] == (1, 4, places, 32)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"kv_heads": 3}, "4 heads cannot be divided among 3 heads of keys and values"),
        ({"experts": 2, "top_k": 3}, "got 3 experts a token, expected at most the 2 there are"),
        ({"heads": 8, "positions": "rope"}, "8 features cannot be divided into pairs of 8 heads"),
    ],
)
def test_sizes_that_do_not_go_together_are_refused(sizes: dict[str, object], message: str) -> None:
    with pytest.raises(GraphError, match=message):
        transformer(**{"layers": 1, "hidden": 8, "heads": 4, "sequence": 4, **sizes})


def _collectives(shards: Shards, **sizes: object) -> dict[tuple[str, str, str], int]:
    """The bytes of one block's collectives by part, kind and group."""
    graph = whole_or_share(shards, layers=1, hidden=64, heads=8, sequence=32, batch=2, **sizes)  # type: ignore[arg-type]
    found: dict[tuple[str, str, str], int] = {}
    for c in (c for node in graph.nodes for c in node.collectives):
        found[c.part, c.kind, c.among] = found.get((c.part, c.kind, c.among), 0) + c.bytes
    return found


def test_a_block_of_tensor_shares_has_the_collectives_of_its_paper() -> None:
    """Two all-reduces of sbh scalars each way; with sequence parallelism a reduce-scatter and a gather for each.

    Shoeybi et al. 2019, arXiv:1909.08053, figure 4; Korthikanti et al. 2022, arXiv:2205.05198, figure 5: and the
    gather of the input again, which the weight gradient reads.
    """
    hidden = 32 * 2 * 64 * 4
    assert _collectives(Shards(4)) == {
        ("forward", "all_reduce", "tensor"): 2 * hidden, ("vjp", "all_reduce", "tensor"): 2 * hidden
    }  # fmt: skip
    assert _collectives(Shards(4, sequence=True)) == {
        ("forward", "all_gather", "tensor"): 2 * hidden, ("forward", "reduce_scatter", "tensor"): 2 * hidden,
        ("vjp", "all_gather", "tensor"): 4 * hidden, ("vjp", "reduce_scatter", "tensor"): 2 * hidden,
    }  # fmt: skip


def test_context_gathers_keys_and_values_and_experts_exchange_tokens() -> None:
    """Keys and values of 2 of 8 heads, whole; each of 2 choices of 32 tokens, there and back in either direction."""
    keys = 2 * 32 * 2 * 2 * 8 * 4
    assert _collectives(Shards(context=2), kv_heads=2, attention="flash") == {
        ("forward", "all_gather", "context"): keys, ("vjp", "all_gather", "context"): keys,
        ("vjp", "reduce_scatter", "context"): keys,
    }  # fmt: skip
    tokens = 2 * 2 * 32 * 64 * 4
    assert _collectives(Shards(expert=4), experts=4) == {
        ("forward", "all_to_all", "expert"): 2 * tokens, ("vjp", "all_to_all", "expert"): 2 * tokens
    }  # fmt: skip


@pytest.mark.parametrize("shards", [Shards(2), Shards(2, True), Shards(context=4), Shards(2, True, 2, 2)])
def test_shares_of_a_mixture_add_up(shards: Shards) -> None:
    """Weights and products of all shares are those of the whole; keys and values under `context` stay divided too."""
    sizes = {
        "layers": 1, "hidden": 64, "heads": 8, "kv_heads": 4, "sequence": 32, "batch": 2, "experts": 4, "bias": False,
        "gated": True, "positions": "rope", "norm": "rms_norm", "vocab": 128, "attention": "flash",
    }  # fmt: skip
    whole, share = transformer(**sizes), whole_or_share(shards, **sizes)  # type: ignore[arg-type]
    for one, part in zip(whole.nodes, share.nodes, strict=True):
        assert one.name == part.name
        if one.op in ("linear", "expert_linear", "embedding") and not one.name.endswith("router"):
            ranks = shards.tensor * (shards.expert if one.op == "expert_linear" else 1)
            assert part.param_size * ranks == one.param_size
            assert part.forward_flops * shards.tensor * shards.context == one.forward_flops
        elif one.op == "flash_attention":
            assert part.forward_flops * shards.tensor * shards.context == one.forward_flops
        elif one.op in ("rms_norm", "add"):
            tokens = shards.context * (shards.tensor if shards.sequence else 1)
            assert math.prod(part.output_shape) * tokens == math.prod(one.output_shape)


@pytest.mark.parametrize(
    ("shards", "key", "message"),
    [
        (Shards(8), "tensor", "got 8, by which 4 heads of keys and values cannot be divided; expected one of 1, 2, 4"),
        (Shards(16), "tensor", "got 16, by which 8 heads cannot be divided; expected one of 1, 2, 4, 8"),
        (Shards(context=3), "context", "got 3, by which 32 tokens cannot be divided; expected one of 1, 2, 4, 8, 16"),
        (Shards(4, True, 16), "tensor", "got 4, by which 2 tokens cannot be divided; expected one of 1, 2"),
        (Shards(expert=3), "expert", "got 3, by which 4 experts cannot be divided; expected one of 1, 2, 4"),
    ],
)
def test_shares_that_are_not_whole_are_refused(shards: Shards, key: str, message: str) -> None:
    with pytest.raises(ParameterError, match=message) as refusal:
        whole_or_share(shards, layers=1, hidden=64, heads=8, kv_heads=4, sequence=32, experts=4)
    assert refusal.value.parameter == (key,)

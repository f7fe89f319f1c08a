"""Transformers against the published parameters, flops and saved bytes of GPT-2 and of one block."""

import pytest
from counts import contraction_flops, saved_bytes
from hypothesis import given
from hypothesis import strategies as st

from sim.base.errors import GraphError
from sim.graphs.graph import Graph
from sim.models.families import load

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

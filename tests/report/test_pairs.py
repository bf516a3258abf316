"""Groups of channels, folded attention and rollout, between all tokens."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from reports import made_up, tiny_model

from jmamba.attention import FOLDS, attention_rollout, factorise, hidden_attention
from jmamba.checkpoints import ByteTokenizer
from jmamba.report import explain_text, explained_patterns, head_patterns
from jmamba.report.size import size_of
from jmamba.report.text.cost import check_groups, plan_costs
from jmamba.report.text.pairs import QUARTERS, LayerPairs, join_pairs, reach
from jmamba.report.text.shown import maps_of
from jmamba.tracing.trace import trace

MODEL, TEXT = tiny_model(2), "né so"
TOKENS = jnp.array([ByteTokenizer().encode(TEXT)])


@pytest.fixture(scope="module")
def found():
    return explain_text(MODEL, ByteTokenizer(), TEXT, jacobian=False)


def test_groups_are_parts_of_all_channels(found):
    """Quarters are as large as each other, so that their mean is that of all."""
    assert found.attention is not None and set(QUARTERS) < set(found.groups)
    heads = [values for name, values in found.groups.items() if name not in QUARTERS]
    for parts in ([found.groups[name] for name in QUARTERS], heads):
        np.testing.assert_allclose(np.mean(parts, axis=0), found.attention, atol=1e-6)


def test_quarters_are_sorted_by_how_far_they_read(found):
    heads = np.stack([v for k, v in found.groups.items() if k not in QUARTERS], axis=1)
    for layer in range(2):
        far = np.sort(reach(heads[layer])).reshape(4, -1)
        order = np.argsort(reach(heads[layer]), kind="stable").reshape(4, -1)
        assert (np.diff(far, axis=1) >= 0).all()
        for name, part in zip(QUARTERS, order, strict=True):
            expected = heads[layer, part].mean(axis=0)
            np.testing.assert_allclose(found.groups[name][layer], expected, atol=1e-6)


def test_folded_attention_is_that_of_whole_matrices(found):
    traced = trace(MODEL, TOKENS)
    for layer in range(2):
        factors = factorise(MODEL.layer(layer), traced.residual_in[layer])
        whole = np.abs(hidden_attention(factors, fold=FOLDS)[0]).mean(axis=0)
        np.testing.assert_allclose(found.folded[layer], whole, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("query", [0, 4])
def test_rows_of_the_rollout_are_those_of_each_query(found, query):
    expected = attention_rollout(MODEL, TOKENS, query=query)[0]
    np.testing.assert_allclose(found.rollout[query], expected, rtol=1e-4, atol=1e-6)


def test_groups_that_not_every_layer_has_are_left_out(found):
    alpha = found.attention[0]
    one = {"nearest": alpha, "head 0": alpha}, {"nearest": alpha}
    layers = [LayerPairs(groups, alpha, alpha) for groups in one]
    assert list(join_pairs(layers).groups) == ["nearest"]


def test_groups_are_stored_and_shown(found):
    arrays = found.arrays()
    assert arrays["attention_groups"].shape == (len(found.groups), 2, 6, 6)
    assert arrays["attention_folded"].shape == (2, 6, 6)
    names = [one.name for one in maps_of(found)]
    assert names[:3] == ["hidden attention", "rollout", "unified attention"]
    assert [one.of for one in maps_of(found)[3:7]] == list(QUARTERS)


def plan(length, **asked):
    options = {"matrices": None, "groups": None, "jacobian": False, "probes": None}
    return plan_costs(length, size_of(MODEL), max_tokens=512, **options | asked)


def test_groups_go_without_being_asked_for_where_they_take_little():
    assert plan(8).groups and not plan(8, groups=False).groups
    assert not plan(8, matrices=False).groups  # and no word is lost about it
    assert plan(8, matrices=False).skipped == {}


def test_groups_without_matrices_are_refused():
    with pytest.raises(ValueError, match=r"ask for both with --matrices --groups"):
        plan(8, matrices=False, groups=True)


def test_groups_that_take_much_are_left_out_and_say_what_they_take():
    large = size_of(MODEL)._replace(channels=3072, states=24 * 3072 * 16)
    with pytest.raises(ValueError, match=r"3072 MiB .* 512 tokens.*--no-groups"):
        check_groups(512, True, large)
    options = {"matrices": None, "groups": None, "jacobian": False, "probes": None}
    left_out = plan_costs(512, large, max_tokens=512, **options)
    assert left_out.matrices and list(left_out.skipped) == ["groups"]


def test_patterns_have_the_shapes_of_other_viewers(found):
    """BertViz: (1, heads, l, l) a layer; CircuitsVis: (heads, to, from) of one."""
    patterns = head_patterns(MODEL, ByteTokenizer(), TEXT, heads=[3, 5])
    bertviz = patterns.bertviz()
    assert [a.shape for a in bertviz["attention"]] == [(1, 2, 6, 6)] * 2
    assert bertviz["tokens"] == ["n", "é 1/2", "é 2/2", "␣", "s", "o"]
    one = patterns.circuitsvis(1)
    assert one["attention"].shape == (2, 6, 6) and one["tokens"] == bertviz["tokens"]
    np.testing.assert_allclose(one["attention"].sum(axis=-1), 1, atol=1e-5)
    heads = [found.groups[f"head {k}"][1] for k in (3, 5)]
    rows = np.stack(heads) / np.sum(heads, axis=-1, keepdims=True)
    np.testing.assert_allclose(one["attention"], rows, atol=1e-5)


def test_signed_patterns_are_hidden_attention():
    patterns = head_patterns(
        MODEL, ByteTokenizer(), TEXT, layers=[-1], fold=["conv"], signed=True
    )
    traced = trace(MODEL, TOKENS, layers=[1])
    factors = factorise(MODEL.layer(1), traced.residual_in[0])
    expected = hidden_attention(factors, fold=["conv"])[0]
    np.testing.assert_allclose(patterns.attention[0], expected, atol=1e-6)
    assert patterns.layers == (1,) and (patterns.attention[0] < 0).any()


def test_patterns_of_an_explanation_are_its_groups(found):
    patterns = explained_patterns(found)
    assert patterns.circuitsvis(0)["attention"].shape == (len(found.groups), 6, 6)
    alone = explained_patterns(made_up("abc", 2))
    assert [a.shape for a in alone.attention] == [(1, 3, 3)] * 2


def test_groups_of_patterns_are_those_of_an_explanation(found):
    patterns = head_patterns(MODEL, ByteTokenizer(), TEXT, groups=4)
    whole = np.stack([found.groups[name][1] for name in QUARTERS])
    np.testing.assert_allclose(
        patterns.circuitsvis(1)["attention"],
        whole / whole.sum(axis=-1, keepdims=True),
        atol=1e-5,
    )


def test_patterns_that_cannot_be_had_are_refused(found):
    with pytest.raises(ValueError, match=r"groups=33: give 1 to 32"):
        head_patterns(MODEL, ByteTokenizer(), TEXT, groups=33)
    with pytest.raises(ValueError, match=r"Layer 2 is not among these: give one of 0"):
        explained_patterns(found).circuitsvis(2)
    with pytest.raises(ValueError, match=r"matrices=True"):
        explained_patterns(dataclasses.replace(found, attention=None))
    uneven = explained_patterns(found)
    uneven = uneven._replace(attention=[a[: k + 1] for k, a in enumerate(uneven[2])])
    with pytest.raises(ValueError, match=r"Layers have 1, 2 heads"):
        uneven.bertviz()

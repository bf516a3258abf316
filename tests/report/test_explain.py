import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from reports import tiny_model

from jmamba.attention import METHODS, explain, hidden_attention
from jmamba.checkpoints import ByteTokenizer
from jmamba.dynamics import jacobian_norms, layer_span
from jmamba.models.mamba.config import MambaConfig
from jmamba.models.skeleton import make_skeleton
from jmamba.report import explain_text, write_text
from jmamba.report.size import size_of
from jmamba.report.text.cost import (
    check_length,
    choose_left_out,
    choose_probes,
    jacobian_operations,
)
from jmamba.report.text.page import text_page

TEXT = "né <b>\n"
MODEL, BYTES = tiny_model(), ByteTokenizer()
TOKENS = jnp.asarray([BYTES.encode(TEXT)], jnp.int32)


def size_named(name):
    config = MambaConfig.named(name)
    made = make_skeleton(config, dtype="float32", param_dtype="float32")
    return size_of(nnx.merge(made.graphdef, made.state))


@pytest.fixture(scope="module")
def found():
    return explain_text(MODEL, BYTES, TEXT, top=5, name="tiny")


def test_explanation_arrays_are_finite_and_named(found):
    arrays = found.arrays()
    length = TOKENS.shape[1]
    shapes = {name: array.shape for name, array in arrays.items()}
    assert shapes == {
        "token_ids": (length,),
        "chosen_layers": (3,),
        "prediction_ids": (5,),
        "prediction_probabilities": (5,),
        "left_out": (length - 1,),  # é is one piece of two tokens
        "relevance_mamba_lrp": (length,),
        "target_ids": (1,),
        "target_probabilities": (1,),
        "piece_starts": (length - 1,),
        "last_attention": (3, length),
        "residual_norms": (4, length),
        "attention": (3, length, length),
        "attention_groups": (4 + 32, 3, length, length),  # quarters, and each channel
        "attention_folded": (3, length, length),
        "rollout": (length, length),
        "jacobian_norms": (length, length),
    }
    assert all(np.isfinite(array).all() for array in arrays.values())


def test_predictions_are_the_models(found):
    p = jax.nn.softmax(MODEL(TOKENS).logits[0, -1])
    best = np.argsort(-np.asarray(p))[:5]
    assert found.predictions.ids.tolist() == best.tolist()
    np.testing.assert_allclose(found.predictions.probabilities, p[best], rtol=1e-5)


def test_relevance_is_of_the_method_and_the_likeliest_token(found):
    best = int(found.predictions.ids[0])
    expected = explain(MODEL, TOKENS, "mamba_lrp", target=best)[0]
    assert found.method == "mamba_lrp" and found.question.ids.tolist() == [best]
    np.testing.assert_allclose(found.relevance["mamba_lrp"], expected, rtol=1e-4)


def test_any_token_can_be_asked_for_and_why_it_rather_than_another():
    """What drove "a rather than b" is what drove a, less what drove b."""
    options = {"method": "gradient_x_input", "matrices": False, "jacobian": False}
    first, second = (
        explain_text(MODEL, BYTES, TEXT, target=one, **options) for one in ("a", 98)
    )
    both = explain_text(MODEL, BYTES, TEXT, target="a", against="b", **options)
    assert both.explained == "a rather than b" and second.explained == "b"
    np.testing.assert_allclose(
        both.left_out, first.left_out - second.left_out, rtol=1e-3, atol=1e-4
    )
    values = [one.relevance["gradient_x_input"] for one in (first, second, both)]
    np.testing.assert_allclose(values[2], values[0] - values[1], rtol=1e-3, atol=1e-5)
    assert "a rather than b" in text_page(both, {})
    best = explain_text(MODEL, BYTES, TEXT, against="b", **options)
    assert best.question.ids.tolist() == [best.predictions.ids[0], 98]


def test_all_methods_are_compared():
    found = explain_text(
        MODEL, BYTES, "ab", all_methods=True, matrices=False, jacobian=False
    )
    assert set(found.relevance) == set(METHODS) and found.method == "mamba_lrp"
    assert "refused" not in found.settings
    for method in ("raw_attention", "alti_logit"):
        expected = explain(MODEL, jnp.asarray([[97, 98]]), method)[0]
        np.testing.assert_allclose(found.relevance[method], expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "ab"}, r"'ab' is 2 tokens \('a' \+ 'b'\)"),
        ({"target": 256}, "no token 256: the vocabulary has ids 0 to 255"),
        ({"against": "ab"}, "'ab' is 2 tokens"),
        ({"method": "magic"}, "Unknown method 'magic'"),
        ({"settings": "paper"}, "mamba_lrp takes none"),
    ],
)
def test_questions_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        explain_text(MODEL, BYTES, "abc", **options)


def bits_lost(text: bytes, without: bytes) -> float:
    """Return what the best token after a text loses in another text, one by one."""
    scores = [
        jax.nn.log_softmax(MODEL(jnp.asarray([list(ids)])).logits[0, -1])
        for ids in (text, without)
    ]
    best = int(jnp.argmax(scores[0]))
    return float(scores[0][best] - scores[1][best]) / np.log(2)


def test_left_out_is_what_the_model_says_without_the_piece(found):
    pieces = [piece.text.encode() for piece in found.pieces]
    for i in (0, 1, len(pieces) - 1):
        without = b"".join(pieces[:i] + pieces[i + 1 :])
        expected = bits_lost(TEXT.encode(), without)
        assert found.left_out[i] == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_left_out_reaches_back_as_far_as_it_may(found, monkeypatch):
    monkeypatch.setattr("jmamba.report.text.left_out.choose_left_out", lambda *sizes: 3)
    monkeypatch.setattr("jmamba.report.text.left_out.ROWS_BYTES", 1)
    few = explain_text(MODEL, BYTES, TEXT, matrices=False, jacobian=False)
    assert np.isnan(few.drivers[:-3]).all()
    np.testing.assert_allclose(few.left_out, found.left_out[-3:], rtol=1e-3, atol=1e-5)
    assert set(few.strongest(8)) == set(range(len(few.pieces) - 3, len(few.pieces)))


def test_left_out_of_a_single_piece_is_against_knowing_nothing():
    found = explain_text(MODEL, BYTES, "é", matrices=False, jacobian=False)
    expected = np.log2(256 * float(found.predictions.probabilities[0]))
    np.testing.assert_allclose(found.left_out, [expected], rtol=1e-4)


def test_left_out_reach_fits_a_moment():
    assert choose_left_out(40, size_of(MODEL)) == 40
    assert 2 <= choose_left_out(10**6, size_named("mamba-2.8b")) < 100


def test_attention_is_the_mean_over_channels(found):
    from jmamba import trace

    alpha = hidden_attention(trace(MODEL, TOKENS).layer(1))
    expected = jnp.mean(jnp.abs(alpha), axis=1)[0]
    np.testing.assert_allclose(found.attention[1], expected, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(found.layer_shares.sum(axis=1), 1, rtol=1e-5)


def test_norms_are_those_of_the_residual_stream(found):
    from jmamba import trace

    traced = trace(MODEL, TOKENS)
    norms = jnp.linalg.norm(traced.residual_out[:, 0], axis=-1)
    np.testing.assert_allclose(found.norms[1:], norms, rtol=1e-5)
    first = jnp.linalg.norm(MODEL.embed(TOKENS)[0], axis=-1)
    np.testing.assert_allclose(found.norms[0], first, rtol=1e-5)


def test_jacobian_is_exact_with_enough_probes(found):
    exact = jacobian_norms(layer_span(MODEL), MODEL.embed(TOKENS)[0])
    np.testing.assert_allclose(found.jacobian, exact, rtol=1e-4, atol=1e-7)
    assert found.settings["probes"] == 16  # the model's width


def test_layers_are_traced_in_groups(found, monkeypatch):
    monkeypatch.setattr("jmamba.report.depth.TRACE_BYTES", 1)
    again = explain_text(MODEL, BYTES, TEXT, jacobian=False)
    assert again.attention is not None
    np.testing.assert_allclose(again.attention, found.attention, rtol=1e-6)
    np.testing.assert_allclose(again.norms, found.norms, rtol=1e-6)
    assert again.jacobian is None


def test_last_row_is_the_same_without_matrices(found):
    again = explain_text(
        MODEL, BYTES, TEXT, matrices=False, jacobian=False, max_tokens=1
    )
    assert again.attention is None
    np.testing.assert_allclose(again.last_attention, found.last_attention, rtol=1e-5)
    assert "attention" not in again.arrays()


def test_progress_is_told(found):
    seen = []
    explain_text(MODEL, BYTES, TEXT, progress=lambda *part: seen.append(part))
    assert ("hidden attention", 2, 3) in seen
    assert seen[-1] == ("token Jacobian", 1, 1)


def test_a_single_token_is_explained():
    found = explain_text(MODEL, BYTES, "A", layers=[-1, 0, 0], jacobian=False)
    assert found.layers == (0, 2)
    assert found.mean_share.tolist() == [1.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text": ""}, "text is empty"),
        ({"layers": [3]}, "layers 0 to 2"),
        ({"layers": []}, "at least one"),
        ({"top": 0}, "top must be at least 1"),
        ({"probes": 0}, "probes must be at least 1"),
        ({"text": "abc", "max_tokens": 2, "matrices": True}, "--max-tokens 3"),
    ],
)
def test_explain_says_what_is_wrong(options, message):
    options = {"text": "ab"} | options
    with pytest.raises(ValueError, match=message):
        explain_text(MODEL, BYTES, options.pop("text"), **options)


def test_weights_that_are_not_finite_are_found():
    model = nnx.clone(MODEL)
    model.embedding[...] = model.embedding[...].at[0, 0].set(jnp.nan)
    with pytest.raises(ValueError, match="not finite"):
        explain_text(model, BYTES, "a")


def test_probes_fit_a_moment():
    small, large = size_of(MODEL), size_named("mamba-2.8b")
    assert choose_probes(10, small, None) == 16
    assert choose_probes(10, large, 3) == 3
    assert 1 <= choose_probes(24, size_named("mamba-130m"), None) < 16
    assert jacobian_operations(20, small) == 4 * jacobian_operations(10, small)
    with pytest.raises(ValueError, match="--no-jacobian"):
        choose_probes(500, large, None)


def test_all_costs_are_said_at_once(monkeypatch):
    monkeypatch.setattr("jmamba.report.text.cost.MOMENT", {"cpu": 1.0})
    with pytest.raises(ValueError, match=r"--max-tokens 3.*--no-jacobian"):
        explain_text(MODEL, BYTES, "abc", max_tokens=2, matrices=True, jacobian=True)


def test_what_takes_long_is_left_out_unless_it_is_asked_for(monkeypatch):
    monkeypatch.setattr("jmamba.report.text.cost.MOMENT", {"cpu": 1.0})
    found = explain_text(MODEL, BYTES, "abc", max_tokens=2)
    assert found.attention is None and found.jacobian is None
    assert set(found.settings["skipped"]) == {"matrices", "jacobian"}
    assert found.last_attention.shape == (3, 3)
    asked = explain_text(MODEL, BYTES, "abc", max_tokens=3, probes=1)
    assert asked.attention is not None and asked.jacobian is not None


def test_length_limit_says_what_it_costs():
    check_length(3, 3, size_of(MODEL))
    with pytest.raises(ValueError, match=r"12 MiB.*--no-matrices.*--max-tokens 1024"):
        check_length(1024, 512, size_of(MODEL))


def test_explanation_is_written(found, tmp_path):
    page = write_text(found, tmp_path / "new" / "out")
    names = {path.name for path in page.parent.iterdir()}
    summary = json.loads((page.parent / "summary.json").read_text())
    assert set(summary["files"]) == names
    assert sum(name.endswith(".png") for name in names) == 7
    with np.load(page.parent / "arrays.npz") as arrays:
        assert set(arrays) == set(summary["arrays"]) == set(found.arrays())
        np.testing.assert_array_equal(arrays["left_out"], found.left_out)
    assert summary["model"] == "tiny"
    assert summary["text"] == TEXT
    assert summary["tokens"][1] == {"id": 195, "label": "é 1/2"}
    assert summary["pieces"][1] == {"text": "é", "start": 1, "stop": 3}
    words = summary["words"]
    assert "".join(word["text"] for word in words) == found.text
    for word in words:
        own = found.relevance[found.method][word["start"] : word["stop"]].sum()
        assert word["relevance"][found.method] == pytest.approx(float(own), rel=1e-5)
    assert len(summary["predictions"]) == 5
    assert summary["settings"]["layers"] == [0, 1, 2]
    environment = summary["environment"]
    assert set(environment) >= {"versions", "platform", "device", "implementation"}
    assert set(environment["versions"]) >= {"python", "jax", "flax", "jmamba"}
    assert set(summary["seconds"]) == {
        "prediction",
        "leaving out each token",
        "relevance",
        "hidden attention",
        "token Jacobian",
    }

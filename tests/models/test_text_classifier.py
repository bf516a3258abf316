"""Classifiers of texts: against transformers' head, padding, files, explanations."""

import dataclasses
import json
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import assert_close
from random_models import random_mamba2_model, random_text_model, random_tokens

import jmamba
from jmamba import LanguageModel, Mamba2Classifier, MambaClassifier, MambaLM
from jmamba.attention import METHODS, Contrast, explain
from jmamba.files.errors import CheckpointError
from jmamba.interventions import logit_lens, logit_shares, sweep, zero
from jmamba.models import extract_features

PAD = 0
NAMES = ("bad", "so so", "good")
TEXTS = [[5, 9, 3, 11, 7], [8, 2], [4, 6, 6]]


def make_classifier(kind: str = "mamba"):
    language = {"mamba": random_text_model, "mamba2": random_mamba2_model}[kind]
    made = {"mamba": MambaClassifier, "mamba2": Mamba2Classifier}[kind]
    return made.from_language_model(language(layers=2), NAMES, pad_token_id=PAD)


@pytest.fixture(scope="module")
def model():
    return make_classifier()


def pad(texts, length=6, *, left=False):
    """Return rows of one length, filled up on either side."""
    rows = []
    for text in texts:
        filling = [PAD] * (length - len(text))
        rows.append([*filling, *text] if left else [*text, *filling])
    return jnp.array(rows)


def test_analyses_take_padding_behind_the_text_only(model):
    """As rows are read as they are, it would have a part in what comes after it."""
    for rows in (pad(TEXTS, left=True), jnp.array([[5, PAD, 3]])):
        with pytest.raises(ValueError, match="Row 0 has padding.* behind the text"):
            explain(model, rows, "alti_logit", target=1)


@pytest.mark.parametrize("kind", ["mamba", "mamba2"])
def test_padding_on_either_side_has_no_part(kind):
    """Each row gets what it gets alone, and the pooled token is the last real one."""
    model = make_classifier(kind)
    alone = jnp.concatenate([model([text]) for text in TEXTS])
    for left in (False, True):
        filled = pad(TEXTS, left=left)
        assert_close(model(filled), alone, 2e-6)
        mask = (filled != PAD).astype(int)
        assert_close(
            model(jnp.where(mask, filled, 9), attention_mask=mask), alone, 2e-6
        )
    embeds = model.embedding[...][jnp.array([TEXTS[1]])]
    assert_close(model(None, inputs_embeds=embeds), alone[1:2], 2e-6)


def test_heads_of_transformers_load(tmp_path):
    """The files of its generic head upon its Mamba, whose output that cannot call."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from transformers.modeling_layers import GenericForSequenceClassification
    from transformers.models.mamba.modeling_mamba import MambaPreTrainedModel

    class MambaForSequenceClassification(
        GenericForSequenceClassification, MambaPreTrainedModel
    ):
        pass

    config = transformers.MambaConfig(
        vocab_size=24, hidden_size=8, num_hidden_layers=2, state_size=3,
        id2label=dict(enumerate(NAMES)), pad_token_id=PAD,
    )  # fmt: skip
    torch.manual_seed(0)
    theirs = MambaForSequenceClassification(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        tokens = np.array(pad(TEXTS))
        states = theirs.model(torch.from_numpy(tokens)).last_hidden_state
        ends = (tokens != PAD).sum(axis=1) - 1
        expected = theirs.score(states)[np.arange(3), ends].numpy()
        seen = theirs.model(torch.from_numpy(tokens[:1, :5]), output_hidden_states=True)
    theirs.save_pretrained(tmp_path / "theirs")
    model = MambaClassifier.from_pretrained(tmp_path / "theirs")
    assert model.config.class_names == NAMES
    assert_close(model(tokens), expected, 1e-5)
    found = extract_features(model, tokens[:1, :5])
    hidden = [x.numpy() for x in seen.hidden_states]
    assert_close(found.hidden[1:, 0], np.concatenate(hidden[:2]), 1e-5)
    assert_close(found.tokens, hidden[-1], 1e-5)  # theirs ends with the norm's output
    assert_close(found.last, hidden[-1][:, -1], 1e-5)


@pytest.mark.parametrize("kind", ["mamba", "mamba2"])
def test_files_bring_the_classifier_back(kind, tmp_path):
    model = make_classifier(kind)
    model.save_pretrained(tmp_path / "model", tokenizer="bytes")
    raw = json.loads((tmp_path / "model" / "config.json").read_text())
    stem = {"mamba": "Mamba", "mamba2": "Mamba2"}[kind]
    assert raw["architectures"] == [f"{stem}ForSequenceClassification"]
    assert raw["id2label"] == {"0": "bad", "1": "so so", "2": "good"}
    again = type(model).from_pretrained(tmp_path / "model")
    assert again.config == model.config
    np.testing.assert_array_equal(again(pad(TEXTS)), model(pad(TEXTS)))
    with pytest.raises(CheckpointError, match=f"load with {stem}Classifier.from_pre"):
        LanguageModel.from_pretrained(tmp_path / "model")
    raw.pop("id2label")
    (tmp_path / "model" / "config.json").write_text(json.dumps(raw | {"num_labels": 3}))
    unnamed = type(model).from_pretrained(tmp_path / "model")
    assert (unnamed.config.num_classes, unnamed.config.class_names) == (3, ())
    unnamed.save_pretrained(tmp_path / "unnamed")
    assert type(model).from_pretrained(tmp_path / "unnamed").config == unnamed.config


def test_files_of_language_models_say_how_to_get_a_head(tmp_path):
    random_text_model(layers=2).save_pretrained(tmp_path / "lm")
    with pytest.raises(CheckpointError, match="load with MambaLM.from_pretrained"):
        MambaClassifier.from_pretrained(tmp_path / "lm")
    raw = json.loads((tmp_path / "lm" / "config.json").read_text())
    raw["architectures"] = ["MambaForSequenceClassification"]
    (tmp_path / "lm" / "config.json").write_text(json.dumps(raw))
    with pytest.raises(CheckpointError, match=r"no score.weight.*from_language_model"):
        MambaClassifier.from_pretrained(tmp_path / "lm")


@pytest.mark.parametrize("method", METHODS)
def test_explanations_are_of_the_last_token_that_is_no_padding(model, method):
    options = {"smooth_grad": {"samples": 2}, "integrated_gradients": {"steps": 2}}
    own = {"target": Contrast(2, 0), **options.get(method, {})}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # two steps are few
        found = np.asarray(explain(model, pad(TEXTS), method, **own))
        asked = explain(model, pad(TEXTS), method, query=[4, 1, 2], **own)
    np.testing.assert_array_equal(found, asked)
    assert np.isfinite(found).all() and found.any(axis=1).all()
    if method != "token_norms":  # these are of every token, whoever reads it
        np.testing.assert_array_equal(np.where(pad(TEXTS) == PAD, found, 0), 0)


def test_an_explanation_of_a_padded_text_is_that_of_it_alone(model):
    found = explain(model, pad(TEXTS), "mamba_lrp", target=1)
    alone = explain(model, jnp.array([TEXTS[1]]), "mamba_lrp", target=1)
    assert_close(found[1:2, :2], alone, 1e-5)


def test_interventions_and_lenses_take_a_classifier(model):
    tokens = jnp.array([TEXTS[0]])
    whole = model(tokens)
    assert_close(logit_lens(model, tokens)[-1, :, -1], whole, 2e-6)
    shares = logit_shares(model, tokens, target=1)
    assert_close(
        shares.embedding + shares.layers.sum(0) + shares.head, whole[:, 1], 1e-4
    )
    made = sweep(model, tokens, zero("output"), {"layers": range(2)}, target=1)
    assert_close(made.base, whole[:, 1], 2e-6)


def test_features_leave_padding_out(model):
    """Of language models, too; at padding stands the token before."""
    tokens = pad(TEXTS, left=True)
    found = extract_features(model, tokens)
    alone = extract_features(model, jnp.array([TEXTS[1]]))
    assert_close(found.hidden[:, 1:2, -2:], alone.hidden, 2e-6)
    assert_close(found.last[1:2], alone.last, 2e-6)
    assert_close(found.mean[1:2], alone.mean, 2e-6)
    assert_close(alone.mean, alone.tokens.mean(axis=1), 2e-6)
    assert_close(model(tokens), found.last @ model.score[...], 2e-6)
    language = random_text_model(layers=2)
    texts = random_tokens()
    found = extract_features(language, texts)
    logits = language(texts).logits[:, -1]
    assert_close(found.last @ language.embedding[...].T, logits, 2e-6)
    with pytest.raises(ValueError, match="extract_features would return"):
        extract_features(language, texts, memory_limit=10)


def test_classifiers_that_cannot_be(model):
    language = random_text_model(layers=2)
    with pytest.raises(ValueError, match=r'names of two or more, such as \["bad"'):
        MambaClassifier.from_language_model(language, ["one"])
    with pytest.raises(ValueError, match="classes='ab': give the names"):
        MambaClassifier.from_language_model(language, "ab")
    with pytest.raises(ValueError, match="1 class_names for 2 classes; give one for"):
        jmamba.MambaClassifierConfig(
            vocab_size=9, d_model=8, num_layers=1, class_names=("one",)
        )
    with pytest.raises(ValueError, match="target=3 is out of range: give 0 to 2"):
        explain(model, pad(TEXTS), "gradient_x_input", target=3)
    with pytest.raises(ValueError, match="token ids must lie in"):
        model([[99]])


def test_it_works_under_transformations(model):
    graphdef, state = nnx.split(model)

    def loss(state, tokens):
        return nnx.merge(graphdef, state)(tokens)[:, 1].sum()

    slope = jax.jit(jax.grad(loss))(state, pad(TEXTS))
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(slope))
    rows = jax.vmap(lambda row: model(row[None])[0])(pad(TEXTS))
    assert_close(rows, model(pad(TEXTS)), 2e-6)
    assert dataclasses.replace(model.config) == model.config
    assert isinstance(random_text_model(), MambaLM)

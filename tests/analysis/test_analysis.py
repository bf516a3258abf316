"""Analyses of many documents: the same as of each alone, on disk, and resumed."""

import json
import os
import subprocess
import sys
import tracemalloc
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore
from flax import nnx

from jmamba import MambaConfig, MambaLM, Sharding, trace
from jmamba.analysis import AnalysedDocuments, Analysis, AnalysisOptions, analyse
from jmamba.analysis.kinds import ANALYSES
from jmamba.attention import norm_matrix, reduced_attention
from jmamba.dynamics import jacobian_norms, layer_span
from jmamba.files.exchange import lock_file
from jmamba.interventions import read_lens, run, sweep, zero
from jmamba.models.fingerprints import fingerprint_parameters

TEXTS = [b"abcde", b"to be or not", b"x", b"fghijk", b"a cat"]
DOCUMENTS = [list(text) for text in TEXTS]
CONFIG = MambaConfig(vocab_size=128, d_model=8, num_layers=2, d_state=4)


@pytest.fixture(scope="module")
def model():
    return MambaLM(CONFIG, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def rows(model, tmp_path_factory):
    """A finished analysis."""
    folder = tmp_path_factory.mktemp("rows") / "out"
    analyse(model, DOCUMENTS, ["rows"], folder, batch=2)
    return folder


def counted(model, tokens, lengths):
    """Measure something that costs no program."""
    sums = jnp.cumsum(tokens, axis=1)
    half = jnp.broadcast_to(
        sums[:, None, :, None] / 2, (*sums.shape[:1], 1, sums.shape[1], 3)
    )
    return {"sums": sums, "half": half}


COUNTED = {
    "counted": Analysis(
        counted,
        {"sums": ("document", "token"),
         "half": ("document", "layer", "token", "width")},
        {"sums": "1, what came so far", "half": "1"},
        {"base": 1},
    )
}  # fmt: skip


def stop_after(batches):
    """Return what interrupts an analysis behind so many batches."""

    def report(said):
        if said.done >= 2 * batches:
            raise KeyboardInterrupt

    return report


def shards_in(folder):
    files = sorted((folder / "results.zarr").rglob("c/**/*"))
    return {str(x.relative_to(folder)): x.read_bytes() for x in files if x.is_file()}


def test_padded_batches_find_what_each_document_alone_has(model, rows, tmp_path):
    found = AnalysedDocuments(rows)
    assert repr(found) == "rows of 5 of 5 documents"
    assert found.lengths.tolist() == [5, 12, 1, 6, 5]
    options = AnalysisOptions(probes=3)
    names = ["vector_norms", "lens", "layer_jacobians"]
    more = analyse(
        model, DOCUMENTS[:2], names, tmp_path / "more", batch=2, options=options
    )
    one = found.document(1) | more.document(1)
    tokens = jnp.asarray([DOCUMENTS[1]])
    t = trace(model, tokens)
    lens = read_lens(model, tokens)
    for layer in range(2):
        x = t.residual_in[layer]
        last = reduced_attention(t.layer(layer), rows=[-1])[0, 0]
        np.testing.assert_allclose(one["rows"][layer], last, rtol=1e-5, atol=1e-9)
        norms = norm_matrix(model.layer(layer), x)[0]
        np.testing.assert_allclose(one["vector_norms"][layer], norms, atol=1e-7)
        moved = jacobian_norms(
            layer_span(model, layer, layer + 1), x[0], probes=3, key=0
        )
        np.testing.assert_allclose(one["layer_jacobians"][layer], moved, atol=1e-5)
    np.testing.assert_allclose(one["lens_entropy"], lens.entropy[:, 0], atol=1e-5)
    assert np.array_equal(one["lens_ids"], lens.ids[:, 0])
    assert bytes(one["tokens"].tolist()) == TEXTS[1]


def test_arrays_are_zarr_that_says_what_they_are(rows):
    """By its own documents, and by another reader of them than ours."""
    group = json.loads((rows / "results.zarr" / "zarr.json").read_text())
    assert group["zarr_format"] == 3 and group["node_type"] == "group"
    about = group["attributes"]["jmamba"]
    assert about["model"]["config"]["d_model"] == 8 and about["version"]
    assert about["analyses"] == {"rows": {"layers": None, "reduction": "mean_abs"}}
    array = json.loads((rows / "results.zarr" / "rows" / "zarr.json").read_text())
    assert array["dimension_names"] == ["document", "layer", "token"]
    assert array["shape"] == [5, 2, 12] and array["fill_value"] == "NaN"
    assert "hidden attention" in array["attributes"]["units"]
    path = str(rows / "results.zarr" / "rows")
    kvstore = {"driver": "file", "path": path}
    read = tensorstore.open({"driver": "zarr3", "kvstore": kvstore}).result()[...]
    found = np.asarray(read)
    inside = np.arange(12) < np.asarray([5, 12, 1, 6, 5])[:, None]
    assert np.array_equal(np.isnan(found[:, 0]), ~inside)


def test_any_function_of_model_and_tokens_is_an_analysis(model, tmp_path):
    """A sweep of interventions: what each layer's silence changes, at each token."""

    def silence(model, tokens, lengths):
        over = {"layers": range(2), "positions": range(tokens.shape[1])}
        found = sweep(model, tokens, zero("output"), over, query=lengths - 1, target=9)
        return {"changes": jnp.moveaxis(found.values, 2, 0)}

    mine = Analysis(
        silence, {"changes": ("document", "layer", "token")}, {"changes": "logit"}, {}
    )
    found = analyse(
        model, [DOCUMENTS[0], DOCUMENTS[3]], {"mine": mine}, tmp_path / "out", batch=2
    )
    tokens = jnp.asarray([DOCUMENTS[0]])
    edits = zero("output", layers=[1], positions=[2])
    silent = run(model, tokens, edits).logits[0, -1, 9]
    changed = found.document(0)["changes"]
    assert changed.shape == (2, 5)
    np.testing.assert_allclose(changed[1, 2], silent, rtol=1e-5)


def test_interrupted_analyses_go_on_and_end_as_others_do(model, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    analyse(model, DOCUMENTS, COUNTED, whole, batch=2)
    with pytest.raises(KeyboardInterrupt):
        analyse(model, DOCUMENTS, COUNTED, cut, batch=2, report=stop_after(1))
    there = AnalysedDocuments(cut)
    assert there.finished.tolist() == [True, True, False, False, False]
    with pytest.raises(IndexError, match="Document 2 of 5 is not there, or not fini"):
        there.document(2)
    half = cut / "results.zarr" / "sums" / "c" / "1"
    half.mkdir()
    (half / "0").write_bytes(b"a part of a shard")  # whatever is there is replaced
    (half / "0.__lock").touch()
    (cut / "results.zarr" / "length" / "c" / "1").write_bytes(b"a part")
    said = []
    analyse(model, DOCUMENTS, COUNTED, cut, batch=2, report=said.append)
    assert said == [(4, 5, 2), (5, 5, 2)]
    assert shards_in(cut) == shards_in(whole)
    before = shards_in(cut)
    found = analyse(model, DOCUMENTS, COUNTED, cut, batch=2, report=said.append)
    assert len(said) == 2 and shards_in(cut) == before
    assert found.document(4)["sums"].tolist() == np.cumsum(DOCUMENTS[4]).tolist()


def test_memory_does_not_grow_with_the_documents(model, tmp_path):
    """Of twelve batches as much is held as of three, on devices and of NumPy's."""
    highest = {}
    for count in (6, 24):
        documents = [np.full(2000, 1 + i, np.int32) for i in range(count)]
        live = []
        tracemalloc.start()
        analyse(
            model, documents, COUNTED, tmp_path / f"{count}", batch=2,
            report=lambda said, live=live: live.append(
                sum(x.nbytes for x in jax.live_arrays())
            ),
        )  # fmt: skip
        highest[count] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert max(live) == min(live)
    batch = 2 * 2048 * 4 * 7  # sums and the six numbers of half
    assert highest[24] - highest[6] < batch


def test_a_mesh_finds_the_same(model, rows, tmp_path):
    sharding = Sharding(data=2, fsdp=2, tensor=2)
    found = analyse(
        model, DOCUMENTS, ["rows"], tmp_path / "out", batch=4, sharding=sharding
    )
    alone = AnalysedDocuments(rows)
    for number in range(5):
        mine, other = (x.document(number)["rows"] for x in (found, alone))
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-9)
    placed = sharding.place_model(model)
    assert fingerprint_parameters(placed) == fingerprint_parameters(model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": 1}, "holds another analysis: batch was 2 and is 1. Ask for"),
        ({"options": AnalysisOptions(reduction="mean")},
         "analyses.rows.reduction was 'mean_abs' and is 'mean'"),
        ({"documents": DOCUMENTS[:4]}, "documents.count was 5 and is 4; documents.tok"),
        ({"model": MambaLM(CONFIG, rngs=nnx.Rngs(1))}, "model.parameters was"),
        ({"documents": [[1], [128]]}, "Document 1 has the token 128, .* 0 to 127"),
        ({"documents": [[1], []]}, "Document 1 is empty"),
        ({"documents": []}, "no documents to analyse"),
        ({"analyses": ["row"]}, "no analysis row; give some of rows, matrices"),
        ({"memory_limit": 100},
         r"rows of a batch would take 0.0 GiB \(2 x 2 x 12\), over .* rows and"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(model, rows, change, message):
    given = {"model": model, "documents": DOCUMENTS, "analyses": ["rows"], "batch": 2}
    with pytest.raises(ValueError, match=message):
        analyse(directory=rows, **(given | change))


def test_two_runs_and_folders_of_others_are_refused(model, rows, tmp_path):
    with (
        closing(lock_file(rows / "lock")),  # type: ignore[arg-type]
        pytest.raises(ValueError, match="Another run is writing to"),
    ):
        analyse(model, DOCUMENTS, ["rows"], rows, batch=2)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match="files that are of no analysis: notes.txt"):
        analyse(model, DOCUMENTS, ["rows"], tmp_path)
    with pytest.raises(ValueError, match="is the folder of no analysis"):
        AnalysedDocuments(tmp_path)


def test_what_the_disk_cannot_hold_is_refused(model, tmp_path, monkeypatch):
    def left(path):
        return SimpleNamespace(free=1000)

    monkeypatch.setattr("jmamba.analysis.arrays.shutil.disk_usage", left)
    with pytest.raises(ValueError, match="take up to .* GiB, and .* GiB left"):
        analyse(model, DOCUMENTS * 10, COUNTED, tmp_path / "out", batch=2)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"sums": ("document", "token")}, r"returns \['half', 'sums'\], and its axes"),
        ({"sums": ("document", "width"), "half": ("document", "token", "layer", "k")},
         r"half of shape .* the first is to be document, those named token"),
    ],
)  # fmt: skip
def test_analyses_that_return_other_arrays_are_refused(model, tmp_path, axes, message):
    one = {"mine": COUNTED["counted"]._replace(axes=axes)}
    with pytest.raises(ValueError, match=message):
        analyse(model, DOCUMENTS, one, tmp_path / "out", batch=2)


@pytest.mark.parametrize("name", ANALYSES)
@pytest.mark.exhaustive
def test_all_analyses_find_on_a_mesh_what_one_device_does(model, tmp_path, name):
    options = AnalysisOptions(probes=None)
    sharding = Sharding(data=2, fsdp=2, tensor=2)
    one, two = (
        analyse(model, DOCUMENTS, [name], tmp_path / f"{i}", batch=4, options=options,
                sharding=place)
        for i, place in enumerate((None, sharding))
    )  # fmt: skip
    for number in range(5):
        theirs = two.document(number)
        for array, x in one.document(number).items():
            np.testing.assert_allclose(x, theirs[array], rtol=1e-4, atol=1e-5)


KILLED = """
import sys
sys.path.insert(0, sys.argv[2])
import jax
jax.config.update("jax_num_cpu_devices", 1)
from flax import nnx
from test_analysis import CONFIG, COUNTED, MambaLM, analyse
documents = [[1 + i % 9] * (1 + i % 17) for i in range(200)]
model = MambaLM(CONFIG, rngs=nnx.Rngs(0))
analyse(model, documents, COUNTED, sys.argv[1], batch=2)
"""


@pytest.mark.exhaustive
def test_what_kill_9_leaves_is_whole_and_goes_on(tmp_path):
    """Three kills while documents are written: every finished one is as it will be."""

    def start(folder):
        words = [sys.executable, "-c", KILLED, folder, Path(__file__).parent]
        paths = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        return subprocess.Popen(words, env=os.environ | paths)

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert start(whole).wait(600) == 0
    expected, done = AnalysedDocuments(whole), 0
    for _ in range(3):
        run = start(cut)
        finished = cut / "results.zarr" / "finished" / "c"
        while len(list(finished.glob("*"))) < done // 2 + 10:
            assert run.poll() is None
        run.kill()
        run.wait()
        there = AnalysedDocuments(cut)
        assert there.finished.sum() > done
        done = int(there.finished.sum())
        for number in np.flatnonzero(there.finished):
            for name, x in there.document(int(number)).items():
                assert np.array_equal(x, expected.document(int(number))[name])
    assert start(cut).wait(600) == 0
    assert shards_in(cut) == shards_in(whole)

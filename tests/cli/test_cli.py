import dataclasses
import json
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from typer.testing import CliRunner

import jmamba
from jmamba.checkpoints import ByteTokenizer
from jmamba.cli import LATER, app, main
from jmamba.report import write_text

RUN = CliRunner()
CONFIG = jmamba.MambaConfig(vocab_size=256, d_model=16, num_layers=2)
MODEL = jmamba.MambaLM(CONFIG, rngs=nnx.Rngs(0))


@pytest.fixture(autouse=True)
def embedded(monkeypatch, tmp_path):
    """Use a tiny model, and write where nothing else is."""
    monkeypatch.setattr(
        "jmamba.embedded.text.load_embedded",
        lambda *, dtype=None: (MODEL, ByteTokenizer()),
    )
    monkeypatch.chdir(tmp_path)


def run(*args, text=None):
    return RUN.invoke(app, [str(arg) for arg in args], input=text)


def mistake(*args, text=None) -> str:
    """Run what must fail; return its message, on one line."""
    result = run(*args, text=text)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return " ".join(result.stderr.split())


def test_explain_prints_and_writes(tmp_path):
    result = run("explain", "né", "--top", 3, "--layers", "-1")
    assert result.exit_code == 0, result.output
    out = tmp_path / "jmamba-out"
    assert result.stdout.splitlines()[-1] == str(out / "index.html")
    assert "Likeliest next tokens" in result.stdout
    assert "bits lost" in result.stdout
    assert "mamba lrp" in result.stdout
    assert "token Jacobian" in result.stderr  # the stages
    summary = json.loads((out / "summary.json").read_text())
    assert summary["settings"]["layers"] == [1]
    assert summary["model"].startswith("embedded")
    assert summary["environment"]["implementation"] == "xla_loop"
    assert set(summary["files"]) == {path.name for path in out.iterdir()}


QUICK = ("--no-matrices", "--no-jacobian")


def test_explain_reads_files_and_standard_input(tmp_path, monkeypatch):
    texts = []

    def explain(model, tokenizer, text, **options):
        texts.append(text)
        raise ValueError("enough")

    monkeypatch.setattr("jmamba.report.text.measure.explain_text", explain)
    (tmp_path / "text").write_bytes("né\r\n".encode())
    run("explain", "--file", tmp_path / "text")
    run("explain", "-", text=" two\n\n")
    run("explain", "one")
    assert texts == ["né", " two\n", "one"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["explain", ""], "text is empty"),
        (["explain"], "Give a text"),
        (["explain", "a", "--file", "b"], "one of them"),
        (["explain", "abc", "--max-tokens", 2, "--matrices"], "--no-matrices"),
        (["explain", "a", "--layers", "0,9"], "layers 0 to 1"),
        (["explain", "a", "--layers", "x"], "--layers 3,6,-1"),
        (["explain", "a", "--top", 0], "top must be at least 1"),
        (["explain", "a", "--out", "file"], "is a file"),
        (["explain", "a", "--out", "file/out"], "Cannot write to"),
        (["explain", "a", "--out", "."], "--overwrite"),
        (["explain", "--file", "latin1"], "not UTF-8 text: byte 1 is 0xe9"),
        (["explain", "--file", "missing"], "missing"),
        (["explain", "a", "--model", "missing/model/x"], "missing/model/x"),
        (["explain", "a", "--revision", "main"], "--model"),
        (["generate", "a", "--top-k", 3], "temperature"),
        (["generate", ""], "text is empty"),
        (["generate", "a", "--max-new-tokens", 0], "--max-new-tokens"),
        (["convert", "missing", "out"], "missing"),
    ],
)
def test_mistakes_exit_with_2(args, message, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "latin1").write_bytes(b"n\xe9")
    before = set(tmp_path.iterdir())
    assert message in mistake(*args)
    assert set(tmp_path.iterdir()) == before


def test_unknown_options_exit_with_2():
    assert run("explain", "a", "--no-such").exit_code == 2
    assert run("nothing").exit_code == 2


def test_debug_shows_where(tmp_path):
    result = run("explain", "", "--debug")
    assert isinstance(result.exception, ValueError)
    result = run("--debug", "convert", "missing", "out")
    assert isinstance(result.exception, ValueError)
    assert "text is empty" not in mistake("explain", "--", "--debug", "--x")


def test_failure_while_drawing_leaves_nothing(tmp_path, monkeypatch):
    def fail(explanation, figures):
        raise OSError("disk full")

    failing = dataclasses.replace(write_text, page=fail)
    monkeypatch.setattr("jmamba.report.text.page.write_text", failing)
    assert "disk full" in mistake("explain", "a", *QUICK)
    assert not (tmp_path / "jmamba-out").exists()
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_exits_with_130(tmp_path, monkeypatch):
    def interrupt(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("jmamba.report.text.measure.explain_text", interrupt)
    result = run("explain", "a")
    assert result.exit_code == 130
    assert "Interrupted" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_generate_streams_the_text():
    result = run("generate", "né", "--max-new-tokens", 5)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("né")
    assert "5 tokens, the first after" in result.stderr
    assert "tokens/s" in result.stderr
    again = run("generate", "né", "--max-new-tokens", 5)
    assert again.stdout == result.stdout
    options = ["--temperature", 5, "--seed", 1, "--top-p", 0.9, "--min-p", 0.01]
    warm = run("generate", "né", "--max-new-tokens", 5, *options)
    assert warm.exit_code == 0 and warm.stdout != result.stdout


def continuation(*options, model=MODEL, eos_ids=()) -> str:
    """Return what is printed after the prompt, given another model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "jmamba.embedded.text.load_embedded",
            lambda *, dtype=None: (model, ByteTokenizer(eos_ids)),
        )
        result = run("generate", "né", "--max-new-tokens", 9, *options)
    assert result.exit_code == 0, result.output
    return result.stdout.removeprefix("né").removesuffix("\n")


def spelling(**changes):
    """Return a model that writes small letters."""
    model = nnx.clone(MODEL)
    head = np.zeros((16, 256), np.float32)
    head[:, 97:123] = np.random.default_rng(0).standard_normal((16, 26))
    model.lm_head = nnx.Param(jnp.asarray(head))
    model.config = dataclasses.replace(model.config, **changes)
    return model


def test_generate_shows_no_token_that_ends_the_text():
    text = continuation(model=spelling())
    assert len({*text}) > 3 and len(text) == 9 and text.isalpha()
    end = ord(text[3])
    shown = text[: text.index(text[3])]
    several = spelling(eos_token_id=(0, end))
    assert continuation(model=several) == shown
    assert continuation(model=spelling(), eos_ids=(0, end)) == shown
    assert continuation(model=spelling(eos_token_id=(300,))) == text


def test_generate_stops_at_a_text_that_it_does_not_show():
    text = continuation(model=spelling())
    shown = text[: text.index(text[3:5])]
    assert continuation("--stop", text[3:5], model=spelling()) == shown
    both = ("--stop", "0", "--stop", text[3:5])
    assert continuation(*both, model=spelling()) == shown
    longer = ("--stop", text[-1] + "0")  # held back, and shown at the end
    assert continuation(*longer, model=spelling()) == text


def test_generate_says_where_numbers_overflow(monkeypatch):
    half = jmamba.MambaLM(CONFIG, dtype=jnp.float16, rngs=nnx.Rngs(0))
    kernel = half.layers.mixer.out_proj.kernel
    kernel[...] = kernel[...].at[1].multiply(1e7)
    monkeypatch.setattr(
        "jmamba.embedded.text.load_embedded",
        lambda *, dtype=None: (half, ByteTokenizer()),
    )
    assert "float16, and the first" in mistake("generate", "né")


def test_generate_stops_at_ctrl_c(monkeypatch):
    def interrupt(future):
        raise KeyboardInterrupt

    monkeypatch.setattr("concurrent.futures.Future.result", interrupt)
    result = run("generate", "a", "--max-new-tokens", 5)
    assert result.exit_code == 130


def test_info_says_what_runs_where():
    result = run("info")
    assert result.exit_code == 0, result.output
    for word in ("jax", "cpu", "xla_loop", "xla_chunked", "TPU", "2 of width 16"):
        assert word in result.stdout


def test_info_checks_the_scan_that_runs_here():
    result = run("info", "--check")
    assert result.exit_code == 0, result.output
    assert "xla_loop against the definition" in result.stdout
    assert result.stdout.count(" ok") == 2 + 2 + 9


def test_info_says_when_the_scan_is_wrong(monkeypatch):
    monkeypatch.setattr("jmamba.commands.check.LARGEST", {"value": 0.0})
    result = run("info", "--check")
    assert result.exit_code == 1
    assert "wrong" in result.stdout


def test_convert_writes_a_checkpoint_that_explain_reads(tmp_path):
    MODEL.save_pretrained(tmp_path / "hf", tokenizer="bytes")
    result = run("convert", tmp_path / "hf", tmp_path / "orbax")
    assert result.exit_code == 0, result.output
    result = run("explain", "a", "--model", tmp_path / "orbax", *QUICK)
    assert result.exit_code == 0, result.output
    summary = json.loads((tmp_path / "jmamba-out" / "summary.json").read_text())
    assert summary["model"] == str(tmp_path / "orbax")


@pytest.mark.parametrize("command", list(LATER))
def test_help_is_there(command):
    assert command in run("--help").stdout
    result = run(command, "--help")
    assert result.exit_code == 0
    assert "Usage" in result.stdout


def test_main_leaves_at_once_after_ctrl_c(monkeypatch):
    """Threads of XLA that are still at work must not be torn down under."""

    class Left(Exception):
        pass

    def interrupt(*args, **options):
        raise KeyboardInterrupt

    def leave(code):
        raise Left(code)

    monkeypatch.setattr("jmamba.report.text.measure.explain_text", interrupt)
    monkeypatch.setattr("os._exit", leave)
    monkeypatch.setattr(sys, "argv", ["jmamba", "explain", "a"])
    with pytest.raises(Left, match="130"):
        main()


def test_main_runs_the_command_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["jmamba", "--version"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert capsys.readouterr().out.strip() == "0.1.0"


def test_shells_complete_commands_and_their_options():
    def completed(words):
        asked = {"_JMAMBA_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(words)}
        asked["COMP_CWORD"] = str(len(words) - 1)
        found = CliRunner().invoke(app, [], env=asked, prog_name="jmamba")
        return found.output.split()

    assert completed(["jmamba", "ex"]) == ["explain"]
    assert "--method" in completed(["jmamba", "explain", "--me"])

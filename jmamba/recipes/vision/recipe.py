"""The papers' comparisons on pictures with hidden objects, Vim beside ViT."""

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import numpy as np

from jmamba.models.vim.model import count_parameters
from jmamba.recipes.curves import Curve, draw_curves, smooth
from jmamba.recipes.emoji import Composites
from jmamba.recipes.image_classifiers import (
    VisionConfig,
    labelled,
    make_vim,
    make_vit,
    train_vim,
    train_vit,
)
from jmamba.recipes.pictures import Pictures, load_pictures
from jmamba.recipes.vision.explainers import baselines, explainers
from jmamba.recipes.vision.figures import draw_maps
from jmamba.recipes.vision.findings import write_findings
from jmamba.recipes.vision.measuring import (
    Asked,
    Found,
    Grids,
    ScoredRow,
    explain_pictures,
    measure_all,
    read_all,
)
from jmamba.recipes.vision.sanity import SCORE, write_sanity
from jmamba.recipes.vision.scores import (
    Measured,
    measure_location,
    remove,
    say,
    score,
    spread_grids,
)
from jmamba.recipes.vision.tables import (
    MODELS,
    Choice,
    name_row,
    write_gains,
    write_scores,
)
from jmamba.recipes.workbench import Workbench
from jmamba.training.classification import is_right, predict_all

SIZES = {
    "quick": VisionConfig(
        pictures="glyphs", side=48, d_model=16, num_layers=2, d_state=4, num_heads=2,
        steps=60, batch=16, learning_rate=5e-3, seeds=(0, 1), measured=100,
        explained=8, validated=8, removed=4,
    ),
    "cpu": VisionConfig(
        pictures="camouflage", side=48, d_model=32, num_layers=2, d_state=4,
        steps=6500, batch=16, learning_rate=5e-3, seeds=(0, 1, 2, 3, 4), measured=600,
        explained=384, validated=96, removed=96,
    ),
    "large": VisionConfig(
        pictures="camouflage", side=64, d_model=192, num_layers=12, d_state=16,
        steps=40_000, batch=128, seeds=(0, 1, 2, 3, 4, 5, 6, 7), measured=5000,
        explained=2000, validated=1000, removed=1000,
    ),
}  # fmt: skip

SHOWN = 5
"""Pictures on the plate of maps."""
RANDOM = 1000
"""Added to a seed, the seed of the model with random weights."""

Models = Mapping[str, list]
"""Kind -> models of all seeds."""


class Part(NamedTuple):
    """All that was measured of some pictures.

    Attributes:
      explained: method of a Vim -> grids, and the gap of integrated gradients.
      grids: what was measured.
      found: scores of places and of removal.
    """

    explained: Mapping[str, Measured]
    grids: Mapping[ScoredRow, Grids]
    found: Found


def run(config: VisionConfig, bench: Workbench) -> None:
    """Train both models from all seeds, and measure what explains them."""
    if len(config.seeds) < 2:
        raise ValueError(
            f"seeds={config.seeds}: give two or more, since one has no spread."
        )
    pictures = load_pictures(config.pictures, config.side, bench)
    trained: Models = {
        "vim": [train_vim(config, pictures, bench, seed) for seed in config.seeds],
        "vit": [train_vit(config, pictures, bench, seed) for seed in config.seeds],
    }
    trained["vim"][0].save_pretrained(bench.directory / "vim", overwrite=True)
    _write_accuracies(trained, config, pictures, bench)
    _write_curves(trained, config, bench)
    new = pictures.new(config.explained)
    shown = pictures.test(config.explained) if new is None else new
    chosen = pictures.validation(config.validated)
    validation = _measure("validation", trained, chosen, config, bench)
    test = _measure("test", trained, shown, config, bench)
    choice = Choice(validation.found)
    write_scores(test.found, choice, test.explained, bench)
    bench.write_text(_LEGEND)
    write_gains(test.found, choice, bench)
    bench.write_text(_GAINS)
    seeds = [seed + RANDOM for seed in config.seeds]
    fresh: Models = {
        "vim": [make_vim(config, pictures, seed) for seed in seeds],
        "vit": [make_vit(config, pictures, seed) for seed in seeds],
    }
    write_sanity(
        {"trained": trained, "random": fresh}, shown, test.grids, test.found, choice,
        bench, classes=len(pictures.names), patch=config.patch_size,
    )  # fmt: skip
    bench.write_text(_SANITY)
    write_findings(test.found, choice, bench)
    bench.write_text(_FINDINGS)
    _write_maps(shown, test.grids, choice, config, bench)


_LEGEND = """
In percent except flipping, which is in logits; in brackets 95 % intervals over seeds
and pictures. The right class is explained. Readings are what becomes of relevance
before it is scored: its sign kept, its negative part cut off, its magnitude. Bold is
the reading that the validation pictures choose for that score; methods with one reading
are never negative. Object: the area under the ROC curve of the object's pixels against
those of the distractor, where a map that does not tell them apart has 50 %. Pointing:
the highest pixel is the object's. mIoU and pixel accuracy: a pixel is foreground above
the mean of its map, so that an empty map, nothing, is far above noise; mAP after
scaling maps to [0, 1]. Flipping: delta A^F of the right class's logit over patches
removed, higher is better, by what is put in their place, and the mean. Most relevant
patches first: accuracy while 10 to 90 % of the patches vanish, lower is better; least
relevant first, higher is better. Maps that ask no model are removed from the Vim's
pictures.
"""

_GAINS = """
By how much the reported reading is better than the map that asks no model over which it
is least sure to be better: only who is better than each of them is better than no
model. Holds and fails: above or below zero, at a level of 0.05 for all of this table
together, by Holm's correction.
"""

_SANITY = """
After Adebayo et al., arXiv 1810.03292: object scores with trained and with random
weights, and asked about a class that the picture does not show; likeness is the rank
correlation of both grids of patches. A method passes if it finds the object better with
the trained weights, or asked about the right class, at a level of 0.05 for the whole
table by Holm's correction; it fails if its score does not change at all. Maps that ask
no model must fail.
"""

_FINDINGS = """
Rankings that are claimed of larger models on ImageNet, looked for in small ones on
hidden objects; the words are those of docs/claims.md, at a level of 0.05 for the whole
table by Holm's correction. Black: patches turned black. Flipping: the mean of all four
fillings.
"""


def _write_accuracies(trained: Models, config, pictures: Pictures, bench) -> None:
    tests = {"kinds seen in training": pictures.test(config.measured)}
    new = pictures.new(config.measured)
    if new is not None:
        tests["kinds never seen"] = new
    rows = []
    for kind, models in trained.items():
        row = [MODELS[kind], f"{count_parameters(models[0]):,}"]
        for title, test in tests.items():
            right = bench.once(
                f"accuracy {kind} {title}", partial(_right_of, models, test)
            )
            row.append(say(score({"right": np.array(right)}, "right"), "right"))
            row.append(" ".join(f"{100 * np.mean(one):.1f}" for one in right))
        rows.append(row)
    columns = ["model", "parameters"]
    for title in tests:
        columns += [f"accuracy, {title}", "each seed"]
    bench.write_table("Accuracy", columns, rows)


def _right_of(models, test: Composites) -> list[list[int]]:
    """Return whether each model classifies each picture right."""
    batch = labelled(test)
    return [is_right(model, batch).astype(int).tolist() for model in models]


def _write_curves(trained: Models, config, bench: Workbench) -> None:
    curves = [
        Curve(
            MODELS[kind],
            [np.array(bench.losses(f"{kind}-{seed}")) for seed in config.seeds],
        )
        for kind in trained
    ]
    window = max(1, config.steps // 50)
    bench.write_figure(
        "learning",
        draw_curves([smooth(c, window) for c in curves], x="step", y="loss, nats"),
        f"Cross-entropy in training, running means over {window} steps: mean and range "
        "of the seeds",
    )


def _measure(name: str, trained: Models, shown: Composites, config, bench) -> Part:
    """Explain pictures by all models, and measure all readings."""
    asked, patch = Asked(shown, shown.labels), config.patch_size
    explained = {
        kind: explain_pictures(
            f"{kind} {name}", [explainers(model) for model in models], asked, bench
        )
        for kind, models in trained.items()
    }
    free = [baselines(patch)] * len(config.seeds)
    explained["none"] = explain_pictures(f"none {name}", free, asked, bench)
    found, grids = {}, {}
    for kind in MODELS:
        models, part = (
            trained.get(kind, trained["vim"]),
            read_all(kind, explained[kind]),
        )
        few = {row: grid[:, : config.removed] for row, grid in part.items()}

        def place(number, numbers, grid):
            return measure_location(_take(shown, numbers), grid, patch=patch)

        def vanish(number, numbers, grid, models=models):
            predict = partial(predict_all, models[number])
            return remove(predict, _take(shown, numbers), grid, patch=patch)

        places = measure_all(f"places {kind} {name}", part, place, bench)
        removal = measure_all(f"removal {kind} {name}", few, vanish, bench)
        found |= {row: {**places[row], **removal[row]} for row in part}
        grids |= part
    return Part(explained["vim"], grids, found)


def _take(pictures: Composites, numbers: list[int]) -> Composites:
    return Composites(*(array[numbers] for array in pictures))


def _write_maps(shown: Composites, grids, choice: Choice, config, bench) -> None:
    """Draw the reported reading of each method, of the first seed."""
    maps = {}
    for kind, method in dict.fromkeys(row[:2] for row in grids):
        row = choice.reading(kind, method, SCORE)
        name = ": ".join(name_row(row)[:2])
        maps[name] = spread_grids(grids[row][0, :SHOWN], config.patch_size)
    few = _take(shown, list(range(len(shown.labels)))[:SHOWN])
    places = few.masks + 0.4 * few.rivals
    bench.write_figure(
        "maps",
        draw_maps(few.images, places, maps),
        "Pictures, their objects with the distractors in a darker colour, and what "
        "explains the right class, by the reading that is reported for the object",
    )

"""The paper's two tables on pictures with known objects, Vim beside ViT."""

from collections.abc import Mapping
from functools import partial

import numpy as np

from jmamba.evaluation import bootstrap_interval, evaluate
from jmamba.models.vim.images import normalise
from jmamba.models.vim.model import Vim, count_parameters
from jmamba.recipes.emoji import Composites
from jmamba.recipes.image_classifiers import (
    VisionConfig,
    labelled,
    train_vim,
    train_vit,
)
from jmamba.recipes.pictures import Pictures, load_pictures
from jmamba.recipes.vision.figures import draw_maps
from jmamba.recipes.vision.findings import write_vision_findings
from jmamba.recipes.vision.scores import (
    explainers,
    measure_maps,
    say,
    score,
)
from jmamba.recipes.vit import ViT
from jmamba.recipes.workbench import Workbench
from jmamba.training.classification import is_right, predict_all

SIZES = {
    "quick": VisionConfig(
        pictures="fashion", side=28, patch_size=4, d_model=32, num_layers=3,
        num_heads=2, steps=120, measured=200, explained=32,
    ),
    "cpu": VisionConfig(),
    "large": VisionConfig(
        d_model=192, num_layers=12, d_state=16, steps=40_000, batch=128,
        seeds=(0, 1, 2), measured=5000, explained=2000,
    ),
}  # fmt: skip

PERTURBATION = ("positive AUC", "negative AUC", "flipping")
SEGMENTATION = ("pixel accuracy", "mAP", "mIoU")
SHOWN = 5
"""Pictures on the plate of maps."""

Found = Mapping[str, Mapping[str, np.ndarray]]
"""Method -> what was measured, over pictures and seeds."""


def run(config: VisionConfig, bench: Workbench) -> None:
    """Train both models and score what explains them."""
    pictures = load_pictures(config.pictures, config.side, bench)
    vims = [train_vim(config, pictures, bench, seed) for seed in config.seeds]
    vits = [train_vit(config, pictures, bench, seed) for seed in config.seeds]
    vims[0].save_pretrained(bench.directory / "vim", overwrite=True)
    _write_accuracies({"Vim": vims, "ViT": vits}, config, pictures, bench)
    test = pictures.test(config.explained)
    found = {
        name: _measure_all(name, models, test, config, bench)
        for name, models in {"vim": vims, "vit": vits}.items()
    }
    for title, scores in {
        "Perturbation and flipping": PERTURBATION,
        "Segmentation": SEGMENTATION,
    }.items():
        _write_scores(title, scores, found, bench)
    bench.write_text(_LEGEND)
    write_vision_findings(found, bench)
    few = Composites(*(array[:SHOWN] for array in test))
    maps = {**_maps("Vim", vims[0], few), **_maps("ViT", vits[0], few)}
    bench.write_figure(
        "maps",
        draw_maps(few.images, few.masks, maps),
        "Pictures, the masks of their objects, and what explains the predicted class",
    )


_LEGEND = """
In percent except flipping, in brackets 95 % bootstrap intervals over pictures. The
predicted class is explained. Perturbation: accuracy while 10 to 90 % of the pixels turn
black, most relevant first (positive, lower is better) or last (negative, higher is
better), mean of the nine steps. Flipping: delta A^F of the predicted class's logit over
patches turned black, higher is better. Segmentation: a pixel is foreground above the
mean of its map; mAP after scaling maps to [0, 1].
"""


def _write_accuracies(models, config, pictures: Pictures, bench: Workbench) -> None:
    tests = {"test pictures": pictures.test(config.measured)}
    new = pictures.new(config.measured)
    if new is not None:
        tests["emoji never seen"] = new
    rows = []
    for name, seeds in models.items():
        row = [name, f"{count_parameters(seeds[0]):,}"]
        for title, test in tests.items():
            right = bench.once(
                f"accuracy {name} {title}", partial(_right_of, seeds, test)
            )
            row.append(say(bootstrap_interval(np.mean, np.array(right))))
        rows.append(row)
    columns = ["model", "parameters", *(f"accuracy, {title}" for title in tests)]
    bench.write_table("Accuracy", columns, rows)


def _right_of(models, test: Composites) -> list[float]:
    """Return, for each picture, the share of models that classify it right."""
    batch = labelled(test)
    return np.mean([is_right(model, batch) for model in models], axis=0).tolist()


def _measure_all(
    kind: str, models: list[Vim] | list[ViT], test: Composites, config, bench
) -> Found:
    """Measure all explanations of all seeds on the test pictures, or read them."""
    seeds = [
        _measure(f"{kind}-{seed}", model, test, config, bench)
        for seed, model in zip(config.seeds, models, strict=True)
    ]
    return {
        method: {
            field: np.concatenate([one[method].values[field] for one in seeds])
            for field in seeds[0][method].values
        }
        for method in seeds[0]
    }


def _measure(key: str, model: Vim | ViT, test: Composites, config, bench: Workbench):
    methods, predict = explainers(model, config.side), partial(predict_all, model)

    def measure(method, numbers):
        few = Composites(*(array[numbers] for array in test))
        maps = methods[method](normalise(few.images))
        return measure_maps(predict, few, maps, patch=config.patch_size)

    def report(progress):
        bench.show(f"explaining {key}", progress.done, progress.total)

    path = bench.directory / "parts" / f"{key}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    return evaluate(
        measure,
        list(methods),
        [str(number) for number in range(config.explained)],
        settings={"run": key},
        path=path,
        report=report,
    )


def _write_scores(title: str, scores, found: Mapping[str, Found], bench) -> None:
    rows = [
        [{"vim": "Vim", "vit": "ViT"}[kind], method.replace("_", " ")]
        + [say(score(values, s), percent=s != "flipping") for s in scores]
        for kind, methods in found.items()
        for method, values in methods.items()
    ]
    bench.write_table(title, ["model", "explanation", *scores], rows)


def _maps(name: str, model: Vim | ViT, few: Composites) -> dict[str, np.ndarray]:
    images = normalise(few.images)
    methods = explainers(model, few.images.shape[1])
    return {f"{name}: {key}": method(images) for key, method in methods.items()}

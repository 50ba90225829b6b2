"""The model card of a bundle, MODEL_CARD.md in the form of the Hugging Face hub, with its confusion matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from huggingface_hub import EvalResult, ModelCardData
from timm.models import get_pretrained_cfg

from hpo.bundle.pseudo_labels import learned_pseudo_labels
from hpo.bundle.scores import doubt, headline
from hpo.bundle.selection import UNKNOWN_GAIN
from hpo.study.metric_settings import kept_metric
from hpo.worker.pictures import draw_confusion_matrix
from trainer.model.timm_models import has_tag
from trainer.wording import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from trainer.objective_metric import Metric
    from trainer.recipe import Recipe

CARD, CONFUSION = "MODEL_CARD.md", "confusion.png"
TASK = "image-classification"
SIDES = ("training", "validation", "held out")
CHOSEN_BY = "these images have also chosen the recipe, which may flatter it"


@dataclass(frozen=True)
class Story:
    """What a card tells that bundle.json does not.

    Attributes:
        recipes: of its models; where these have one recipe, that one alone.
        images: of each class in each of SIDES, int64 [classes, 3].
        compared: how many complete trials the search has compared.
        lines: on pseudo-labels, temperature and offsets, as the export has printed them.
        nested: what nested cross-validation says of searches like its own; None where there was none.
    """

    recipes: Sequence[Recipe]
    images: NDArray[np.int64]
    compared: int
    lines: Sequence[str]
    nested: str | None = None


def write_card(folder: Path, info: Mapping[str, Any], story: Story) -> None:
    """Write MODEL_CARD.md and, where the model was tested, confusion.png into the folder of a bundle.

    Args:
        folder: of the bundle.
        info: its bundle.json, the only source of numbers beside the story.
        story: what else is told.
    """
    test = info["metrics"]["test"]
    text = f"---\n{_head(info, story).to_yaml()}\n---\n\n" + "\n".join(_body(info, story)) + "\n"
    (folder / CARD).write_text(text, encoding="utf-8", errors="backslashreplace")
    if test:
        classes = info["classes"]
        rows = [[test["confusion_matrix"][true].get(name, 0) for name in classes] for true in classes]
        picture = draw_confusion_matrix(np.array(rows, np.int64), classes, "held-out images")
        (folder / CONFUSION).write_bytes(picture)


def _head(info: Mapping[str, Any], story: Story) -> ModelCardData:
    """What the hub reads: the licence of a model is for its owner to say."""
    results = [
        EvalResult(
            task_type=TASK,
            dataset_type="imagefolder",
            dataset_name=info["study"],
            dataset_split="test",
            metric_type=kind,
            metric_name=name,
            metric_value=info["metrics"]["test"][key],
            metric_args=arguments,
        )
        for kind, name, key, arguments in _reported(kept_metric(info))
        if info["metrics"]["test"] and info["metrics"]["test"][key] is not None
    ]
    starts = [start[0] for start in _starts(story)]
    return ModelCardData(
        license="unknown",
        library_name=None if "members" in info or info["timm_problem"] else "timm",
        pipeline_tag=TASK,
        tags=[TASK, "hpo-images"],
        base_model=starts[0] if len(starts) == 1 else starts or None,
        metrics=list(dict.fromkeys(kind for kind, *_ in _reported(kept_metric(info)))),
        model_name=info["study"] if results else None,
        eval_results=results or None,
    )


def _reported(metric: Metric) -> list[tuple[str, str, str, dict[str, str] | None]]:
    """What the hub is told of the test: its own name of each metric, ours for people, the key, and how it is taken."""
    usual = [("f1", "macro-F1", "macro_f1", {"average": "macro"}), ("accuracy", "accuracy", "accuracy", None)]
    own = (metric.kind, metric.title, metric.name, None)
    return usual if metric.name in ("macro_f1", "accuracy") else [own, *usual]


def _start(recipe: Recipe) -> tuple[str, str | None] | None:
    """The published weights that a training began with, by their name on the hub, and their licence, if known."""
    config = get_pretrained_cfg(recipe.backbone) if recipe.pretrained and has_tag(recipe.backbone) else None
    return (config.hf_hub_id, config.license) if config is not None and config.hf_hub_id else None


def _starts(story: Story) -> list[tuple[str, str | None]]:
    """Those of all models, each once."""
    return list(dict.fromkeys(start for recipe in story.recipes if (start := _start(recipe))))


def _body(info: Mapping[str, Any], story: Story) -> Iterator[str]:
    classes, test, members = info["classes"], info["metrics"]["test"], info.get("members")
    models = dict.fromkeys(f"`{recipe.backbone}` at {recipe.image_size} pixels" for recipe in story.recipes)
    of_all = story.images.sum(axis=0)
    yield f"# {_plain(info['study'])}"
    yield ""
    yield (
        f"A classifier of pictures into {counted(len(classes), 'class', 'classes')}: {', '.join(models)}, trained by"
        f" hpo {info['versions']['hpo']}."
    )
    if members:
        votes = ", ".join(f"`{member['folder']}` ({counted(member['votes'], 'vote')})" for member in members)
        yield f"It is the mean of the probabilities of {counted(len(members), 'model')}: {votes}."
    yield from ("", "## Use", "", "```python", "from hpo import load_bundle", "")
    yield from ('found = load_bundle("bundle").predict(["picture.jpg"])', "```", "")
    if members:
        yield (
            "timm alone cannot load it. Each folder in it is a bundle of one model, which timm loads where its"
            " `bundle.json` names no `timm_problem`."
        )
    elif info["timm_problem"]:
        yield f"timm alone cannot load it: {_plain(info['timm_problem'])}."
    else:
        yield (
            'timm alone loads it by `timm.create_model("local-dir:bundle", pretrained=True)`. Its logits are those of'
            " the network, without the temperature and the offsets of the classes that `bundle.json` may have, and may"
            " so lead to another class."
        )
    yield from ("", "## Intended use", "")
    yield (
        "Pictures of the same kind as those below, each of which shows one of these classes. It gives one of them to"
        " any picture, also to one that shows something else. How good it is on pictures of another origin is unknown."
    )
    yield from ("", "## Data", "")
    yield (
        f"{counted(int(of_all.sum()), 'labelled image')}: "
        + ", ".join(f"{count} {side}" for side, count in zip(SIDES, of_all.tolist(), strict=True))
        + f". Their digest is `{info['data_digest']}`, that of the split `{info['split_digest']}`."
    )
    if learned_pseudo_labels(info):
        yield f"It has also learned {counted(info['pseudo_labels']['images'], 'unlabelled image')} with pseudo-labels."
    yield ""
    yield from _table(
        ["class", *SIDES], [[name, *row] for name, row in zip(classes, story.images.tolist(), strict=True)]
    )
    yield from ("", "## How it was chosen", "")
    yield from _choice(info, story)
    yield from ("", "## Test", "")
    if story.nested:
        yield from (f"{_plain(story.nested[0].upper() + story.nested[1:])}.", "")
    if not test:
        unknown = "" if story.nested else ": nothing is known of it on images that did not choose or train it"
        yield f"No image was held out{unknown}."
        return
    yield (
        f"{_plain(headline(test, kept_metric(info)))}, on {counted(test['images'], 'held-out image')}, which the search"
        f" never saw. They had been used for tests of this study {counted(info['test_uses'] - 1, 'time')} before."
    )
    if line := doubt(test):
        yield from ("", f"{line[0].upper()}{line[1:]}.")
    yield ""
    found = test["per_class"]
    yield from _table(
        ["class", "precision", "recall", "F1", "in 95 %", "images"],
        [
            [
                name,
                *(f"{found[name][key]:.4f}" for key in ("precision", "recall", "f1")),
                "" if (interval := found[name]["f1_interval"]) is None else "{:.4f} to {:.4f}".format(*interval),
                found[name]["images"],
            ]
            for name in classes
        ],
    )
    yield from ("", f"![confusion matrix]({CONFUSION})")


def _choice(info: Mapping[str, Any], story: Story) -> Iterator[str]:
    """How the model came to be this one."""
    metrics, again, metric = info["metrics"], info.get("confirmation"), kept_metric(info)
    title = _plain(metric.title)
    searched, compared = metrics[f"valid_{metric.name}"], counted(story.compared, "complete trial")
    if "ensemble" in metrics and len(info["members"]) == 1:
        yield (
            f"A search has compared {compared}. Of those whose weights it has kept no vote of several had a better"
            f" {title} on the validation images than trial {info['trial']} alone, which is this model. It has not"
            " learned these images."
        )
    elif "ensemble" in metrics:
        yield (
            f"A search has compared {compared}. Of those whose weights it has kept these were chosen by the {title} of"
            " their mean on the validation images, which they have not learned."
        )
        if gain := metrics["ensemble"]:
            low, high = gain["interval"]
            yield (
                "On images that neither was chosen by, its gain over the best single model is"
                f" {gain['gain']:+.4f} ({low:+.4f} to {high:+.4f} in 95 %)."
            )
        else:
            yield f"Its gain over the best single model is {UNKNOWN_GAIN}."
    else:
        line = (
            f"Trial {info['trial']} of a search that has compared {compared} by their {title} on the validation images"
        )
        if searched is not None:
            line += f"; its own was {searched:.4f}, which may flatter it, as these images have chosen among the trials"
        yield f"{line}."
    if again:
        margin = "" if again["margin"] is None else f" ± {again['margin']:.4f} (95 %)"
        won = ", and won" if again["winner"] else ""
        yield (
            f"The best recipes were trained again on fresh folds of the images to train and to validate: on"
            f" {counted(again['folds'], 'fold')} this one had {_plain(metric.with_article)} of {again[metric.name]:.4f}"
            f"{margin}{won}."
        )
    if "ensemble" not in metrics:
        yield _training(info, story.recipes[0])
    for name, owner in _starts(story):
        licence = f"their licence is {owner}" if owner else "timm does not say their licence"
        yield f"The training began with the weights `{name}`; {licence}."
    if own := sum(_start(recipe) is None for recipe in story.recipes):
        of = f" of {own} of its models" if len(story.recipes) > 1 else ""
        yield f"The training{of} did not begin with weights that timm publishes."
    yield from (f"{line[0].upper()}{line[1:]}." for line in map(_plain, story.lines))
    yield "`recipe.toml` of each model has all settings, `bundle.json` seeds, versions and all metrics."


def _training(info: Mapping[str, Any], recipe: Recipe) -> str:
    """How the models of one recipe were trained."""
    epochs = f"{info['epochs']} of {counted(recipe.epochs, 'epoch')}"
    if estimate := info["metrics"].get("out_of_fold"):
        return (
            f"Its recipe was trained once without each of {counted(len(info['members']), 'fold')} of the training and"
            f" validation images, for {epochs}. Each of these {counted(estimate['images'], 'image')} was judged by the"
            f" one model that has not learned it: {_plain(headline(estimate, kept_metric(info)))}; {CHOSEN_BY}."
        )
    if info["retrained"]:
        return f"Its recipe was trained again on training and validation images together, for {epochs}."
    return f"These are the trial's own weights, after {epochs}, which have not learned the validation images."


def _table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> Iterator[str]:
    for row in (headings, ["---"] * len(headings), *rows):
        yield f"| {' | '.join(_plain(str(cell)) for cell in row)} |"


def _plain(text: str) -> str:
    """Text that Markdown shows as it is, in one line."""
    escaped = "".join(f"\\{letter}" if letter in "\\`*_[]<>|#$&" else letter for letter in text)
    return " ".join(escaped.split())

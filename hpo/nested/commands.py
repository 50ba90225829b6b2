"""The command `hpo nested`. Imports are in the functions, so that `hpo --help` is fast."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from hpo.errors import EXIT_DONE, HpoError
from hpo.study.from_options import study_file_from
from trainer.wording import counted

if TYPE_CHECKING:
    from rich.console import Console

    from hpo.nested.outer_test import OuterTest
    from hpo.study.study_file import StudyFile


def run_nested(options: argparse.Namespace) -> int:
    """`hpo nested`: a search for each outer fold, its winner tested on that fold, and one number over all images."""
    from rich.console import Console

    from hpo.nested.estimate import estimate, final_model
    from hpo.nested.outer_studies import check_outer_folds, write_outer_studies
    from hpo.study.nested_file import nested_file
    from hpo.whole_file import whole_file

    study_file, console = study_file_from(options), Console(stderr=options.json, force_jupyter=False)
    index = check_outer_folds(study_file, options.folds)
    files = write_outer_studies(study_file, options.folds)

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    say(_announcement(study_file, len(index.paths), options.folds))
    tests: list[OuterTest] = []
    for number, file in enumerate(files, start=1):
        say(f"\nouter fold {number} of {options.folds}: {file.name}")
        code, test = _outer_fold(argparse.Namespace(**{**vars(options), "study": file}), console)
        if test is None:
            return code
        tests.append(test)
    if any(test.winner["data_digest"] != index.digest for test in tests):
        raise HpoError(
            "nested: the images have changed since the first search began; give the study another [study] name, and the"
            " same command again"
        )
    found = estimate(index, tests, study_file.metric)
    searched = {"data_digest": index.digest, "recipe": study_file.space.as_dict()}
    told = {"study": study_file.name, "folds": options.folds, **searched, **found.as_json()}
    text = json.dumps(told, indent=2, ensure_ascii=False, allow_nan=False)
    output = nested_file(study_file.path, options.folds)
    try:
        with whole_file(output) as opened:
            opened.write(f"{text}\n".encode())
    except OSError as error:
        raise HpoError(f"nested: {output} cannot be written: {error.strerror}") from error
    if options.json:
        print(text)
        return EXIT_DONE
    for line in ("", *found.lines(), found.choices(study_file.space), final_model(study_file)):
        say(line)
    say(f"written: {output}")
    return EXIT_DONE


def _announcement(study_file: StudyFile, images: int, count: int) -> str:
    """What it will cost."""
    trials = study_file.limits.trials
    cost = "" if trials is None else f" ({counted(trials, 'trial')} each, {trials * count:,} in all)"
    learned = "; learn_from is left out, as earlier studies may have seen their images" if study_file.learn_from else ""
    return (
        f"nested cross-validation of {counted(images, 'image')}: {counted(count, 'outer fold')}, each with a search of"
        f" its own by the whole [budget]{cost}, and a retraining of its winner{learned}"
    )


def _outer_fold(options: argparse.Namespace, console: Console) -> tuple[int, OuterTest | None]:
    """Search without an outer fold and test the winner on it; the exit code, and None where it was interrupted."""
    import torch

    from hpo.nested.outer_test import tested_winner
    from hpo.study.images import load_images
    from hpo.study.open_study import load_study, storage_url
    from hpo.study.settings import check_settings
    from hpo.supervision.commands import search_study
    from hpo.supervision.progress import Progress
    from trainer.device import choose_device

    study_file, progress = study_file_from(options), Progress(console)
    code = search_study(options, study_file, progress)
    if code != EXIT_DONE:
        return code, None
    with storage_url(study_file, options.url, create=False) as url:
        opened = load_study(study_file, url)
        if opened.rows.halt() == "stop":
            progress.say("the same command goes on")
            return EXIT_DONE, None
        data = load_images(study_file, opened.study)
        check_settings(opened.study, study_file, data)
        test = tested_winner(opened, data, progress.say)
    if choose_device().type == "cuda":  # the workers of the next fold need the memory
        torch.cuda.empty_cache()
    return EXIT_DONE, test

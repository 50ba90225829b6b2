"""The commands `hpo export-best`, `convert`, `predict`, `reproduce`; imports wait in functions: `--help` is fast."""

from __future__ import annotations

import json
import shlex
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo.errors import EXIT_DONE, EXIT_FAILED, HpoError
from hpo.study.from_options import open_study_from
from trainer.wording import counted

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable


def run_export_best(options: argparse.Namespace) -> int:
    """`hpo export-best`: the winner, or other trials, as bundles."""
    from hpo.bundle.bundle import TEST
    from hpo.bundle.chosen_trials import best_trials, trial_to_export
    from hpo.bundle.export import export
    from hpo.bundle.joint import export_ensemble, export_folds
    from hpo.bundle.pseudo_labels import CONFIDENCE
    from hpo.bundle.retraining import Training
    from hpo.bundle.scores import doubt, headline
    from hpo.output import refuse_bad_folder
    from hpo.study.confirmed import read_confirmed
    from hpo.study.nested_file import nested_line
    from hpo.tracking.trackers import add_bundle

    if options.onnx:
        from hpo.bundle.conversion import require_packages

        require_packages()
    if options.confidence is not None and not options.unlabelled:
        raise HpoError("export: --confidence says which images of --unlabelled are learned; give --unlabelled, too")
    if options.keep_pseudo_labels and not options.unlabelled:
        raise HpoError("export: --keep-pseudo-labels is for the images of --unlabelled; give --unlabelled, too")
    if options.ensemble and (options.no_retrain or options.unlabelled or options.folds):
        raise HpoError("export: --ensemble takes models as they are; leave out --folds, --no-retrain and --unlabelled")
    if options.onnx and (options.ensemble or options.folds):
        raise HpoError("export: --onnx writes one model; leave it out, and `hpo convert` one of the bundle's folders")
    if options.folds and (options.no_retrain or options.unlabelled or options.top):
        raise HpoError("export: --folds retrains one trial; leave out --top, --no-retrain and --unlabelled")
    training = Training(
        retrain=not options.no_retrain,
        unlabelled=options.unlabelled or (),
        confidence=CONFIDENCE if options.confidence is None else options.confidence,
        keep_pseudo_labels=options.keep_pseudo_labels,
        threads=options.threads,
    )
    output: Path = options.output
    refuse_bad_folder("export", output)
    refused = False

    def say(line: str) -> None:
        print(line, flush=True)

    with open_study_from(options) as opened:
        bundles: Iterable[tuple[Path, dict[str, Any]]]
        if options.ensemble is not None:
            bundles = [(output, export_ensemble(opened, output, options.ensemble, options.threads, say))]
        elif options.folds is not None:
            bundles = [(output, export_folds(opened, output, options.trial, options.folds, options.threads, say))]
        elif options.top is not None:
            trials = {output / f"trial-{trial.number}": trial for trial in best_trials(opened, options.top)}
            bundles = export(opened, trials, training, say, read_confirmed(opened))
        else:
            confirmed = read_confirmed(opened)
            trial = trial_to_export(opened, options.trial, confirmed)
            bundles = export(opened, {output: trial}, training, say, confirmed)
        for folder, info in bundles:
            if test := info["metrics"]["test"]:
                say(
                    f"test {headline(test, opened.metric)},"
                    f" on {counted(test['images'], 'image')} that the search never saw"
                    f" (use {info['test_uses']} of the test split)"
                )
                if line := doubt(test):
                    say(line.replace("STUDY", opened.file.path.name))
                if options.top is None:
                    say(_predict_command(output, folder / TEST))
            if line := nested_line(opened):
                say(line)
            say(f"written: {folder}")
            refused |= options.onnx and not _converted(folder, options)
            if isinstance(number := info.get("trial"), int):  # an ensemble of several trials belongs to no one run
                for line in add_bundle(opened, opened.study.get_trials(deepcopy=False)[number], folder, info):
                    say(line)
    if options.top is not None and test:
        say("their vote on the same images:")
        say(_predict_command(output, folder / TEST))
    return EXIT_FAILED if refused else EXIT_DONE


def _converted(folder: Path, options: argparse.Namespace) -> bool:
    """Write the ONNX file of a bundle that is there; False where that cannot be, with the reason on stderr."""
    from trainer.errors import TrainerError

    try:
        print(_conversion_line(folder, [], options), flush=True)
    except (HpoError, TrainerError) as error:
        print(f"hpo: {error}; the bundle itself is written", file=sys.stderr)
        return False
    return True


def _conversion_line(folder: Path, images: list[str], options: argparse.Namespace) -> str:
    from hpo.bundle.bundle import read_bundle
    from hpo.bundle.conversion import convert
    from hpo.hardware import cores
    from trainer.device import torch_threads
    from trainer.extensions import Extensions

    threads = options.threads or cores()
    with torch_threads(threads):
        return convert(read_bundle(folder), options.extensions or Extensions(), images, threads).line()


def run_convert(options: argparse.Namespace) -> int:
    """`hpo convert`: bundles as ONNX files."""
    from hpo.bundle.conversion import require_packages
    from hpo.bundle.inputs import read_bundles

    require_packages()
    for bundle in read_bundles([options.bundle]):
        print(_conversion_line(bundle.folder, options.images or [], options), flush=True)
    return EXIT_DONE


def _predict_command(bundle: Path, images: Path) -> str:
    return f"  {shlex.join(['hpo', 'predict', str(bundle), str(images)])} -o predictions.csv"


def run_predict(options: argparse.Namespace) -> int:
    """`hpo predict`: classes and probabilities to a CSV."""
    from hpo.bundle.ensemble import Ensemble
    from hpo.bundle.held_out import count_use
    from hpo.bundle.inputs import find_bundles, find_images, known_of
    from hpo.bundle.prediction import fit_ranges, predict_to_csv
    from hpo.bundle.scores import details, headline
    from hpo.hardware import cores
    from hpo.output import refuse_bad_file
    from hpo.study.metric_settings import kept_metric
    from trainer.device import torch_threads
    from trainer.extensions import Extensions

    refuse_bad_file("predict", options.output)
    bundles, inputs = find_bundles([options.bundle, *options.images])
    with tempfile.TemporaryDirectory(prefix="hpo-") as unpacked:
        rows = find_images(inputs, bundles[0].classes, unpack=Path(unpacked))
        bundles, notes = fit_ranges(bundles, [row.file for row in rows])
        for note in notes:
            print(note, file=sys.stderr)
        ensemble = Ensemble(bundles, options.extensions or Extensions(), options.voting, options.tta)
        with torch_threads(options.threads or cores()):
            metrics = predict_to_csv(
                ensemble, rows, options.output, keep_columns=options.keep_columns, decoders=options.threads
            )
        judged = [row.file for row in rows if row.true is not None]
        test_uses = {str(bundle.folder): count_use(bundle, judged, Path(unpacked)) for bundle in bundles if judged}
    known = known_of(rows)
    if options.json:
        used = {"bundles": [str(bundle.folder) for bundle in bundles], "voting": options.voting, "tta": options.tta}
        shown = {"images": len(rows), **used, "true_classes": asdict(known), "metrics": metrics}
        shown["test_uses"] = {folder: asdict(use) for folder, use in test_uses.items()}
        print(json.dumps(shown, indent=2, ensure_ascii=False, allow_nan=False))
        return EXIT_DONE
    voted = f", {len(bundles)} bundles by {options.voting} voting" if len(bundles) > 1 else ""
    print(f"{counted(len(rows), 'image')} -> {options.output}{voted}")
    if metrics:
        of = "" if known.known == len(rows) else f", of {known.known} of {counted(len(rows), 'image')}"
        print(f"{headline(metrics, kept_metric(bundles[0].info))}, by the classes that are known{of}")
        print(*details(metrics), sep="\n")
    for folder, use in test_uses.items():
        for told in use.lines():
            print(told if len(test_uses) == 1 else f"{folder}: {told}")
    if line := known.line():
        print(line)
    return EXIT_DONE


def run_reproduce(options: argparse.Namespace) -> int:
    """`hpo reproduce`: the training of a bundle or trial again, compared with what was kept of it."""
    from hpo.bundle.bundle import read_bundle
    from hpo.bundle.reproduction import Again, reproduce_bundle, reproduce_trial
    from trainer.extensions import Extensions

    extensions = options.extensions or Extensions()
    again = Again(extensions, options.data, options.threads, lambda line: print(line, flush=True))
    if options.study.is_dir():
        if options.trial is not None:
            raise HpoError(f"reproduce: {options.study} is a folder, and so a bundle; --trial is for a study file")
        comparison = reproduce_bundle(read_bundle(options.study), again)
    elif not options.study.exists():
        raise HpoError(f"reproduce: {options.study} does not exist; name a bundle, or a study file with --trial N")
    elif options.trial is None:
        raise HpoError(f"reproduce: say which trial of {options.study}: --trial N; `hpo status` names the best")
    else:
        with open_study_from(options) as opened:
            comparison = reproduce_trial(opened, options.trial, again)
    print(*comparison.lines(), sep="\n")
    return EXIT_FAILED if comparison.different else EXIT_DONE

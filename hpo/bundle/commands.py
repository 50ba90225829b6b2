"""The commands `hpo export-best` and `hpo predict`. Imports are in the functions, so that `hpo --help` is fast."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

from hpo.errors import EXIT_DONE, HpoError
from hpo.study.from_options import open_study_from

if TYPE_CHECKING:
    import argparse


def run_export_best(options: argparse.Namespace) -> int:
    """`hpo export-best`: the winner as a bundle."""
    from hpo.bundle.export import export_best
    from hpo.bundle.pseudo_labels import CONFIDENCE
    from hpo.bundle.scores import headline

    if options.confidence is not None and not options.unlabelled:
        raise HpoError("export: --confidence says which images of --unlabelled are learned; give --unlabelled, too")
    with open_study_from(options) as opened:
        info = export_best(
            opened,
            options.output,
            retrain=not options.no_retrain,
            unlabelled=options.unlabelled or (),
            confidence=CONFIDENCE if options.confidence is None else options.confidence,
            say=lambda line: print(line, flush=True),
        )
    if test := info["metrics"]["test"]:
        print(
            f"test {headline(test)} (± one standard error), on {test['images']} images that the search never saw"
            f" (use {info['test_uses']} of the test split)"
        )
        shown = shlex.join(["hpo", "predict", str(options.output), str(options.output / "test.csv")])
        print(f"  {shown} -o predictions.csv")
    print(f"written: {options.output}")
    return EXIT_DONE


def run_predict(options: argparse.Namespace) -> int:
    """`hpo predict`: classes and probabilities to a CSV."""
    from hpo.bundle.prediction import Ensemble, find_bundles, find_images, predict_to_csv
    from hpo.bundle.scores import details, headline
    from trainer.extensions import Extensions

    bundles, inputs = find_bundles([options.bundle, *options.images])
    images = find_images(inputs, bundles[0].classes)
    ensemble = Ensemble(bundles, options.extensions or Extensions(), options.voting, options.tta)
    metrics = predict_to_csv(ensemble, images, options.output)
    if options.json:
        used = {"bundles": [str(bundle.folder) for bundle in bundles], "voting": options.voting, "tta": options.tta}
        shown = {"images": len(images.files), **used, "metrics": metrics}
        print(json.dumps(shown, indent=2, ensure_ascii=False, allow_nan=False))
        return EXIT_DONE
    voted = f", {len(bundles)} bundles by {options.voting} voting" if len(bundles) > 1 else ""
    print(f"{len(images.files)} images -> {options.output}{voted}")
    if metrics:
        print(f"{headline(metrics)} (± one standard error), by the classes that are known")
        print(*details(metrics), sep="\n")
    return EXIT_DONE

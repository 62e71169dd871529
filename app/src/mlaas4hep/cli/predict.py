"""``mlaas4hep predict``: scores for the events of ROOT files, without a service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mlaas4hep.cli.train import Files
from mlaas4hep.core.progress import Bars


def predict(
    model: Annotated[Path, typer.Option(help="Folder of the bundle.")],
    files: Files,
    fout: Annotated[
        Path | None,
        typer.Option(
            help="File for the scores: x.root (a tree to use as friend) or x.csv; else printed."
        ),
    ] = None,
    branch: Annotated[
        str, typer.Option(help="The tree, where it is not the one that was trained on.")
    ] = "",
) -> None:
    """Predict for the events of ROOT files; they are padded and normalised as in the training.

    One entry per event, in the order of the files: `score` is the probability of the second of two
    classes; with more classes there is a `score_CLASS` for each.

    For example:

        mlaas4hep predict --model my_model --files new.root --fout scores.root
    """
    from mlaas4hep.inference.offline import local_answers, predict_files, score_file, score_names
    from mlaas4hep.models.bundle import Bundle
    from mlaas4hep.training.inputs import read_files_option

    bundle = Bundle.open(model)
    branches = [*bundle.specs.flat, *bundle.specs.jagged]
    names = score_names(bundle.classes)
    inputs = read_files_option(files, Path.cwd())
    answer = local_answers(bundle)
    with Bars() as bars, score_file(fout, names) as add:
        tree = branch or bundle.specs.tree
        for scores in predict_files(inputs, tree, branches, answer, bars):
            add(scores)
    if fout:
        typer.echo(f"{fout}: {', '.join(names)}")

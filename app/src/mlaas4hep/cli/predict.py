"""``mlaas4hep predict``: scores for the events of ROOT files, with a bundle or through TFaaS."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from mlaas4hep.cli.train import Files
from mlaas4hep.core.progress import Bars


def predict(
    model: Annotated[
        str, typer.Option(help="A bundle's folder; with --url, the name of a model in TFaaS.")
    ],
    files: Files,
    fout: Annotated[
        Path | None,
        typer.Option(help="File for the scores: x.root (a tree to use as friend) or x.csv."),
    ] = None,
    url: Annotated[str, typer.Option(help="Ask the TFaaS at this address.")] = "",
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
    import numpy as np

    from mlaas4hep.client.client import Client
    from mlaas4hep.inference.offline import (
        local_answers,
        predict_files,
        score_file,
        score_names,
    )
    from mlaas4hep.models.bundle import Bundle
    from mlaas4hep.training.inputs import read_files_option

    with Client(tfaas_url=url) if url else nullcontext() as client:
        if client:
            specs, classes = client.specs(model)
            answer = client.answers(model)
        else:
            bundle = Bundle.open(Path(model))
            specs, classes, answer = bundle.specs, bundle.classes, local_answers(bundle)
        names = score_names(classes)
        found = []
        with Bars() as bars, score_file(fout, names) if fout else nullcontext(found.append) as add:
            for scores in predict_files(
                read_files_option(files, Path.cwd()),
                branch or specs.tree,
                [*specs.flat, *specs.jagged],
                answer,
                bars,
            ):
                add(scores)
    if fout:
        typer.echo(f"{fout}: {', '.join(names)}")
        return
    typer.echo(",".join(names))
    for row in np.concatenate(found):
        typer.echo(",".join(f"{value:.6g}" for value in row))

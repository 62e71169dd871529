"""``mlaas4hep predict``: scores for the events of ROOT files, without a service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mlaas4hep.cli.errors import warn
from mlaas4hep.cli.train import Files
from mlaas4hep.core.progress import Bars


def predict(
    model: Annotated[Path, typer.Option(help="Folder of the bundle, or its NAME.tar.gz.")],
    files: Files,
    fout: Annotated[
        Path | None,
        typer.Option(
            help="File for the scores: x.root (a tree to use as friend) or x.csv; default: print."
        ),
    ] = None,
    branch: Annotated[
        str, typer.Option(help="The tree, if it is not the one of the training.")
    ] = "",
    friends: Annotated[
        str,
        typer.Option(
            help="Where friends are, if not where the training's params.json says:"
            " NAME=FILE:TREE, joined by commas, with {dir} and {stem} as there."
        ),
    ] = "",
    selected: Annotated[
        bool,
        typer.Option(
            help="If the training had a selection, write the column `selected`, which needs the"
            " selection's branches."
        ),
    ] = True,
    redirector: Annotated[
        str,
        typer.Option(
            help="Where names that don't exist here are asked for, such as"
            " root://xrootd-cms.infn.it. That of the training's params.json isn't used, as your"
            " credentials are shown there, and a bundle may come from another user."
        ),
    ] = "",
    observers: Annotated[
        bool, typer.Option(help="Write the observers of the training beside the scores.")
    ] = True,
) -> None:
    """Predict for the events of ROOT files; they are padded and normalised as in the training.

    One entry per event, in the order of the files: `score_CLASS` is the probability of CLASS, the
    second of two classes; with more classes there is one for each. A regression has `prediction`,
    in the units of the branch that it predicts. If the training had a selection,
    `selected` is 1 for events that pass it, 0 for others; all are predicted. The training's
    `observers` follow. Replicas are tried as by `train`; a file that can't be read, or is another
    than its list says (entries, bytes, UUID), is an error.

    For example:

        mlaas4hep predict --model my_model --files new.root --fout scores.root
    """
    from mlaas4hep.inference.offline import Answer, LocalAnswers, Marked, predict_files, score_file
    from mlaas4hep.models.bundle import SELECTED, opened, refuse_names
    from mlaas4hep.sources.names import friends_of
    from mlaas4hep.training.inputs import read_files_option, read_friends_option, refuse_input

    listed = read_files_option(files, Path.cwd())
    inputs = listed.names
    if fout:
        refuse_input("--fout", fout, inputs)
    with opened(model) as bundle:
        flat, jagged = bundle.specs.inputs
        branches, marking = [*flat, *jagged], list[str]()
        names, meaning = bundle.manifest.score_names, bundle.manifest.meaning
        tree = branch or bundle.specs.tree
        local = LocalAnswers(bundle)
        answer: Answer = local
        branches += [name for name in local.branches if name not in branches]
        derivation = bundle.specs.derivation
        if selected and derivation and derivation.cuts.selection:
            answer = marked = Marked(local, derivation)
            marking = [name for name in marked.branches if name not in branches]
            names.append(SELECTED)
        kept = bundle.specs.observers if observers else []
        refuse_names(kept, names)
        places = read_friends_option(friends, bundle.specs.selection.get("friends"))
        if fout:
            for name in inputs:
                refuse_input("--fout", fout, list(friends_of(name, tree, places).values()))
        with Bars() as bars, score_file(fout, names, kept) as add:
            for each in predict_files(
                listed,
                tree,
                branches,
                answer,
                bars,
                marking,
                kept,
                places,
                bundle.specs.selection.get("identifier", ()),
                redirector,
                local.kinds,
            ):
                add(*each)
    if local.truncated:
        warn(f"{local.truncated} values beyond the longest list of the specs were dropped")
    for warning in local.warnings:
        warn(warning)
    if fout:
        typer.echo(f"{fout}: {', '.join([*names, *kept])}")
    typer.echo(meaning, err=True)

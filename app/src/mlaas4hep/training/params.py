"""params.json: the parameters of a training, with the prototype's keys."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mlaas4hep.core.errors import MlaasError, UsageError, did_you_mean
from mlaas4hep.data import Cuts, Split
from mlaas4hep.data.preprocess import MOST_SENTINELS, is_bounds
from mlaas4hep.frameworks.base import FitPlan
from mlaas4hep.sources.names import check_friends
from mlaas4hep.sources.selection import IDENTIFIER, REGULAR
from mlaas4hep.training.skipping import allowed_missing
from mlaas4hep.training.weights import WeightsKey

INSTEAD = {
    "max_objects": "max_vec_sizes",
    "max_length": "max_vec_sizes",
    "max_multiplicity": "max_vec_sizes",
    "patience": "early_stopping",
    "min_delta": "early_stopping",
    "earlystopping": "early_stopping",
    **dict.fromkeys(("targets", "regression", "regression_target", "target_branch", "y"), "target"),
    "positive_class": "signal",
    "signal_label": "signal",
    "weight": "weights",
    "event_weight": "weights",
    "sample_weight": "weights",
    "xsec": "weights",
    "cross_section": "weights",
    "class_weight": "class_balance",
    "class_weights": "class_balance",
    "balanced": "class_balance",
    **dict.fromkeys(("cut", "cuts", "filter", "select", "preselection"), "selection"),
    **dict.fromkeys(("variables", "define", "defines", "expressions"), "new_variables"),
    **dict.fromkeys(("sort", "sort_by", "sorting", "order_by"), "order"),
    **dict.fromkeys(("missing_values", "default_value", "fill_value", "sentinels"), "missing"),
    **dict.fromkeys(
        ("normalization", "scaling", "scaler", "normalise", "normalize"), "normalisation"
    ),
    **dict.fromkeys(("clipping", "clip_values", "bounds"), "clip"),
    **dict.fromkeys(("masking", "masks"), "mask"),
    **dict.fromkeys(("spectators", "spectator", "keep", "passthrough"), "observers"),
    **dict.fromkeys(("object_selection", "object_cuts", "objs"), "objects"),
    **dict.fromkeys(("folds", "k_folds", "kfold", "k_fold", "kfolds", "cv"), "split"),
    **dict.fromkeys(("features", "branches_used", "inputs"), "selected_branches"),
    **dict.fromkeys(("tree", "tree_name", "treename"), "branch"),
    **dict.fromkeys(("test_size", "validation_split", "train_size", "val_split"), "split"),
    **dict.fromkeys(("lumi", "luminosity"), "weights"),
    "random_state": "seed",
    "hists": "hist",
    "histograms": "hist",
    **dict.fromkeys(("skipbadfiles", "skip_missing", "ignore_missing"), "skip_bad_files"),
    **dict.fromkeys(("allowed_missing", "max_missing"), "allow_missing"),
    **dict.fromkeys(("friend", "friend_trees", "addfriend", "add_friend"), "friends"),
    "plots": "hist",
}
"""Words of the field that are no keys, and the key that does it."""
IN_MODEL = ("learning_rate", "lr", "optimizer", "optimiser", "loss", "metrics", "layers", "dropout")
"""Words of the field for what the model file decides."""
ALIASES = {"nevents": "nevts", "nevt": "nevts", "root_director": "redirector"}
"""Keys found in the wild, and what they mean."""
LISTS = ("identifier", "selected_branches", "exclude_branches", "observers")


def _key(default: Any, example: Any, expected: str, description: str, **limits: Any) -> Any:
    extra: dict[str, Any] = {"expected": expected}
    return Field(
        default, description=description, examples=[example], json_schema_extra=extra, **limits
    )


class Params(BaseModel):
    """One list of parameters; the description is the documentation."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    nevts: int = _key(
        -1,
        30000,
        "a whole number: -1 or at least 1",
        "Events to use, over all files in proportion to their entries, from 16 places evenly "
        "spaced along each file; -1 is all.",
        ge=-1,
    )
    shuffle: bool = _key(
        True, False, "true or false", "Mix the training events again in every epoch."
    )
    chunk_size: int = _key(
        1000,
        10000,
        "a whole number, at least 1",
        "Events that are read at a time, over all files; fewer than fit 16 MiB are raised to that,"
        " to 8192 at most.",
        ge=1,
    )
    batch_size: int = _key(
        50, 256, "a whole number, at least 1", "Events per step of the optimizer.", ge=1
    )
    epochs: int = _key(
        10, 30, "a whole number, at least 1", "Passes over the whole training part.", ge=1
    )
    early_stopping: dict[str, int | float] | None = _key(
        None,
        {"patience": 5, "min_delta": 0.001},
        'an object {"patience": epochs, "min_delta": loss}, such as {"patience": 5}',
        "Stop after so many epochs in a row (`patience`, at least 1) in which the validation's loss"
        " did not fall by more than `min_delta` (default 0) below its least value; the best epoch"
        " is kept in any case.",
    )
    signal: str | int = _key(
        "",
        "Higgs",
        "the label of one of two classes",
        "Of two classes, the one that the score is the probability of; empty: the second, in the"
        " order of numbers or names.",
    )
    target: str = _key(
        "",
        "gen_energy",
        "the name of a branch or new variable",
        "Train a regression: the branch, or new variable, with one number per event that the model"
        " predicts, in its own units. It is never a feature; an event in which it is NaN, infinite"
        " or `missing` is left out, and counted in the cut flow. Without `--labels`, `signal` and"
        " `class_balance`. Empty: a classification.",
    )
    split: float | dict[str, int | float | list[str]] | None = _key(
        None,
        {"by": ["run", "luminosityBlock", "event"], "folds": 5},
        "a fraction for the test part, or {train, validation, test, by}, or {folds, by}",
        "Parts of the data; by default 0.64 trains, 0.16 validates, 0.20 tests. An event's part is"
        " drawn by its file and entry, or by the branches `by` that identify it"
        ' (`{"by": ["run", "luminosityBlock", "event"]}`): then it keeps its part in files that are'
        ' skimmed, sorted or merged again. `{"folds": 5}` trains as many models, each tested on a'
        " fold that it has not seen; the bundle answers with their mean, `mlaas4hep predict` for"
        " an event of the training files with that of its fold.",
    )
    branch: str = _key(
        "Events",
        "nominal/Events",
        "the name of a tree",
        "Tree to read, with its folder if any, of files that aren't named FILE:TREE.",
    )
    friends: dict[str, str] = _key(
        {},
        {"Friend": "{dir}/{stem}_friend.root:Events"},
        'an object such as {"Friend": "{dir}/{stem}_friend.root:Events"}',
        "Other trees whose entries are those of the events, one by one, by a name of your choice:"
        " their branches are `Friend.branch`, everywhere. FILE:TREE, or FILE if the tree has that"
        " name; `{dir}` and `{stem}` stand for the folder of each file and its name without .root,"
        " `{file}` and `{tree}` for the file itself and its tree"
        " ([friends](../how-to/data.md#friends)).",
    )
    identifier: tuple[str, ...] = _key(
        IDENTIFIER,
        ["runNo", "evtNo"],
        "a list of branch names",
        "Branches that identify an event, left out of the input; empty means the default."
        " Any other branch that you name must be in at least one file.",
    )
    selected_branches: tuple[str, ...] = _key(
        (),
        ["Jet_*", "MET_pt"],
        "a list of branch names",
        "Branches to use, names, wildcards (`Jet_*`) or regular expressions for the whole name that"
        " begin with `re:` (`re:Jet_[^_]+`), here and wherever wildcards are; empty means all.",
    )
    exclude_branches: tuple[str, ...] = _key(
        (),
        ["Jet_puId", "nJet"],
        "a list of branch names, or a file with one per line",
        "Branches to leave out of these, names or wildcards; a name that selected_branches holds in"
        " full stays.",
    )
    observers: tuple[str, ...] = _key(
        (),
        ["mass", "run", "event"],
        "a list of branch names",
        "Branches, names or wildcards, that are not features but are kept beside the scores by"
        " `mlaas4hep predict`, and the report draws how the scores depend on them: an invariant"
        " mass, what identifies the event.",
    )
    max_vec_sizes: dict[str, Annotated[int, Field(ge=1)]] | None = _key(
        None,
        {"Jet": 8, "PF_*": 50},
        'an object of whole numbers, at least 1, such as {"Jet": 8}',
        "Columns of lists, by branch, wildcard or the name that a collection's branches begin with"
        ' (`{"Jet": 8, "PF_*": 50}`): the first values are kept, shorter lists are padded; by'
        " default as many as the longest list has.",
    )
    branches: Literal["same", "common"] = _key(
        "same",
        "common",
        '"same" or "common"',
        "If the files' branches differ: same is an error, common uses those that all have.",
    )
    weights: str | list[Any] | dict[str, Any] | None = _key(
        None,
        {"branch": "genWeight", "files": [1, 0.3]},
        'a branch, a list with a number per file, or {"branch", "files"}',
        'What an event counts in fit, metrics and report: a branch (`"genWeight"`), a number per'
        ' file (`[1, 0.3]`), or both, which are multiplied: `{"branch": ..., "files": ...}`;'
        " `files` may also be numbers by a file's name, dataset, wildcard or label, or"
        ' `{"cross_section", "luminosity", "sum_of_weights"}`, from which'
        " cross_section x luminosity / sum_of_weights is the number.",
    )
    class_balance: bool = _key(
        False,
        True,
        "true or false",
        "Give each class the same total weight in the fit, however many events it has; metrics"
        " don't change.",
    )
    missing: dict[str, float | list[float]] | None = _key(
        None,
        {"Jet_btag": -1, "*": [-999, -9999]},
        'an object of numbers or lists of them, such as {"Jet_btag": -1, "*": [-999, -9999]}',
        "Values that stand for a missing one, besides NaN and infinity, by branch, wildcard or"
        " collection. A missing value becomes 0 in its column and doesn't count for the range;"
        " expressions see it as it is in the file.",
    )
    mask: bool = _key(
        False,
        True,
        "true or false",
        "Give the model another column for each, `COLUMN_missing`: 1 where the value is missing or"
        " padding, else 0.",
    )
    clip: dict[str, list[float | None]] | None = _key(
        None,
        {"Jet_pt": [None, 1000], "Jet_eta": [-5, 5]},
        'an object of two bounds each, the lower first, such as {"Jet_pt": [null, 1000]}',
        "Bounds of values, by branch, wildcard or collection: what lies beyond becomes the bound,"
        " before the range is found.",
    )
    normalisation: Literal["minmax", "standard"] = _key(
        "minmax",
        "standard",
        '"minmax" or "standard"',
        "How a value x becomes the model's: (x - min) / (max - min), or (x - mean) / standard"
        " deviation, of the finite values of its branch.",
    )
    objects: dict[str, str] = _key(
        {},
        {"Jet": "Jet_pt > 30 and abs(Jet_eta) < 2.5"},
        'an object such as {"Jet": "Jet_pt > 30"}',
        "Which entries of lists are kept, by collection, in all its branches: conditions on each"
        " entry ([expressions](../explanation/expressions.md)). Applied first.",
    )
    order: dict[str, str] = _key(
        {},
        {"Jet": "Jet_pt"},
        'an object such as {"Jet": "Jet_pt"}',
        "By what the entries of lists are sorted, the greatest first, by collection, in all its"
        ' branches: a number for each entry (`"-Jet_pt"`: the smallest first). Applied second.',
    )
    new_variables: dict[str, str] = _key(
        {},
        {"HT": "sum(Jet_pt)"},
        'an object such as {"HT": "sum(Jet_pt)"}',
        "Features that are computed, by name, of what objects and order left; later ones may use"
        " earlier ones. Applied third.",
    )
    selection: str = _key(
        "",
        "count(Jet_pt) > 1 and MET_pt > 50",
        'a text such as "count(Jet_pt) > 1 and MET_pt > 50"',
        "Events to use: one condition per event, of branches and new variables; empty means all."
        " Applied last; nevts, split and specs apply to what it leaves.",
    )
    skip_bad_files: bool = _key(
        False,
        True,
        "true or false",
        "Leave out a file that can't be read (missing, without the tree, damaged, its server"
        " fails), whenever that is noticed, as a whole: the training is the same as if the list"
        " hadn't named it, and says what is lost ([the ledger](../explanation/ledger.md)). By"
        " default it is an error.",
    )
    allow_missing: float | str | None = _key(
        None,
        "1%",
        'a share from 0 to 1, such as "1%" or 0.01',
        "With skip_bad_files: the share of all events that may be missing. A file that was never"
        " opened counts as the largest of the others. null: any, as long as each class has a file.",
    )
    redirector: str = _key(
        "",
        "root://xrootd-cms.infn.it",
        "the address of a server, such as root://xrootd-cms.infn.it",
        "Prefix of names that start with /store or are relative and not here; empty: none.",
    )
    nan: float | None = _key(
        None, -999, "a number or null", "Accepted for old files; missing values always become 0."
    )
    seed: int = _key(
        21,
        7,
        "a whole number, at least 0",
        "The same seed gives the same parts and order of events.",
        ge=0,
        lt=2**63,
    )
    verbose: int = _key(
        0, 1, "0, 1 or 2", "1 and 2 let the framework print its own lines.", ge=0, le=2
    )
    hist: str | None = _key(
        None,
        "pdfs",
        "the name of a folder",
        "Folder for the distribution of each branch by class, before and after normalising, drawn"
        " by `train` (a file's own: `mlaas4hep inspect --plot`):"
        " `BRANCH.png`, and `distributions.root` with all histograms. In a job of the service it is"
        " always `distributions` in the bundle. null or empty: none.",
    )

    @property
    def parts(self) -> Split:
        """``split`` as fractions."""
        return Split.parse(self.split)

    @property
    def allowed_missing(self) -> float | None:
        """The share of the events that may be missing; None if a bad file is an error."""
        return allowed_missing(self.skip_bad_files, self.allow_missing)

    @property
    def weights_key(self) -> WeightsKey | None:
        """``weights``, understood."""
        return WeightsKey.parse(self.weights)

    @property
    def cuts(self) -> Cuts:
        """``objects``, ``new_variables`` and ``selection``, parsed."""
        return Cuts.parse(self.objects, self.new_variables, self.selection, self.order)

    @property
    def plan(self) -> FitPlan:
        """What the framework needs to know."""
        stopping = self.early_stopping or {}
        return FitPlan(self.epochs, self.batch_size, self.seed, self.verbose, **stopping)  # type: ignore[arg-type]

    def _refuse_classes(self, where: str) -> None:
        for key in ("signal", "class_balance"):
            if (value := getattr(self, key)) != type(self).model_fields[key].default:
                raise UsageError(
                    f"{where}: target and {key}: {self.target!r} is predicted as a number, and"
                    f" {key} = {_shown(value)} is about classes",
                    "Leave one of the two keys out.",
                )

    def _check_patterns(self, where: str) -> None:
        for key in (*LISTS, "max_vec_sizes", "missing", "clip"):
            for name in getattr(self, key) or ():
                try:
                    re.compile(name.removeprefix(REGULAR) if name.startswith(REGULAR) else "")
                except (re.error, RecursionError, OverflowError) as error:
                    raise UsageError(
                        f"{where}: {key}: {name[:100]!r} is no regular expression: {error}"
                    ) from None

    @classmethod
    def load(cls, path: Path, options: Mapping[str, Any] | None = None) -> tuple[Params, list[str]]:
        """Read params.json: the parameters, and warnings about aliases; ``options`` replace keys.

        Raises UsageError naming the file, and line, key, value and what was expected.
        """
        values = _read(path)
        if options and isinstance(values, dict):
            values |= options
        return cls.parse(values, path.name, path.parent)

    @classmethod
    def parse(cls, values: Any, where: str, folder: Path) -> tuple[Params, list[str]]:
        """The parameters in ``values``; a list may be in a file named relative to ``folder``."""
        if not isinstance(values, dict):
            raise UsageError(f"{where} holds {_shown(values)}, expected an object: {{...}}")
        values = dict(values)
        warnings = _rename(values, where)
        for key in set(values) - set(cls.model_fields):
            known = [*cls.model_fields, *ALIASES]
            raise UsageError(
                f"{where}: unknown key {key!r}",
                _instead(key) or did_you_mean(key, known),
            )
        for key in LISTS:
            if key in values:
                values[key] = _names(values[key], folder if key == "exclude_branches" else None)
        if not values.get("identifier", True):
            del values["identifier"]
        if isinstance(values.get("split"), int) and not isinstance(values["split"], bool):
            values["split"] = float(values["split"])
        try:
            params = cls(**values)
            params.parts, params.weights_key, params.cuts, params.allowed_missing  # noqa: B018  (checks them)
            check_friends(params.friends)
        except ValidationError as error:
            key = str(error.errors()[0]["loc"][0])
            raise _wrong(where, key, values[key]) from None
        except MlaasError as error:
            raise UsageError(f"{where}: {error.message}", error.remedy) from None
        if params.early_stopping is not None and not _is_stopping(params.early_stopping):
            raise _wrong(where, "early_stopping", params.early_stopping)
        if params.target:
            params._refuse_classes(where)
        if params.nevts == 0:
            raise _wrong(where, "nevts", 0)
        if params.clip is not None and not all(map(is_bounds, params.clip.values())):
            raise _wrong(where, "clip", values["clip"])
        for name, stand_ins in (params.missing or {}).items():
            if isinstance(stand_ins, list) and len(stand_ins) > MOST_SENTINELS:
                raise UsageError(
                    f"{where}: missing: {name!r} has {len(stand_ins)} values, more than"
                    f" {MOST_SENTINELS}"
                )
        params._check_patterns(where)
        if params.nan is not None:
            warnings.append(f"{where}: 'nan' has no effect: missing values become 0")
        return params, warnings


def _instead(key: str) -> str:
    """Where what the key means is said; empty if it means nothing known."""
    word = key.lower().replace("-", "_")
    if word in IN_MODEL:
        return "model.py sets it: the function model returns a model that has it."
    return f"Use the key {INSTEAD[word]!r}." if word in INSTEAD else ""


def _read(path: Path) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        if twice := next((key for key in keys if keys.count(key) > 1), None):
            raise UsageError(f"{path.name}: the key {twice!r} is there twice")
        return dict(pairs)

    def refuse(name: str) -> None:
        raise UsageError(f"{path.name}: {name} is not JSON", "Leave the key out, or write null.")

    try:
        return json.loads(
            path.read_text(encoding="utf-8-sig"), object_pairs_hook=once, parse_constant=refuse
        )
    except FileNotFoundError:
        raise UsageError(f"no such file: {path}", "Give the parameters with --params.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} can't be read: {error}") from None
    except json.JSONDecodeError as error:
        raise UsageError(
            f"{path.name}: line {error.lineno}, column {error.colno}: not JSON: {error.msg}",
            "Names and texts need double quotes; there is no comma before } or ].",
        ) from None
    except RecursionError:
        raise UsageError(f"{path.name}: nested too deeply") from None


def _rename(values: dict[str, Any], where: str) -> list[str]:
    """Replace aliases by the keys they mean; returns the warnings."""
    warnings = []
    for alias, key in ALIASES.items():
        if alias not in values:
            continue
        if key in values:
            raise UsageError(f"{where}: {alias!r} and {key!r} mean the same", f"Keep {key!r}.")
        values[key] = values.pop(alias)
        warnings.append(f"{where}: {alias!r} is an old name, read as {key!r}")
    return warnings


def _names(value: Any, folder: Path | None) -> Any:
    """A list of names from a list, a comma list or a file; anything else as it is."""
    if isinstance(value, str):
        if folder is not None and value and (text := _text_of(folder, value)) is not None:
            lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
            value = ",".join(lines)
        value = value.split(",")
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return tuple(name.strip() for name in value if name.strip())
    return value


def _text_of(folder: Path, name: str) -> str | None:
    """What a file with that name holds; None where there is none."""
    try:
        if not (folder / name).is_file():
            return None
    except (OSError, ValueError):  # no file has such a name
        return None
    try:
        return (folder / name).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{folder / name} can't be read: {error}") from None


def _is_stopping(value: dict[str, int | float]) -> bool:
    patience, min_delta = value.get("patience"), value.get("min_delta", 0)
    known = set(value) <= {"patience", "min_delta"}
    return known and isinstance(patience, int) and patience >= 1 and 0 <= min_delta < math.inf


def _wrong(where: str, key: str, value: Any) -> UsageError:
    extra = Params.model_fields[key].json_schema_extra
    expected = extra["expected"] if isinstance(extra, dict) else ""
    return UsageError(f"{where}: {key} is {_shown(value)}, expected {expected}")


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 100 else text[:100] + "..."

"""One pass over the files: the specs, and the classes of a label branch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.core.errors import DataError
from mlaas4hep.core.progress import Progress, silent
from mlaas4hep.data import Specs, SpecsScan
from mlaas4hep.sources.root import RootFile
from mlaas4hep.sources.selection import Selection, select

MAX_CLASSES = 1000
"""A branch with more different values than that is taken for a quantity, not a label."""
_STEP = 10_000


@dataclass(frozen=True)
class LabelValues:
    """What a label branch holds: its different values, sorted, and how often each occurs."""

    branch: str
    values: list[str | int | float]
    counts: list[int]


def scan(
    files: Sequence[RootFile], selection: Selection, nevts: int = -1, progress: Progress = silent
) -> tuple[Specs, LabelValues | None]:
    """The specs of the first ``nevts`` events of each file (-1 = all), in one pass.

    With ``selection.label_branch`` also that branch's values. Memory is that of a Reader,
    independent of the size of the files. Raises DataError as ``select`` and ``SpecsScan.result``
    do, and naming a label branch with missing or with too many different values.
    """
    chosen = select(files, selection)
    label = selection.label_branch
    names = [*chosen.flat, *chosen.jagged, *([label] if label else [])]
    events_of = [f.entries if nevts < 0 else min(nevts, f.entries) for f in files]
    done, total = 0, sum(events_of)
    found = SpecsScan(
        selection.tree,
        chosen.flat,
        chosen.jagged,
        [file.record for file in files],
        selection.as_dict() | {"nevts": nevts},
    )
    labels: Counter[str | int | float] = Counter()
    for position, (file, count) in enumerate(zip(files, events_of, strict=True)):
        reader = file.reader(names, stop=count)
        while reader.position < count:
            events = reader.take(_STEP)
            found.add(position, events)
            if label:
                labels.update(_counted(np.asarray(events[label]), file.name, label))
                if len(labels) > MAX_CLASSES:
                    raise DataError(
                        f"{file.name}: {label} has more than {MAX_CLASSES} different values",
                        "Take labels from a branch with one value per class.",
                    )
            progress("specs", done + reader.position, total)
        done += count
    specs = found.result()
    if not label:
        return specs, None
    values = sorted(labels)
    return specs, LabelValues(label, values, [labels[v] for v in values])


def _counted(values: NDArray[np.generic], file: str, label: str) -> dict[str | int | float, int]:
    """How often each value occurs; bool counts as 0 and 1."""
    if values.dtype.kind == "O":
        return Counter(values.tolist())
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise DataError(
            f"{file}: the label branch {label} has missing values (NaN or infinite)",
            "Take labels from another branch.",
        )
    different, counts = np.unique(values, return_counts=True)
    if different.dtype.kind == "b":
        different = different.astype(np.int8)
    return dict(zip(different.tolist(), counts.tolist(), strict=True))

"""What a model sees, as a file for other programs: NumPy's .npz or Parquet."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.core.errors import UsageError
from mlaas4hep.core.files import beside, sync
from mlaas4hep.core.progress import Progress, silent
from mlaas4hep.training.library import Data, Rows

_GROUP_BYTES = 32 << 20


class _Writer(Protocol):
    def add(self, rows: Rows) -> None: ...


def check(out: Path) -> None:
    """Refuse an ``out`` that can't be written, before anything is read.

    Raises UsageError on another ending than .npz and .parquet, on a folder that is no folder or
    can't be written, and on Parquet without pyarrow; LimitError where the disk is full.
    """
    if out.suffix not in (".npz", ".parquet"):
        raise UsageError(f"--out {out}: unknown ending {out.suffix!r}", "Use .npz or .parquet.")
    if out.is_dir():
        raise UsageError(f"--out {out} is a folder", "Name a file.")
    if out.suffix == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError:
            raise UsageError(
                "Parquet needs pyarrow, which is not installed", "pip install 'mlaas4hep[parquet]'"
            ) from None
    with beside(out):
        pass


def export(data: Data, out: Path, progress: Progress = silent) -> int:
    """Write all events to ``out``, NAME.npz or NAME.parquet; the number of them.

    Memory is that of a few blocks of rows. The file is there when it is whole: what fails leaves
    none, and an older one as it was. Raises as ``check`` does, also halfway. Phase "exporting"
    counts events.
    """
    check(out)
    write = _npz if out.suffix == ".npz" else _parquet
    done, total = 0, sum(data.events.values())
    with beside(out) as new:
        with write(data, new, total) as writer:
            for rows in data.rows():
                writer.add(rows)
                done += len(rows.y)
                progress("exporting", done, total)
        sync(new)
        new.replace(out)
    return done


class _Npz:
    """Arrays that grow in files of their own, as a zip can only write one after the other."""

    def __init__(self, data: Data, folder: Path, events: int, stack: ExitStack) -> None:
        columns, y_type = len(data.columns), data.y_type
        kinds: dict[str, tuple[Any, tuple[int, ...]]] = {
            "x": (np.float32, (events, columns)),
            "mask": (np.int8, (events, columns)),
            "y": (y_type, (events,)),
            "w": (np.float64, (events,)),
            "part": (np.uint8, (events,)),
            "file": (np.int32, (events,)),
            "entry": (np.int64, (events,)),
        }
        self._streams = {}
        for name, (kind, shape) in kinds.items():
            stream = stack.enter_context((folder / f"{name}.npy").open("wb"))
            descr = np.lib.format.dtype_to_descr(np.dtype(kind))
            header = {"descr": descr, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_2_0(stream, header)
            self._streams[name] = stream

    def add(self, rows: Rows) -> None:
        """Append the rows."""
        file = np.full(len(rows.y), rows.file, np.int32)
        for name, array in (rows._asdict() | {"file": file}).items():
            # Not tofile, whose error doesn't say that the disk is full.
            self._streams[name].write(np.ascontiguousarray(array).data)


@contextmanager
def _npz(data: Data, path: Path, events: int) -> Iterator[_Writer]:
    """Members x, mask, y, w, part, file, entry; columns, classes and files are texts.

    For a regression the text target and the numbers target_mean and target_std.
    """
    folder = path.parent
    with ExitStack() as stack:
        yield _Npz(data, folder, events, stack)
    for name in ("columns", "classes", "files"):
        np.save(folder / f"{name}.npy", np.array(getattr(data, name), np.str_))
    for name, value in _of_target(data).items():
        np.save(folder / f"{name}.npy", np.array(value))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for member in sorted(folder.glob("*.npy")):
            archive.write(member, member.name)
            member.unlink()


def _of_target(data: Data) -> dict[str, str | float]:
    """What makes of y the values of the target's branch, by the name it has in a file."""
    if (target := data.target) is None:
        return {}
    return {"target": target.branch, "target_mean": target.mean, "target_std": target.std}


class _Parquet:
    """Row groups of about ``_GROUP_BYTES``."""

    def __init__(self, data: Data, writer: Any, schema: Any) -> None:
        self._data, self._writer, self._schema = data, writer, schema
        self._held: list[Rows] = []
        self._bytes = 0

    def add(self, rows: Rows) -> None:
        """Keep the rows until there are enough for a group."""
        self._held.append(rows)
        self._bytes += rows.x.nbytes
        if self._bytes > _GROUP_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what is kept."""
        import pyarrow as pa

        if not self._held:
            return
        x, mask = (np.concatenate([getattr(r, k) for r in self._held]) for k in ("x", "mask"))
        features = [
            pa.array(np.ascontiguousarray(x[:, i]), mask=mask[:, i].astype(bool))
            for i in range(x.shape[1])
        ]
        y, w, part, entry = (
            np.concatenate([getattr(r, k) for r in self._held]) for k in ("y", "w", "part", "entry")
        )
        file = np.repeat([r.file for r in self._held], [len(r.y) for r in self._held])
        others = [y, w, part, _texts(self._data.files, file), entry]
        table = pa.table([*features, *map(pa.array, others)], schema=self._schema)
        self._writer.write_table(table)
        self._held, self._bytes = [], 0


def _texts(names: list[str], places: NDArray[np.int64]) -> Any:
    import pyarrow as pa

    return pa.DictionaryArray.from_arrays(pa.array(places.astype(np.int32)), pa.array(names))


@contextmanager
def _parquet(data: Data, path: Path, events: int) -> Iterator[_Writer]:
    """A float32 column for each of the model's, null where it is missing or padding.

    Beside them ``_y``, ``_w``, ``_part``, ``_file`` and ``_entry``; classes, or what the target is,
    are in the metadata.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {
        "_y": pa.from_numpy_dtype(data.y_type),
        "_w": pa.float64(),
        "_part": pa.uint8(),
        "_file": pa.dictionary(pa.int32(), pa.string()),
        "_entry": pa.int64(),
    }
    fields = [(name, pa.float32()) for name in data.columns] + list(kinds.items())
    if len({name for name, _ in fields}) < len(fields):
        raise UsageError("a column has the name of one of " + ", ".join(kinds), "Write .npz.")
    of_target = {key: str(value) for key, value in _of_target(data).items()}
    schema = pa.schema(fields, metadata={"classes": "\n".join(data.classes)} | of_target)
    with pq.ParquetWriter(path, schema) as writer:
        rows = _Parquet(data, writer, schema)
        yield rows
        rows.flush()

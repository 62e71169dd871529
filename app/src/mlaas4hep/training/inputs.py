"""The options --files, --labels and --friends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mlaas4hep.core.errors import UsageError, did_you_mean
from mlaas4hep.sources.filelist import FileList
from mlaas4hep.sources.listing import Given, list_files
from mlaas4hep.sources.names import check_friends, local, split_tree

_TEXT = (".txt", ".csv", ".lst", ".list", ".dat")


def read_files_option(given: FileList | Given, cwd: Path) -> FileList:
    """The ROOT files that --files names, as ``list_files`` reads it; raises UsageError."""
    return given if isinstance(given, FileList) else list_files(given, cwd, "--files")


def read_labels_option(text: str, cwd: Path) -> list[str]:
    """Labels from --labels: one per file, or the name of the branch that holds the label.

    None of an empty text: a regression has none.
    """
    return _read(text, cwd, "--labels") if text.strip() else []


def read_friends_option(text: str, trained: object) -> dict[str, str]:
    """Where friends are, by name: as ``trained`` (the bundle's) says, unless --friends does.

    Raises UsageError on a text other than NAME=FILE, joined by commas, on a friend that the
    training had not, and as ``check_friends``.
    """
    known = trained if isinstance(trained, Mapping) else {}
    found = {str(name): str(place) for name, place in known.items()}
    for item in filter(None, map(str.strip, text.split(","))):
        name, equals, place = item.partition("=")
        if not equals:
            raise UsageError(f"--friends: {item!r} is not NAME=FILE", "Write NAME=FILE:TREE.")
        if (name := name.strip()) not in found:
            about = did_you_mean(name, found) if found else "It had none."
            raise UsageError(f"--friends: the training had no friend {name!r}", about)
        found[name] = place.strip()
    check_friends(found)
    return found


def _read(text: str, cwd: Path, option: str) -> list[str]:
    single = "," not in text and "\0" not in text
    file = cwd / local(text.strip())
    items = text.split(",")
    if single and file.is_file():
        items = _lines(file, option)
    elif single and file.suffix in _TEXT:
        raise UsageError(f"{option}: no such file: {text}", f"Looked in {cwd}.")
    names = [item.strip() for item in items]
    names = [name for name in names if name and not name.startswith("#")]
    if not names:
        raise UsageError(f"{option}: {text} names nothing", "Write one name per line.")
    return names


def _lines(file: Path, option: str) -> list[str]:
    try:
        return file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{option}: {file} is not a text file: {error}") from None


def refuse_input(option: str, out: Path, names: Sequence[str]) -> None:
    """UsageError if ``out`` is one of the files that are read, also of one named FILE:TREE."""
    if out.resolve() in {Path(split_tree(local(name))[0]).resolve() for name in names}:
        raise UsageError(f"{option} {out} is one of the files to read", "Name another file.")

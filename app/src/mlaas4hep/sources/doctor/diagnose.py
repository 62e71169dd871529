"""The entry: which steps a name needs."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path

from mlaas4hep.core.errors import DataError
from mlaas4hep.core.units import size
from mlaas4hep.sources.doctor.bucket import diagnose_bucket
from mlaas4hep.sources.doctor.content import HEAD, attempt, look_at_head, look_at_trees
from mlaas4hep.sources.doctor.steps import BrokenError, Diagnosis, State, Step
from mlaas4hep.sources.doctor.web import diagnose_web
from mlaas4hep.sources.doctor.xrootd import diagnose_xrootd
from mlaas4hep.sources.names import local, missing, scheme_of, split_tree

MOST_SECONDS = 40
"""For a diagnosis."""
_SECONDS = 15


def diagnose(name: str) -> Diagnosis:
    """Find out whether a file (path or URL, or FILE:TREE) can be read, and if not, why.

    It takes MOST_SECONDS at most: a server that sends a byte now and then ends no step.
    """
    file, _ = split_tree(local(name))
    found, unexpected = Diagnosis(file), list[Exception]()

    def look() -> None:
        try:
            _take_steps(found, file)
        except BrokenError:
            pass
        except DataError as error:  # such as a variable that names no file
            found.steps.append(Step("environment", State.FAILED, error.message, error.remedy))
        except Exception as error:
            unexpected.append(error)

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    looking.join(MOST_SECONDS)
    if unexpected:
        raise unexpected[0]
    if looking.is_alive():
        found = found.so_far()
        last = found.steps[-1].what if found.steps else "the address"
        with suppress(BrokenError):
            found.fail(
                "server",
                f"{found.name}: the diagnosis has no end, and was left after {MOST_SECONDS} s; the"
                f" last step that ended is {last}",
                "The server, or one on the way to it, answers very slowly: name another replica.",
            )
    found.end()
    return found


def _take_steps(diagnosis: Diagnosis, file: str) -> None:
    scheme = scheme_of(file)
    if not scheme:
        _diagnose_path(diagnosis, file)
    elif scheme in ("root", "roots", "xroot", "xroots", "xrootd"):
        diagnose_xrootd(diagnosis, file)
    elif scheme in ("http", "https", "dav", "davs"):
        diagnose_web(diagnosis, file)
    elif scheme == "s3":
        diagnose_bucket(diagnosis, file)
    else:
        diagnosis.fail("address", f"{scheme}:// is not supported: {diagnosis.name}",
                       "Use root://, https:// or s3://.")  # fmt: skip


def _diagnose_path(diagnosis: Diagnosis, name: str) -> None:
    path = Path(name)
    try:
        with path.open("rb") as stream:
            head, length = stream.read(HEAD), os.fstat(stream.fileno()).st_size
    except FileNotFoundError:
        error = missing(name, "Give a path that exists, or a URL such as root://HOST//PATH.")
        diagnosis.fail("file", error.message, error.remedy)
    except IsADirectoryError:
        diagnosis.fail("file", f"{name} is a folder", "Name ROOT files.")
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        diagnosis.fail("file", f"{name} can't be read: {why}", "Name a file that you may read.")
    diagnosis.ok("file", f"{path.absolute()}, {size(length)}", size=length)
    look_at_head(diagnosis, head, length)
    look_at_trees(diagnosis, attempt(name, _SECONDS))

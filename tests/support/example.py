"""A user's files, made with the application's own example: run with the application's Python.

    .venv/bin/python tests/support/example.py FOLDER

writes FOLDER/upload (two ROOT files and the four files that describe a training) and
FOLDER/events.json (events of another seed, as they are in the tree, with their truth).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import uproot

from mlaas4hep.demo.run import Inputs, five_files
from mlaas4hep.demo.simulate import write_files

EVENTS = 500


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    signal, background, mixture = write_files(folder, n=4000)
    five_files(folder / "upload", Inputs([signal, background], ["1", "0"]))
    tree = uproot.open(mixture)["events"]
    names = tree.keys()
    arrays = {name: tree[name].array(entry_stop=EVENTS).to_list() for name in names}
    truth = arrays.pop("truth")
    (folder / "events.json").write_text(json.dumps({"events": arrays, "truth": truth}))


main(Path(sys.argv[1]))

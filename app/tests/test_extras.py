"""Each part runs with what its extra installs, and imports nothing beyond it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires

import pytest

LOOK = """
import json, sys
{statement}
print(json.dumps(sorted({{name.partition(".")[0] for name in sys.modules}})))
"""


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def installed_with(extra: str) -> set[str]:
    """The distributions that ``pip install mlaas4hep[extra]`` brings here."""
    from packaging.requirements import Requirement

    found: set[str] = set()
    todo = [("mlaas4hep", frozenset({extra}))]
    seen = set()
    while todo:
        name, extras = todo.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        found.add(name)
        try:
            needs = requires(name) or []
        except PackageNotFoundError:
            continue
        for line in needs:
            need = Requirement(line)
            if not need.marker or any(need.marker.evaluate({"extra": e}) for e in extras | {""}):
                todo.append((canonical(need.name), frozenset(need.extras)))
    return found


@pytest.mark.parametrize(
    ("extra", "statement"),
    [
        ("data", "import mlaas4hep.sources.scan, mlaas4hep.sources.inspect, mlaas4hep.data"),
        ("serve", "import mlaas4hep.web.tfaas"),
        ("server", "import mlaas4hep.web.server, mlaas4hep.jobs.runner, mlaas4hep.client.client"),
        ("server", "import mlaas4hep.grid.renewer"),
        ("train", "import mlaas4hep.training.train, mlaas4hep.inference.offline, keras, sklearn"),
    ],
)
def test_a_part_imports_only_what_its_extra_installs(extra: str, statement: str) -> None:
    out = subprocess.run(
        [sys.executable, "-c", LOOK.format(statement=statement)],
        capture_output=True,
        text=True,
        check=True,
        timeout=240,
    ).stdout
    distributions = packages_distributions()
    imported = {
        canonical(d) for m in json.loads(out.splitlines()[-1]) for d in distributions.get(m, [])
    }
    # Loaded by .pth files of this environment, or by others where they happen to be installed.
    optional = {
        "setuptools",
        "editables",
        "pyarrow",
        "cloudpickle",
        "orjson" if extra == "server" else "",
    }
    allowed = installed_with(extra)
    assert len(imported) > 3
    # A module that several distributions provide is allowed when one of them is.
    foreign = imported - allowed - optional
    shared = {
        d for m, ds in distributions.items() if {canonical(x) for x in ds} & allowed for d in ds
    }
    assert foreign - {canonical(d) for d in shared} == set()

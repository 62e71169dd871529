"""params.json of any content: understood, or refused with a UsageError that names the file.

300 cases; ``make soak`` tries 10,000 others.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from mlaas4hep.core.errors import UsageError
from mlaas4hep.training.params import ALIASES, INSTEAD, Params
from sources.test_fuzz import CASES, FIRST

GOOD: dict[str, Any] = {
    "branch": "Events",
    "epochs": 5,
    "split": {"train": 0.5, "validation": 0.2, "test": 0.3, "by": ["run", "event"]},
    "selected_branches": ["Jet_*", "re:MET_(pt|phi)"],
    "max_vec_sizes": {"Jet": 8},
    "missing": {"*": -999, "Jet_btag": [-1, -2]},
    "clip": {"Jet_pt": [None, 1000]},
    "objects": {"Jet": "Jet_pt > 30 and abs(Jet_eta) < 2.4"},
    "order": {"Jet": "Jet_pt"},
    "new_variables": {"HT": "sum(Jet_pt)", "r": "Jet_pt / HT"},
    "selection": "count(Jet_pt) >= 2 and HT > 200",
    "weights": {"branch": "w", "files": {"a": 1, "b": {"cross_section": 1.0}}},
    "early_stopping": {"patience": 3},
}
VALUES: list[Any] = [
    *(None, True, 0, -1, 1, 10**30, -1e308, 1e-320, 0.5, [], {}, [[]], [None], {"": {}}),
    *("", "x", "a b", "*", "[", "re:(", "\0", "é", "${x}", "../..", "Jet_pt[", "not"),
    *({"a": [1, "b"]}, "(" * 300, "x" * 5000, "1" * 400, "__import__('os')"),
]
SIGNS = ["", "(", ")", "]", "`", "**", ".", ",", "\\", "\n", "9" * 9]
JSON = ["", "}", '"', "\\u0000", "NaN", "1e999", "\ud800"]
KEYS = [*Params.model_fields, *ALIASES, *INSTEAD, "", "é", "x" * 300, "__class__"]


def changed(value: Any, chance: random.Random, depth: int = 0) -> Any:
    """The value, with something in it that is not what it was."""
    if isinstance(value, dict) and value and depth < 3 and chance.random() < 0.7:
        result = dict(value)
        key = chance.choice([*value])
        match chance.randrange(3):
            case 0:
                result[chance.choice(KEYS)] = chance.choice(VALUES)
            case 1:
                result.pop(key)
            case _:
                result[key] = changed(result[key], chance, depth + 1)
        return result
    if isinstance(value, list) and value and chance.random() < 0.6:
        return [*value[1:], changed(value[0], chance, depth + 1)]
    if isinstance(value, str) and value and chance.random() < 0.6:
        at = chance.randrange(len(value))
        return value[:at] + chance.choice(SIGNS) + value[at + 1 :]
    return chance.choice(VALUES)


def test_params_are_understood_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "params.json"
    refused = 0
    for case in range(FIRST, FIRST + CASES):
        chance = random.Random(case)
        value: Any = GOOD | {"weights": "w"}
        for _ in range(chance.randrange(1, 4)):
            value = changed(value, chance)
        text = json.dumps(value)
        if chance.random() < 0.2:
            at = chance.randrange(len(text))
            text = text[:at] + chance.choice(JSON) + text[at + 1 :]
        path.write_text(text, errors="surrogatepass")
        try:
            Params.load(path)
        except UsageError as error:
            told = str(error.message)
            refused += 1
            if "params.json" not in told or len(told) > 3000:
                raise AssertionError(f"case {case}: {told[:500]}") from error
        except Exception as error:
            raise AssertionError(f"case {case}: {type(error).__name__}: {error}: {text}") from error
    print(f"{refused} of {CASES} params.json refused")
    assert CASES // 3 < refused < CASES

"""Say everything that is wrong with a filled-in template (`make check-template`).

The dodas command looks at names of keys only, and the Infrastructure Manager finds some values
wrong when the machine is there already, one at a time.
"""

from __future__ import annotations

import logging
import re
import sys
from pathlib import Path
from typing import Any

import generate
import yaml
from toscaparser.common.exception import ExceptionCollector, ValidationError
from toscaparser.parameters import Input
from toscaparser.tosca_template import ToscaTemplate


def problems(text: str) -> list[str]:
    """What must be put right; empty if the template can be given to dodas."""
    try:
        tree = yaml.safe_load(text)
        inputs = dict(tree["topology_template"]["inputs"])
    except yaml.YAMLError as error:
        return [f"it is no YAML: {error}"]
    except (TypeError, KeyError, ValueError):
        return ["it is empty, or no template: topology_template with inputs is missing"]
    found = []
    for name, given in inputs.items():
        if problem := of_input(name, given):
            found.append(f"{name} {problem}")
            given.pop("default", None)  # said once is enough
    return found + of_template(tree)


def of_input(name: str, given: dict[str, Any]) -> str:
    """What is wrong with the value of an input."""
    option, value = generate.options().get(name), given.get("default")
    if not option:
        return "is no input of this release"
    if value is None:
        return "has no default; it must be given"
    try:
        Input(name, given).validate(value)
    except ValueError as error:
        return f"is {value!r}: {error}"
    rule = generate.rule(option)
    return f"is {value!r}; it must be {rule[1]}" if rule and not re.search(rule[0], value) else ""


def of_template(tree: dict[str, Any]) -> list[str]:
    """What the parser of the Infrastructure Manager says of the rest."""
    try:
        ToscaTemplate(yaml_dict_tpl=tree)
    except ValidationError:
        return [str(error).strip("'") for error in ExceptionCollector.exceptions]
    return []


def main() -> None:
    """Entry point."""
    logging.disable(logging.WARNING)
    path = Path(sys.argv[1])
    if found := problems(path.read_text()):
        sys.exit("\n  - ".join([f"{path} is not ready; put right:", *found]))
    print(f"{path} is ready for dodas create")


if __name__ == "__main__":
    main()

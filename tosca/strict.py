"""What `dodas validate` checks before every create: keys at any level, names of properties.

The command reads a template into structures of Go, strictly: these are their keys. It looks at no
capability, and at the default of an input as a text, a list of texts or a map of texts only.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from toscaparser.elements.entity_type import EntityType

Check = Callable[[Any, str], None]


class RefusedError(Exception):
    """The template is not one that dodas reads: where, and why."""


def text(value: Any, where: str) -> None:
    """A single value; Go reads numbers and booleans as texts."""
    if isinstance(value, dict | list):
        raise RefusedError(f"{where} must be a single value, not {value!r}")


def boolean(value: Any, where: str) -> None:
    """True or false."""
    if not isinstance(value, bool):
        raise RefusedError(f"{where} must be true or false, not {value!r}")


def anything(value: Any, where: str) -> None:
    """Whatever YAML can say."""


def many(check: Check) -> Check:
    """A list."""

    def look(value: Any, where: str) -> None:
        if not isinstance(value, list):
            raise RefusedError(f"{where} must be a list, not {value!r}")
        for number, item in enumerate(value):
            check(item, f"{where}[{number}]")

    return look


def named(check: Check) -> Check:
    """A map from names that the author chooses."""

    def look(value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise RefusedError(f"{where} must be a map, not {value!r}")
        for name, item in value.items():
            check(item, f"{where}.{name}")

    return look


def keys(others: Check | None = None, /, **known: Check) -> Check:
    """A map whose keys are given; `others` checks those that are not."""

    def look(value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise RefusedError(f"{where} must be a map, not {value!r}")
        for name, item in value.items():
            check = known.get(name, others)
            if not check:
                raise RefusedError(
                    f"{where}.{name} is not known; known are {', '.join(sorted(known))}"
                )
            # Go takes an empty value for a missing one.
            if item is not None:
                check(item, f"{where}.{name}")

    return look


def one_of(*checks: Check) -> Check:
    """The first that fits."""

    def look(value: Any, where: str) -> None:
        problem: RefusedError | None = None
        for check in checks:
            try:
                return check(value, where)
            except RefusedError as refused:
                problem = refused
        raise problem or RefusedError(where)

    return look


OPERATORS = (
    "equal",
    "greater_than",
    "greater_or_equal",
    "less_than",
    "less_or_equal",
    "in_range",
    "valid_values",
    "length",
    "min_length",
    "max_length",
    "pattern",
)


def constraint(value: Any, where: str) -> None:
    """One operator with its values."""
    if not isinstance(value, dict) or len(value) != 1 or next(iter(value)) not in OPERATORS:
        raise RefusedError(
            f"{where} must be one of {', '.join(OPERATORS)} with its value, not {value!r}"
        )


DEFINED = one_of(
    text,
    keys(
        value=anything,
        type=text,
        description=text,
        required=boolean,
        status=text,
        constraints=many(constraint),
        entry_schema=named(anything),
        default=one_of(text, named(text), many(text)),
    ),
)
ATTRIBUTE = keys(type=text, description=text, default=anything, status=text, entry_schema=anything)
OPERATION = one_of(text, keys(inputs=named(anything), description=text, implementation=text))
INTERFACE = keys(OPERATION, type=text, inputs=named(anything))
ARTIFACT = one_of(
    text, keys(type=text, file=text, repository=text, description=text, deploy_path=text)
)
METADATA = named(text)

CAPABILITY = one_of(
    text,
    keys(
        type=text,
        description=text,
        properties=named(DEFINED),
        attributes=named(ATTRIBUTE),
        valid_source_types=many(text),
        occurrences=many(text),
    ),
)
REQUIREMENT = one_of(
    text,
    keys(
        capability=text,
        node=text,
        occurrences=anything,
        relationship=one_of(text, keys(type=text, interfaces=named(INTERFACE))),
    ),
)
ASSIGNED_REQUIREMENT = one_of(
    text,
    keys(
        capability=text,
        node=text,
        node_filter=anything,
        relationship=one_of(
            text, keys(type=text, interfaces=named(INTERFACE), properties=named(anything))
        ),
    ),
)

NODE_TYPE = keys(
    derived_from=text,
    version=text,
    description=text,
    metadata=METADATA,
    properties=named(DEFINED),
    attributes=named(ATTRIBUTE),
    requirements=many(named(REQUIREMENT)),
    capabilities=named(CAPABILITY),
    interfaces=named(INTERFACE),
    artifacts=named(ARTIFACT),
)
CAPABILITY_TYPE = keys(
    derived_from=text,
    version=text,
    description=text,
    properties=named(DEFINED),
    attributes=named(ATTRIBUTE),
    valid_source_types=many(text),
)
DATA_TYPE = keys(
    derived_from=text, description=text, constraints=many(constraint), properties=named(DEFINED)
)
ARTIFACT_TYPE = keys(
    derived_from=text,
    version=text,
    description=text,
    metadata=METADATA,
    mime_type=text,
    file_ext=many(text),
    properties=named(DEFINED),
)
NODE = keys(
    type=text,
    description=text,
    metadata=METADATA,
    directives=many(text),
    properties=named(anything),
    attributes=named(anything),
    requirements=many(named(ASSIGNED_REQUIREMENT)),
    capabilities=named(keys(properties=named(anything), attributes=named(anything))),
    interfaces=named(INTERFACE),
    artifacts=named(ARTIFACT),
    node_filter=anything,
    copy=text,
    name=text,
)
TEMPLATE = keys(
    tosca_definitions_version=text,
    metadata=METADATA,
    description=text,
    dsl_definitions=anything,
    data_types=named(DATA_TYPE),
    capability_types=named(CAPABILITY_TYPE),
    artifact_types=named(ARTIFACT_TYPE),
    node_types=named(NODE_TYPE),
    topology_template=keys(
        description=text, inputs=named(DEFINED), node_templates=named(NODE), outputs=named(DEFINED)
    ),
)


def properties(tree: dict[str, Any], kind: str) -> set[str]:
    """Names of the properties of a node type and of those it is derived from."""
    types = tree.get("node_types", {})
    found: set[str] = set()
    while kind:
        known = types.get(kind) or EntityType.TOSCA_DEF.get(kind) or {}
        found |= set(known.get("properties") or {})
        kind = known.get("derived_from", "")
    return found


def validate(content: str) -> None:
    """Refuse what dodas would refuse."""
    tree = yaml.safe_load(content)
    TEMPLATE(tree, "template")
    for name, node in tree["topology_template"]["node_templates"].items():
        known = properties(tree, node["type"])
        for given, value in (node.get("properties") or {}).items():
            if value not in ("", None) and given not in known:
                raise RefusedError(f"{given} not defined in type {node['type']} of {name}")


def main() -> None:
    """Check the files that are named."""
    for name in sys.argv[1:]:
        try:
            validate(Path(name).read_text())
        except RefusedError as refused:
            sys.exit(f"{name}: {refused}")
        print(f"{name}: Template OK")


if __name__ == "__main__":
    main()

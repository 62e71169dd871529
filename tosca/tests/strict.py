"""What `dodas validate` checks before every create: keys at any level, names of properties."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match
from toscaparser.elements.entity_type import EntityType

SCHEMA = yaml.safe_load((Path(__file__).parent / "dodas.schema.yml").read_text())


class RefusedError(Exception):
    """The template is not one that dodas reads: where, and why."""


def validate(content: str) -> None:
    """Refuse what dodas would refuse."""
    tree = yaml.safe_load(content)
    if error := best_match(Draft202012Validator(SCHEMA).iter_errors(without_nulls(tree))):
        raise RefusedError(f"{error.json_path}: {error.message}")
    for name, node in tree["topology_template"]["node_templates"].items():
        known = properties(tree, node["type"])
        for given, value in (node.get("properties") or {}).items():
            if value not in ("", None) and given not in known:
                raise RefusedError(f"{given} not defined in type {node['type']} of {name}")


def without_nulls(tree: Any) -> Any:
    """The tree without its empty values: Go takes them for absent."""
    if isinstance(tree, dict):
        return {key: without_nulls(value) for key, value in tree.items() if value is not None}
    return [without_nulls(value) for value in tree] if isinstance(tree, list) else tree


def properties(tree: dict[str, Any], kind: str) -> set[str]:
    """Names of the properties of a node type and of those it is derived from."""
    types = tree.get("node_types", {})
    found: set[str] = set()
    while kind:
        known = types.get(kind) or EntityType.TOSCA_DEF.get(kind) or {}
        found |= set(known.get("properties") or {})
        kind = known.get("derived_from", "")
    return found

"""The templates before the programs that read them: tosca-parser, and what dodas checks."""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Callable
from typing import Any

import pytest
import strict
import yaml
from toscaparser.common.exception import ValidationError
from toscaparser.tosca_template import ToscaTemplate

from conftest import MADE, TEMPLATES, TOSCA, filled

SINGLE = "mlaas4hep.yaml"
STACK = "tosca.nodes.mlaas4hep.Stack"


def parse(tree: dict[str, Any], **inputs: Any) -> ToscaTemplate:
    return ToscaTemplate(yaml_dict_tpl=copy.deepcopy(tree), parsed_params=inputs or None)


def of_type(tree: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = tree["node_types"][name]
    return found


def test_tosca_parser_reads_it(template: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        parsed = parse(filled(template))
    assert [record.message for record in caplog.records] == []
    names = {node.name for node in parsed.nodetemplates}
    assert {"stack", "server"} <= names
    assert {output.name for output in parsed.outputs} >= {
        "public_address",
        "ssh_user",
        "ssh_key",
        "next",
    }


@pytest.mark.parametrize(
    "inputs",
    [
        {
            "certificate": "internal",
            "fail2ban": False,
            "num_cpus": 8,
            "mem_size": "16 GB",
            "disk_size": "0 GB",
        },
        {
            "allowed_groups": "*",
            "issuer": "https://keycloak.example.org/realms/physics",
            "images": "pull",
        },
        {"users": "alice ssh-ed25519 AAAA\nbob ssh-ed25519 BBBB\n", "admins": "alice"},
        {"role_variables": "gateway_upload_minutes: 60\nmlaas4hep_settings: {max_jobs: 4}\n"},
    ],
)
def test_tosca_parser_takes_other_values(template: dict[str, Any], inputs: dict[str, Any]) -> None:
    tree = filled(template, **inputs)
    parsed = parse(tree)
    strict.validate(yaml.safe_dump(tree))
    values = {given.name: given.default for given in parsed.inputs}
    assert values | inputs == values


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({"num_cpus": "many"}, "many"),
        ({"mem_size": "lots"}, "lots"),
        ({"fail2ban": "perhaps"}, "perhaps"),
        ({"disk_size": 40}, "40"),
    ],
)
def test_tosca_parser_refuses_wrong_values(
    template: dict[str, Any], inputs: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValidationError, match=re.escape(says)):
        parse(filled(template, **inputs))


@pytest.mark.parametrize("missing", ["image", "allowed_groups"])
def test_what_must_be_given_is_missed(
    template: dict[str, Any], missing: str, caplog: pytest.LogCaptureFixture
) -> None:
    """tosca-parser warns; the IM then refuses to create (tests/dodas)."""
    filled(template)
    del template["topology_template"]["inputs"][missing]["default"]
    with caplog.at_level(logging.WARNING):
        parse(template)
    assert [record.message for record in caplog.records] == [
        f"The required parameter {missing} is not provided"
    ]


def test_dodas_reads_it(template: dict[str, Any]) -> None:
    strict.validate(yaml.safe_dump(filled(template)))


def test_dodas_reads_the_files_as_they_are() -> None:
    for name in TEMPLATES:
        strict.validate(MADE[name])


Change = Callable[[dict[str, Any]], object]


def at(*path: str | int, **more: object) -> Change:
    """A change that adds keys somewhere in the template."""

    def change(tree: dict[str, Any]) -> object:
        place: Any = tree
        for step in path:
            place = place[step]
        return place.update(more)

    return change


SLIPS: dict[str, Change] = {
    "template": at(inptus={}),
    "topology": at("topology_template", node_template={}),
    "input": at("topology_template", "inputs", "image", defautl="x"),
    "input's constraint": at("topology_template", "inputs", "image", constraints=[{"one_of": [1]}]),
    "input's required": at("topology_template", "inputs", "image", required="perhaps"),
    "input that is a map of maps": at(
        "topology_template", "inputs", "image", default={"ssh": {"protocol": "tcp", "source": 22}}
    ),
    "output": at("topology_template", "outputs", "address", values="x"),
    "node": at("topology_template", "node_templates", "server", property={}),
    "property": at("topology_template", "node_templates", "stack", "properties", issuers="x"),
    "capability": at(
        "topology_template", "node_templates", "server", "capabilities", "host", propertys={}
    ),
    "requirement": at(
        "topology_template", "node_templates", "stack", "requirements", 0, host={"nodes": "server"}
    ),
    "node type": at("node_types", STACK, derived="x"),
    "node type's property": at("node_types", STACK, "properties", "issuer", defaults="x"),
    "node type's artifact": at("node_types", STACK, "artifacts", "collection", url="x"),
    "operation": at("node_types", STACK, "interfaces", "Standard", "start", input={}),
    "capability type": at("capability_types", "tosca.capabilities.indigo.Endpoint", derived="x"),
    "attribute": at(
        "capability_types",
        "tosca.capabilities.indigo.Endpoint",
        "attributes",
        "credential",
        required=True,
    ),
    "data type": at("data_types", "tosca.datatypes.indigo.network.PortSpec", property={}),
    "artifact type": at("artifact_types", "tosca.artifacts.AnsibleGalaxy.collection", mime="x"),
    "metadata": at("metadata", visibility={"type": "public"}),
}


@pytest.mark.parametrize("slip", SLIPS)
def test_dodas_refuses_a_slip(slip: str) -> None:
    tree = filled(copy.deepcopy(TEMPLATES[SINGLE]))
    strict.validate(yaml.safe_dump(tree))
    SLIPS[slip](tree)
    with pytest.raises(strict.RefusedError):
        strict.validate(yaml.safe_dump(tree))


# What the public types (v3.4.0) have besides ours, as far as the dashboard's templates use it.
USER = {"derived_from": "tosca.datatypes.Root", "properties": {"os_user_name": {"type": "string"}}}
OF_COMPUTE = {
    "os_users": {"type": "list", "entry_schema": {"type": "tosca.datatypes.indigo.User"}},
    "fail2ban_enabled": {"type": "boolean", "default": True},
}


def test_the_dashboard_flavour_is_read_with_the_public_types_in_place_of_ours() -> None:
    """The public types can't be fetched in a test: ours have the same names."""
    for path, text in MADE.items():
        if "tosca-templates" not in path:
            continue
        tree = yaml.safe_load(text)
        (imported,) = tree.pop("imports")
        assert next(iter(imported.values())).startswith("https://")
        ours = yaml.safe_load((TOSCA / "types.yaml").read_text())
        del ours["tosca_definitions_version"], ours["node_types"][STACK]
        ours["node_types"] |= tree.pop("node_types")
        ours["node_types"]["tosca.nodes.indigo.Compute"]["properties"] |= OF_COMPUTE
        ours["data_types"]["tosca.datatypes.indigo.User"] = USER
        ports = {"dask": {"protocol": "tcp", "source": 8786, "remote_cidr": "192.0.2.0/24"}}
        inputs = tree["topology_template"]["inputs"]
        for name, value in {"allowed_groups": "physicists", "more_ports": ports}.items():
            inputs[name]["default"] = value
        parsed = parse(tree | ours)
        assert {node.name for node in parsed.nodetemplates} >= {"stack", "server"}


@pytest.mark.parametrize("name", ["mlaas4hep-gpu.yaml", "mlaas4hep-volume.yaml"])
def test_a_variant_differs_where_it_should(name: str) -> None:
    base, other = (TEMPLATES[n]["topology_template"] for n in (SINGLE, name))
    more = set(other["inputs"]) - set(base["inputs"])
    expected = {
        "mlaas4hep-gpu.yaml": {"num_gpus", "gpu_vendor", "gpu_model", "job_gpus"},
        "mlaas4hep-volume.yaml": {"volume_size", "volume_encrypted", "volume_device"},
    }
    assert more == expected[name]
    assert other["outputs"] == base["outputs"]
    server = other["node_templates"]["server"]["capabilities"]
    assert server["endpoint"] == base["node_templates"]["server"]["capabilities"]["endpoint"]

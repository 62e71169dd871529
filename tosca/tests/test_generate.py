"""What is generated: current, complete, without secrets."""

from __future__ import annotations

import ipaddress
import re
from typing import Any

import generate
import jsonschema
import pytest
import yaml

from conftest import MADE, TEMPLATES, TOSCA, URL

STACK = generate.STACK
INTERNAL = ("image_", "preflight_", "service_container_")
SCHEMAS = yaml.safe_load((TOSCA / "dashboard.schema.yml").read_text())


def topology(name: str) -> dict[str, Any]:
    found: dict[str, Any] = TEMPLATES[name]["topology_template"]
    return found


def mentioned(value: Any, function: str) -> set[str]:
    """The first argument of every use of a function."""
    if isinstance(value, dict):
        if set(value) == {function}:
            first = value[function]
            return {first if isinstance(first, str) else first[-1]}
        value = list(value.values())
    return (
        set().union(*(mentioned(item, function) for item in value))
        if isinstance(value, list)
        else set()
    )


def test_what_is_kept_is_current() -> None:
    assert generate.stale() == []


def test_an_old_file_is_found() -> None:
    path = TOSCA / "generated/mlaas4hep.yaml"
    text = path.read_text()
    try:
        path.write_text(text.replace("default: 4\n", "default: 5\n", 1))
        assert generate.stale() == ["mlaas4hep.yaml"]
    finally:
        path.write_text(text)


@pytest.mark.parametrize("name", TEMPLATES)
class TestInputs:
    def test_every_input_is_used(self, name: str) -> None:
        parts = topology(name)
        assert set(parts["inputs"]) == mentioned(parts["node_templates"], "get_input")

    def test_every_input_is_explained_and_is_one_value(self, name: str) -> None:
        """The IM merges lists of an update into the old ones, and dodas reads no nested map."""
        for key, given in topology(name)["inputs"].items():
            assert given["description"].endswith("."), key
            assert given["type"] in ("string", "integer", "boolean", "scalar-unit.size"), key

    def test_every_property_reaches_a_variable_of_the_playbook(self, name: str) -> None:
        kind = TEMPLATES[name]["node_types"][STACK]
        operation = kind["interfaces"]["Standard"]["start"]
        passed = {
            value["get_property"][1]: variable
            for variable, value in operation["inputs"].items()
            if variable != "tosca_release"
        }
        assert set(passed) == set(kind["properties"])
        known = generate.role_options()
        plays = yaml.safe_load(MADE["start.yml"])
        used = yaml.dump(plays)
        for variable in passed.values():
            if variable.startswith("tosca_"):
                assert re.search(rf"\b{variable}\b", used), variable
            else:
                assert variable in known, variable

    def test_every_variable_that_the_playbook_makes_is_an_option(self, name: str) -> None:
        (machine,) = yaml.safe_load((TOSCA / "start.yml").read_text())
        assert set(machine["vars"]) <= set(generate.role_options())

    def test_there_is_no_secret(self, name: str) -> None:
        for key in topology(name)["inputs"]:
            assert not re.search("secret|password|token|key", key) or key.endswith("_file"), key
        text = MADE[name]
        assert "PRIVATE KEY" not in text

    def test_outputs_are_texts(self, name: str) -> None:
        """The dodas command gives up on any other."""
        inputs = topology(name)["inputs"]
        for key, output in topology(name)["outputs"].items():
            ((function, arguments),) = output["value"].items()
            if function == "get_input":
                assert inputs[arguments]["type"] == "string", key
            elif function == "get_attribute":
                # An address of the list, or a field of the first credential.
                assert arguments[-1] in (0, "user", "token"), key
            else:
                assert function == "concat", key
                # The IM can't follow a longer path inside a concat.
                assert "credential" not in str(arguments), key
            assert output["description"].endswith("."), key

    def test_exactly_the_ports_of_the_gateway_and_ssh_are_open(self, name: str) -> None:
        roles = generate.role_options()
        gateway = {roles["gateway_http_port"]["default"], roles["gateway_https_port"]["default"]}
        ports = topology(name)["node_templates"]["server"]["capabilities"]["endpoint"][
            "properties"
        ]["ports"]
        assert {port["source"]: port["remote_cidr"]["get_input"] for port in ports.values()} == {
            **dict.fromkeys(gateway, "users_cidr"),
            22: "admins_cidr",
            4433: "old_ports_cidr",
            8081: "old_ports_cidr",
        }
        assert {port["protocol"] for port in ports.values()} == {"tcp"}

    def test_the_old_ports_are_open_to_nobody_unless_asked_for(self, name: str) -> None:
        closed = topology(name)["inputs"]["old_ports_cidr"]["default"]
        assert ipaddress.ip_network(closed).is_loopback
        (machine,) = yaml.safe_load((TOSCA / "start.yml").read_text())
        assert f"!= '{closed}'" in machine["vars"]["gateway_old_ports"]

    def test_everything_comes_from_the_release(self, name: str) -> None:
        kind = TEMPLATES[name]["node_types"][STACK]
        assert kind["artifacts"]["collection"]["file"] == f"{URL}/mlaas4hep-stack-9.8.7.tar.gz"
        start = kind["interfaces"]["Standard"]["start"]
        assert (start["implementation"], start["inputs"]["tosca_release"]) == (
            f"{URL}/start.yml",
            "9.8.7",
        )


def test_every_option_of_the_roles_can_be_reached() -> None:
    """By an input of its own, or by role_variables; none is a secret."""
    known = {name for name in generate.role_options() if not name.startswith(INTERNAL)}
    assert not {name for name in known if re.search("(token|password|secret)$", name)}
    named = {option["variable"] for option in generate.options().values() if "variable" in option}
    assert named <= known
    first_needs = {
        "mlaas4hep_issuer",
        "mlaas4hep_domain",
        "mlaas4hep_email",
        "mlaas4hep_allowed_groups",
        "mlaas4hep_audience",
        "mlaas4hep_groups_claim",
        "oauth2_proxy_client_id",
        "gateway_tls",
        "mlaas4hep_http_proxy",
        "mlaas4hep_images",
        "machine_ca_bundle",
        "container_engine_registry_mirrors",
        "machine_users",
    }
    assert first_needs <= named


def test_defaults_are_those_of_the_roles() -> None:
    """Where one differs on purpose, options.yml says so itself."""
    roles = generate.role_options()
    given = yaml.safe_load((TOSCA / "options.yml").read_text())
    own = {
        name
        for tab in given.values()
        for name, option in tab["inputs"].items()
        if "default" in option
    }
    for name, option in generate.options().items():
        if "variable" in option and name not in own and "default" in option:
            assert option["default"] == roles[option["variable"]]["default"], name


def test_the_table_of_the_readme_names_every_input() -> None:
    text = (TOSCA / "README.md").read_text()
    for name, option in generate.options().items():
        assert (f"| `{name}`" in text) == option.get("input", True), name


CATALOGUE = "dashboard/tosca-metadata/metadata.yml"
FORMS = [path for path in MADE if path.endswith(".parameters.yml")]


def template_of(form: str) -> dict[str, Any]:
    """The template that the dashboard finds for a form: the same path below another folder."""
    path = form.replace("tosca-parameters", "tosca-templates").replace(".parameters.yml", ".yaml")
    found: dict[str, Any] = yaml.safe_load(MADE[path])
    return found


def refused(kind: str, tree: Any) -> list[str]:
    """What the dashboard does not know."""
    schema = {**SCHEMAS, "$ref": f"#/$defs/{kind}"}
    checker = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
    return [error.message for error in checker.iter_errors(tree)]


@pytest.mark.parametrize("path", FORMS)
def test_the_dashboard_knows_every_key_of_a_form(path: str) -> None:
    assert refused("parameters", yaml.safe_load(MADE[path])) == []


def test_the_catalogue_has_every_template_under_the_name_that_it_says_itself() -> None:
    tree = yaml.safe_load(MADE[CATALOGUE])
    assert refused("catalogue", tree) == []
    (service,) = tree["services"]
    assert service["metadata"]["icon"] == f"{URL}/dashboard/icon.svg"
    assert MADE["dashboard/icon.svg"].startswith("<svg ")
    assert service["metadata"]["guide_url"] == f"{URL}/dashboard/guide.html"
    names = [template_of(path)["metadata"]["template_name"] for path in FORMS]
    assert sorted(entry["name"] for entry in service["templates"]) == sorted(names)


def test_the_guide_names_fields_that_the_form_has() -> None:
    guide = MADE["dashboard/guide.html"]
    assert "<h1>MLaaS4HEP from the dashboard</h1>" in guide
    fields = set(re.findall(r"<code>([a-z]+(?:_[a-z]+)*)</code>", guide[: guide.index("<pre>")]))
    values = {"acme", "address"}
    assert len(fields) > 5
    for path in FORMS:
        assert fields - values <= set(yaml.safe_load(MADE[path])["inputs"])


def test_the_schema_refuses_slips() -> None:
    changes = (
        {"type": "txt"},
        {"tag_type": "text"},
        {"lable": "x"},
        {"type": "select", "constraints": []},
    )
    for change in changes:
        tree = yaml.safe_load(MADE[FORMS[0]])
        next(iter(tree["inputs"].values())).update(change)
        assert refused("parameters", tree), change
    for key in ("display_name", "bookmark_id", "guide_url", "icon", "visibility"):
        tree = yaml.safe_load(MADE[CATALOGUE])
        del tree["services"][0]["metadata"][key]
        assert refused("catalogue", tree), key
        tree["services"][0]["metadata"]["tags"] = []
        assert refused("catalogue", tree), key


@pytest.mark.parametrize("path", FORMS)
class TestDashboard:
    def test_the_form_has_every_input_in_a_tab(self, path: str) -> None:
        form = yaml.safe_load(MADE[path])
        inputs = template_of(path)["topology_template"]["inputs"]
        assert set(form["inputs"]) == set(inputs)
        assert {field["tab"] for field in form["inputs"].values()} == set(form["tabs"])
        for name, field in form["inputs"].items():
            assert field["required"] == ("default" not in inputs[name]), name
            if "constraints" in field:
                offered = [choice["value"] for choice in field["constraints"]]
                assert offered == inputs[name]["constraints"][0]["valid_values"], name

    def test_every_input_is_used(self, path: str) -> None:
        parts = template_of(path)["topology_template"]
        assert set(parts["inputs"]) == mentioned(parts["node_templates"], "get_input")

    def test_the_orchestrator_chooses_image_flavour_and_networks(self, path: str) -> None:
        parts = template_of(path)["topology_template"]["node_templates"]
        server = parts["server"]["capabilities"]
        assert set(server["os"]["properties"]) == {"type", "distribution", "version"}
        assert not {"instance_type", "disk_size"} & set(server["host"]["properties"])
        assert set(server["endpoint"]["properties"]) == {"ports"}
        ports = {
            part["requirements"][1]["link"]: part["properties"]["order"]
            for part in parts.values()
            if part["type"] == "tosca.nodes.network.Port"
        }
        assert ports == {"pub_network": 1, "priv_network": 0}

    def test_who_deploys_gets_the_account(self, path: str) -> None:
        """The field's kind is the one into which the dashboard puts its user's key."""
        assert yaml.safe_load(MADE[path])["inputs"]["users"]["type"] == "ssh_user"
        server = template_of(path)["topology_template"]["node_templates"]["server"]
        assert server["properties"]["os_users"] == {"get_input": "users"}

    def test_a_link_is_a_link_and_a_key_is_not_printed(self, path: str) -> None:
        """The dashboard prints every output but those with creds in their names."""
        assert yaml.safe_load(MADE[path])["outputs"]["address"] == {"type": "url"}
        outputs = template_of(path)["topology_template"]["outputs"]
        secret = {name for name, output in outputs.items() if "credential" in str(output)}
        assert secret == {"node_creds"}

    def test_the_public_types_are_of_one_version(self, path: str) -> None:
        (imported,) = template_of(path)["imports"]
        assert re.search(r"/v\d+\.\d+\.\d+/", imported["indigo_custom_types"])


def test_the_flavours_share_nothing() -> None:
    """What the dashboard's has and dodas can't read is not in the other."""
    for name, tree in TEMPLATES.items():
        assert "capabilities" not in tree["node_types"][STACK], name

"""A stand-in for the APIs of OpenStack: what the IM's connector asks, and nothing else.

Keystone, Nova, Neutron, Glance and Cinder at one address. What is not known here, be it a path, a query or a field of a
body, is answered with 501 and kept in `Cloud.refused`: a test then fails. Machines, volumes and the enforcement of
security groups are those of machines.py.
"""

from __future__ import annotations

import base64
import uuid
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import yaml
from fastapi import Body, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from machines import Machine, Machines, Rule
from pydantic import BaseModel, ConfigDict

PROJECT = "f0e1d2c3b4a5968778695a4b3c2d1e0f"
TIME = "2026-01-01T00:00:00Z"
LATER = "2036-01-01T00:00:00.000000Z"
USER, PASSWORD = "operator", "operator-pw"
IMAGE = "11111111-2222-4333-8444-555555555555"
FLAVORS = {
    "1": {"name": "small", "vcpus": 1, "ram": 2048, "disk": 20},
    "2": {"name": "medium", "vcpus": 4, "ram": 8192, "disk": 20},
    "3": {"name": "large", "vcpus": 8, "ram": 16384, "disk": 40},
}
PRIVATE, PUBLIC = "private", "public"
NETWORKS = {PRIVATE: "net-private", PUBLIC: "net-public"}


class Strict(BaseModel):
    """A body, or a part of it: what it does not name is refused."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Named(Strict):
    name: str


class Network(Strict):
    uuid: str


class Disk(Strict):
    boot_index: int
    source_type: str
    destination_type: str
    delete_on_termination: bool
    uuid: str | None = None
    volume_size: int | float | None = None
    guest_format: str | None = None


class Server(Strict):
    name: str
    metadata: dict[str, str]
    user_data: str
    networks: list[Network]
    security_groups: list[Named]
    block_device_mapping_v2: list[Disk]
    imageRef: str  # noqa: N815
    flavorRef: str  # noqa: N815


class Group(Strict):
    name: str
    description: str


class GroupRule(Strict):
    direction: str
    protocol: str
    port_range_min: int | None
    port_range_max: int | None
    remote_ip_prefix: str | None
    remote_group_id: str | None
    security_group_id: str


class Address(Strict):
    floating_network_id: str


class Attachment(Strict):
    port_id: str | None


class Reboot(Strict):
    type: str


class Action(Strict):
    reboot: Reboot | None = None
    removeSecurityGroup: Named | None = None  # noqa: N815


@dataclass
class Instance:
    """A server: what was asked for, and the machine."""

    id: str
    asked: Server
    machine: Machine
    groups: list[str]
    volumes: list[str]

    @property
    def user_data(self) -> dict[str, Any]:
        return cloud_config(self.asked)


def cloud_config(asked: Server) -> dict[str, Any]:
    text = base64.b64decode(asked.user_data).decode()
    assert text.startswith("#cloud-config\n"), text[:80]
    found: dict[str, Any] = yaml.safe_load(text)
    return found


@dataclass
class Cloud:
    """All that there is, and what was refused."""

    url: str
    machines: Machines
    known_to_issuer: Callable[[str], bool]
    valid_tokens: set[str] = field(default_factory=set)
    servers: dict[str, Instance] = field(default_factory=dict)
    groups: dict[str, dict[str, Any]] = field(default_factory=dict)
    rules: dict[str, dict[str, Any]] = field(default_factory=dict)
    addresses: dict[str, dict[str, Any]] = field(default_factory=dict)
    volumes: dict[str, dict[str, Any]] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    log: list[str] = field(default_factory=list)

    def empty(self) -> bool:
        """Whether nothing is left that somebody would pay for."""
        return not (self.servers or self.groups or self.rules or self.addresses or self.volumes)

    def rules_of(self, names: Iterable[str]) -> list[Rule]:
        """What these security groups let in from outside."""
        ids = {group["id"] for group in self.groups.values() if group["name"] in set(names)}
        return [
            Rule(
                rule["protocol"],
                rule["port_range_min"],
                rule["port_range_max"],
                rule["remote_ip_prefix"],
            )
            for rule in self.rules.values()
            if rule["security_group_id"] in ids and rule["remote_group_id"] is None
        ]

    def enforce(self, group: str) -> None:
        """The rules of every server that has this group."""
        for server in self.servers.values():
            if group in server.groups:
                server.machine.enforce(self.rules_of(server.groups))

    def server_of(self, port: str) -> Instance:
        """The server that has this port."""
        return self.servers[port.removeprefix("port-")]


def links(url: str) -> list[dict[str, str]]:
    return [{"rel": "self", "href": url}]


def problem(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": {"code": status, "message": message}}, status)


def unauthenticated() -> JSONResponse:
    return problem(401, "The request you have made requires authentication.")


def application(cloud: Cloud) -> FastAPI:
    """The APIs of this cloud."""
    app = FastAPI(openapi_url=None)
    compute, network = f"{cloud.url}/compute/v2.1", f"{cloud.url}/network"

    def refuse(request: Request, why: str) -> JSONResponse:
        said = f"{request.method} {request.url.path}?{request.url.query}: {why}"
        cloud.refused.append(said)
        return problem(501, f"the stand-in does not know {said}")

    @app.exception_handler(RequestValidationError)
    async def body_unknown(request: Request, error: RequestValidationError) -> JSONResponse:
        return refuse(request, f"{error.errors()} in {error.body}")

    @app.exception_handler(404)
    @app.exception_handler(405)
    async def path_unknown(request: Request, error: Exception) -> JSONResponse:
        return refuse(request, "unknown path")

    queries: dict[str, set[str]] = {}

    @app.middleware("http")
    async def known(request: Request, go_on: Callable[[Request], Awaitable[Response]]) -> Response:
        """Queries that are not declared are refused; every call but sign-in needs a token."""
        path = request.url.path
        unknown = set(request.query_params) - queries.get(path, set())
        answer: Response
        if unknown:
            answer = refuse(request, f"unknown query {sorted(unknown)}")
        elif path.startswith(("/compute", "/network", "/image", "/volume")) and (
            request.headers.get("x-auth-token") not in cloud.valid_tokens
        ):
            answer = unauthenticated()
        else:
            answer = await go_on(request)
        cloud.log.append(f"{request.method} {path} {answer.status_code}")
        return answer

    # Keystone

    def endpoint(kind: str, name: str, url: str) -> dict[str, Any]:
        """libcloud looks for these very names."""
        place = {
            "id": kind,
            "interface": "public",
            "region": "RegionOne",
            "region_id": "RegionOne",
            "url": url,
        }
        return {"id": kind, "type": kind, "name": name, "endpoints": [place]}

    catalog = [
        endpoint("identity", "keystone", f"{cloud.url}/v3"),
        endpoint("compute", "nova", compute),
        endpoint("network", "neutron", network),
        endpoint("image", "glance", f"{cloud.url}/image"),
        endpoint("volumev3", "cinderv3", f"{cloud.url}/volume/v3/{PROJECT}"),
        endpoint("volumev2", "cinderv2", f"{cloud.url}/volume/v2/{PROJECT}"),
    ]

    def token(method: str, **more: Any) -> JSONResponse:
        name = uuid.uuid4().hex
        cloud.valid_tokens.add(name)
        domain = {"id": "default", "name": "Default"}
        body = {"methods": [method], "issued_at": TIME, "expires_at": LATER,
                "user": {"id": "u1", "name": USER, "domain": domain}, **more}  # fmt: skip
        return JSONResponse({"token": body}, 201, {"X-Subject-Token": name})

    def scoped(method: str) -> JSONResponse:
        project = {"id": PROJECT, "name": "mlaas", "domain": {"id": "default", "name": "Default"}}
        return token(
            method, project=project, roles=[{"id": "member", "name": "member"}], catalog=catalog
        )

    @app.post("/v3/auth/tokens")
    def sign_in(auth: dict[str, Any] = Body(embed=True)) -> JSONResponse:
        identity = auth["identity"]
        if identity["methods"] == ["password"]:
            user = identity["password"]["user"]
            if (user["name"], user["password"]) != (USER, PASSWORD):
                return unauthenticated()
            return scoped("password")
        if identity["methods"] == ["token"] and identity["token"]["id"] in cloud.valid_tokens:
            return scoped("token")
        return unauthenticated()

    @app.get("/v3/OS-FEDERATION/identity_providers/iam/protocols/openid/auth")
    def federated(request: Request) -> JSONResponse:
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
        return token("mapped") if cloud.known_to_issuer(bearer) else unauthenticated()

    @app.get("/v3/auth/projects")
    @app.get("/v3/OS-FEDERATION/projects")
    def projects() -> dict[str, Any]:
        project = {
            "id": PROJECT,
            "name": "mlaas",
            "domain_id": "default",
            "enabled": True,
            "links": {},
        }
        return {"projects": [project], "links": {}}

    # Glance

    @app.get("/image/v2/images/{name}")
    def image(name: str) -> JSONResponse:
        if name != IMAGE:
            return problem(404, f"No image found with ID {name}")
        return JSONResponse({"id": IMAGE, "name": "debian-12", "status": "active", "visibility": "public", "size": 1,
                             "min_disk": 0, "min_ram": 0, "owner": PROJECT, "created_at": TIME, "updated_at": TIME})  # fmt: skip

    # Nova

    def flavor(name: str) -> dict[str, Any]:
        return {"id": name, **FLAVORS[name], "swap": "", "rxtx_factor": 1.0, "links": links(f"{compute}/flavors/{name}"),
                "OS-FLV-EXT-DATA:ephemeral": 0, "os-flavor-access:is_public": True}  # fmt: skip

    @app.get("/compute/v2.1/flavors/detail")
    def flavors() -> dict[str, Any]:
        return {"flavors": [flavor(name) for name in FLAVORS]}

    @app.get("/compute/v2.1/flavors/{name}")
    def one_flavor(name: str) -> dict[str, Any]:
        return {"flavor": flavor(name)}

    @app.get("/compute/v2.1/flavors/{name}/os-extra_specs")
    def extra_specs(name: str) -> dict[str, Any]:
        return {"extra_specs": {}}

    def floating(server: Instance) -> list[str]:
        return [
            a["floating_ip_address"]
            for a in cloud.addresses.values()
            if a["port_id"] == f"port-{server.id}"
        ]

    def described(server: Instance) -> dict[str, Any]:
        def place(address: str, kind: str) -> dict[str, Any]:
            return {
                "addr": address,
                "version": 4,
                "OS-EXT-IPS:type": kind,
                "OS-EXT-IPS-MAC:mac_addr": "02:00:00:00:00:01",
            }

        there = [
            place(server.machine.address, "fixed"),
            *(place(a, "floating") for a in floating(server)),
        ]
        return {
            "id": server.id, "name": server.asked.name, "status": "ACTIVE", "tenant_id": PROJECT, "user_id": "u1",
            "metadata": server.asked.metadata, "hostId": "h", "key_name": None, "config_drive": "", "progress": 100,
            "image": {"id": server.asked.imageRef, "links": links(f"{compute}/images/{server.asked.imageRef}")},
            "flavor": {"id": server.asked.flavorRef, "links": links(f"{compute}/flavors/{server.asked.flavorRef}")},
            "created": TIME, "updated": TIME, "addresses": {PRIVATE: there}, "accessIPv4": "", "accessIPv6": "",
            "links": links(f"{compute}/servers/{server.id}"), "OS-EXT-AZ:availability_zone": "nova",
            "OS-EXT-STS:vm_state": "active", "OS-EXT-STS:power_state": 1, "OS-EXT-STS:task_state": None,
            "security_groups": [{"name": name} for name in server.groups],
            "os-extended-volumes:volumes_attached": [{"id": name} for name in server.volumes],
        }  # fmt: skip

    @app.post("/compute/v2.1/servers")
    def create(server: Server = Body(embed=True)) -> JSONResponse:
        name = str(uuid.uuid4())
        volumes = []
        for disk in server.block_device_mapping_v2:
            if disk.destination_type == "volume":
                volumes.append(str(uuid.uuid4()))
                cloud.volumes[volumes[-1]] = {"id": volumes[-1], "size": int(disk.volume_size or 0), "server": name,
                                              "device": "/dev/vda" if disk.boot_index == 0 else "/dev/vdb"}  # fmt: skip
        data = [int(d.volume_size or 0) for d in server.block_device_mapping_v2 if d.boot_index > 0]
        groups = [group.name for group in server.security_groups]
        machine = cloud.machines.boot(name, server.name, data, cloud_config(server))
        machine.enforce(cloud.rules_of(groups))
        cloud.servers[name] = Instance(name, server, machine, groups, volumes)
        made = {"id": name, "links": links(f"{compute}/servers/{name}"), "adminPass": "x", "security_groups": [],
                "OS-DCF:diskConfig": "MANUAL"}  # fmt: skip
        return JSONResponse({"server": made}, 202)

    def gone(name: str) -> JSONResponse:
        return JSONResponse(
            {"itemNotFound": {"code": 404, "message": f"{name} could not be found."}}, 404
        )

    @app.get("/compute/v2.1/servers/{name}")
    def one_server(name: str) -> JSONResponse:
        return (
            JSONResponse({"server": described(cloud.servers[name])})
            if name in cloud.servers
            else gone(name)
        )

    @app.delete("/compute/v2.1/servers/{name}")
    def delete(name: str) -> Response:
        if name not in cloud.servers:
            return gone(name)
        server = cloud.servers.pop(name)
        server.machine.destroy()
        for volume, disk in zip(server.volumes, server.asked.block_device_mapping_v2, strict=False):
            if disk.delete_on_termination:
                del cloud.volumes[volume]
        return Response(status_code=204)

    @app.post("/compute/v2.1/servers/{name}/action")
    def act(name: str, action: Action) -> Response:
        server = cloud.servers[name]
        if action.reboot:
            server.machine.reboot()
            server.machine.enforce(cloud.rules_of(server.groups))
        if action.removeSecurityGroup:
            server.groups.remove(action.removeSecurityGroup.name)
        return Response(status_code=202)

    @app.get("/compute/v2.1/servers/{name}/os-interface")
    def interfaces(name: str) -> dict[str, Any]:
        fixed = [{"ip_address": cloud.servers[name].machine.address, "subnet_id": "sub-private"}]
        port = {"port_id": f"port-{name}", "net_id": NETWORKS[PRIVATE], "fixed_ips": fixed, "port_state": "ACTIVE",
                "mac_addr": "02:00:00:00:00:01"}  # fmt: skip
        return {"interfaceAttachments": [port]}

    # Neutron

    def described_network(name: str) -> dict[str, Any]:
        return {"id": NETWORKS[name], "name": name, "subnets": [f"sub-{name}"], "router:external": name == PUBLIC,
                "status": "ACTIVE", "shared": True, "tenant_id": PROJECT, "admin_state_up": True, "mtu": 1500, "tags": [],
                "description": ""}  # fmt: skip

    queries["/network/v2.0/networks"] = {"router:external", "fields"}

    @app.get("/network/v2.0/networks")
    def networks(request: Request) -> dict[str, Any]:
        external = request.query_params.get("router:external")
        return {
            "networks": [
                described_network(n)
                for n in NETWORKS
                if external is None or (n == PUBLIC) == (external == "True")
            ]
        }

    @app.get("/network/v2.0/subnets")
    def subnets() -> dict[str, Any]:
        return {"subnets": [{"id": f"sub-{name}", "name": f"sub-{name}", "cidr": cidr, "network_id": NETWORKS[name],
                             "ip_version": 4, "enable_dhcp": True, "dns_nameservers": [], "gateway_ip": None,
                             "allocation_pools": [], "host_routes": [], "tenant_id": PROJECT}
                            for name, cidr in cloud.machines.subnets.items()]}  # fmt: skip

    queries["/network/v2.0/ports"] = {"device_id"}

    @app.get("/network/v2.0/ports/{name}")
    def port(name: str) -> JSONResponse:
        server = cloud.server_of(name)
        fixed = [{"ip_address": server.machine.address, "subnet_id": "sub-private"}]
        return JSONResponse({"port": {
            "id": name, "network_id": NETWORKS[PRIVATE], "device_id": server.id, "name": "", "status": "ACTIVE",
            "tenant_id": PROJECT, "admin_state_up": True, "mac_address": "02:00:00:00:00:01", "fixed_ips": fixed,
            "security_groups": [], "device_owner": "compute:nova", "created_at": TIME, "updated_at": TIME,
            "binding:vnic_type": "normal", "binding:host_id": "", "extra_dhcp_opts": [], "allowed_address_pairs": [],
        }})  # fmt: skip

    @app.get("/network/v2.0/routers")
    def routers() -> dict[str, Any]:
        return {"routers": []}

    def described_group(group: dict[str, Any]) -> dict[str, Any]:
        rules = [rule for rule in cloud.rules.values() if rule["security_group_id"] == group["id"]]
        return {**group, "tenant_id": PROJECT, "security_group_rules": rules}

    @app.get("/network/v2.0/security-groups")
    def groups() -> dict[str, Any]:
        return {"security_groups": [described_group(group) for group in cloud.groups.values()]}

    @app.post("/network/v2.0/security-groups")
    def create_group(security_group: Group = Body(embed=True)) -> JSONResponse:
        made = {"id": str(uuid.uuid4()), **security_group.model_dump()}
        cloud.groups[made["id"]] = made
        return JSONResponse({"security_group": described_group(made)}, 201)

    @app.delete("/network/v2.0/security-groups/{name}")
    def delete_group(name: str) -> Response:
        group = cloud.groups[name]["name"]
        if any(group in server.groups for server in cloud.servers.values()):
            return problem(409, f"Security Group {name} in use.")
        del cloud.groups[name]
        cloud.rules = {
            key: rule for key, rule in cloud.rules.items() if rule["security_group_id"] != name
        }
        return Response(status_code=204)

    @app.post("/network/v2.0/security-group-rules")
    def create_rule(security_group_rule: GroupRule = Body(embed=True)) -> JSONResponse:
        made = security_group_rule.model_dump()
        if made in [{k: v for k, v in rule.items() if k in made} for rule in cloud.rules.values()]:
            return problem(409, "Security group rule already exists.")
        made |= {"id": str(uuid.uuid4()), "ethertype": "IPv4", "tenant_id": PROJECT}
        cloud.rules[made["id"]] = made
        cloud.enforce(cloud.groups[made["security_group_id"]]["name"])
        return JSONResponse({"security_group_rule": made}, 201)

    queries["/network/v2.0/floatingips"] = {"floating_network_id", "floating_ip_address"}

    @app.get("/network/v2.0/floatingips")
    def addresses(request: Request) -> dict[str, Any]:
        asked = dict(request.query_params).items()
        return {"floatingips": [a for a in cloud.addresses.values() if asked <= a.items()]}

    @app.post("/network/v2.0/floatingips")
    def create_address(floatingip: Address = Body(embed=True)) -> JSONResponse:
        if floatingip.floating_network_id != NETWORKS[PUBLIC]:
            return problem(
                404, f"External network {floatingip.floating_network_id} could not be found."
            )
        made = {"id": str(uuid.uuid4()), "floating_ip_address": cloud.machines.public_address(), "port_id": None,
                "floating_network_id": NETWORKS[PUBLIC], "fixed_ip_address": None, "status": "DOWN", "router_id": None,
                "tenant_id": PROJECT, "port_details": None}  # fmt: skip
        cloud.addresses[str(made["id"])] = made
        return JSONResponse({"floatingip": made}, 201)

    @app.put("/network/v2.0/floatingips/{name}")
    def attach(name: str, floatingip: Attachment = Body(embed=True)) -> dict[str, Any]:
        address = cloud.addresses[name]
        if floatingip.port_id:
            server = cloud.server_of(floatingip.port_id)
            server.machine.connect(address["floating_ip_address"])
            server.machine.enforce(cloud.rules_of(server.groups))
            address |= {
                "port_id": floatingip.port_id,
                "status": "ACTIVE",
                "fixed_ip_address": server.machine.address,
            }
        else:
            cloud.server_of(address["port_id"]).machine.disconnect()
            address |= {"port_id": None, "status": "DOWN", "fixed_ip_address": None}
        return {"floatingip": address}

    @app.delete("/network/v2.0/floatingips/{name}")
    def delete_address(name: str) -> Response:
        address = cloud.addresses.pop(name)
        if address["port_id"] and address["port_id"].removeprefix("port-") in cloud.servers:
            cloud.server_of(address["port_id"]).machine.disconnect()
        return Response(status_code=204)

    # Cinder

    @app.get(f"/volume/v2/{PROJECT}/volumes/{{name}}")
    @app.get(f"/volume/v3/{PROJECT}/volumes/{{name}}")
    def volume(name: str) -> JSONResponse:
        if name not in cloud.volumes:
            return gone(name)
        found = cloud.volumes[name]
        used = [{"server_id": found["server"], "device": found["device"], "volume_id": name}]
        return JSONResponse({"volume": {
            "id": name, "name": name, "size": found["size"], "status": "in-use", "attachments": used, "created_at": TIME[:-1],
            "metadata": {}, "volume_type": "default", "description": "", "snapshot_id": None, "availability_zone": "nova",
            "bootable": "false",
        }})  # fmt: skip

    return app

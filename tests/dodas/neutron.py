"""Networks: a private and a public one, security groups, floating addresses."""

from __future__ import annotations

import uuid
from typing import Annotated, Any

from answers import TIME, Strict, not_found, problem
from cloud import NETWORKS, PRIVATE, PROJECT, PUBLIC, Cloud
from fastapi import APIRouter, Body, Query, Response
from fastapi.responses import JSONResponse


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


def routes(cloud: Cloud) -> APIRouter:
    """Under /network/v2.0."""
    router = APIRouter(prefix="/network/v2.0")

    @router.get("/networks")
    def networks(
        external: Annotated[str | None, Query(alias="router:external")] = None,
        fields: Annotated[list[str] | None, Query()] = None,
    ) -> dict[str, Any]:
        found = [
            {"id": NETWORKS[name], "name": name, "subnets": [f"sub-{name}"],
             "router:external": name == PUBLIC, "status": "ACTIVE", "shared": True,
             "tenant_id": PROJECT, "admin_state_up": True, "mtu": 1500, "tags": [],
             "description": ""}
            for name in NETWORKS
            if external is None or (name == PUBLIC) == (external == "True")
        ]  # fmt: skip
        if fields:
            found = [{key: network[key] for key in fields} for network in found]
        return {"networks": found}

    @router.get("/subnets")
    def subnets() -> dict[str, Any]:
        found = [
            {"id": f"sub-{name}", "name": f"sub-{name}", "cidr": cidr,
             "network_id": NETWORKS[name], "ip_version": 4, "enable_dhcp": True,
             "dns_nameservers": [], "gateway_ip": None, "allocation_pools": [],
             "host_routes": [], "tenant_id": PROJECT}
            for name, cidr in cloud.machines.subnets.items()
        ]  # fmt: skip
        return {"subnets": found}

    @router.get("/routers")
    def routers() -> dict[str, Any]:
        return {"routers": []}

    @router.get("/ports/{name}")
    def port(name: str) -> JSONResponse:
        server = cloud.server_of(name)
        fixed = [{"ip_address": server.machine.address, "subnet_id": "sub-private"}]
        return JSONResponse({"port": {
            "id": name, "network_id": NETWORKS[PRIVATE], "device_id": server.id, "name": "",
            "status": "ACTIVE", "tenant_id": PROJECT, "admin_state_up": True, "fixed_ips": fixed,
            "mac_address": "02:00:00:00:00:01", "security_groups": [], "created_at": TIME,
            "device_owner": "compute:nova", "updated_at": TIME, "binding:vnic_type": "normal",
            "binding:host_id": "", "extra_dhcp_opts": [], "allowed_address_pairs": [],
        }})  # fmt: skip

    def described(group: dict[str, Any]) -> dict[str, Any]:
        rules = [r for r in cloud.rules.values() if r["security_group_id"] == group["id"]]
        return {**group, "tenant_id": PROJECT, "security_group_rules": rules}

    @router.get("/security-groups")
    def groups() -> dict[str, Any]:
        return {"security_groups": [described(group) for group in cloud.groups.values()]}

    @router.post("/security-groups")
    def create_group(security_group: Annotated[Group, Body(embed=True)]) -> JSONResponse:
        made = {"id": str(uuid.uuid4()), **security_group.model_dump()}
        cloud.groups[made["id"]] = made
        return JSONResponse({"security_group": described(made)}, 201)

    @router.delete("/security-groups/{name}")
    def delete_group(name: str) -> Response:
        if name not in cloud.groups:
            return not_found(name)
        group = cloud.groups[name]["name"]
        if any(group in server.groups for server in cloud.servers.values()):
            return problem(409, f"Security Group {name} in use.")
        del cloud.groups[name]
        rules = cloud.rules.items()
        cloud.rules = {key: r for key, r in rules if r["security_group_id"] != name}
        return Response(status_code=204)

    @router.post("/security-group-rules")
    def create_rule(security_group_rule: Annotated[GroupRule, Body(embed=True)]) -> JSONResponse:
        asked = security_group_rule.model_dump()
        if any(asked.items() <= rule.items() for rule in cloud.rules.values()):
            return problem(409, "Security group rule already exists.")
        made = asked | {"id": str(uuid.uuid4()), "ethertype": "IPv4", "tenant_id": PROJECT}
        cloud.rules[made["id"]] = made
        cloud.enforce(cloud.groups[made["security_group_id"]]["name"])
        return JSONResponse({"security_group_rule": made}, 201)

    @router.get("/floatingips")
    def addresses(
        floating_network_id: str | None = None, floating_ip_address: str | None = None
    ) -> dict[str, Any]:
        asked = {
            "floating_network_id": floating_network_id,
            "floating_ip_address": floating_ip_address,
        }
        wanted = {key: value for key, value in asked.items() if value}.items()
        return {"floatingips": [a for a in cloud.addresses.values() if wanted <= a.items()]}

    @router.post("/floatingips")
    def create_address(floatingip: Annotated[Address, Body(embed=True)]) -> JSONResponse:
        if floatingip.floating_network_id != NETWORKS[PUBLIC]:
            return not_found(floatingip.floating_network_id)
        name = str(uuid.uuid4())
        cloud.addresses[name] = {
            "id": name, "floating_ip_address": cloud.machines.public_address(), "port_id": None,
            "floating_network_id": NETWORKS[PUBLIC], "fixed_ip_address": None, "status": "DOWN",
            "router_id": None, "tenant_id": PROJECT, "port_details": None,
        }  # fmt: skip
        return JSONResponse({"floatingip": cloud.addresses[name]}, 201)

    @router.put("/floatingips/{name}")
    def attach(name: str, floatingip: Annotated[Attachment, Body(embed=True)]) -> dict[str, Any]:
        address = cloud.addresses[name]
        if floatingip.port_id:
            machine = cloud.server_of(floatingip.port_id).machine
            machine.connect(address["floating_ip_address"])
            found = {"status": "ACTIVE", "fixed_ip_address": machine.address}
        else:
            cloud.server_of(address["port_id"]).machine.disconnect()
            found = {"status": "DOWN", "fixed_ip_address": None}
        address |= {"port_id": floatingip.port_id, **found}
        return {"floatingip": address}

    @router.delete("/floatingips/{name}")
    def delete_address(name: str) -> Response:
        address = cloud.addresses.pop(name)
        ports = {server.port for server in cloud.servers.values()}
        if address["port_id"] in ports:
            cloud.server_of(address["port_id"]).machine.disconnect()
        return Response(status_code=204)

    return router

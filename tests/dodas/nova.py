"""Compute: flavours and servers."""

from __future__ import annotations

import uuid
from typing import Annotated, Any

from answers import TIME, Named, Strict, links, not_found
from cloud import FLAVORS, NETWORKS, PRIVATE, PROJECT, Cloud, Instance, cloud_config
from fastapi import APIRouter, Body, Response
from fastapi.responses import JSONResponse


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
    imageRef: str
    flavorRef: str


class Reboot(Strict):
    type: str


class Action(Strict):
    reboot: Reboot | None = None
    removeSecurityGroup: Named | None = None


def routes(cloud: Cloud) -> APIRouter:
    """Under /compute/v2.1."""
    router = APIRouter(prefix="/compute/v2.1")
    url = f"{cloud.url}{router.prefix}"

    def flavor(name: str) -> dict[str, Any]:
        return {
            "id": name, **FLAVORS[name], "swap": "", "rxtx_factor": 1.0,
            "links": links(f"{url}/flavors/{name}"), "OS-FLV-EXT-DATA:ephemeral": 0,
            "os-flavor-access:is_public": True,
        }  # fmt: skip

    @router.get("/flavors/detail")
    def flavors() -> dict[str, Any]:
        return {"flavors": [flavor(name) for name in FLAVORS]}

    @router.get("/flavors/{name}")
    def one_flavor(name: str) -> dict[str, Any]:
        return {"flavor": flavor(name)}

    @router.get("/flavors/{name}/os-extra_specs")
    def extra_specs(name: str) -> dict[str, Any]:
        return {"extra_specs": {}}

    def described(server: Instance) -> dict[str, Any]:
        floating = [
            address["floating_ip_address"]
            for address in cloud.addresses.values()
            if address["port_id"] == server.port
        ]
        places = [
            {"addr": address, "version": 4, "OS-EXT-IPS:type": kind,
             "OS-EXT-IPS-MAC:mac_addr": "02:00:00:00:00:01"}
            for kind, found in (("fixed", [server.machine.address]), ("floating", floating))
            for address in found
        ]  # fmt: skip
        image, size = server.asked.imageRef, server.asked.flavorRef
        return {
            "id": server.id, "name": server.asked.name, "status": "ACTIVE", "tenant_id": PROJECT,
            "user_id": "u1", "metadata": server.asked.metadata, "hostId": "h", "key_name": None,
            "config_drive": "", "progress": 100, "created": TIME, "updated": TIME,
            "image": {"id": image, "links": links(f"{url}/images/{image}")},
            "flavor": {"id": size, "links": links(f"{url}/flavors/{size}")},
            "addresses": {PRIVATE: places}, "accessIPv4": "", "accessIPv6": "",
            "links": links(f"{url}/servers/{server.id}"), "OS-EXT-AZ:availability_zone": "nova",
            "OS-EXT-STS:vm_state": "active", "OS-EXT-STS:power_state": 1,
            "OS-EXT-STS:task_state": None,
            "security_groups": [{"name": name} for name in server.groups],
            "os-extended-volumes:volumes_attached": [{"id": name} for name in server.volumes],
        }  # fmt: skip

    @router.post("/servers")
    def create(server: Annotated[Server, Body(embed=True)]) -> JSONResponse:
        name = str(uuid.uuid4())
        volumes = {}
        for number, disk in enumerate(server.block_device_mapping_v2):
            if disk.destination_type == "volume":
                volumes[str(uuid.uuid4())] = {
                    "size": int(disk.volume_size or 0),
                    "server": name,
                    "device": f"/dev/vd{'abcdef'[number]}",
                    "goes_with_server": disk.delete_on_termination,
                }
        data = [v["size"] for v in volumes.values() if v["device"] != "/dev/vda"]
        groups = [group.name for group in server.security_groups]
        machine = cloud.machines.boot(name, server.name, data, cloud_config(server.user_data))
        machine.enforce(cloud.rules_of(groups))
        cloud.volumes |= volumes
        cloud.servers[name] = Instance(name, server, machine, groups, list(volumes))
        made = {"id": name, "links": links(f"{url}/servers/{name}"), "adminPass": "x"}
        more = {"security_groups": [], "OS-DCF:diskConfig": "MANUAL"}
        return JSONResponse({"server": made | more}, 202)

    @router.get("/servers/{name}")
    def one_server(name: str) -> JSONResponse:
        if name not in cloud.servers:
            return not_found(name)
        return JSONResponse({"server": described(cloud.servers[name])})

    @router.delete("/servers/{name}")
    def delete(name: str) -> Response:
        if name not in cloud.servers:
            return not_found(name)
        server = cloud.servers.pop(name)
        cloud.machines.discard(server.machine)
        for volume in server.volumes:
            if cloud.volumes[volume]["goes_with_server"]:
                del cloud.volumes[volume]
        return Response(status_code=204)

    @router.post("/servers/{name}/action")
    def act(name: str, action: Action) -> Response:
        server = cloud.servers[name]
        if action.reboot:
            server.machine.reboot()
            server.machine.enforce(cloud.rules_of(server.groups))
        if action.removeSecurityGroup:
            server.groups.remove(action.removeSecurityGroup.name)
        return Response(status_code=202)

    @router.get("/servers/{name}/os-interface")
    def interfaces(name: str) -> dict[str, Any]:
        server = cloud.servers[name]
        port = {
            "port_id": server.port, "net_id": NETWORKS[PRIVATE], "port_state": "ACTIVE",
            "fixed_ips": [{"ip_address": server.machine.address, "subnet_id": "sub-private"}],
            "mac_addr": "02:00:00:00:00:01",
        }  # fmt: skip
        return {"interfaceAttachments": [port]}

    return router

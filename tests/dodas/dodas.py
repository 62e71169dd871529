"""What the command dodas v1.3.0 asks the IM, byte for byte."""

from __future__ import annotations

import gzip
import json
import socket
from dataclasses import dataclass
from http.client import HTTPResponse
from urllib.parse import urlsplit

JSON, YAML = "application/json", "text/yaml"


class RefusedError(Exception):
    """The IM said no; the message is its own."""


@dataclass(frozen=True)
class Dodas:
    """The command with this configuration (~/.dodas.yaml): its calls, under its words' names."""

    host: str
    cloud: dict[str, str]
    im: dict[str, str]

    def authorization(self) -> str:
        """One line for the cloud, one for the IM; what parts them is a backslash and an n."""
        lines = (self.cloud, {"id": "im", "type": "InfrastructureManager", **self.im})
        return "\\n".join(
            ";".join(f"{key} = {value}" for key, value in line.items() if value) for line in lines
        )

    def request(self, method: str, path: str, body: str = "", **headers: str) -> bytes:
        """The request as Go's library writes it: its own headers, then the others sorted."""
        where = urlsplit(self.host)
        content = body.encode()
        head = [f"{method} {where.path}{path} HTTP/1.1", f"Host: {where.netloc}",
                "User-Agent: Go-http-client/1.1"]  # fmt: skip
        if method in ("POST", "PUT"):
            head.append(f"Content-Length: {len(content)}")
        headers |= {"Authorization": self.authorization()}
        head += [f"{name.replace('_', '-')}: {headers[name]}" for name in sorted(headers)]
        head.append("Accept-Encoding: gzip")
        return "\r\n".join([*head, "", ""]).encode() + content

    def ask(self, method: str, path: str, body: str = "", **headers: str) -> str:
        """The body of the answer; what is not success is raised."""
        where = urlsplit(self.host)
        with socket.create_connection((where.hostname, where.port), 300) as connection:
            connection.sendall(self.request(method, path, body, **headers))
            answer = HTTPResponse(connection, method=method)
            answer.begin()
            said = answer.read()
        if answer.headers["Content-Encoding"] == "gzip":
            said = gzip.decompress(said)
        if answer.status != 200:
            raise RefusedError(f"{answer.status} {said.decode()}")
        return said.decode()

    def create(self, template: str) -> str:
        """`dodas create FILE`: the infrastructure's id."""
        return self.ask("POST", "", template, Content_Type=YAML).rpartition("/")[2]

    def update(self, name: str, template: str) -> None:
        """`dodas update ID FILE`."""
        self.ask("POST", f"/{name}", template, Content_Type=YAML, Accept=JSON)

    def output(self, name: str) -> dict[str, str]:
        """`dodas get output ID`."""
        found: dict[str, dict[str, str]] = json.loads(
            self.ask("GET", f"/{name}/outputs", Accept=JSON)
        )
        return found["outputs"]

    def status(self, name: str) -> str:
        """`dodas get status ID`."""
        return self.get(f"/{name}/contmsg")

    def vm(self, name: str, number: int = 0) -> str:
        """`dodas get vm ID N`: it looks up the machine's address first."""
        address = self.get(f"/{name}").splitlines()[number]
        return self.get(address.removeprefix(self.host))

    def infrastructures(self) -> list[str]:
        """`dodas list infIDs`."""
        found = json.loads(self.ask("GET", "", Accept=JSON))["uri-list"]
        return [entry["uri"].rpartition("/")[2] for entry in found]

    def reconfig(self, name: str) -> None:
        """`dodas reconfig ID`."""
        self.ask("PUT", f"/{name}/reconfigure", Content_Type=JSON)

    def reboot(self, name: str, number: int = 0) -> None:
        """`dodas reboot ID N`."""
        self.ask("PUT", f"/{name}/vms/{number}/reboot", Content_Type=JSON)

    def destroy(self, name: str) -> None:
        """`dodas destroy ID`."""
        self.ask("DELETE", f"/{name}", Content_Type=YAML)

    def get(self, path: str) -> str:
        return self.ask("GET", path, Content_Type=JSON)

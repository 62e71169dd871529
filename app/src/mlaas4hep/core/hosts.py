"""The hosts that trainings may read from, as the operator lists them: names, ports, addresses.

Nothing but the standard library: the deployment's preflight loads this file, too.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network

Address = IPv4Address | IPv6Address
Network = ipaddress.IPv4Network | IPv6Network

USUAL_PORTS = (80, 443)
_LABEL = "[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"({_LABEL}\.)*{_LABEL}")
_ENTRY = re.compile(r"(\[[0-9a-f:.]+\]|[^:\[\]]+)(?::([0-9]{1,5}))?")
_NAT64 = IPv6Network("64:ff9b::/96")
_NEVER = [
    ipaddress.ip_network(text)
    for text in (
        *("0.0.0.0/8", "127.0.0.0/8", "::/96", "::1/128"),  # this machine
        *("169.254.0.0/16", "fe80::/10", "fec0::/10"),  # the link's, with the cloud's metadata
        *("168.63.129.16/32", "fd00:ec2::/32"),  # metadata of other clouds
        *("224.0.0.0/3", "ff00::/8"),  # multicast, reserved, broadcast
        "64:ff9b:1::/48",  # IPv4 addresses that a translator of the site chooses
    )
]
_NO_HOST = "is not a host that trainings may read from"
_REMEDY = (
    "Write HOST, HOST:PORT, *.DOMAIN, an address, or a network such as 192.0.2.0/24, separated by"
    " commas; an IPv6 address with a port as [ADDRESS]:PORT."
)


@dataclass(frozen=True)
class _Entry:
    """What one entry allows: a name (or all names below a domain) or addresses, at these ports."""

    name: str
    addresses: Network | None
    ports: tuple[int, ...]

    def covers(self, name: str) -> bool:
        if self.name.startswith("*."):
            return name.endswith(self.name[1:])
        return name == self.name

    def holds(self, address: Address) -> bool:
        return self.addresses is not None and address in self.addresses


class HostError(ValueError):
    """An entry that can't be one: which, why, and the remedy."""

    def __init__(self, entry: str, why: str, remedy: str) -> None:
        super().__init__(f"{entry!r} {why}. {remedy}")
        self.entry, self.why, self.remedy = entry, why, remedy


class DataHosts:
    """A list of hosts, such as ``eospublic.cern.ch, *.example.org:8443, 192.0.2.0/24``.

    A name allows the ports 80 and 443, or the one that it is written with. ``*.example.org`` allows
    all names below example.org, but not example.org itself. A name may lead to public addresses
    only; an address or a network in the list allows these addresses too, by themselves and for the
    names of the list.
    """

    def __init__(self, text: str) -> None:
        """HostError names the first entry that can't be one."""
        words = [word.strip() for word in text.split(",")]
        self._entries = [_entry(word) for word in words if word]

    def __bool__(self) -> bool:
        return bool(self._entries)

    def allow(self, host: str, port: int) -> bool:
        """Whether a training may ask for ``host``, a name or an address, at ``port``."""
        address = _address(host)
        return any(
            port in entry.ports
            and (entry.holds(address) if address else entry.covers(host.lower().rstrip(".")))
            for entry in self._entries
        )

    def allow_address(self, address: Address, own: Iterable[Network] = ()) -> bool:
        """Whether a connection to ``address`` may be made for a host that is allowed.

        ``own`` are this machine's networks: of these, each address must be listed by itself.
        """
        inner = _inner(address)
        if _never(inner):
            return False
        listed = [each.addresses for each in self._entries if each.holds(inner)]
        if any(inner in network for network in own):
            return any(network and network.num_addresses == 1 for network in listed)
        return inner.is_global or bool(listed)


def parse_target(text: str) -> tuple[str, int] | None:
    """Host and port of ``HOST:PORT``; None when it isn't that."""
    match = _ENTRY.fullmatch(text.lower())
    if not match or not match[2] or not 0 < int(match[2]) < 65536:
        return None
    host = match[1].strip("[]").rstrip(".")
    if _address(host) is None and not (_NAME.fullmatch(host) and len(host) < 254):
        return None
    return host, int(match[2])


def _entry(text: str) -> _Entry:
    """What an entry says; HostError when it says nothing, or what no training may reach."""
    lower = text.lower()
    if network := _network(lower):
        return _Entry("", _checked(network, text), USUAL_PORTS)
    match = _ENTRY.fullmatch(lower)
    if not match or (match[2] and not 0 < int(match[2]) < 65536):
        raise HostError(text, _NO_HOST, _REMEDY)
    ports = (int(match[2]),) if match[2] else USUAL_PORTS
    host = match[1].strip("[]")
    if network := _network(host):
        return _Entry("", _checked(network, text), ports)
    domain = host.removeprefix("*.")
    labels = domain.split(".")
    if not _NAME.fullmatch(domain) or len(domain) > 253 or labels[-1].isdigit():
        raise HostError(text, _NO_HOST, _REMEDY)
    if domain != host and len(labels) < 2:
        raise HostError(
            text,
            f"allows every name below .{domain}, which anybody may register",
            "Name the domain of the data's owner, as *.example.org.",
        )
    if domain == "localhost" or domain.endswith(".localhost"):
        raise HostError(text, "is the machine itself", "List its public name, or none.")
    return _Entry(host, None, ports)


def _checked(network: Network, text: str) -> Network:
    if any(network.version == never.version and network.overlaps(never) for never in _NEVER):
        raise HostError(
            text,
            "holds addresses that no training may reach: this machine's loopback,"
            " link-local ones such as the cloud's metadata (169.254.169.254), multicast, or all",
            "List the addresses of the data servers only.",
        )
    return network


def _never(address: Address) -> bool:
    return any(address in network for network in _NEVER)


def _inner(address: Address) -> Address:
    """The IPv4 address that an IPv6 address stands for, where it does."""
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    teredo = address.teredo[1] if address.teredo else None
    return address.ipv4_mapped or address.sixtofour or teredo or address


def _address(text: str) -> Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _network(text: str) -> Network | None:
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        return None

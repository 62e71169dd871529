"""A training with remote files reads what is listed, through the data proxy, and nothing else."""

from __future__ import annotations

import json

import pytest
from test_confinement import looked, network_gateway
from trainings import Trainings
from vm import DATA_PROXY, VM

from support.remote_data import file_server
from support.user import Files
from support.waiting import until

NAME = "remote_data"
LISTED = "https://iam.test/realms/mlaas4hep/.well-known/openid-configuration"
MODEL = """
import json, socket, urllib.request

def tried(do, *words):
    try:
        return [True, str(do(*words))]
    except (OSError, ValueError) as error:
        return [False, str(error)]

def fetched(url):
    return urllib.request.urlopen(url, timeout=20).read(60)

def connected(address):
    host, port = address.rsplit(":", 1)
    return socket.create_connection((host, int(port)), 3)

def model(idim):
    from sklearn.ensemble import HistGradientBoostingClassifier

    found = [
        [what, thing, *tried({"fetch": fetched, "connect": connected,
                              "resolve": socket.gethostbyname}[what], thing)]
        for what, thing in json.load(open("attempts.json"))
    ]
    print("FOUND " + json.dumps(found))
    return HistGradientBoostingClassifier(max_iter=5)
"""


@pytest.fixture(scope="module")
def attempts(vm: VM) -> list[list[str]]:
    """Addresses that are right: the proxy's container, as any other, would reach most of them."""
    server = vm.inspect("mlaas4hep-server")["NetworkSettings"]["Networks"].values()
    proxy = vm.inspect(DATA_PROXY)["NetworkSettings"]["Networks"].values()
    inside = [f"{network['IPAddress']}:8080" for network in server]
    host = [network_gateway(vm), *[network["Gateway"] for network in proxy]]
    return [
        ["fetch", "https://mirror.test/v2/"],  # another host
        ["fetch", "http://iam.test:22/"],  # another port
        ["fetch", "https://mlaas4hep.test/readyz"],  # this one
        ["fetch", "http://169.254.169.254/latest/meta-data/"],
        *[["fetch", f"http://{address}/healthz"] for address in inside],
        *[["fetch", f"http://{address}:22/"] for address in host],
        *[["connect", address] for address in [*inside, "10.213.0.3:443"]],
        *[["connect", f"{address}:22"] for address in host],
        ["resolve", "iam.test"],
    ]


def test_a_training_reads_what_is_listed_and_reaches_nothing_else(
    vm: VM, files: Files, attempts: list[list[str]]
) -> None:
    """One of its files is on a server. The proxy's log says which training asked for what."""
    trainings, server = Trainings(vm, files.upload), ("10.213.0.1", 18080)
    names = (files.upload / "files.txt").read_text().splitlines()
    [signal] = [name for name in names if name.endswith("signal.root")]
    listed = [name.replace(signal, "http://10.213.0.1:18080/signal.root") for name in names]
    tried = json.dumps([["fetch", LISTED], *attempts])
    trainings.upload(NAME, MODEL, **{"attempts.json": tried, "files.txt": "\n".join(listed)})
    with file_server((files.upload / signal).read_bytes(), server):
        row = trainings.ended(trainings.submit(NAME))
    job = row["process_name"]
    assert row["state"] == "succeeded", (
        row,
        trainings.log(job),
        vm.run(f"docker logs {DATA_PROXY}"),
    )
    found = looked(trainings.log(job))
    assert found[0][2], found[0]
    assert "issuer" in found[0][3]
    assert not [attempt for attempt in found[1:] if attempt[2]]
    assert len(found) == 1 + len(attempts)
    lines = [json.loads(line) for line in vm.run(f"docker logs {DATA_PROXY} 2>&1").splitlines()
             if line.startswith("{")]  # fmt: skip
    asked = {(line["host"], line["message"]) for line in lines if line.get("job") == job}
    assert {("10.213.0.1", "served"), ("iam.test", "served")} <= asked
    refused = {host for host, message in asked if message.startswith("refused: ")}
    assert refused >= {"mirror.test", "mlaas4hep.test", "169.254.169.254"}


def test_a_proxy_that_is_killed_comes_back(vm: VM) -> None:
    vm.run(f"kill -9 $(docker inspect --format '{{{{.State.Pid}}}}' {DATA_PROXY})")
    until("the data proxy is healthy", lambda: vm.healthy(DATA_PROXY))
    probe = "python -m mlaas4hep.core.probe data-proxy /var/lib/mlaas4hep/data-proxy"
    until("it answers", lambda: vm.ended(f"docker exec {DATA_PROXY} {probe}").returncode == 0)

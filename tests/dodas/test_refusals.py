"""What the operator is told when the cloud says no; tokens in the place of passwords."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from cloud import PROJECT, Cloud
from deployment import Deployment, template, usual

from conftest import VERSION
from dodas import Dodas, RefusedError
from support.tokens import Issuer, by_my_key
from support.waiting import until


@pytest.fixture(autouse=True)
def nothing_is_left(cloud: Cloud) -> Iterator[None]:
    """Before and after each test: nobody pays for what was refused."""
    assert cloud.left() == []
    yield
    assert cloud.left() == []


@pytest.fixture(scope="module")
def usual_template(releases: dict[str, Path]) -> str:
    return template(releases[VERSION], **usual())


def with_token(dodas: Dodas, token: str) -> Dodas:
    """The command of an operator who has a token of the issuer, for the IM and for the cloud."""
    federated = {"username": "iam", "tenant": "openid", "auth_version": "3.x_oidc_access_token",
                 "domain": PROJECT, "password": token}  # fmt: skip
    return replace(dodas, cloud=dodas.cloud | federated, im={"token": token})


@dataclass(frozen=True)
class Renewing(Dodas):
    """The command of an operator whose tokens live a minute, with new ones each time."""

    issuer: Issuer

    def authorization(self) -> str:
        token = self.issuer.token("alice", "test-minute")
        return with_token(Dodas(self.host, self.cloud, self.im), token).authorization()


def test_a_wrong_password_of_the_cloud(dodas: Dodas, usual_template: str) -> None:
    wrong = replace(dodas, cloud=dodas.cloud | {"password": "wrong"})
    with pytest.raises(RefusedError, match="Invalid credentials with the provider"):
        wrong.create(usual_template)
    assert dodas.infrastructures() == []


def test_a_flavour_that_the_cloud_does_not_have(dodas: Dodas, releases: dict[str, Path]) -> None:
    with pytest.raises(RefusedError, match="No flavor found"):
        dodas.create(template(releases[VERSION], **usual(flavor="colossal")))
    assert dodas.infrastructures() == []


def test_a_token_makes_a_machine_with_a_volume(
    dodas: Dodas, issuer: Issuer, cloud: Cloud, releases: dict[str, Path], folder: Path
) -> None:
    operator = with_token(dodas, issuer.token("alice"))
    asked = template(releases[VERSION], "mlaas4hep-volume", **usual(volume_size="1 GB"))
    made = Deployment(operator, operator.create(asked), folder)
    until("the machine runs", lambda: made.state() == "running")
    (server,) = cloud.servers.values()
    _, data = server.asked.block_device_mapping_v2
    assert (data.source_type, data.volume_size, data.delete_on_termination) == ("blank", 1, True)
    assert server.machine.run("blockdev --getsize64 /dev/vdb") == str(10**9)
    assert operator.infrastructures() == [made.id]
    assert dodas.infrastructures() == []  # it is another user's
    operator.destroy(made.id)


def test_a_token_that_the_issuer_did_not_sign(
    dodas: Dodas, issuer: Issuer, usual_template: str
) -> None:
    forged = with_token(dodas, by_my_key(issuer.token("alice")))
    with pytest.raises(RefusedError, match=r"401 .*Invalid InfrastructureManager credentials"):
        forged.create(usual_template)


def test_a_token_that_the_cloud_does_not_take(
    dodas: Dodas, issuer: Issuer, usual_template: str
) -> None:
    token = issuer.token("alice")
    operator = replace(with_token(dodas, by_my_key(token)), im={"token": token})
    with pytest.raises(RefusedError, match="Invalid credentials with the provider"):
        operator.create(usual_template)


def test_wrong_values_are_told_at_once_to_an_operator_whose_tokens_expire_meanwhile(
    dodas: Dodas, issuer: Issuer, cloud: Cloud, releases: dict[str, Path], folder: Path
) -> None:
    """Created, polled, reconfigured and destroyed, each time with a token of its own."""
    wrong = {"certificate": "acne", "issuer": "", "acme_directory": "stagging"}
    asked = template(releases[VERSION], **usual(**wrong))
    operator = Renewing(dodas.host, dodas.cloud, dodas.im, issuer)
    others = set(cloud.tokens)
    made = Deployment(operator, operator.create(asked), folder)

    def told() -> None:
        assert made.ended() == "unconfigured"
        said = operator.status(made.id)
        assert "Nothing was changed" in said
        for name in wrong:
            assert f"{name} is " in said

    def expired() -> bool:
        return min(cloud.tokens[name] for name in cloud.tokens.keys() - others) < time.time()

    try:
        told()
        until("the first token has expired", expired, 90)
        operator.reconfig(made.id)
        told()
    finally:
        operator.destroy(made.id)

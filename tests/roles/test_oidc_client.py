"""The client at the issuer: registered or updated, and compared with what was asked for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from support.registrar import Registrar, registrar

ROOT = Path(__file__).parents[2]
CALLBACK = "https://ml.example.org/oauth2/callback"
DUMMY = "https://another.client.example/oidc"
"""The redirect address of a client that the PaaS registered."""
SCOPE = "openid profile wlcg.groups"
ASKS = {"redirect_uris": [CALLBACK], "scope": SCOPE, "grant_types": ["authorization_code"]}
GIVEN, OWN = "given-client.json", "client.json"


@pytest.fixture
def issuer() -> Iterator[Registrar]:
    with registrar() as started:
        yield started


@pytest.fixture
def play(oidc_client: ModuleType, issuer: Registrar, tmp_path: Path) -> Callable[..., Any]:
    """Run the module once; its result, the warning, and how often it asked what."""

    def run(check: bool = False, **given: Any) -> tuple[dict[str, Any], str, list[str]]:
        nothing = dict.fromkeys(
            ["initial_access_token_file", "client_id", "token_file", "address", "secret_file"], ""
        )
        params = nothing | {
            "folder": str(tmp_path),
            "owner": os.geteuid(),
            "issuer": "https://iam.example.org/",
            "endpoint": issuer.endpoint,
            "asks": ASKS,
            "scope": SCOPE,
            "ca_path": None,
        }
        issuer.asked.clear()
        result, warning = oidc_client.run(params | given, check)
        return result, warning, issuer.asked

    return run


@pytest.fixture
def paas(issuer: Registrar, tmp_path: Path) -> dict[str, str]:
    """Options that name a client as the PaaS makes it."""
    name, token = issuer.made(redirect_uris=[DUMMY], scope="openid email", contacts=["a@b.org"])
    (tmp_path / "token").write_text(f"{token}\n")
    return {"client_id": name, "token_file": str(tmp_path / "token")}


def kept(folder: Path, name: str = GIVEN) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / name).read_text())
    return found


class TestClientOfThePaas:
    def test_it_gets_redirect_and_scopes_once(
        self, play: Any, paas: Any, issuer: Registrar, tmp_path: Path
    ) -> None:
        result, warning, asked = play(**paas)
        assert result == {"changed": True, "client_id": paas["client_id"], "scope": SCOPE}
        assert (warning, asked) == ("", ["GET", "PUT"])
        client = issuer.clients[paas["client_id"]]
        assert client["redirect_uris"] == [CALLBACK]
        assert client["scope"] == "openid email profile wlcg.groups"
        assert client["contacts"] == ["a@b.org"]
        assert not {"registration_access_token", "client_id_issued_at", "issuer"} & set(client)
        assert (tmp_path / "client-secret").read_text() == client["client_secret"]
        assert not (tmp_path / OWN).exists()
        for name in (GIVEN, "client-secret"):
            assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
        again, _, asked = play(**paas)
        assert (again["changed"], asked) == (False, [])

    def test_check_mode_sends_and_writes_nothing(
        self, play: Any, paas: Any, tmp_path: Path
    ) -> None:
        result, _, asked = play(check=True, **paas)
        assert (result["changed"], asked) == (True, [])
        assert [path.name for path in tmp_path.iterdir()] == ["token"]

    def test_every_new_token_is_kept(
        self, play: Any, paas: Any, issuer: Registrar, tmp_path: Path
    ) -> None:
        """The one in the file is of no use after the first answer; then the kept one is sent."""
        issuer.renews = True
        play(**paas)
        assert kept(tmp_path)["registration_access_token"] == issuer.tokens[paas["client_id"]]
        assert (tmp_path / GIVEN).stat().st_mode & 0o777 == 0o600
        moved = "https://new.example.org/oauth2/callback"
        _, _, asked = play(**paas, asks=ASKS | {"redirect_uris": [moved]})
        assert asked == ["GET", "PUT"]
        assert issuer.clients[paas["client_id"]]["redirect_uris"] == [moved]
        assert kept(tmp_path)["registration_access_token"] == issuer.tokens[paas["client_id"]]

    def test_the_token_of_an_answer_is_kept_although_the_update_fails(
        self, play: Any, paas: Any, issuer: Registrar, oidc_client: ModuleType, tmp_path: Path
    ) -> None:
        issuer.renews, issuer.refuses = True, {"PUT": 503}
        with pytest.raises(oidc_client.ClientError, match=r"503.*Play again later"):
            play(**paas)
        assert kept(tmp_path)["registration_access_token"] == issuer.tokens[paas["client_id"]]
        issuer.refuses = {}
        assert play(**paas)[0]["changed"]

    def test_a_new_token_in_the_file_is_taken_where_the_kept_one_is_refused(
        self, play: Any, paas: Any, issuer: Registrar
    ) -> None:
        issuer.drops = {"scope": "openid profile"}
        play(**paas)
        issuer.tokens[paas["client_id"]] = "another"
        Path(paas["token_file"]).write_text("another")
        assert play(**paas)[2] == ["GET", "GET", "PUT"]

    def test_a_client_that_is_right_already_is_not_changed(
        self, play: Any, issuer: Registrar, tmp_path: Path
    ) -> None:
        name, token = issuer.made(redirect_uris=[CALLBACK], scope=f"{SCOPE} email")
        (tmp_path / "token").write_text(token)
        issuer.refuses = {"PUT": 403}
        result, warning, asked = play(client_id=name, token_file=str(tmp_path / "token"))
        assert (result["scope"], warning, asked) == (SCOPE, "", ["GET"])

    def test_an_update_that_is_forbidden_says_what_to_add(
        self, play: Any, paas: Any, issuer: Registrar, oidc_client: ModuleType
    ) -> None:
        issuer.refuses = {"PUT": 403}
        with pytest.raises(oidc_client.ClientError) as error:
            play(**paas)
        for words in (
            f"the redirect address {CALLBACK} and the scope profile and the scope wlcg.groups",
            "status 403: access_denied: no PUT here",
            "administrators add what is missing to this client, and play again",
        ):
            assert words in str(error.value)
        # Which they did, without the scopes.
        issuer.clients[paas["client_id"]]["redirect_uris"] = [CALLBACK]
        result, warning, _ = play(**paas)
        assert "the scope profile wlcg.groups, and refused the update (status 403" in warning
        assert result["scope"] == "openid"

    @pytest.mark.parametrize(("status", "name"), [(404, "404"), (401, "401"), (403, "403")])
    def test_a_client_that_is_not_shown(
        self, play: Any, paas: Any, issuer: Registrar, oidc_client: ModuleType, status: int,
        name: str,
    ) -> None:  # fmt: skip
        issuer.refuses = {"GET": status}
        with pytest.raises(oidc_client.ClientError) as error:
            play(**paas)
        assert f"{issuer.endpoint}/{paas['client_id']} doesn't show the client" in str(error.value)
        assert f"status {name}" in str(error.value)
        assert "oauth2_proxy_registration_token_file" in str(error.value)
        assert issuer.asked == ["GET"]

    def test_an_address_of_another_client(
        self, play: Any, paas: Any, issuer: Registrar, oidc_client: ModuleType
    ) -> None:
        issuer.drops = {"client_id": "other"}
        with pytest.raises(oidc_client.ClientError, match="shows the client other"):
            play(**paas)

    def test_the_address_may_be_given(self, play: Any, paas: Any, issuer: Registrar) -> None:
        address = f"{issuer.endpoint}/of/{paas['client_id']}"
        assert play(**paas, endpoint="", address=address)[2] == ["GET", "PUT"]

    def test_no_address(self, play: Any, paas: Any, oidc_client: ModuleType) -> None:
        with pytest.raises(oidc_client.ClientError, match="oauth2_proxy_registration_address"):
            play(**paas, endpoint="")

    def test_the_token_is_not_sent_without_tls(
        self, play: Any, paas: Any, oidc_client: ModuleType
    ) -> None:
        with pytest.raises(oidc_client.ClientError, match="no https:// address"):
            play(**paas, address="http://192.0.2.1/register/x")

    def test_a_secret_that_the_issuer_does_not_tell(
        self, play: Any, paas: Any, issuer: Registrar, oidc_client: ModuleType, tmp_path: Path
    ) -> None:
        client = issuer.clients[paas["client_id"]]
        issuer.silent = ("client_secret",)
        secret = tmp_path / "given-secret"
        secret.write_text(client["client_secret"] + "\n")
        play(**paas, secret_file=str(secret))
        assert (tmp_path / "client-secret").read_text() == client["client_secret"]
        secret.write_text("renewed at the issuer")
        assert play(**paas, secret_file=str(secret))[0]["changed"]
        assert (tmp_path / "client-secret").read_text() == "renewed at the issuer"
        (tmp_path / GIVEN).unlink()
        issuer.clients[paas["client_id"]] |= {"redirect_uris": [CALLBACK], "scope": SCOPE}
        with pytest.raises(oidc_client.ClientError, match="oauth2_proxy_client_secret_file"):
            play(**paas)


@pytest.fixture(params=["registered", "given"])
def client(request: pytest.FixtureRequest) -> Any:
    """Options for a client of either kind."""
    return request.getfixturevalue("paas") if request.param == "given" else {}


class TestWhatTheIssuerDrops:
    def test_a_scope_is_named_and_not_requested_until_it_is_there(
        self, play: Any, client: Any, issuer: Registrar
    ) -> None:
        issuer.drops = {"scope": "openid profile"}
        result, warning, _ = play(**client)
        assert result["scope"] == "openid profile"
        for words in ("the scope wlcg.groups. Users can sign in", "oauth2_proxy_scope"):
            assert words in warning
        again, said, _ = play(**client)
        assert (again, said) == ({**result, "changed": False}, warning)
        checked, said, asked = play(check=True, **client)
        assert (checked["changed"], said, asked) == (False, warning, [])
        issuer.drops = {}
        (only,) = issuer.clients
        issuer.clients[only]["scope"] = SCOPE
        result, warning, asked = play(**client)
        assert (result["changed"], result["scope"], warning) == (True, SCOPE, "")
        assert asked == ["GET"]

    def test_the_redirect_is_an_error_until_it_is_there(
        self, play: Any, client: Any, issuer: Registrar, oidc_client: ModuleType, tmp_path: Path
    ) -> None:
        issuer.drops = {"redirect_uris": [DUMMY]}
        with pytest.raises(oidc_client.ClientError, match="nobody can sign in") as error:
            play(**client)
        assert f"the redirect address {CALLBACK}" in str(error.value)
        assert not (tmp_path / "client-secret").exists()
        issuer.drops = {}
        (only,) = issuer.clients
        issuer.clients[only]["redirect_uris"] = [CALLBACK]
        result, warning, asked = play(**client)
        assert (result["client_id"], warning, asked) == (only, "", ["GET"])

    def test_nobody_signs_in_without_openid(
        self, play: Any, client: Any, issuer: Registrar, oidc_client: ModuleType
    ) -> None:
        issuer.drops = {"scope": "profile"}
        with pytest.raises(oidc_client.ClientError, match="the scope openid and the scope wlcg"):
            play(**client)

    def test_scopes_that_are_not_told_are_not_missing(
        self, play: Any, client: Any, issuer: Registrar
    ) -> None:
        issuer.silent = ("scope",)
        result, warning, _ = play(**client)
        assert (result["scope"], warning) == (SCOPE, "")


class TestRegistration:
    def test_it_registers_once(self, play: Any, issuer: Registrar, tmp_path: Path) -> None:
        (tmp_path / "initial").write_text("first\n")
        result, warning, asked = play(initial_access_token_file=str(tmp_path / "initial"))
        assert (result["changed"], warning, asked) == (True, "", ["POST"])
        assert issuer.sent == [ASKS]
        assert (tmp_path / OWN).stat().st_mode & 0o777 == 0o600
        assert play()[2] == []
        # A secret that was changed by hand, or of another client, is put right.
        (tmp_path / "client-secret").write_text("other")
        assert play(check=True)[0]["changed"]
        assert play()[0]["changed"]
        assert (tmp_path / "client-secret").read_text() == kept(tmp_path, OWN)["client_secret"]

    def test_scopes_that_the_site_did_not_choose_are_the_issuers(
        self, play: Any, issuer: Registrar
    ) -> None:
        issuer.drops = {"scope": "offline_access"}
        result, warning, _ = play(asks={"redirect_uris": [CALLBACK]})
        assert (result["scope"], warning) == (SCOPE, "")

    def test_another_address_changes_the_same_client(self, play: Any, issuer: Registrar) -> None:
        play()
        moved = "https://new.example.org/oauth2/callback"
        assert play(asks=ASKS | {"redirect_uris": [moved]})[2] == ["GET", "PUT"]
        assert [c["redirect_uris"] for c in issuer.clients.values()] == [[moved]]

    @pytest.mark.parametrize(("refused", "asked"), [("GET", ["GET", "POST"]),
                                                   ("PUT", ["GET", "PUT", "POST"])])  # fmt: skip
    def test_a_client_that_can_not_be_changed_is_registered_anew(
        self, play: Any, issuer: Registrar, refused: str, asked: list[str]
    ) -> None:
        first = play()[0]["client_id"]
        issuer.refuses = {refused: 403}
        moved = {"redirect_uris": ["https://new.example.org/oauth2/callback"]}
        result, _, requests = play(asks=ASKS | moved)
        assert requests == asked
        assert result["client_id"] != first

    def test_another_issuer(self, play: Any) -> None:
        play()
        assert play(issuer="https://other.example.org/")[2] == ["POST"]

    def test_a_registration_that_is_refused(
        self, play: Any, issuer: Registrar, oidc_client: ModuleType
    ) -> None:
        issuer.refuses = {"POST": 401}
        with pytest.raises(oidc_client.ClientError) as error:
            play()
        for words in ("status 401: access_denied", "oauth2_proxy_initial_access_token", CALLBACK):
            assert words in str(error.value)
        with pytest.raises(oidc_client.ClientError, match="names no registration_endpoint"):
            play(endpoint="")

    def test_an_issuer_that_is_away(
        self, play: Any, issuer: Registrar, oidc_client: ModuleType
    ) -> None:
        issuer.close()
        with pytest.raises(oidc_client.ClientError, match=r"doesn't answer.*refused"):
            play()


def test_the_role_hands_it_what_the_site_sets(
    issuer: Registrar, paas: dict[str, str], tmp_path: Path
) -> None:
    """Played as the role does it; the token is in no output."""
    issuer.drops = {"scope": "openid profile"}
    options = {
        "mlaas4hep_issuer": "https://iam.example.org/",
        "mlaas4hep_domain": "ml.example.org",
        "mlaas4hep_uid": os.geteuid(),
        "oauth2_proxy_scope": SCOPE,
        "oauth2_proxy_client_id": paas["client_id"],
        "oauth2_proxy_registration_token_file": paas["token_file"],
        "__oauth2_proxy_endpoints": {"registration_endpoint": issuer.endpoint},
        "__oauth2_proxy_config": str(tmp_path),
        "ansible_python_interpreter": sys.executable,
    }
    role = {"name": "mlaas4hep.stack.oauth2_proxy", "tasks_from": "client_registered"}
    said = {"msg": "requests {{ __oauth2_proxy_scope }}; of {{ __oauth2_proxy_client_id }}"}
    tasks = [{"ansible.builtin.include_role": role | {"public": True}},
             {"ansible.builtin.debug": said}]  # fmt: skip
    book = tmp_path / "play.yml"
    book.write_text(yaml.safe_dump([{"hosts": "localhost", "gather_facts": False, "tasks": tasks}]))
    ended = subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), "-vvv", "-i", "localhost,",
         "-c", "local", "-e", json.dumps(options), book],
        capture_output=True, text=True, cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "LC_ALL": "C.UTF-8",
             "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "build/collections")}, timeout=300,
    )  # fmt: skip
    text = ended.stdout + ended.stderr
    assert ended.returncode == 0, text
    assert f"requests openid profile; of {paas['client_id']}" in text
    flat = " ".join(text.split())
    assert "did not give the client client-0 the scope wlcg.groups" in flat
    assert issuer.clients[paas["client_id"]]["redirect_uris"] == [CALLBACK]
    for secret in (issuer.tokens[paas["client_id"]], kept(tmp_path)["client_secret"]):
        assert secret not in text

"""Who is let in, seen from outside the machine, and whose things are whose."""

from __future__ import annotations

import json
import re
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

import pytest
from signed_in import Stack
from switched import OTHER, SWITCHES, address, servers
from vm import NAME, VM

from support.door import Door
from support.machine import DOCKER
from support.tokens import by_my_key, by_public_key, claims, unsigned
from support.waiting import until

LEEWAY_SECONDS = 30
"""By which the services' clock may be late; they say so (docs/reference)."""
EVIL = ("-H", "Origin: https://evil.test")
PAGE = ("-H", "Accept: text/html,application/xhtml+xml,*/*;q=0.8")


@pytest.fixture(scope="module")
def switched(vm: VM) -> Iterator[dict[str, Door]]:
    """Servers without one of the checks."""
    with servers(vm, *(name for name in SWITCHES if name != "new keys")) as doors:
        yield doors


def doors(stack: Stack) -> list[tuple[Door, str]]:
    """Every way from outside to a list of one's things."""
    return [
        (stack.site, "/folders"),
        (stack.site, "/tfaas/models"),
        (stack.old_server, "/folders"),
        (stack.old_tfaas, "/models"),
    ]


# Tokens


@pytest.mark.parametrize("who", ["alice", "bob", "robot"])
def test_people_and_robots_of_the_group_are_let_in(stack: Stack, who: str) -> None:
    token = stack.token(who)
    for door, path in doors(stack):
        answer = door.ask(path, token=token)
        assert answer.status == 200, answer


def test_the_token_command_signs_in_by_the_device_flow_and_robots_by_their_secret(
    stack: Stack,
) -> None:
    alice, robot = claims(stack.token("alice")), claims(stack.token("robot"))
    assert (alice["azp"], alice["preferred_username"]) == ("mlaas4hep-cli", "alice")
    assert (robot["azp"], robot["preferred_username"]) == ("robot", "service-account-robot")


@dataclass(frozen=True)
class Refused:
    """A token that is refused, with which status and words, and the check that does it."""

    token: Callable[[Stack], str]
    check: str
    says: str
    status: int = 401


REFUSED = {
    "another application's": Refused(
        lambda s: s.keycloak.token("bob", "other-app"), "audience", "the token is for"
    ),
    "another issuer's": Refused(
        lambda s: s.keycloak.token("bob", "test-password", "other"),
        "issuer",
        "not signed by the issuer",
    ),
    "an issuer of my own": Refused(
        lambda s: by_my_key(s.token("bob"), iss="https://evil.test"),
        "signature",
        "not signed by the issuer",
    ),
    "unsigned": Refused(lambda s: unsigned(s.token("bob")), "signature", "'none' are not accepted"),
    "signed with the public key": Refused(
        lambda s: by_public_key(s.token("bob"), s.keycloak), "signature", "'HS256' are not accepted"
    ),
    "my key under the issuer's key id": Refused(
        lambda s: by_my_key(s.token("bob")), "signature", "not signed by the issuer"
    ),
    "of nobody's group": Refused(lambda s: s.token("mallory"), "groups", "none of the groups", 403),
    "expired": Refused(lambda s: s.keycloak.token("bob", "test-short"), "expiry", "has expired"),
}


@pytest.fixture(scope="module")
def tokens(stack: Stack) -> dict[str, str]:
    """The refused ones; the one that will expire is good now."""
    made = {name: case.token(stack) for name, case in REFUSED.items()}
    assert stack.site.ask("/folders", token=made["expired"]).status == 200
    return made


def test_a_token_of_a_revoked_key_is_refused_once_the_keys_are_fetched_anew(
    stack: Stack, vm: VM, tokens: dict[str, str]
) -> None:
    """They are when a key is unknown, at most every 30 s. Meanwhile one of `tokens` expires."""

    def statuses(token: str) -> set[int]:
        return {door.ask(path, token=token).status for door, path in doors(stack)}

    with ExitStack() as beside:
        with stack.keycloak.key():
            revoked = stack.token("bob")
            until("a new key is known", lambda: statuses(revoked) == {200})
            forgetful = beside.enter_context(servers(vm, "new keys"))["new keys"]
            assert forgetful.ask("/folders", token=revoked).status == 200
        with stack.keycloak.key():
            newest = stack.token("bob")
            until("the next key is known", lambda: statuses(newest) == {200})
            assert statuses(revoked) == {401}
        assert forgetful.ask("/folders", token=revoked).status == 200


@pytest.mark.parametrize("name", REFUSED)
def test_any_other_token_is_refused(stack: Stack, tokens: dict[str, str], name: str) -> None:
    case, token = REFUSED[name], tokens[name]
    if case.check == "expiry":
        time.sleep(max(0, claims(token)["exp"] + LEEWAY_SECONDS + 1 - time.time()))
    for door, path in doors(stack):
        answer = door.ask(path, token=token)
        assert answer.status == case.status, answer
        assert case.says in answer.body, answer
        assert "json" in answer.headers["content-type"], answer
        challenge = answer.headers.get("www-authenticate", "")
        assert challenge.startswith("Bearer ") == (case.status == 401), answer


@pytest.mark.parametrize("name", REFUSED)
def test_each_would_be_let_in_without_its_check(
    switched: dict[str, Door], tokens: dict[str, str], name: str
) -> None:
    answer = switched[REFUSED[name].check].ask("/folders", token=tokens[name])
    assert answer.status == 200, answer


def test_the_other_issuers_token_is_of_another_issuer(tokens: dict[str, str]) -> None:
    assert claims(tokens["another issuer's"])["iss"] == OTHER


# No token


def test_scripts_without_a_token_are_told_so_in_json(stack: Stack) -> None:
    """Never a login page, whatever a script accepts; curl accepts everything."""
    for door, path in [
        *doors(stack),
        (stack.site, "/"),
        (stack.site, "/no-such-page"),
        (stack.old_tfaas, "/"),
    ]:
        for options in ((), ("-H", "Accept: application/json"), ("-d", "{}"), (*PAGE, "-d", "{}"),
                        ("-u", "alice:alice-pw"),
                        (*PAGE, "-H", "Authorization: Bearer x")):  # fmt: skip
            answer = door.ask(path, *options)
            assert answer.status == 401, (options, answer)
            assert answer.headers["www-authenticate"].startswith("Bearer "), answer
            assert "json" in answer.headers["content-type"], answer
            assert answer.json


def test_without_sign_in_they_would_be_let_in(switched: dict[str, Door]) -> None:
    assert switched["sign-in"].ask("/folders", "-H", "Host: localhost").status == 200


def test_a_browser_is_sent_to_the_issuer(stack: Stack) -> None:
    for path in ("/", "/tfaas/"):
        answer = stack.site.ask(path, *PAGE)
        assert answer.status == 302, answer
        to = urlsplit(answer.headers["location"])
        assert (
            f"{to.scheme}://{to.netloc}{to.path}" == f"{stack.issuer}/protocol/openid-connect/auth"
        )
        assert parse_qs(to.query)["redirect_uri"] == [f"{stack.url}/oauth2/callback"]


def test_a_browser_at_an_old_port_is_sent_to_the_site(stack: Stack) -> None:
    for door, path in ((stack.old_server, ""), (stack.old_tfaas, "/tfaas")):
        answer = door.ask("/", *PAGE)
        assert (answer.status, answer.headers["location"]) == (307, f"{stack.url}{path}/"), answer


def test_plain_http_leads_to_https(stack: Stack) -> None:
    answer = Door(stack.url.replace("https", "http"), stack.site.options).ask("/folders?a=b")
    assert (answer.status, answer.headers["location"]) == (308, f"{stack.url}/folders?a=b"), answer


def test_the_certificate_is_of_the_authority_that_was_given(stack: Stack) -> None:
    """With this computer's own authorities TLS fails: what passes elsewhere here was verified."""
    options = [word for word in stack.site.options if word not in ("--cacert", str(stack.ca))]
    ended = subprocess.run(
        ["curl", "-sS", *options, f"{stack.url}/healthz"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 60, ended  # the peer's certificate can't be verified


def test_probes_need_no_token_and_figures_are_not_for_outside(stack: Stack, vm: VM) -> None:
    token = stack.token("bob")
    for path in ("/healthz", "/readyz", "/tfaas/healthz", "/tfaas/readyz"):
        assert stack.site.ask(path).status == 200, path
    hidden = ["/metrics", "/metrics/", "//metrics", "/%6detrics", "/./metrics", "/tfaas/metrics",
              "/tfaas//metrics", "/tfaas/%6Detrics", "/tfaas/../metrics",
              "/jupyter/../metrics"]  # fmt: skip
    for path in hidden:
        answer = stack.site.ask(path, "--path-as-is", token=token)
        assert answer.status == 404, (path, answer)
        assert "mlaas4hep_" not in stack.site.ask(path, "--path-as-is").body, path
    for door in (stack.old_server, stack.old_tfaas):
        assert door.ask("/metrics", token=token).status == 404
    inside = f"curl -sS -o /dev/null -w '%{{http_code}}' {address(vm, 'mlaas4hep-server')}/metrics"
    assert vm.run(inside) == "200"


# Headers that say who somebody is


def forged(value: str) -> list[str]:
    """Options of curl: all headers by which proxies tell services who somebody is."""
    names = ["X-Forwarded-User", "X-Forwarded-Email", "X-Forwarded-Groups",
             "X-Forwarded-Preferred-Username", "X-Forwarded-Access-Token", "X-Auth-Request-User",
             "X-Auth-Request-Email", "X-Auth-Request-Groups", "X-Auth-Request-Access-Token",
             "X-Auth-Username", "Remote-User", "Remote-Groups", "X-Remote-User",
             "GAP-Auth"]  # fmt: skip
    return [word for name in names for word in ("-H", f"{name}: {value}")]


def test_headers_that_name_alice_open_nothing(stack: Stack) -> None:
    alice = stack.token("alice")
    for value in ("alice", claims(alice)["sub"], alice):
        for door, path in doors(stack):
            answer = door.ask(path, *forged(value))
            assert answer.status == 401, answer


def test_headers_that_name_alice_change_nothing_for_bob(stack: Stack) -> None:
    assert stack.job in stack.site.ask("/jobs", token=stack.token("alice")).body
    alice, bob = stack.token("alice"), stack.token("bob")
    for value in ("alice", claims(alice)["sub"], alice):
        for door, path in [*doors(stack), (stack.site, "/jobs")]:
            answer = door.ask(path, *forged(value), token=bob)
            assert answer.status == 200, answer
            assert stack.folder not in answer.body, answer


SNIFF = r"""
import re, socket, sys, time
mark = sys.argv[1].encode()
packets = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
packets.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
packets.settimeout(60)
print("ready", flush=True)
seen = set()
while mark + b"-end" not in seen:
    seen.update(re.findall(mark + rb"-\w+", packets.recv(1 << 17)))
print(*(word.decode().rpartition("-")[2] for word in seen))
"""


def test_such_headers_do_not_reach_the_services(stack: Stack, vm: VM) -> None:
    """What the gateway sends on is plain HTTP on the machine's bridge: packets are seen there."""
    mark, token = f"mark{uuid.uuid4().hex}", stack.token("bob")
    words = [DOCKER, "exec", NAME, "python3", "-c", SNIFF, mark]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as sniffing:
        assert sniffing.stdout
        assert sniffing.stdout.readline() == "ready\n"
        for door, path in doors(stack):
            door.ask(
                f"{path}?{mark}-sent",
                *forged(f"{mark}-forged"),
                "-H",
                f"Cookie: a={mark}-cookie",
                token=token,
            )
        stack.site.ask(f"/hello?{mark}-browser", *forged(f"{mark}-forged"))
        server = address(vm, "mlaas4hep-server")
        vm.run(f"curl -sS -o /dev/null -H 'Remote-User: {mark}-direct' {server}/hello")
        stack.site.ask(f"/hello?{mark}-end", token=token)
        seen = set(sniffing.stdout.read().split())
    assert seen == {"sent", "browser", "direct", "end"}


# Whose things are whose


@dataclass(frozen=True)
class Things:
    """Names of a folder and of a job, with its model; requests for them."""

    folder: str
    job: str

    def reads(self) -> list[str]:
        return [
            f"/status_docker?process_name={self.job}",
            f"/logs?process_name={self.job}",
            f"/model?process_name={self.job}",
            f"/jobs/{self.job}",
            f"/jobs/{self.job}/report",
            f"/tfaas/params/{self.job}",
            f"/tfaas/download/{self.job}.tar.gz",
            f"/tfaas/report/{self.job}",
        ]

    def predict(self, stack: Stack) -> tuple[str, ...]:
        """The path and options of a prediction."""
        asked = json.loads((stack.files.folder / "asked.json").read_text())
        events = {name: values[:2] for name, values in asked["events"].items()}
        return (
            "/tfaas/predict/events",
            "-d",
            json.dumps(asked | {"model": self.job, "events": events}),
        )

    def changes(self) -> list[tuple[str, ...]]:
        form = {"name": self.folder, "device": "cpu", "memory": "1gb", "cpus": "1",
                "files": "files.txt", "labels": "labels.txt",
                "model": "model.py", "params": "params.json"}  # fmt: skip
        return [
            (f"/delete_specs?name={self.folder}",),
            (f"/delete_folder?name={self.folder}",),
            (f"/folders/{self.folder}/specs", "-X", "DELETE"),
            (f"/folders/{self.folder}", "-X", "DELETE"),
            ("/submit", "-H", "Content-Type: application/json", "-d", json.dumps(form)),
            (f"/jobs/{self.job}", "-X", "DELETE"),
            (f"/tfaas/delete/{self.job}", "-X", "DELETE"),
        ]


@pytest.fixture
def alices(stack: Stack) -> Things:
    return Things(stack.folder, stack.job)


def test_what_is_alices_is_not_there_for_bob(stack: Stack, alices: Things) -> None:
    """He is answered as for a name that never was: 404, and not a word more."""
    bob, nobodys = stack.token("bob"), Things("nobodys_thing", "nobodys_thing_1")

    def asked(things: Things) -> list[tuple[int, str]]:
        requests = [*((path,) for path in things.reads()), things.predict(stack), *things.changes()]
        answers = [stack.site.ask(*words, token=bob) for words in requests]
        names = {things.job: "JOB", things.folder: "FOLDER"}
        return [
            (a.status, re.sub("|".join(names), lambda name: names[name[0]], a.body))
            for a in answers
        ]

    answers = asked(alices)
    assert {status for status, _ in answers} == {404}, answers
    assert answers == asked(nobodys)
    for door, path in [*doors(stack), (stack.site, "/jobs")]:
        assert stack.folder not in door.ask(path, token=bob).body


def test_alices_names_are_taken_for_bob(stack: Stack, alices: Things) -> None:
    bob, files = stack.token("bob"), stack.files.folder
    folder = stack.site.ask(
        f"/upload?name={alices.folder}", "-F", f"file=@{files}/upload.tar.gz", token=bob
    )
    model = stack.site.ask("/tfaas/upload", "--data-binary", f"@{files}/bundle.tar.gz", token=bob)
    for answer in (folder, model):
        assert answer.status == 409, answer
        assert "belongs to another user" in answer.body, answer


def test_all_of_it_is_still_there_for_alice(stack: Stack, alices: Things) -> None:
    alice = stack.token("alice")
    for words in (*((path,) for path in alices.reads()), alices.predict(stack)):
        answer = stack.site.ask(*words, token=alice)
        assert answer.status == 200, answer
    assert stack.folder in stack.site.ask("/folders", token=alice).body


def test_without_owners_bob_would_see_it(
    stack: Stack, alices: Things, switched: dict[str, Door]
) -> None:
    bob = stack.token("bob")
    for path in alices.reads():
        if not path.startswith("/tfaas"):
            assert switched["owner"].ask(path, token=bob).status == 200, path


def test_a_page_of_another_site_would_change_things_without_the_look_at_its_origin(
    stack: Stack, vm: VM, switched: dict[str, Door]
) -> None:
    """As the gateway sends on a browser's session; test_browser.py has the whole of it."""
    session = ("-H", f"X-Forwarded-Access-Token: {stack.token('bob')}", "-X", "DELETE", *EVIL)
    deployed = Door(address(vm, "mlaas4hep-server"), where=(DOCKER, "exec", NAME))
    assert deployed.ask("/folders/nobodys_thing", *session).status == 403
    assert switched["origin"].ask("/folders/nobodys_thing", *session).status == 404

"""Every token that must not pass, and why it is refused; keys that come, go and are revoked."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import Coroutine
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from mlaas4hep.access.caller import Caller
from mlaas4hep.access.tokens import MOST_KNOWN, Tokens
from mlaas4hep.core.errors import BusyError, ForbiddenError, SignInError
from mlaas4hep.core.settings import Settings
from support.issuer import ALLOWED, Issuer, ec, ed, rsa

HEADERS = st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jwk", "jku", "x5c", "exp", "cty"])


class Clock:
    """Time that tests move."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


@pytest.fixture
def clock() -> Clock:
    return Clock()


def tokens_of(issuer: Issuer, clock: Clock | None = None, **settings: str) -> Tokens:
    given = Settings(issuer=issuer.url, **(ALLOWED | settings))  # type: ignore[arg-type]
    return Tokens(given, clock or time.time)


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(coroutine)


def whose(issuer: Issuer, token: str, **settings: str) -> Caller:
    found = run(tokens_of(issuer, **settings).caller(token.encode()))
    assert isinstance(found, Caller)
    return found


def encoded(content: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=").decode()


def from_now(changes: dict[str, Any]) -> dict[str, Any]:
    """Times among the claims are given in seconds from now."""
    now, times = int(time.time()), ("exp", "nbf", "iat")
    return {k: v + now if k in times and isinstance(v, int) else v for k, v in changes.items()}


def test_a_good_token(issuer: Issuer) -> None:
    assert whose(issuer, issuer.token()) == Caller("user:alice", "alice")


@pytest.mark.parametrize(
    ("algorithm", "key"),
    [
        ("RS384", rsa()),
        ("RS512", rsa()),
        ("PS256", rsa()),
        ("ES256", ec("e")),
        ("ES384", ec("e", "P-384")),
        ("EdDSA", ed("o")),
    ],
)
def test_signatures_with_public_keys_are_accepted(issuer: Issuer, algorithm: str, key: Any) -> None:
    issuer.keys = [key]
    token = issuer.token(header={"alg": algorithm})
    assert whose(issuer, token).owner == "user:alice"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"exp": -1_000_000_000}, "expired"),
        ({"exp": -32}, "expired"),
        ({"exp": "soon"}, "wrong exp"),
        ({"exp": None}, "no exp"),
        ({"nbf": 300}, "not valid yet"),
        ({"iat": 300}, "wrong iat"),
        ({"aud": "other"}, "is for 'other'"),
        ({"aud": ["other", "another"]}, "is for \\['other', 'another'\\]"),
        ({"aud": None}, "no aud"),
        ({"aud": []}, "is for \\[\\]"),
        ({"aud": {"mlaas4hep": 1}}, "is for"),
        ({"iss": "https://evil.example"}, "issued by 'https://evil.example'"),
        ({"iss": None}, "no iss"),
        ({"sub": None}, "no sub"),
        ({"sub": ""}, "wrong sub"),
        ({"sub": 7}, "wrong sub"),
        ({"sub": "a\nb"}, "sub is too long or holds control characters"),
        ({"sub": "a" * 300}, "sub is too long"),
        ({"typ": "ID"}, "not an access token"),
        ({"typ": "Refresh"}, "not an access token"),
        ({"typ": "Logout"}, "not an access token"),
        ({"typ": None, "at_hash": "x"}, "not an access token"),
    ],
)
def test_claims_that_are_refused(issuer: Issuer, changes: dict[str, Any], text: str) -> None:
    with pytest.raises(SignInError, match=text):
        whose(issuer, issuer.token(**from_now(changes)))


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": ["account", "mlaas4hep"]},
        {"exp": -5},
        {"nbf": 5},
        {"typ": None},
        {"header": {"typ": "at+jwt"}},
        {"header": {"typ": None}},
        {"header": {"made-up": "x"}},
    ],
)
def test_variants_that_are_accepted(issuer: Issuer, changes: dict[str, Any]) -> None:
    assert whose(issuer, issuer.token(**from_now(changes))).owner == "user:alice"


def test_any_audience_when_none_is_set(issuer: Issuer) -> None:
    for audience in (None, "other"):
        assert whose(issuer, issuer.token(aud=audience), audience="").owner == "user:alice"


def test_one_of_several_audiences_is_enough(issuer: Issuer) -> None:
    assert whose(issuer, issuer.token(aud="b"), audience="a, b").owner == "user:alice"


def test_no_signature_is_refused(issuer: Issuer) -> None:
    for algorithm in ("none", "None", "NONE"):
        head = encoded({"alg": algorithm, "typ": "JWT", "kid": "first"})
        for end in ("", issuer.token().rpartition(".")[2]):
            with pytest.raises(SignInError, match="are not accepted"):
                whose(issuer, f"{head}.{encoded(issuer.claims())}.{end}")


def test_the_public_key_is_no_secret_to_sign_with(issuer: Issuer) -> None:
    public = issuer.keys[0].raw_value.public_key()
    for secret in (
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        json.dumps(issuer.keys[0].as_dict(private=False)).encode(),
    ):
        text = f"{encoded({'alg': 'HS256', 'kid': 'first'})}.{encoded(issuer.claims())}"
        mac = hmac.new(secret, text.encode(), hashlib.sha256).digest()
        signature = base64.urlsafe_b64encode(mac).rstrip(b"=").decode()
        with pytest.raises(SignInError, match="'HS256' are not accepted"):
            whose(issuer, f"{text}.{signature}")


def test_a_symmetric_key_in_the_set_is_never_used(issuer: Issuer) -> None:
    issuer.extra_keys = [{"kty": "oct", "k": "c2VjcmV0", "kid": "o"}, {"kty": "AKP"}, "no key"]  # type: ignore[list-item]
    assert whose(issuer, issuer.token()).owner == "user:alice"
    text = f"{encoded({'alg': 'HS256', 'kid': 'o'})}.{encoded(issuer.claims())}"
    mac = hmac.new(b"secret", text.encode(), hashlib.sha256).digest()
    with pytest.raises(SignInError):
        whose(issuer, f"{text}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}")


def test_a_key_for_encryption_signs_nothing(issuer: Issuer) -> None:
    encryption = rsa("enc", use="enc")
    issuer.keys.append(encryption)
    forged = rsa("enc")
    forged_token = issuer.token(key=forged)
    with pytest.raises(SignInError, match="not signed by the issuer"):
        whose(issuer, forged_token)


def test_foreign_keys_sign_nothing(issuer: Issuer) -> None:
    own_key = {"jwk": rsa().as_dict(private=False)}
    evil = {"jku": "https://evil.example/keys"}
    for key, header in [
        (rsa("first"), {}),
        (rsa("other"), {}),
        (rsa("first"), {"kid": None}),
        (rsa("first"), own_key),
        (rsa("first"), evil),
        (ec("first"), {"alg": "ES256"}),
    ]:
        with pytest.raises(SignInError, match="not signed by the issuer"):
            whose(issuer, issuer.token(key=key, header=header))


def test_a_changed_token_is_refused(issuer: Issuer) -> None:
    head, _, signature = issuer.token().split(".")
    body = encoded(issuer.claims(sub="bob"))
    with pytest.raises(SignInError, match="not signed by the issuer"):
        whose(issuer, f"{head}.{body}.{signature}")


@pytest.mark.parametrize(
    "token", ["", "x", "a.b", "a.b.c", "a.b.c.d.e", "..", "é.é.é", "eyJ9.e30.", "\x00.\x00.\x00"]
)
def test_rubbish_is_refused(issuer: Issuer, token: str) -> None:
    with pytest.raises(SignInError, match="not a signed JWT"):
        whose(issuer, token)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(HEADERS, inner, max_size=4),
    max_leaves=6,
)


def test_whatever_comes_is_refused_in_our_words(issuer: Issuer) -> None:
    tokens = tokens_of(issuer)
    with asyncio.Runner() as runner:

        @given(header=JSON, body=JSON)
        @settings(max_examples=300)
        def try_it(header: Any, body: Any) -> None:
            if isinstance(header, dict):
                header = {"alg": "RS256"} | header
            token = f"{encoded(header)}.{encoded(body)}.{encoded(body)}"
            with pytest.raises(SignInError):
                runner.run(tokens.caller(token.encode()))

        try_it()


def test_deeply_nested_json_is_refused(issuer: Issuer) -> None:
    deep = base64.urlsafe_b64encode(b'{"alg":' + b"[" * 8000).rstrip(b"=").decode()
    with pytest.raises(SignInError, match="not a signed JWT"):
        whose(issuer, f"{deep}.e30.e30")


def test_a_huge_token_is_refused_before_it_is_looked_at(issuer: Issuer) -> None:
    assert whose(issuer, issuer.token(note="x" * 9000)).owner == "user:alice"
    with pytest.raises(SignInError, match="longer than 16 kB"):
        whose(issuer, issuer.token(note="x" * 16000))


def test_a_header_that_must_be_understood_is_refused(issuer: Issuer) -> None:
    head = {"alg": "RS256", "kid": "first", "crit": ["exp"], "exp": 1}
    good = issuer.token()
    with pytest.raises(SignInError):
        whose(issuer, ".".join([encoded(head), *good.split(".")[1:]]))


def test_other_kinds_of_tokens_are_refused(issuer: Issuer) -> None:
    for kind in ("logout+jwt", "secevent+jwt", "dpop+jwt"):
        with pytest.raises(SignInError, match="is of type"):
            whose(issuer, issuer.token(header={"typ": kind}))


@pytest.mark.parametrize("groups", [None, [], "", "physicist", ["Physicists"], ["a,physicists"], 7])
def test_whoever_is_in_no_allowed_group_is_refused(issuer: Issuer, groups: Any) -> None:
    with pytest.raises(ForbiddenError, match="alice is in none of the groups"):
        whose(issuer, issuer.token(groups=groups))


def test_groups_in_every_form(issuer: Issuer) -> None:
    urn = "urn:mace:egi.eu:group:vo.example.org:role=member#aai.egi.eu"
    for claim, name, value in [
        ("groups", "groups", "physicists"),
        ("wlcg.groups", "wlcg.groups", ["/cms", "physicists"]),
        ("realm_access.roles", "realm_access", {"roles": ["physicists"]}),
        ("eduperson_entitlement", "eduperson_entitlement", [urn]),
    ]:
        token = issuer.token(**({"groups": None} | {name: value}))
        allowed = f"physicists,{urn}"
        found = whose(issuer, token, groups_claim=claim, allowed_groups=allowed)
        assert found.owner == "user:alice"
    part = "urn:mace:egi.eu:group:vo.example.org"
    with pytest.raises(ForbiddenError):
        whose(issuer, issuer.token(groups=[urn]), allowed_groups=part)


def test_a_leading_slash_is_ignored_and_nothing_else(issuer: Issuer) -> None:
    for group, allowed in [("/cms", "cms"), ("cms", "/cms"), ("/cms/higgs", "cms/higgs")]:
        assert whose(issuer, issuer.token(groups=[group]), allowed_groups=allowed)
    for group in ("/CMS", "//cms", "/cms/higgs", "cms/"):
        with pytest.raises(ForbiddenError):
            whose(issuer, issuer.token(groups=[group]), allowed_groups="cms")


def test_who_is_refused_is_told_the_groups_that_are_known(issuer: Issuer) -> None:
    with pytest.raises(ForbiddenError, match=r"\(known groups: atlas, cms/higgs\)"):
        whose(issuer, issuer.token(groups=["/cms/higgs"], **{"wlcg.groups": ["/atlas"]}))
    many = ["a\nb", *(f"{number}" * 99 for number in range(9))]
    with pytest.raises(ForbiddenError, match=r"known groups: 0{99}, 1{99}, 2{95}\.\.\.\)"):
        whose(issuer, issuer.token(groups=many))
    with pytest.raises(ForbiddenError, match=r"known groups: a\?b\)"):
        whose(issuer, issuer.token(groups=many[:1]))


def of_iam(issuer: Issuer, **changes: Any) -> str:
    """An access token as INDIGO IAM 1.12 gives it by default."""
    absent = dict.fromkeys(("aud", "groups", "preferred_username", "typ"))
    return issuer.token(**(absent | {"client_id": "mlaas4hep"} | changes))


def test_a_token_of_iam_is_asked_for_its_groups_once(issuer: Issuer, clock: Clock) -> None:
    issuer.userinfo = {"sub": "alice", "groups": ["physicists"], "preferred_username": "al"}
    tokens, token = tokens_of(issuer, clock), of_iam(issuer).encode()

    async def use() -> None:
        found = await asyncio.gather(*(tokens.caller(token) for _ in range(20)))
        assert set(found) == {Caller("user:alice", "al")}
        issuer.userinfo = 503
        assert await tokens.caller(token) == found[0]

    run(use())
    assert issuer.asked["userinfo"] == 1
    assert issuer.bearer == f"Bearer {token.decode()}"


def test_a_refused_token_of_iam_asks_once_too(issuer: Issuer) -> None:
    issuer.userinfo = {"sub": "alice", "groups": ["strangers"]}
    tokens, token = tokens_of(issuer), of_iam(issuer).encode()

    async def use() -> None:
        for _ in range(3):
            with pytest.raises(ForbiddenError, match="known groups: strangers"):
                await tokens.caller(token)

    run(use())
    assert issuer.asked["userinfo"] == 1


@pytest.mark.parametrize("told", [500, 503, 429, {"sub": "bob", "groups": ["physicists"]}, []])
def test_userinfo_that_does_not_answer_is_busy_not_forbidden(issuer: Issuer, told: Any) -> None:
    tokens, token = tokens_of(issuer), of_iam(issuer).encode()

    async def use() -> None:
        issuer.userinfo = told
        with pytest.raises(BusyError, match="your groups can't be looked up"):
            await tokens.caller(token)
        issuer.userinfo = {"sub": "alice", "groups": ["physicists"]}
        assert (await tokens.caller(token)).owner == "user:alice"  # nothing was kept

    run(use())


@pytest.mark.parametrize("told", [400, 401, 403, 404, {"sub": "alice"}])
def test_userinfo_that_tells_no_groups_is_forbidden(issuer: Issuer, told: Any) -> None:
    issuer.userinfo = told
    with pytest.raises(ForbiddenError, match="neither the token nor the issuer's userinfo has"):
        whose(issuer, of_iam(issuer))


def test_an_issuer_without_userinfo(issuer: Issuer) -> None:
    issuer.changed = {"userinfo_endpoint": "http://iam.example/userinfo"}  # nor one without TLS
    with pytest.raises(ForbiddenError, match="neither the token nor"):
        whose(issuer, of_iam(issuer))
    assert not issuer.asked["userinfo"]


def test_who_needs_no_group_and_who_has_some_are_not_asked_for(issuer: Issuer) -> None:
    assert whose(issuer, of_iam(issuer), allowed_groups="*").owner == "user:alice"
    assert whose(issuer, of_iam(issuer), allowed_groups="user:alice").owner == "user:alice"
    assert whose(issuer, of_iam(issuer, **{"wlcg.groups": ["/physicists"]}))
    with pytest.raises(ForbiddenError):
        whose(issuer, of_iam(issuer, groups=[]))
    assert not issuer.asked["userinfo"]


def test_a_token_without_audience_is_for_its_client(issuer: Issuer) -> None:
    everyone = {"allowed_groups": "*"}
    assert whose(issuer, of_iam(issuer), **everyone)
    for other in ({"client_id": "another"}, {"client_id": None}, {"aud": "another"}, {"aud": ""}):
        with pytest.raises(SignInError, match=r"has no aud|is for"):
            whose(issuer, of_iam(issuer, **other), **everyone)


def test_everyone_or_one_by_name(issuer: Issuer) -> None:
    nobody = issuer.token(groups=None)
    assert whose(issuer, nobody, allowed_groups="*").owner == "user:alice"
    assert whose(issuer, nobody, allowed_groups="x,user:alice").owner == "user:alice"
    with pytest.raises(ForbiddenError):  # a group can't be named so as to be one
        whose(issuer, issuer.token(groups=["user:bob"]), allowed_groups="user:bob")


def test_robots_are_owned_by_their_client(issuer: Issuer) -> None:
    of_iam = issuer.token(sub="bot", client_id="bot", preferred_username=None)
    assert whose(issuer, of_iam) == Caller("client:bot", "bot")
    of_keycloak = issuer.token(
        sub="6e1", client_id="bot", azp="bot", preferred_username="service-account-bot"
    )
    assert whose(issuer, of_keycloak).owner == "client:bot"
    # A user who chose such a name is no robot: of Keycloak's tokens a user's has no client_id, and
    # no other issuer's that has one has azp.
    for client in ({"azp": "bot"}, {"client_id": "bot"}):
        user = issuer.token(sub="6e2", preferred_username="service-account-bot", **client)
        assert whose(issuer, user).owner == "user:6e2"
    assert whose(issuer, issuer.token(sub="client:bot")).owner == "user:client:bot"


def test_a_known_token_is_not_verified_again_but_expires(issuer: Issuer, clock: Clock) -> None:
    tokens = tokens_of(issuer, clock)
    token = issuer.token().encode()

    async def use() -> None:
        first = await tokens.caller(token)
        assert await tokens.caller(token) is first
        clock.ahead = 320
        assert (await tokens.caller(token)).owner == "user:alice"
        clock.ahead = 331
        with pytest.raises(SignInError, match="expired"):
            await tokens.caller(token)

    run(use())


def test_the_number_of_known_tokens_is_bounded(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MOST_KNOWN == 10_000
    monkeypatch.setattr("mlaas4hep.access.tokens.MOST_KNOWN", 3)
    tokens = tokens_of(issuer)

    async def use() -> None:
        for number in range(8):
            await tokens.caller(issuer.token(sub=f"u{number}").encode())

    run(use())
    assert [caller.name for _, caller in tokens._known.values()] == ["alice"] * 3
    assert [c.owner for _, c in tokens._known.values()] == ["user:u5", "user:u6", "user:u7"]


def test_a_new_key_is_found_and_unknown_ones_ask_rarely(issuer: Issuer, clock: Clock) -> None:
    tokens = tokens_of(issuer, clock)

    async def use() -> None:
        await tokens.caller(issuer.token().encode())
        assert issuer.asked == {"discovery": 1, "keys": 1}
        clock.ahead = 31
        issuer.keys.insert(0, rsa("second"))
        assert (await tokens.caller(issuer.token().encode())).owner == "user:alice"
        assert issuer.asked["keys"] == 2
        for number in range(20):
            with pytest.raises(SignInError):
                await tokens.caller(issuer.token(key=rsa_of_nobody(number)).encode())
        assert issuer.asked["keys"] == 2
        clock.ahead = 62
        with pytest.raises(SignInError):
            await tokens.caller(issuer.token(key=rsa_of_nobody(1)).encode())
        assert issuer.asked["keys"] == 3

    foreign = rsa("nobody")

    def rsa_of_nobody(number: int) -> Any:
        return type(foreign)(foreign.raw_value, foreign.raw_value, {"kid": f"nobody{number}"})

    run(use())


def test_what_a_revoked_key_signed_dies_with_the_next_refresh(issuer: Issuer, clock: Clock) -> None:
    tokens = tokens_of(issuer, clock)
    token = issuer.token(exp=int(time.time()) + 9999).encode()

    async def use() -> None:
        await tokens.caller(token)
        issuer.keys = [rsa("second")]
        assert (await tokens.caller(token)).owner == "user:alice"
        clock.ahead = 301
        with pytest.raises(SignInError, match="not signed by the issuer"):
            await tokens.caller(token)
        assert (await tokens.caller(issuer.token().encode())).owner == "user:alice"

    run(use())


def test_keys_are_fetched_beside_the_requests_before_they_are_old(
    issuer: Issuer, clock: Clock
) -> None:
    tokens = tokens_of(issuer, clock)
    token = issuer.token(exp=int(time.time()) + 9999).encode()

    async def use() -> None:
        first = await tokens.caller(token)
        clock.ahead = 250
        assert await tokens.caller(token) is first
        while issuer.asked["keys"] < 2:
            await asyncio.sleep(0.01)
        clock.ahead = 301
        assert await tokens.caller(token) is first  # the keys are the same: it stays known
        assert issuer.asked["keys"] == 2

    run(use())


def test_an_issuer_that_goes_away_is_missed_after_an_hour(issuer: Issuer, clock: Clock) -> None:
    tokens = tokens_of(issuer, clock)

    async def use() -> None:
        for ahead in (0, 400, 3500):
            clock.ahead = ahead
            token = issuer.token(exp=int(clock()) + 60, iat=int(clock())).encode()
            assert (await tokens.caller(token)).owner == "user:alice"
            if not ahead:
                issuer.go_away()
        clock.ahead = 3700
        for _ in range(2):
            with pytest.raises(BusyError, match=f"keys of {issuer.url} can't be fetched"):
                await tokens.caller(issuer.token(exp=int(clock()) + 60).encode())
        issuer.come_back()
        clock.ahead = 3740
        await tokens.caller(issuer.token(exp=int(clock()) + 60).encode())

    run(use())


def test_an_issuer_that_is_away_at_start_is_found_later(issuer: Issuer, clock: Clock) -> None:
    issuer.go_away()
    tokens = tokens_of(issuer, clock)

    async def use() -> None:
        for _ in range(3):
            with pytest.raises(BusyError, match="nobody can sign in"):
                await tokens.caller(issuer.token().encode())
        issuer.come_back()
        clock.ahead = 4
        assert (await tokens.caller(issuer.token().encode())).owner == "user:alice"

    run(use())


def test_many_at_once_ask_the_issuer_once(issuer: Issuer) -> None:
    tokens = tokens_of(issuer)

    async def use() -> None:
        made = [issuer.token(sub=f"u{n}").encode() for n in range(20)]
        found = await asyncio.gather(*map(tokens.caller, made))
        assert [caller.owner for caller in found] == [f"user:u{n}" for n in range(20)]

    run(use())
    assert issuer.asked == {"discovery": 1, "keys": 1}

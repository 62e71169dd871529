"""Identity: passwords, and tokens of an issuer that the cloud trusts."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Annotated, Any

from answers import TIME, Named, Strict, problem
from cloud import PASSWORD, PROJECT, PROJECT_NAME, USER, Cloud
from fastapi import APIRouter, Body, Header
from fastapi.responses import JSONResponse

from support.tokens import claims

YEARS = datetime(2036, 1, 1, tzinfo=UTC).timestamp()
DEFAULT = {"id": "default", "name": "Default"}


class User(Strict):
    name: str
    password: str
    domain: Named


class OfUser(Strict):
    user: User


class OfToken(Strict):
    id: str


class Identity(Strict):
    methods: list[str]
    password: OfUser | None = None
    token: OfToken | None = None


class Domain(Strict):
    id: str


class Project(Strict):
    id: str | None = None
    name: str | None = None
    domain: Domain | None = None


class Scope(Strict):
    project: Project


class Auth(Strict):
    identity: Identity
    scope: Scope


def unauthenticated() -> JSONResponse:
    return problem(401, "The request you have made requires authentication.")


def endpoint(kind: str, name: str, url: str) -> dict[str, Any]:
    """libcloud looks for these very names."""
    place = {"id": kind, "interface": "public", "region": "RegionOne", "region_id": "RegionOne"}
    return {"id": kind, "type": kind, "name": name, "endpoints": [{**place, "url": url}]}


def routes(cloud: Cloud) -> APIRouter:
    """Under /v3."""
    router = APIRouter(prefix="/v3")
    catalog = [
        endpoint("identity", "keystone", f"{cloud.url}/v3"),
        endpoint("compute", "nova", f"{cloud.url}/compute/v2.1"),
        endpoint("network", "neutron", f"{cloud.url}/network"),
        endpoint("image", "glance", f"{cloud.url}/image"),
        endpoint("volumev3", "cinderv3", f"{cloud.url}/volume/v3/{PROJECT}"),
    ]

    def token(method: str, lasts: float, **more: Any) -> JSONResponse:
        name = uuid.uuid4().hex
        cloud.tokens[name] = lasts
        user = {"id": "u1", "name": USER, "domain": DEFAULT}
        until = f"{datetime.fromtimestamp(lasts, UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
        body = {"methods": [method], "issued_at": TIME, "expires_at": until, "user": user, **more}
        return JSONResponse({"token": body}, 201, {"X-Subject-Token": name})

    @router.post("/auth/tokens")
    def sign_in(auth: Annotated[Auth, Body(embed=True)]) -> JSONResponse:
        identity, project = auth.identity, auth.scope.project
        known, lasts = False, YEARS
        if identity.methods == ["password"] and identity.password:
            user = identity.password.user
            known = (user.name, user.password) == (USER, PASSWORD)
        elif identity.methods == ["token"] and identity.token:
            known = cloud.knows(identity.token.id)
            lasts = cloud.tokens.get(identity.token.id, 0)
        if not known or (project.id != PROJECT and project.name != PROJECT_NAME):
            return unauthenticated()
        scope = {"id": PROJECT, "name": PROJECT_NAME, "domain": DEFAULT}
        roles = [{"id": "member", "name": "member"}]
        return token(identity.methods[0], lasts, project=scope, roles=roles, catalog=catalog)

    @router.get("/OS-FEDERATION/identity_providers/iam/protocols/openid/auth")
    def federated(authorization: Annotated[str, Header()]) -> JSONResponse:
        bearer = authorization.removeprefix("Bearer ")
        if not cloud.known_to_issuer(bearer):
            return unauthenticated()
        return token("mapped", claims(bearer)["exp"])  # no longer than what it was got with

    @router.get("/auth/projects")
    @router.get("/OS-FEDERATION/projects")
    def projects() -> dict[str, Any]:
        project = {"id": PROJECT, "name": PROJECT_NAME, "domain_id": "default", "enabled": True}
        return {"projects": [{**project, "links": {}}], "links": {}}

    return router

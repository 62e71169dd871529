"""The realms of the tests' issuer: who may sign in, and what their tokens say.

The stack's is `mlaas4hep`; `other` is the same: its tokens differ from good ones by their issuer.
"""

from __future__ import annotations

import uuid

AUDIENCE = "mlaas4hep"
REDIRECTS = ["https://mlaas4hep.test/oauth2/callback"]


def password(name: str) -> str:
    return f"{name}-pw"


def user(name: str, realm: str, *groups: str) -> dict:
    # Without e-mail, first and last name Keycloak asks for them at the first sign-in.
    return {
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{realm}/{name}")),  # who owns things by it
        "username": name,
        "enabled": True,
        "email": f"{name}@example.org",
        "emailVerified": True,
        "firstName": name.capitalize(),
        "lastName": "Example",
        "credentials": [{"type": "password", "value": password(name), "temporary": False}],
        "groups": [f"/{group}" for group in groups],
        "realmRoles": [f"default-roles-{realm}"],
    }


def mapper(name: str, kind: str, **config: str) -> dict:
    both = {"access.token.claim": "true", "id.token.claim": "true", "userinfo.token.claim": "true"}
    return {
        "name": name,
        "protocol": "openid-connect",
        "protocolMapper": kind,
        "config": both | {key.replace("_", "."): value for key, value in config.items()},
    }


EMAIL_VERIFIED = mapper(
    "email_verified",
    "oidc-usermodel-property-mapper",
    claim_name="email_verified",
    user_attribute="emailVerified",
    jsonType_label="boolean",
)


def groups(claim: str, full_path: str) -> dict:
    escaped = claim.replace(".", "\\.")
    return mapper(claim, "oidc-group-membership-mapper", claim_name=escaped, full_path=full_path)


def audience(name: str) -> dict:
    return mapper(f"audience {name}", "oidc-audience-mapper", included_custom_audience=name)


def attribute(claim: str, name: str) -> dict:
    return mapper(claim, "oidc-usermodel-attribute-mapper", claim_name=claim, user_attribute=name)


SHORT_GROUPS = groups("groups", "false")


def scope(name: str, *mappers: dict) -> dict:
    in_token = {"include.in.token.scope": "true"}
    return {
        "name": name,
        "protocol": "openid-connect",
        "attributes": in_token,
        "protocolMappers": list(mappers),
    }


# A realm file that names scopes gets no others: these are Keycloak's own, cut to what is read,
# and the stack's.
SCOPES = [
    scope("basic", mapper("sub", "oidc-sub-mapper")),
    scope(
        "profile",
        attribute("preferred_username", "username"),
        mapper("name", "oidc-full-name-mapper"),
    ),
    scope("email", attribute("email", "email"), EMAIL_VERIFIED),
    scope("mlaas4hep", audience(AUDIENCE), SHORT_GROUPS, groups("wlcg.groups", "true")),
    scope("offline_access"),
]
DEFAULT_SCOPES = ["basic", "profile", "email", "mlaas4hep"]


def client(name: str, **more: object) -> dict:
    return {
        "clientId": name,
        "enabled": True,
        "protocol": "openid-connect",
        "publicClient": True,
        "standardFlowEnabled": False,
        "directAccessGrantsEnabled": False,
        "defaultClientScopes": DEFAULT_SCOPES,
        "optionalClientScopes": ["offline_access"],
        **more,
    }


CLIENTS = [
    # What a user's script signs in with.
    client("mlaas4hep-cli", attributes={"oauth2.device.authorization.grant.enabled": "true"}),
    # What tests get tokens with in one request, without the pages of the device flow.
    client("test-password", directAccessGrantsEnabled=True),
    client("test-short", directAccessGrantsEnabled=True, attributes={"access.token.lifespan": "3"}),
    client("test-minute", directAccessGrantsEnabled=True,
           attributes={"access.token.lifespan": "60"}),
    # Another application of the same issuer: its tokens have another audience.
    client("other-app", directAccessGrantsEnabled=True,
           defaultClientScopes=["basic", "profile", "email"],
           protocolMappers=[audience("other-app"), SHORT_GROUPS]),
    # The stack's own client, for the case that it is given rather than registered.
    client("mlaas4hep-browser", publicClient=False, secret="browser-secret",
           standardFlowEnabled=True, redirectUris=REDIRECTS),
    # A robot: signs in with its secret, is a user of its own.
    client("robot", publicClient=False, secret="robot-secret", serviceAccountsEnabled=True),
]  # fmt: skip
ROBOT = {
    "username": "service-account-robot",
    "enabled": True,
    "serviceAccountClientId": "robot",
    "groups": ["/physicists"],
}


def policy(name: str, provider: str, kind: str, **config: list[str]) -> dict:
    named = {key.replace("_", "-"): value for key, value in config.items()}
    return {"name": name, "providerId": provider, "subType": kind, "config": named}


def scopes(kind: str) -> dict:
    return policy("Allowed Client Scopes", "allowed-client-templates", kind,
                  allow_default_scopes=["true"], allowed_client_scopes=[*DEFAULT_SCOPES, "openid",
                  "offline_access"])  # fmt: skip


# Who may register a client: machines of the tests' network, for addresses of the stack.
REGISTRATION = [
    policy("Trusted Hosts", "trusted-hosts", "anonymous",
           host_sending_registration_request_must_match=["false"], client_uris_must_match=["true"],
           trusted_hosts=["mlaas4hep.test", "*.myip.cloud.infn.it"]),
    policy("Max Clients Limit", "max-clients", "anonymous", max_clients=["200"]),
    scopes("anonymous"),
    scopes("authenticated"),
]  # fmt: skip


def realm(name: str) -> dict:
    return {
        "realm": name,
        "enabled": True,
        "sslRequired": "external",
        "accessTokenLifespan": 900,
        "oauth2DeviceCodeLifespan": 600,
        "oauth2DevicePollingInterval": 1,
        "revokeRefreshToken": True,
        "refreshTokenMaxReuse": 0,
        "bruteForceProtected": False,
        "groups": [{"name": "physicists"}, {"name": "admins"}],
        "users": [
            user("alice", name, "physicists", "admins"),
            user("bob", name, "physicists"),
            user("mallory", name),
            ROBOT,
        ],
        "clients": CLIENTS,
        "clientScopes": SCOPES,
        "defaultDefaultClientScopes": DEFAULT_SCOPES,
        "defaultOptionalClientScopes": ["offline_access"],
        "components": {
            "org.keycloak.services.clientregistration.policy.ClientRegistrationPolicy": REGISTRATION
        },
    }

#!/usr/bin/python
"""Register a client at an OpenID Connect issuer, or update one, and say what the issuer dropped."""

from __future__ import annotations

DOCUMENTATION = """
module: oidc_client
short_description: Register a client at an OpenID Connect issuer, or update one
description:
  - Registers a client (RFC 7591), or reads and updates one that is known (RFC 7592), until the
    issuer has all that is asked for; then it sends no more requests.
  - An issuer may drop what it was asked for without an error. What it dropped is named, as an error
    where nobody can sign in without it, else as a warning.
  - The issuer's last answer is kept on the host in client.json, or given-client.json, mode 0600.
options:
  folder:
    description: Folder of the files client.json, given-client.json and client-secret.
    type: path
    required: true
  owner:
    description: Numeric id of the user who reads client-secret.
    type: int
    required: true
  issuer:
    description: Address of the issuer.
    type: str
    required: true
  endpoint:
    description: The issuer's registration_endpoint; empty if it has none.
    type: str
    default: ""
  asks:
    description: Metadata of the client (RFC 7591), with redirect_uris, and scope if it is set.
    type: dict
    required: true
  scope:
    description: Scopes that the sign-in requests.
    type: str
    required: true
  initial_access_token_file:
    description: File with the token for registering a client; empty if the issuer needs none.
    type: str
    default: ""
  client_id:
    description: Client that somebody else registered; empty registers one.
    type: str
    default: ""
  token_file:
    description: File with the registration access token of client_id.
    type: str
    default: ""
  address:
    description: Address where client_id is read and updated; empty means ENDPOINT/CLIENT_ID.
    type: str
    default: ""
  secret_file:
    description: File with the secret of client_id, where the issuer doesn't return it.
    type: str
    default: ""
  ca_path:
    description: PEM file of the certificate authorities to trust; by default the host's.
    type: path
author: The MLaaS4HEP developers (!UNKNOWN)
"""

EXAMPLES = """
- name: Register the client
  mlaas4hep.stack.oidc_client:
    folder: /etc/mlaas4hep/oauth2-proxy
    owner: 64004
    issuer: https://iam.example.org/
    endpoint: https://iam.example.org/iam/api/client-registration
    asks: {redirect_uris: ["https://ml.example.org/oauth2/callback"]}
    scope: openid profile email
"""

RETURN = """
client_id:
  description: The client; empty in check mode, if there is none yet.
  returned: success
  type: str
scope:
  description: The requested scopes, without those that the issuer doesn't give to the client.
  returned: success
  type: str
"""

import json
import os
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import quote, urlsplit

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.urls import ConnectionError, open_url

# What an answer may leave out, because it doesn't change.
LASTING = ("client_id", "client_secret", "registration_access_token", "registration_client_uri")
# What an update must not send (RFC 7592, 2.2), and what only we know of the client.
NOT_SENT = (
    "registration_access_token",
    "registration_client_uri",
    "client_secret_expires_at",
    "client_id_issued_at",
    "issuer",
)


class ClientError(Exception):
    """Nobody can sign in with this client: why, and what to do."""


class Answer:
    """What the issuer answered to one request."""

    def __init__(self, status, body):
        try:
            said = json.loads(body)
        except ValueError:
            said = None
        said = said if isinstance(said, dict) else {}
        self.said = {key: value for key, value in said.items() if value is not None}
        self.ok = status in (200, 201) and isinstance(self.said.get("client_id"), str)
        words = [str(self.said[key]) for key in ("error", "error_description") if key in self.said]
        self.reason = ": ".join([f"status {status}", *words])[:500]
        # It may answer otherwise later: nothing follows from it.
        self.away = status == 429 or status >= 500


class Client:
    """The client of ``params``, as the issuer answered last; every answer is kept at once."""

    def __init__(self, params):
        self.params = params
        given = params["client_id"]
        self.path = Path(params["folder"]) / ("given-client.json" if given else "client.json")
        kept = json.loads(self.path.read_text()) if self.path.exists() else {}
        same = kept.get("issuer") == params["issuer"] and given in ("", kept.get("client_id"))
        file = params["secret_file"] if given else ""
        self.secret = {"client_secret": Path(file).read_text().strip("\r\n")} if file else {}
        self.known = {**kept, **self.secret} if same else {}
        self.refused = ""

    def dropped(self):
        """Redirect addresses and scopes that were asked for and that the client hasn't got.

        An issuer that doesn't tell a client's scopes isn't taken to have dropped them.
        """
        asks, scope = self.params["asks"], self.known.get("scope")
        redirects = self.known.get("redirect_uris") or []
        scopes = asks.get("scope", "").split() if isinstance(scope, str) else []
        return (
            [uri for uri in asks["redirect_uris"] if uri not in redirects],
            [name for name in scopes if name not in scope.split()],
        )

    def settle(self):
        """Ask the issuer for what is missing."""
        if self.params["client_id"]:
            self._update([self._given_token()])
            if not self.known:
                raise ClientError(
                    f"{self._address()} doesn't show the client {self.params['client_id']}"
                    f" ({self.refused}). Check oauth2_proxy_client_id and"
                    " oauth2_proxy_registration_address, and put a valid registration access token"
                    " into oauth2_proxy_registration_token_file"
                )
            return
        if self.known.get("registration_access_token") and self._address():
            self._update([])
        # A client that can't be changed any more is of no use at another address.
        if not self.known or (self.dropped()[0] and self.refused):
            self._register()

    def check(self):
        """The warning that this client deserves, or none; an error if nobody can sign in."""
        redirects, scopes = self.dropped()
        client, issuer = self.known.get("client_id"), self.params["issuer"]
        why = f", and refused the update ({self.refused})" if self.refused else ""
        if redirects or "openid" in scopes:
            missing = [f"the redirect address {uri}" for uri in redirects]
            missing += [f"the scope {name}" for name in scopes]
            raise ClientError(
                f"The issuer {issuer} did not give the client {client} {' and '.join(missing)}"
                f"{why}: nobody can sign in with it. Have the issuer's administrators add what is"
                " missing to this client, and play again; or give another client as"
                " oauth2_proxy_client_id and oauth2_proxy_client_secret_file"
            )
        if not self.known.get("client_secret"):
            raise ClientError(
                f"The issuer {issuer} doesn't tell the secret of the client {client}. Put it into a"
                " file of the host, mode 0600, and name it as oauth2_proxy_client_secret_file"
            )
        if not scopes:
            return ""
        names = " ".join(scopes)
        return (
            f"The issuer {issuer} did not give the client {client} the scope {names}{why}. Users"
            " can sign in, but their tokens lack what it stands for, such as groups. Have the"
            " issuer's administrators add it to this client, and play again; or take it out of"
            " oauth2_proxy_scope"
        )

    def scope(self):
        """What to request at sign-in: issuers refuse requests for a scope that the client lacks."""
        missing = self.dropped()[1]
        return " ".join(s for s in self.params["scope"].split() if s not in missing)

    def _given_token(self):
        return Path(self.params["token_file"]).read_text().strip()

    def _address(self):
        """Where the client is read and updated."""
        given = self.params["client_id"]
        if not given or self.known.get("registration_client_uri"):
            return self.known.get("registration_client_uri", "")
        endpoint = self.params["endpoint"].rstrip("/")
        return self.params["address"] or (endpoint and f"{endpoint}/{quote(given, safe='')}")

    def _update(self, tokens):
        """Read the client and, unless it is as asked, change it (RFC 7592)."""
        address, asks = self._address(), self.params["asks"]
        if not address:
            raise ClientError(
                f"The issuer {self.params['issuer']} names no registration_endpoint: give the"
                " address of the client as oauth2_proxy_registration_address"
            )
        kept = self.known.get("registration_access_token")
        for token in dict.fromkeys([*([kept] if kept else []), *tokens]):
            answer = self._ask("GET", address, token)
            if answer.ok:
                break
        if not answer.ok:
            self.refused = answer.reason
            self.known = {}
            return
        if (shown := answer.said["client_id"]) != (self.params["client_id"] or shown):
            raise ClientError(
                f"{address} shows the client {shown}, and oauth2_proxy_client_id is"
                f" {self.params['client_id']}: correct one of the two"
            )
        self._keep(answer, registration_access_token=token, registration_client_uri=address)
        if self.known["redirect_uris"] == asks["redirect_uris"] and not self.dropped()[1]:
            return
        body = {key: value for key, value in self.known.items() if key not in NOT_SENT}
        body["redirect_uris"] = asks["redirect_uris"]
        if "scope" in asks:
            names = f"{body.get('scope') or ''} {asks['scope']}".split()
            body["scope"] = " ".join(dict.fromkeys(names))
        token = self.known["registration_access_token"]
        answer = self._ask("PUT", self._address(), token, body)
        if answer.ok:
            self._keep(answer)
        else:
            self.refused = answer.reason

    def _register(self):
        """Ask for a new client (RFC 7591)."""
        params, issuer = self.params, self.params["issuer"]
        callback = params["asks"]["redirect_uris"][0]
        remedy = (
            "Give a client with the redirect address"
            f" {callback} as oauth2_proxy_client_id and oauth2_proxy_client_secret_file"
        )
        if not params["endpoint"]:
            raise ClientError(
                f"The issuer {issuer} names no registration_endpoint, so that no client can be"
                f" registered by itself. {remedy}"
            )
        file = params["initial_access_token_file"]
        token = Path(file).read_text().strip() if file else ""
        answer = self._ask("POST", params["endpoint"], token, params["asks"])
        if not answer.ok:
            raise ClientError(
                f"The issuer {issuer} did not register a client ({answer.reason}). If it wants an"
                " initial access token, name a file with it as"
                f" oauth2_proxy_initial_access_token_file. Otherwise: {remedy}"
            )
        self.known, self.refused = {}, ""
        self._keep(answer)

    def _ask(self, method, address, token, body=None):
        """One request; it isn't sent on to another address, as the token is only for this one."""
        parts = urlsplit(address)
        if parts.scheme != "https" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
            raise ClientError(f"{address} is no https:// address: it would show the client's token")
        headers = {"Accept": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        if body is not None:
            headers["Content-Type"] = "application/json"
            body = json.dumps(body)
        try:
            with open_url(
                address,
                data=body,
                headers=headers,
                method=method,
                timeout=20,
                ca_path=self.params["ca_path"],
                follow_redirects="none",
                use_netrc=False,
            ) as answer:
                got = Answer(answer.status, answer.read(1 << 20))
        except HTTPError as error:
            got = Answer(error.code, error.read(1 << 20))
        except (OSError, ValueError, HTTPException, ConnectionError) as error:
            reason = getattr(error, "reason", error)
            raise ClientError(f"{address} doesn't answer: {reason}") from error
        if got.away:
            raise ClientError(f"{address} answers with {got.reason}. Play again later")
        return got

    def _keep(self, answer, **before):
        """Write the answer down before anything else: a new token makes the old one useless."""
        lasting = {key: self.known[key] for key in LASTING if key in self.known}
        self.known = {"redirect_uris": [], **lasting, **before, **answer.said, **self.secret}
        self.known["issuer"] = self.params["issuer"]
        write(self.path, json.dumps(self.known, indent=4))


def write(path, text, owner=None):
    """Write a secret to a file at once, for its owner only."""
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    if owner is not None:
        os.chown(new, owner, owner)
    new.replace(path)


def without_token(client):
    """What a client is: an issuer may give it a new token whenever it is read."""
    return {key: value for key, value in client.items() if key != "registration_access_token"}


def run(params, check_mode):
    """Settle, check and write; the result, with the warning if there is one."""
    client = Client(params)
    before, missing = without_token(client.known), client.dropped()
    if not client.known or missing[0] or (missing[1] and not check_mode):
        if check_mode:
            return {"changed": True, "client_id": params["client_id"], "scope": params["scope"]}, ""
        client.settle()
    warning = client.check()
    secret = Path(params["folder"]) / "client-secret"
    stale = not secret.exists() or secret.read_text() != client.known["client_secret"]
    if stale and not check_mode:
        write(secret, client.known["client_secret"], params["owner"])
    changed = stale or without_token(client.known) != before
    found = {"client_id": client.known["client_id"], "scope": client.scope()}
    return {"changed": changed, **found}, warning


def main():
    """Read the arguments, settle, report."""
    text = {"type": "str", "default": ""}
    module = AnsibleModule(
        argument_spec={
            "folder": {"type": "path", "required": True},
            "owner": {"type": "int", "required": True},
            "issuer": {"type": "str", "required": True},
            "endpoint": text,
            "asks": {"type": "dict", "required": True},
            "scope": {"type": "str", "required": True},
            "initial_access_token_file": {**text, "no_log": False},
            "client_id": text,
            "token_file": {**text, "no_log": False},
            "address": text,
            "secret_file": {**text, "no_log": False},
            "ca_path": {"type": "path"},
        },
        supports_check_mode=True,
    )
    try:
        result, warning = run(module.params, module.check_mode)
    except (ClientError, OSError) as error:
        module.fail_json(msg=f"{error}.")
    if warning:
        module.warn(f"{warning}.")
    module.exit_json(**result)


if __name__ == "__main__":
    main()

#!/usr/bin/python
"""Ask deployed services what their users will ask, and say why there is no answer."""

from __future__ import annotations

DOCUMENTATION = """
module: self_check
short_description: Ask deployed services what their users will ask
description:
  - Asks from the host, by the public address, and changes nothing.
  - Fails with everything that is wrong, each with its cause and what to do.
options:
  url:
    description: Where the services are, without a path; empty asks nothing.
    type: str
    default: ""
  ready:
    description: Paths that answer 200 when their service is ready, and its container.
    type: dict
    default: {}
  sign_in:
    description: >-
      Whether browsers are led to the issuer, and requests without a token are answered 401.
    type: bool
    default: false
  resolve:
    description: >-
      Whether the host must be able to resolve its public name; otherwise it asks itself instead.
    type: bool
    default: true
  trusted:
    description: >-
      Whether the certificate must be of an authority that is trusted; otherwise this is a warning.
    type: bool
    default: true
  ca_files:
    description: PEM files of authorities that are trusted beside those of the distribution.
    type: list
    elements: path
    default: []
  acme_directory:
    description: Where the gateway gets its certificate, if it does so by ACME.
    type: str
    default: ""
  log:
    description: Command that prints the gateway's log, which knows why there is no certificate.
    type: list
    elements: str
    default: []
  prediction:
    description: Command that ends with 0 if a model answers, and says what it found.
    type: list
    elements: str
    default: []
  wait_seconds:
    description: >-
      How long to ask again while something is wrong, as services and certificates take a while.
    type: int
    default: 0
author: The MLaaS4HEP developers (!UNKNOWN)
"""

EXAMPLES = """
- name: Ask by the public address
  mlaas4hep.stack.self_check:
    url: https://mlaas.example.org
    ready: {/readyz: mlaas4hep-server, /tfaas/readyz: mlaas4hep-tfaas}
    sign_in: true
    wait_seconds: 60
"""

RETURN = """ # """

import http.client
import json
import re
import socket
import ssl
import subprocess
import time
from urllib.parse import parse_qs, urlsplit

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mlaas4hep.stack.plugins.module_utils.engine import ran

SECONDS = 15
"""How long one answer may take."""
COMMAND_SECONDS = 120
SOON_SECONDS = 14 * 24 * 3600
"""Before the end of a certificate, of which the gateway renews its own when a third is left."""
HERE = "127.0.0.1"
PAGE = "text/html,*/*;q=0.8"
PROBLEM = "application/problem+json"
# What OpenSSL says of a certificate (X509_V_ERR_...).
UNKNOWN_AUTHORITY = {2, 18, 19, 20, 21}
ANOTHER_NAME = {62, 64}


class Address:
    """Where the services are; each question is a connection of its own, without a proxy."""

    def __init__(self, url, context, at=""):
        """``at`` is the host that is asked, when it is not the one that the name leads to."""
        parts = urlsplit(url)
        self.url = url
        self.name = parts.hostname
        self.port = parts.port or (443 if parts.scheme == "https" else 80)
        self._host = parts.netloc
        self._context = context if parts.scheme == "https" else None
        self._at = at or self.name

    def connect(self):
        """A connection; OSError, or ssl.SSLError of the certificate."""
        plain = socket.create_connection((self._at, self.port), SECONDS)
        if self._context is None:
            return plain
        try:
            return self._context.wrap_socket(plain, server_hostname=self.name)
        except (OSError, ValueError):
            plain.close()
            raise

    def get(self, path, accept="application/json"):
        """Status, headers and the beginning of the body; redirects are not followed."""
        connection = http.client.HTTPConnection(self.name, self.port, timeout=SECONDS)
        connection.sock = self.connect()
        try:
            connection.request("GET", path, headers={"Host": self._host, "Accept": accept})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read(1000).decode("utf-8", "replace")
        finally:
            connection.close()

    def certificate(self, at=""):
        """The one that is shown there, whatever it is; None where there is none."""
        context = unverified()
        try:
            shown = Address(self.url, context, at or self._at).connect()
        except OSError:
            return None
        with shown:
            return shown.getpeercert(binary_form=True) if self._context else None


def unverified():
    """TLS with whoever answers."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def verifying(ca_files):
    """TLS with whom the host trusts, and these authorities; ValueError names an unusable file."""
    context = ssl.create_default_context()
    for file in ca_files:
        try:
            context.load_verify_locations(file)
        except OSError as error:
            raise ValueError(
                f"{file} can't be read as certificates ({error.strerror or error}). Correct"
                " gateway_certificate_ca; with gateway_tls: internal the gateway makes the file:"
                " see docker logs mlaas4hep-gateway."
            ) from error
    return context


def addresses(name):
    """What the host resolves a name to."""
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError:
        return []
    return sorted({entry[4][0] for entry in found})


def check(params):
    """What is wrong now, and what should be looked at."""
    warnings = []
    problems = [*_check_prediction(params["prediction"])]
    if params["url"]:
        problems += _check_url(params, warnings)
    return problems, warnings


def _check_prediction(command):
    if not command:
        return
    try:
        ended = ran(*command, timeout=COMMAND_SECONDS)
    except subprocess.TimeoutExpired:
        yield f"No model has answered within {COMMAND_SECONDS} s. See docker logs mlaas4hep-tfaas."
        return
    if ended.returncode:
        said = " ".join((ended.stdout + ended.stderr).split())[-600:]
        yield f"No prediction: {said or 'no reason given'}. See docker logs mlaas4hep-tfaas."


def _check_url(params, warnings):
    name = urlsplit(params["url"]).hostname
    at = ""
    if not addresses(name):
        if params["resolve"]:
            return [
                f"{name} can't be resolved from the host. Enter it in the DNS (mlaas4hep_domain)."
            ]
        warnings.append(f"{name} can't be resolved from the host, which asked itself instead.")
        at = HERE
    try:
        address = Address(params["url"], verifying(params["ca_files"]), at)
        with address.connect() as shown:
            warnings += _ends_soon(name, shown)
    except ssl.SSLCertVerificationError as error:
        if params["trusted"] or error.verify_code not in UNKNOWN_AUTHORITY:
            return [_why_closed(address, error, params)]
        address = Address(params["url"], unverified(), at)
        warnings.append(
            f"No browser trusts the certificate of {name}, which is for trials: set"
            " gateway_acme_directory to production in the end."
        )
    except OSError as error:
        return [_why_closed(address, error, params)]
    except ValueError as error:
        return [str(error)]
    asked = [_asked(_ready, address, *service) for service in params["ready"].items()]
    if params["sign_in"]:
        asked += [_asked(_leads_to_issuer, address), _asked(_wants_token, address)]
    return [problem for problem in asked if problem]


def _ends_soon(name, shown):
    """A warning if a valid certificate should have been renewed by now."""
    made = shown.getpeercert() if isinstance(shown, ssl.SSLSocket) else None
    if not made:
        return
    start, end = (ssl.cert_time_to_seconds(made[key]) for key in ("notBefore", "notAfter"))
    if end - time.time() < min(SOON_SECONDS, (end - start) / 4):
        yield (
            f"The certificate of {name} ends on {made['notAfter']} and has not been renewed. With"
            " ACME, docker logs mlaas4hep-gateway has the reason; otherwise give a new"
            " gateway_certificate."
        )


def _why_closed(address, error, params):
    """Why nobody can come in, and what to do."""
    name, port = address.name, address.port
    there, here = address.certificate(), address.certificate(HERE)
    leads = f"{name} leads to {', '.join(addresses(name)) or HERE}"
    if there and here and there != here:
        return (
            f"{leads}, where another machine answers with another certificate than this host's."
            f" Correct the entry of {name} in the DNS, or mlaas4hep_domain."
        )
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"The certificate of {name} is not valid: {error.verify_message}. {_remedy(error)}"
    if isinstance(error, ssl.SSLError):
        source = f" from {params['acme_directory']}" if params["acme_directory"] else ""
        return (
            f"The gateway has no certificate for {name}{source}:"
            f" {_refusal(params['log']) or error.reason or error}. Correct it"
            " (gateway_acme_directory, the entry in the DNS, ports 80 and 443 open from the"
            " internet), then run the playbook again; docker restart mlaas4hep-gateway asks for a"
            " certificate at once."
        )
    reason = error.strerror or error
    if here:
        return (
            f"{leads}, where port {port} is closed ({reason}), but this host answers. Correct the"
            f" entry in the DNS if that is another machine, or open port {port} in the firewall"
            " (the cloud's security group)."
        )
    return (
        f"{leads}, where port {port} is closed ({reason}), and this host doesn't answer either. See"
        " docker ps -a --filter name=mlaas4hep, and docker logs of what is not healthy."
    )


def _remedy(error):
    if error.verify_code in UNKNOWN_AUTHORITY:
        return (
            "Give the certificate with its chain; if its authority is the site's own, name it in"
            " gateway_certificate_ca."
        )
    if error.verify_code in ANOTHER_NAME:
        return "Give one that names mlaas4hep_domain."
    return "Renew it; the host's clock must be right, too (timedatectl)."


def _refusal(log):
    """The newest reason in the gateway's log for which there is no certificate; "" for none."""
    if not log:
        return ""
    shown = ran(*log, timeout=SECONDS)
    for line in reversed((shown.stdout + shown.stderr).splitlines()):
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if not isinstance(entry, dict) or not str(entry.get("logger")).startswith("tls"):
            continue
        if error := entry.get("error"):
            return _shown(str(error)).rstrip(".")
    return ""


def _asked(question, address, *more):
    try:
        return question(address, *more)
    except (OSError, http.client.HTTPException) as error:
        return f"{address.url} broke off its answer: {error}. See docker logs mlaas4hep-gateway."


def _ready(address, path, container):
    status, _headers, body = address.get(path)
    if status == 200:
        return ""
    answer = f"{address.url}{path} answers {status}: {_shown(body)}"
    return f"Not ready: {answer}. See docker logs {container}."


def _leads_to_issuer(address):
    status, headers, body = address.get("/", PAGE)
    to = urlsplit(headers.get("Location", ""))
    back = parse_qs(to.query).get("redirect_uri", [""])[0]
    if status == 302 and to.scheme and back == f"{address.url}/oauth2/callback":
        return ""
    return (
        f"A browser at {address.url}/ is not sent to the issuer and back: it gets {status}"
        f" {headers.get('Location') or _shown(body)}. See docker logs mlaas4hep-oauth2-proxy."
    )


def _wants_token(address):
    status, headers, body = address.get("/jobs")
    kind = headers.get("Content-Type", "").partition(";")[0]
    if (status, kind) == (401, PROBLEM):
        return ""
    return (
        f"{address.url}/jobs answers {status} as {kind or 'nothing'} to a request without a token,"
        f" which must be 401 as {PROBLEM}: {_shown(body)}. See docker logs mlaas4hep-gateway."
    )


def _shown(text):
    """The beginning of what may be a web page, on one line."""
    return " ".join(re.sub(r"<[^>]*>", " ", text).split())[:300] or "nothing"


def main():
    """Read the arguments, ask until all is well or the time is over, report."""
    texts = {"type": "list", "elements": "str", "default": []}
    module = AnsibleModule(
        argument_spec={
            "url": {"type": "str", "default": ""},
            "ready": {"type": "dict", "default": {}},
            "sign_in": {"type": "bool", "default": False},
            "resolve": {"type": "bool", "default": True},
            "trusted": {"type": "bool", "default": True},
            "ca_files": {"type": "list", "elements": "path", "default": []},
            "acme_directory": {"type": "str", "default": ""},
            "log": texts,
            "prediction": texts,
            "wait_seconds": {"type": "int", "default": 0},
        },
        supports_check_mode=True,
    )
    end = time.monotonic() + module.params["wait_seconds"]
    while True:
        problems, warnings = check(module.params)
        if not problems or time.monotonic() >= end:
            break
        time.sleep(2)
    for warning in warnings:
        module.warn(warning)
    if problems:
        module.fail_json(msg=" ".join(["The stack was deployed, but:", *problems]))
    module.exit_json(changed=False)


if __name__ == "__main__":
    main()

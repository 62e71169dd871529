#!/usr/bin/python
"""Say everything that is wrong with a host, at once, before anything is changed."""

from __future__ import annotations

DOCUMENTATION = """
module: preflight
short_description: List everything that is wrong with a host, before anything is changed
description:
  - Looks at the host and at the options of a role, and changes nothing.
  - Each problem says what was found, what is needed, and what to do.
options:
  checks:
    description: What to look at.
    type: dict
    required: true
    suboptions:
      system:
        description: >-
          The host itself; releases (ID to versions), memory_mb, cpus, disk_gb (for
          data), images_gb (where the engine has them), engine (its options).
        type: dict
      engine:
        description: >-
          The container engine; its package, and defaults and options, as
          mlaas4hep.stack.engine_settings takes them.
        type: dict
      registry:
        description: >-
          Where images are pulled; name, and logins, a file in the format of docker's config.json.
          Both may be empty.
        type: dict
      ports:
        description: Ports that the stack publishes; port, and the option that names it.
        type: list
        elements: dict
        default: []
      issuer:
        description: >-
          The OpenID Connect issuer; url, option, audience, allowed_groups, proxy, no_proxy.
        type: dict
      sign_in:
        description: >-
          Whether users sign in; issuer, consent (to users who did and won't any more), made (a file
          that is there where they did), data (one that is there where there are data).
        type: dict
      ca_pem:
        description: Certificates of the site, trusted beside those of the distribution.
        type: str
        default: ""
      ca_file:
        description: The same, as a file of the host.
        type: str
        default: ""
      domain:
        description: The host's public name; name, option, resolve (whether it must resolve).
        type: dict
      certificate:
        description: Certificate that is given; certificate and key (paths), domain.
        type: dict
      files:
        description: >-
          Files that must exist; path, the option that names it, secret, if it is only for root, and
          token, if its first line is one.
        type: list
        elements: dict
        default: []
      networks:
        description: Networks of options; network, and the option that names it.
        type: list
        elements: dict
        default: []
      required:
        description: Options that must have a value; option, value, why.
        type: list
        elements: dict
        default: []
      data_hosts:
        description: >-
          Hosts that trainings may read from; listed, wrong (the entries that can't be one, as
          mlaas4hep.stack.wrong_data_hosts has them), network (that of trainings).
        type: dict
      grid:
        description: >-
          Files of the grid; any of origins (servers), paths (folders of them), data_paths (group to
          folders), issuer (of the groups' members), cache_gib and cache (its size and folder),
          network (that of trainings), vo, ca_folder, and uid and store_uid, which differ.
        type: dict
      variables:
        description: >-
          Variables of the role; given, known, renamed (old name to new name), passwords (names of
          those that have one in an address), secrets (names of values that look like one).
        type: dict
      ansible_version:
        description: Version of ansible-core.
        type: str
author: The MLaaS4HEP developers (!UNKNOWN)
"""

EXAMPLES = """
- name: Check that a port is free
  mlaas4hep.stack.preflight:
    checks:
      ports:
        - {port: 443, option: gateway_https_port}
"""

RETURN = """
problems:
  description: What must be put right first.
  returned: always
  type: list
  elements: str
warnings_found:
  description: What should be looked at.
  returned: always
  type: list
  elements: str
"""

import difflib
import errno
import ipaddress
import json
import os
import re
import shutil
import socket
import ssl
import time
import urllib.request
from email.utils import mktime_tz, parsedate_tz
from pathlib import Path
from urllib.parse import urlsplit

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mlaas4hep.stack.plugins.module_utils import engine
from ansible_collections.mlaas4hep.stack.plugins.module_utils.engine import ran

STATE = Path("/var/lib/mlaas4hep")
OLDEST_ANSIBLE = (2, 16)
SOON_SECONDS = 14 * 86400
SHORTEST_TOKEN = 16
TOKEN = re.compile(rf"[A-Za-z0-9._~+/-]{{{SHORTEST_TOKEN},}}=*\n?")
CLOCK_SECONDS = 30
"""As many as the services forgive a token that is not valid yet."""


class Found:
    """What was found so far."""

    def __init__(self):
        self.problems = []
        self.warnings = []

    def problem(self, found, needed, remedy):
        """Must be put right."""
        self.problems.append(f"{found}; {needed}. {remedy}.")

    def warning(self, found, remedy):
        """Should be looked at."""
        self.warnings.append(f"{found}. {remedy}.")


def check_ansible(found, version):
    """The controller's ansible-core."""
    if tuple(int(n) for n in re.findall(r"\d+", version)[:2]) < OLDEST_ANSIBLE:
        found.problem(
            f"ansible-core on the controller is {version}",
            "the collection needs 2.16 or newer",
            "Install it there: pip install 'ansible-core>=2.16'",
        )


def check_system(found, wanted):
    """Distribution, memory, disk and cores."""
    release = dict(
        line.split("=", 1)
        for line in Path("/etc/os-release").read_text().splitlines()
        if "=" in line
    )
    name = release.get("ID", "unknown").strip('"')
    version = release.get("VERSION_ID", "unknown").strip('"')
    if version not in wanted["releases"].get(name, []):
        known = [f"{k} {v}" for k, versions in wanted["releases"].items() for v in versions]
        found.problem(
            f"the host runs {name} {version}",
            f"supported are {', '.join(known)}",
            "Use a machine with one of them",
        )
    if not Path("/run/systemd/system").is_dir():
        found.problem(
            "the host was not booted with systemd",
            "the container engine is a service of systemd",
            "Use a machine, virtual or not, rather than a container",
        )
    # Of an option whose default is computed, ansible-core 2.16 makes text.
    needs = {key: int(wanted[key]) for key in ("memory_mb", "cpus", "disk_gb", "images_gb")}
    memory = int(re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())[1]) // 1024
    if memory < needs["memory_mb"]:
        found.problem(
            f"the host has {memory} MB of memory",
            f"{needs['memory_mb']} MB are needed",
            "Use a larger machine, or lower mlaas4hep_min_memory_mb if trainings are small",
        )
    cpus = os.cpu_count() or 1
    if cpus < needs["cpus"]:
        found.problem(
            f"the host has {cpus} cores",
            f"{needs['cpus']} are needed",
            "Use a larger machine, or lower mlaas4hep_min_cpus",
        )
    images = engine.data_root(wanted["engine"])
    # What exists has its space already; the next version needs some.
    check_disk(found, {
        STATE: 2 if (STATE / "store").exists() else needs["disk_gb"],
        images: 2 if _container("mlaas4hep-server") else needs["images_gb"],
    })  # fmt: skip


def check_disk(found, needs):
    """Room for data and images, on one file system or two; ``needs`` are GB by path."""
    disks = {}
    for path, needed in needs.items():
        disks.setdefault(_existing(path).stat().st_dev, []).append((path, needed))
    for places in disks.values():
        free = shutil.disk_usage(_existing(places[0][0])).free // 10**9
        needed = sum(place[1] for place in places)
        if free < needed:
            names = " and ".join(str(place[0]) for place in places)
            found.problem(
                f"{free} GB are free below {names}",
                f"{needed} GB are needed",
                "Free some, mount a larger disk there, or lower mlaas4hep_min_disk_gb (data) or"
                " mlaas4hep_min_images_gb",
            )


def _container(name):
    return bool(ran("docker", "ps", "-aq", "--filter", f"name=^/?{name}$").stdout.strip())


def _existing(path):
    return path if path.exists() else _existing(path.parent)


def check_engine(found, wanted):
    """One that is there already is used as it is, with the containers of others."""
    _check_package(found, wanted["package"])
    try:
        settings = engine.Settings(wanted["defaults"], wanted["options"])
    except (OSError, ValueError) as error:
        found.problem(
            f"{engine.DAEMON} can't be read: {error}",
            "the stack adds its settings of the engine to those in it",
            "Correct the file, or remove it",
        )
        return
    for name, theirs, ours in settings.conflicts:
        found.problem(
            f"{engine.DAEMON} sets {name} to {json.dumps(theirs)} already",
            f"the options of container_engine ask for {json.dumps(ours)}",
            f"Remove {name} from one of the two",
        )
    if refused := engine.refusal(settings.after):
        found.problem(
            f"the engine would not start with its settings: {refused}",
            f"these are container_engine_options and what {engine.DAEMON} has",
            "Correct them",
        )
    if settings.after.get("userns-remap"):
        found.problem(
            "the engine gives containers other users (userns-remap)",
            "mlaas4hep_uid must own the data inside containers and outside",
            "Use another machine, or remove userns-remap from the engine's settings",
        )
    if not settings.after.get("live-restore"):
        _check_others(found)
    elif ran("docker", "info", "--format", "{{.Swarm.LocalNodeState}}").stdout.strip() == "active":
        found.problem(
            "the engine is a node of a swarm",
            "a swarm's engine doesn't start with live-restore, which the stack sets",
            "Set container_engine_options to {live-restore: false}",
        )


def _check_others(found):
    """Who else would notice that the engine is restarted."""
    names = ran("docker", "ps", "--format", "{{.Names}}").stdout.split()
    if others := [name for name in names if not name.startswith("mlaas4hep-")]:
        found.warning(
            f"live-restore is off: the containers {', '.join(others)} end when the engine is"
            " restarted, as it is when its settings change",
            "Give them a restart policy, or set live-restore",
        )


def _check_package(found, package):
    """Another engine's package would be replaced by ours."""
    others = [name for name in ("docker-ce", "docker.io") if name != package and _installed(name)]
    if others:
        found.problem(
            f"the package {others[0]} is installed",
            f"container_engine_package is {package}, and only one of the two can be",
            f"Set container_engine_package to {others[0]} to use it, or remove it",
        )
    elif not _installed(package) and ran("docker", "version").returncode == 0:
        found.problem(
            "a container engine is installed that is neither docker.io nor docker-ce",
            f"{package} can't be installed beside it",
            "Remove it (snap, moby-engine), or use another machine",
        )


def _installed(package):
    asked = ran("dpkg-query", "--show", "--showformat", "${Status}", package)
    return asked.returncode == 0 and asked.stdout == "install ok installed"


def check_registry(found, registry):
    """The name of a registry, and a file with logins that docker can read."""
    name, logins = registry["name"], Path(registry["logins"])
    host = r"(localhost|[a-z0-9-]+(\.[a-z0-9-]+)+|[a-z0-9.-]+(?=:))(:\d+)?"
    if name and not re.fullmatch(rf"{host}(/[a-z0-9._-]+)*", name):
        found.problem(
            f"mlaas4hep_registry is {name!r}",
            "it must be HOST[:PORT][/PATH], in lower case, without https:// or a / at its end",
            "Set it, for example to registry.example.org/mirror",
        )
    if not registry["logins"] or not logins.is_file():  # check_files says it
        return
    if logins.name != "config.json":
        found.problem(
            f"mlaas4hep_registry_auth_file is {str(logins)!r}",
            "docker reads logins only from a file with the name config.json",
            "Rename it",
        )
    try:
        there = json.loads(logins.read_text())
        hosts = there.get("auths") or there.get("credHelpers") or there.get("credsStore")
    except (OSError, ValueError, AttributeError):  # their words could show what is in it
        hosts = None
    if not hosts:
        found.problem(
            f"mlaas4hep_registry_auth_file {logins} has no logins",
            'it must be JSON with "auths"',
            f"Make it on the host: docker --config {logins.parent} login REGISTRY",
        )


def check_ports(found, ports):
    """Free, or held by the stack itself."""
    for wanted in ports:
        port = int(wanted["port"])
        if _free(port) or _ours(port):
            continue
        holder = ran("ss", "-ltnpH", f"sport = :{port}").stdout
        names = sorted(set(re.findall(r'\("([^"]+)",pid=(\d+)', holder)))
        who = ", ".join(f"{name} (process {pid})" for name, pid in names) or "another program"
        found.problem(
            f"port {port} is in use by {who}",
            f"the stack publishes it ({wanted['option']})",
            "Stop that program, or choose another port where the option allows it",
        )


def _free(port):
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind(("0.0.0.0", port))  # noqa: S104 (to see whether any address is taken)
        except OSError as error:
            return error.errno != errno.EADDRINUSE
    return True


def _ours(port):
    names = ran("docker", "ps", "--filter", f"publish={port}", "--format", "{{.Names}}").stdout
    return any(name.startswith("mlaas4hep-") for name in names.split())


def check_issuer(found, issuer, trust):
    """Reachable from the host, and what it says it is."""
    url, option = issuer["url"], issuer["option"]
    parts = urlsplit(url)
    loopback = parts.hostname in ("localhost", "127.0.0.1", "::1")
    if not parts.hostname or (parts.scheme != "https" and not loopback):
        found.problem(
            f"{option} is {url!r}",
            "it must be the https:// address of an OpenID Connect issuer",
            "Take it from the issuer's /.well-known/openid-configuration",
        )
        return
    document = f"{url.rstrip('/')}/.well-known/openid-configuration"
    try:
        body, clock = _get(document, trust, issuer)
        said = json.loads(body).get("issuer")
    except (OSError, ValueError, AttributeError) as error:
        found.problem(
            f"{document} can't be read from the host: {getattr(error, 'reason', error)}",
            f"{option} must be the address of an OpenID Connect issuer that answers",
            "Check the address, the host's firewall, proxy (mlaas4hep_http_proxy) and the"
            " certificates that it trusts (mlaas4hep_ca_bundle)",
        )
    else:
        if said != url:
            found.problem(
                f"the issuer calls itself {said!r}",
                f"{option} is {url!r}, and the two must be exactly equal",
                f"Set {option} to {said!r}",
            )
        if clock and abs(skew := round(time.time() - clock)) > CLOCK_SECONDS:
            found.problem(
                f"the host's clock is {abs(skew)} s {'ahead of' if skew > 0 else 'behind'} the"
                " issuer's",
                f"tokens are refused from {CLOCK_SECONDS} s on",
                "Synchronize the host's clock: apt install systemd-timesyncd, or chrony",
            )
    if not issuer["allowed_groups"]:
        found.problem(
            "mlaas4hep_allowed_groups is empty",
            "with an issuer it must say who may use the service",
            'Name the groups, or set it to ["*"] to let in every user of the issuer',
        )
    if not issuer["audience"]:
        found.warning(
            "mlaas4hep_audience is empty: tokens that the issuer made for any other service are"
            " accepted here too",
            "Name the audience if the issuer can put one into its tokens (INDIGO IAM does when"
            " asked)",
        )


def check_sign_in(found, wanted):
    """Who sees whose data when sign-in is switched on or off."""
    signed_in = Path(wanted["made"]).exists()
    if signed_in and not wanted["issuer"] and not wanted["consent"]:
        found.problem(
            "mlaas4hep_issuer is empty, and users have signed in to this host",
            "without sign-in everybody on the host can see, change and delete all data",
            "Set mlaas4hep_issuer, or mlaas4hep_drop_sign_in to true if this is meant",
        )
    elif wanted["issuer"] and not signed_in and Path(wanted["data"]).exists():
        found.warning(
            "the host has data from before sign-in: nobody owns it, and no user sees it",
            "To use it again, give it to users: mlaas4hep-admin give NAME user:SUB",
        )


def _get(url, trust, issuer):
    """Its answer, and the time that it reports (0 if none)."""
    context = ssl.create_default_context()
    if any(trust.values()):
        context.load_verify_locations(**trust)
    proxies = {}
    host = urlsplit(url).hostname
    if issuer.get("proxy") and host not in issuer.get("no_proxy", "").split(","):
        proxies = {"http": issuer["proxy"], "https": issuer["proxy"]}
    opener = urllib.request.build_opener(
        urllib.request.HTTPSHandler(context=context), urllib.request.ProxyHandler(proxies)
    )
    with opener.open(url, timeout=15) as answer:
        date = parsedate_tz(answer.headers.get("Date", ""))
        # A copy that a cache kept has the time at which it was made.
        clock = mktime_tz(date) if date and "Age" not in answer.headers else 0
        return answer.read(1 << 20), clock


def check_domain(found, domain):
    """A name, and one that leads somewhere."""
    name, option = domain["name"], domain["option"]
    if not re.fullmatch(r"(?=.{1,253}$)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9-]+", name):
        found.problem(
            f"{option} is {name!r}",
            "it must be the host's public name, in lower case and without https://",
            f"Set {option}, for example to mlaas.example.org",
        )
        return
    try:
        socket.getaddrinfo(name, 443)
    except OSError as error:
        what = f"{option} {name} can't be resolved from the host ({error.strerror})"
        if domain["resolve"]:
            found.problem(
                what,
                "the certificate authority must find this host under that name",
                "Enter it in the DNS, or choose another gateway_tls",
            )
        else:
            found.warning(what, "Make sure that users can resolve it")


def check_certificate(found, given):
    """Readable, a pair, for the domain, and valid."""
    certificate, key, domain = given["certificate"], given["key"], given["domain"]
    remedy = "Give the certificate with its chain and its key, in PEM"
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except OSError as error:
        found.problem(
            f"gateway_certificate {certificate} and gateway_certificate_key {key} can't be used:"
            f" {error.strerror or error}",
            "they must be a certificate and its key, without a passphrase",
            remedy,
        )
        return
    if "does match" not in _x509(certificate, "-checkhost", domain).stdout:
        found.problem(
            f"the certificate {certificate} is not for {domain}",
            "it must name mlaas4hep_domain",
            remedy,
        )
    end = _x509(certificate, "-enddate").stdout.strip().partition("=")[2]
    if _x509(certificate, "-checkend", "0").returncode:
        found.problem(f"the certificate {certificate} ended on {end}", "it must be valid", remedy)
    elif _x509(certificate, "-checkend", str(SOON_SECONDS)).returncode:
        found.warning(f"the certificate {certificate} ends on {end}", "Renew it in time")


def _x509(certificate, *words):
    return ran("openssl", "x509", "-noout", "-in", certificate, *words)


def check_files(found, files):
    """Files of the host that options name."""
    for file in files:
        if not Path(file["path"]).is_file():
            found.problem(
                f"{file['option']} is {file['path']!r}, which is not a file on the host",
                "it must be one",
                "Put it there, or correct the path",
            )
            continue
        mode = Path(file["path"]).stat().st_mode & 0o077
        if file.get("secret") and mode:
            found.problem(
                f"users other than its owner may open {file['path']} ({mode:03o})",
                f"it is a secret ({file['option']})",
                f"chmod 600 {file['path']}",
            )
        if file.get("token") and not TOKEN.fullmatch(Path(file["path"]).read_text("latin-1")):
            found.problem(
                f"{file['path']} has no token of {SHORTEST_TOKEN} or more characters of A-Z a-z 0-9"
                " - . _ ~ + / and = at its end",
                f"it is what others may not guess ({file['option']})",
                f"umask 077; openssl rand -hex 32 >{file['path']}",
            )


def check_networks(found, networks):
    """Ranges of addresses."""
    for given in networks:
        try:
            ipaddress.ip_network(given["network"])
        except ValueError as error:
            found.problem(
                f"{given['option']} has {given['network']!r} ({error})",
                "it must be a list of networks",
                "Write each as ADDRESS/BITS, such as 192.0.2.0/24, or as a single address",
            )


def check_data_hosts(found, data):
    """Hosts that trainings may read from."""
    for wrong in data["wrong"]:
        found.problem(
            f"mlaas4hep_data_hosts has {wrong['entry']!r}", f"it {wrong['why']}", wrong["remedy"]
        )
    if data["listed"] and data["network"] != "none":
        found.problem(
            f"mlaas4hep_data_hosts is set, and mlaas4hep_job_network is {data['network']!r}",
            "such a network leads trainings around the proxy for remote data",
            "Set one of the two",
        )


ORIGIN = re.compile(
    r"(?=.{1,253}(:|$))([a-z0-9]([a-z0-9-]*[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]*[a-z0-9])?(:\d{1,5})?",
    re.IGNORECASE,
)
FOLDER = re.compile(r"/([A-Za-z0-9_+=@~-][A-Za-z0-9._+=@~-]*/)*")
VO = re.compile(r"[A-Za-z0-9_.-]+(:/[A-Za-z0-9_.=/-]+)?")


def check_grid(found, grid):
    """What the cache of the grid's files and the renewer of proxies are told."""
    for origin in grid.get("origins", ()):
        if not ORIGIN.fullmatch(str(origin)):
            found.problem(
                f"mlaas4hep_xrootd_origins has {origin!r}",
                "it must be HOST or HOST:PORT",
                "Write the server's name alone, without root:// and without a path",
            )
    paths = [str(path) for path in grid.get("paths", ())]
    _check_folders(found, "mlaas4hep_xrootd_paths", paths)
    if grid.get("origins") and not paths:
        found.problem(
            "mlaas4hep_xrootd_paths lists nothing",
            "it must list the folders that trainings may read",
            "List them, such as /store/",
        )
    groups = grid.get("data_paths") or {}
    if groups and not grid.get("issuer"):
        found.problem(
            "mlaas4hep_data_paths is set, and mlaas4hep_issuer is empty",
            "without sign-in nobody is in a group, and nobody could read anything",
            "Set one of the two",
        )
    for group, folders in groups.items():
        option = f"mlaas4hep_data_paths, for {group},"
        if not isinstance(folders, list):
            found.problem(f"{option} has {folders!r}", "it must be a list", "Write [/store/]")
            continue
        folders = [str(folder) for folder in folders]
        _check_folders(found, option, folders)
        for folder in folders:
            if FOLDER.fullmatch(folder) and not folder.startswith(tuple(paths)):
                found.problem(
                    f"{option} has {folder!r}",
                    "it is below no folder of mlaas4hep_xrootd_paths",
                    "Add it there, or take it out here",
                )
    if grid.get("network", "none") != "none":
        found.problem(
            f"mlaas4hep_xrootd_origins is set, and mlaas4hep_job_network is {grid['network']!r}",
            "such a network leads trainings around the cache",
            "Set one of the two",
        )
    if "cache_gib" in grid:
        _check_cache(found, int(grid["cache_gib"]), Path(grid["cache"]))
    if (vo := grid.get("vo")) and not VO.fullmatch(vo):
        found.problem(
            f"mlaas4hep_vo is {vo!r}",
            "it must be VO or VO:/VO/GROUP/Role=ROLE",
            "Write it as for voms-proxy-init --voms",
        )
    if "uid" in grid and int(grid["uid"]) in (0, int(grid["store_uid"])):
        found.problem(
            f"mlaas4hep_grid_uid is {grid['uid']}",
            "trainings, which run as mlaas4hep_uid, must not be able to read the proxy",
            "Choose another number",
        )
    folder = grid.get("ca_folder")
    if folder and not (folder.startswith("/") and any(Path(folder).glob("*.0"))):
        found.problem(
            f"mlaas4hep_grid_ca_folder is {folder!r}, which has no CAs (HASH.0)",
            "it must be a folder of the host that has them",
            "Mount CVMFS on the host (ls /cvmfs/grid.cern.ch), correct the path, or leave it empty",
        )


def _check_folders(found, option, folders):
    for folder in folders:
        if not FOLDER.fullmatch(folder):
            found.problem(
                f"{option} has {folder!r}",
                "it must be a folder, with a / at both ends and without . or .. in it",
                "Write it as /store/data/",
            )


def _check_cache(found, gib, cache):
    """It fits beside what is on the disk; what it has already counts as free."""
    there = next(folder for folder in (cache, *cache.parents) if folder.exists())
    said = ran("du", "--summarize", "--block-size=1", str(cache)).stdout.split()
    room = (shutil.disk_usage(there).free + int(said[0] if said else 0)) // 2**30
    if gib < 1 or gib > room:
        found.problem(
            f"mlaas4hep_xrootd_cache_gib is {gib}",
            f"it must be 1 or more, and the disk of {there} has room for {room} GiB",
            "Set it lower, or mount a larger disk there",
        )


def check_required(found, options):
    """Options without a sensible default."""
    for option in options:
        if not option["value"]:
            found.problem(f"{option['option']} is empty", option["why"], f"Set {option['option']}")


def check_variables(found, variables):
    """Names that are no option any more, or never were; values that everyone would see."""
    for name in variables["passwords"]:
        found.problem(
            f"{name} has a password in an address",
            "the environment of containers and builds shows such a value to others",
            "Use an address without one, such as a proxy that knows the host",
        )
    for name in variables["secrets"]:
        found.problem(
            f"{name} looks like a secret",
            "such a value stands in the environment of containers, in diffs and in logs",
            "Take it out of the option; secrets are in files of mode 0600, which options name",
        )
    for name in sorted(variables["given"]):
        if name in variables["renamed"]:
            found.problem(
                f"the variable {name} is set",
                f"it is called {variables['renamed'][name]} now",
                "Rename it in the inventory",
            )
        elif name not in variables["known"]:
            near = difflib.get_close_matches(name, variables["known"], 1)
            hint = f"Perhaps {near[0]} is meant" if near else "The role's README lists its options"
            found.warning(f"the variable {name} is set, but there is no such option", hint)


def check(params):
    """Every check that was asked for."""
    found = Found()
    if params["ansible_version"]:
        check_ansible(found, params["ansible_version"])
    if params["variables"]:
        check_variables(found, params["variables"])
    if params["system"]:
        check_system(found, params["system"])
    if params["engine"]:
        check_engine(found, params["engine"])
    if params["registry"]:
        check_registry(found, params["registry"])
    check_required(found, params["required"])
    if params["data_hosts"]:
        check_data_hosts(found, params["data_hosts"])
    if params["grid"]:
        check_grid(found, params["grid"])
    check_files(found, params["files"])
    check_networks(found, params["networks"])
    check_ports(found, params["ports"])
    if params["sign_in"]:
        check_sign_in(found, params["sign_in"])
    if params["issuer"]:
        trust = {"cafile": params["ca_file"] or None, "cadata": params["ca_pem"] or None}
        check_issuer(found, params["issuer"], trust)
    if params["domain"]:
        check_domain(found, params["domain"])
    if params["certificate"]:
        check_certificate(found, params["certificate"])
    return found


def main():
    """Read the arguments, look, report."""
    checks = {
        "system": {"type": "dict"},
        "engine": {"type": "dict"},
        "registry": {"type": "dict"},
        "ports": {"type": "list", "elements": "dict", "default": []},
        "issuer": {"type": "dict"},
        "sign_in": {"type": "dict"},
        "ca_pem": {"type": "str", "default": ""},
        "ca_file": {"type": "str", "default": ""},
        "domain": {"type": "dict"},
        "certificate": {"type": "dict"},
        "files": {"type": "list", "elements": "dict", "default": []},
        "networks": {"type": "list", "elements": "dict", "default": []},
        "required": {"type": "list", "elements": "dict", "default": []},
        "data_hosts": {"type": "dict"},
        "grid": {"type": "dict"},
        "variables": {"type": "dict"},
        "ansible_version": {"type": "str"},
    }
    module = AnsibleModule(
        argument_spec={"checks": {"type": "dict", "required": True, "options": checks}},
        supports_check_mode=True,
    )
    found = check(module.params["checks"])
    module.exit_json(changed=False, problems=found.problems, warnings_found=found.warnings)


if __name__ == "__main__":
    main()

"""The same events from real servers as from the local file, by each address and credential.

XRootD's client keeps credentials as long as its process lives, so each test reads in a new one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import parse_qs

import awkward as ak
import httpx
import numpy as np
import pytest
import uproot

from mlaas4hep.core.errors import DataError, FileError
from mlaas4hep.sources.root import RootFile
from parts.xrootd import Bucket, Pki, Redirector, XRootD, gsi_origin, vo_origin
from parts.xrootd.bucket import KEYS_LIVE, ROLE
from real.files import written
from sources.doctor.answers import serving
from sources.plain import assert_same

pytestmark = pytest.mark.grid

READ = """
import hashlib, json, sys
from mlaas4hep.core.errors import DataError
from mlaas4hep.data import Jagged
from mlaas4hep.sources.root import RootFile

def digest(values):
    parts = (values.counts, values.content) if isinstance(values, Jagged) else (values,)
    return [hashlib.sha256(part.tobytes()).hexdigest() for part in parts]

for name, tree, branches in json.loads(sys.argv[1]):
    try:
        with RootFile(name, tree) as file:
            found = file.read(branches)
            print(json.dumps([file.uuid, {name: digest(found[name]) for name in branches}]))
    except DataError as error:
        print(json.dumps(str(error)))
"""
LIST = """
import json, sys
from pathlib import Path
from mlaas4hep.training.inputs import read_files_option

print(json.dumps([read_files_option(text, Path()).names for text in sys.argv[1:]]))
"""
BRANCHES = {"events": ["x", "n", "Jet_pt"], "Events": ["event", "Jet_pt"]}


def read(wanted: list[tuple[str, str]], **env: str | Path) -> list:
    """UUID and digests of the branches of each (file, tree), or the error, by a new process."""
    ours = ("X509_", "BEARER_", "AWS_", "XRD_", "XDG_RUNTIME_DIR", "SSL_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    asked = json.dumps([(name, tree, BRANCHES[tree]) for name, tree in wanted])
    ended = subprocess.run(
        [sys.executable, "-c", READ, asked],
        env=clean | {name: str(value) for name, value in env.items()},
        stdout=subprocess.PIPE,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0
    return [json.loads(line) for line in ended.stdout.splitlines()]


def expected(path: Path, tree: str) -> list:
    """The same by uproot, of the local file."""
    with uproot.open(path) as file:
        arrays = {name: file[tree][name].array() for name in BRANCHES[tree]}
        uuid = str(file.file.uuid)
    return [uuid, {name: _digest(array) for name, array in arrays.items()}]


def _digest(array: ak.Array) -> list[str]:
    parts = (ak.num(array), ak.flatten(array)) if array.ndim > 1 else (array,)
    return [
        hashlib.sha256(np.ascontiguousarray(ak.to_numpy(p)).tobytes()).hexdigest() for p in parts
    ]


@pytest.fixture(scope="session")
def rntuple() -> Path:
    return written() / "nanoaod_rntuple.root"


def test_with_a_proxy(
    gsi: XRootD, redirecting: Redirector, pki: Pki, small_files: list[Path], rntuple: Path
) -> None:
    """Directly and by a redirector: of files on both its servers, and on one only; an RNTuple."""
    first, second = small_files
    on_one = redirecting.origins[1].put(second).rpartition("/")[2]
    wanted = {
        gsi.put(first): (first, "events"),
        redirecting.put(first): (first, "events"),
        f"{redirecting.url}/{on_one}": (second, "events"),
        gsi.put(rntuple): (rntuple, "Events"),
    }
    credentials = {"X509_USER_PROXY": pki.proxy(), "X509_CERT_DIR": pki.ca_folder}
    found = read([(url, tree) for url, (_, tree) in wanted.items()], **credentials)
    assert found == [expected(*local) for local in wanted.values()]
    assert not (redirecting.origins[0].data / on_one).exists()


def test_with_a_proxy_of_a_vo(pki: Pki, small_files: list[Path]) -> None:
    """The server lets members of test.vo read, by each scheme; of others it is said what they lack.

    It doesn't say itself which VO may read: the one that this machine knows is named.
    """
    with vo_origin(pki) as server:
        name = server.put(small_files[0]).rpartition("/")[2]
        https = f"{server.https}/{name}"
        urls = [f"{server.url}/{name}", https, https.replace("https", "davs")]
        wanted = [(url, "events") for url in urls]
        trusted = {"X509_CERT_DIR": pki.ca_folder, "X509_VOMS_DIR": pki.vomsdir}
        found = read(wanted, X509_USER_PROXY=pki.voms_proxy(), **trusted)
        assert found == [expected(small_files[0], "events")] * 3
        without = read(wanted, X509_USER_PROXY=pki.proxy(), **trusted)
        for url, said in zip(urls, without, strict=True):
            assert f"{url} can't be read: localhost doesn't let {pki.subject_of('alice')}" in said
            assert "whose proxy has no attributes of a VO" in said
            assert "voms-proxy-init --voms test.vo." in said
    with vo_origin(pki, vo="other.vo") as server:
        wanted = [(server.put(small_files[0]), "events")]
        (said,) = read(wanted, X509_USER_PROXY=pki.voms_proxy(), **trusted)
        assert f"{pki.subject_of('alice')} of the VO test.vo (/test.vo) read /store/a.root" in said


def test_with_a_proxy_by_https(pki: Pki, small_files: list[Path]) -> None:
    """A grid-mapfile decides; a DN that isn't in it is refused, and told with its name."""
    with gsi_origin(pki, with_https=True) as server:
        name = server.put(small_files[0]).rpartition("/")[2]
        url = f"{server.https}/{name}".replace("https", "davs")
        for user, is_known in (("alice", True), ("bob", False)):
            proxy = {"X509_USER_PROXY": pki.proxy(user), "X509_CERT_DIR": pki.ca_folder}
            (found,) = read([(url, "events")], **proxy)
            if is_known:
                assert found == expected(small_files[0], "events")
            else:
                assert f"localhost doesn't let {pki.subject_of('bob')}" in found


LATE = """
import sys
from mlaas4hep.sources.root import RootFile

with RootFile(sys.argv[1], "events") as file:
    file.read(["x"])
    print("opened", flush=True)
    sys.stdin.readline()
    print(len(file.read(["n"])["n"]), len(RootFile(sys.argv[2], "events").read(["x"])["x"]))
    print(file.traffic.renewals)
"""


def test_a_proxy_that_is_renewed(pki: Pki, small_files: list[Path], tmp_path: Path) -> None:
    """By both schemes, new connections after its expiry use the next one, and wait for a late one.

    A file that is open since before has shown the one that expired.
    """
    early, late = tmp_path / "early", tmp_path / "late"
    env = os.environ | {"X509_CERT_DIR": str(pki.ca_folder)}
    with gsi_origin(pki, with_https=True) as server, ExitStack() as stack:
        names = [server.put(file).rpartition("/")[2] for file in small_files]
        first = pki.proxy(life=8)
        for proxy in (early, late):
            shutil.copy(first, proxy)
        end = time.time() + 8
        readers = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", LATE, *(f"{base}/{name}" for name in names)],
                    env=env | {"X509_USER_PROXY": str(proxy)},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for base in (server.url, server.https)
            for proxy in (early, late)
        ]
        for reader in readers:
            assert reader.stdout
            assert reader.stdout.readline() == "opened\n"
        shutil.copy(pki.proxy(), tmp_path / "next").replace(early)
        server.kill()
        server.start()
        time.sleep(max(0, end + 1 - time.time()))
        for reader in readers:
            assert reader.stdin
            reader.stdin.write("\n")
            reader.stdin.flush()
        time.sleep(2)
        shutil.copy(pki.proxy(), tmp_path / "next").replace(late)
        said = [reader.communicate(timeout=60)[0].splitlines() for reader in readers]
        assert [events for events, _ in said] == ["700 300"] * 4
        # XRootD's client by itself finds one that is there in time. A refusal by TLS 1.3 may also
        # look like a cut connection, after which the file is opened anew.
        assert [renewals for _, renewals in said[:2]] == ["0", "1"]


def test_one_of_two_servers_behind_a_redirector_is_gone(
    redirecting: Redirector, pki: Pki, small_files: list[Path]
) -> None:
    url = redirecting.put(small_files[0], "on_both.root")
    redirecting.origins[0].kill()
    try:
        credentials = {"X509_USER_PROXY": pki.voms_proxy(), "X509_CERT_DIR": pki.ca_folder}
        assert read([(url, "events")], **credentials) == [expected(small_files[0], "events")]
    finally:
        redirecting.origins[0].start()


def test_with_a_token(tokens: XRootD, pki: Pki, small_files: list[Path], rntuple: Path) -> None:
    """By root://, https:// and davs://, from a server whose certificate is of the grid's CA."""
    wanted = {
        tokens.put(small_files[0]): (small_files[0], "events"),
        f"{tokens.https}/a.root": (small_files[0], "events"),
        f"{tokens.https}/a.root".replace("https:", "davs:"): (small_files[0], "events"),
        tokens.put(rntuple).replace(tokens.url, tokens.https): (rntuple, "Events"),
    }
    credentials = {"BEARER_TOKEN": pki.token(), "X509_CERT_DIR": pki.ca_folder}
    found = read([(url, tree) for url, (_, tree) in wanted.items()], **credentials)
    assert found == [expected(*local) for local in wanted.values()]


def test_with_a_token_for_something_else(tokens: XRootD, pki: Pki, small_files: list[Path]) -> None:
    url = tokens.put(small_files[0])
    credentials = {
        "BEARER_TOKEN": pki.token(aud="https://other.test"),
        "X509_CERT_DIR": pki.ca_folder,
    }
    web = f"{tokens.https}/a.root"
    errors = read([(url, "events"), (web, "events")], **credentials)
    for name, error in zip((url, web), errors, strict=True):
        assert f"{name} can't be read" in error


def test_without_a_proxy(gsi: XRootD, pki: Pki, small_files: list[Path]) -> None:
    url = gsi.put(small_files[0])
    (error,) = read([(url, "events")], X509_CERT_DIR=pki.ca_folder, X509_USER_PROXY="/none")
    assert f"{url} can't be read" in error


def test_in_a_bucket(bucket: Bucket, pki: Pki, small_files: list[Path], rntuple: Path) -> None:
    """By http and https, with keys."""
    wanted = {
        bucket.put(small_files[0], "in/a.root"): (small_files[0], "events"),
        bucket.put(rntuple): (rntuple, "Events"),
    }
    for endpoint in (bucket.endpoint, bucket.https):
        env = bucket.env | {"AWS_ENDPOINT_URL": endpoint, "AWS_CA_BUNDLE": str(pki.ca)}
        found = read([(url, tree) for url, (_, tree) in wanted.items()], **env)
        assert found == [expected(*local) for local in wanted.values()]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"AWS_ACCESS_KEY_ID": "nobody"}, "doesn't know the access key nobody"),
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "the secret of the access key alice is wrong"),
    ],
)
def test_in_a_bucket_with_a_wrong_key(
    bucket: Bucket, small_files: list[Path], wrong: dict[str, str], said: str
) -> None:
    url = bucket.put(small_files[0])
    (error,) = read([(url, "events")], **bucket.env | wrong)
    assert f"{url} can't be read" in error
    assert said in error
    assert bucket.env["AWS_SECRET_ACCESS_KEY"] not in error


def test_what_a_bucket_does_not_have(bucket: Bucket) -> None:
    missing, other = read(
        [("s3://data/none.root", "events"), ("s3://missing/a.root", "events")], **bucket.env
    )
    assert "no such file" in missing
    assert "there is no bucket missing" in other


def test_an_object_that_is_replaced_while_it_is_read(
    bucket: Bucket, small_files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in bucket.env.items():
        monkeypatch.setenv(name, value)
    url = bucket.put(small_files[0], "replaced.root")
    with RootFile(url, "events") as file:
        file.read(["x"], 0, 100)
        bucket.put(small_files[1], "replaced.root")
        with pytest.raises(FileError, match=f"{url} was replaced while it was read"):
            file.read(["y"])


def listed(*asked: str, **env: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", LIST, *asked],
        env=os.environ | {name: str(value) for name, value in env.items()},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("scheme", ["root", "https", "davs", "s3"])
def test_a_folder_of_a_server(
    tokens: XRootD, bucket: Bucket, pki: Pki, small_files: list[Path], scheme: str
) -> None:
    """With the credential that its files need."""
    server: XRootD | Bucket = bucket if scheme == "s3" else tokens
    urls = [server.put(file, f"folder/{file.name}") for file in small_files]
    server.put(small_files[0], "folder/deep/a.root")
    if scheme in ("https", "davs"):
        at = f"{scheme}://{tokens.https.partition('://')[2]}/folder"
        urls = [f"{at}/{file.name}" for file in small_files]
    env = {"BEARER_TOKEN": pki.token(), "X509_CERT_DIR": pki.ca_folder} | bucket.env
    folder = urls[0].removesuffix("a.root")
    ended = listed(folder, f"{folder}b*.root", **env)
    assert ended.stdout, ended.stderr
    assert json.loads(ended.stdout) == [urls, urls[1:]]
    missing = listed(f"{folder}none/", **env).stderr
    assert f"{folder}none/ can't be listed: " in missing or "It is empty" in missing
    if scheme != "s3":
        refused = listed(folder, **env | {"BEARER_TOKEN": ""}).stderr
        assert f"the folder {folder} can't be listed: " in refused


def test_a_web_identity_in_a_bucket(
    bucket: Bucket,
    pki: Pki,
    small_files: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """A token is exchanged for keys of a few seconds, and the next one for new keys in time.

    The tokens' issuer renews the file; an STS apart from the endpoint is asked, as it may be.
    """
    asked: list[str] = []

    class Relay(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            asked.append(parse_qs(body.decode())["WebIdentityToken"][0])
            answer = httpx.post(bucket.endpoint, content=body, headers={
                "Content-Type": self.headers["Content-Type"]})  # fmt: skip
            self.send_response(answer.status_code)
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    token = tmp_path / "token"
    env = {"AWS_ROLE_ARN": ROLE, "AWS_WEB_IDENTITY_TOKEN_FILE": str(token)}
    env |= {name: bucket.env[name] for name in ("AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION")}
    env |= {"AWS_CONFIG_FILE": "/none", "AWS_SHARED_CREDENTIALS_FILE": "/none"}
    first, second, expired = pki.token(life=60), pki.token(life=3600), pki.token(life=-10)
    url = bucket.put(small_files[0])
    with serving(Relay) as sts:
        for name, value in (env | {"AWS_ENDPOINT_URL_STS": sts}).items():
            monkeypatch.setenv(name, value)
        token.write_text(first)
        with RootFile(url, "events") as file:
            assert_same(file.read(["x"])["x"], small_files[0], "events", "x", 0, 700)
            assert set(asked) == {first}
            token.write_text(second)
            time.sleep(KEYS_LIVE + 1)
            asked.clear()
            assert_same(file.read(["Jet_pt"])["Jet_pt"], small_files[0], "events", "Jet_pt", 0, 700)
            assert set(asked) == {second}
            assert file.traffic.retries == 0
        token.write_text(expired)
        monkeypatch.setenv("AWS_ROLE_SESSION_NAME", "another")
        with pytest.raises(DataError, match=r"no credentials for S3: .*AssumeRoleWith"):
            RootFile(url, "events")
    assert asked[-1] == expired

"""How fast events come from servers: ratios to the same file on the local disk.

The servers run on this machine, so the ratios are what protocol and client cost, without the time
that a network takes. Time is wall time, as a client mostly waits; each address is read by a new
process, which is given its credentials alone, and opens the file before the clock starts. The
cache is the stack's, before the server of root://: in its first pass it is cold. The local file is
read first and last: where the two differ much, something else ran meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import uproot

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from data_path import SELECTION, TREE, chunks, write
from grid.cache_process import Cache
from mlaas4hep.core.errors import DataError
from mlaas4hep.data import Encoder
from mlaas4hep.sources.root import RootFile
from mlaas4hep.sources.scan import scan
from parts.xrootd import Pki, plain_origin, s3, token_origin


def passes(name: str, repeats: int, scanned: str) -> list[float]:
    """Events a second of each pass from the file to rows, by the specs of the file ``scanned``."""
    speeds = []
    with RootFile(scanned, TREE) as file:
        encoder = Encoder(scan([file], SELECTION))
    with RootFile(name, TREE) as file:
        for _ in range(repeats):
            start = time.perf_counter()
            events = chunks([file], encoder)
            speeds.append(events / (time.perf_counter() - start))
    return speeds


def measured(name: str, env: dict[str, str], repeats: int, scanned: str) -> list[float] | str:
    """What `passes` gives in a new process, or why the file can't be read."""
    command = [sys.executable, __file__, "--passes-of", name, "--repeats", str(repeats)]
    command += ["--scanned", scanned]
    others = ("AWS_", "BEARER_", "X509_", "XRD_", "XDG_RUNTIME_DIR", "SSL_")
    clean = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(others) and not key.lower().endswith("_proxy")
    }
    ended = subprocess.run(
        command, check=True, env=clean | env, stdout=subprocess.PIPE, text=True, timeout=300
    )
    found: list[float] | str = json.loads(ended.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--passes-of", help=argparse.SUPPRESS)
    parser.add_argument("--scanned", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.passes_of:
        try:
            print(json.dumps(passes(options.passes_of, options.repeats, options.scanned)))
        except DataError as error:
            print(json.dumps(str(error)))
        return
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        file = write(folder / "lz4.root", options.events, 0, uproot.LZ4(4))
        pki = Pki(folder / "pki")
        plain, tokens, bucket = (
            stack.enter_context(server) for server in (plain_origin(), token_origin(pki), s3(pki))
        )
        tokens.put(file)
        cache = stack.enter_context(Cache(pki, plain))
        cached = f"root://localhost:{cache.port}//store/{file.name}"
        web = {
            "BEARER_TOKEN": pki.token(),
            "X509_CERT_DIR": str(pki.ca_folder),
            "SSL_CERT_FILE": str(pki.ca),
        }
        megabytes = file.stat().st_size / 1e6
        print(f"remote files: {options.events} events, {megabytes:.0f} MB, lz4")
        print(f"  {'':13} {'x local':>7} {'events/s':>9} {'MB/s':>6}")
        local, failed = 0.0, False
        for title, name, env, repeats in (
            ("local", str(file), {}, options.repeats),
            ("root://", plain.put(file), {}, options.repeats),
            ("https://", f"{tokens.https}/{file.name}", web, options.repeats),
            ("s3://", bucket.put(file), bucket.env, options.repeats),
            ("cold cache", cached, {}, 1),
            ("warm cache", cached, {}, options.repeats),
            ("local, again", str(file), {}, options.repeats),
        ):
            found = measured(name, env, repeats, str(file))
            if isinstance(found, str):
                print(f"  {title:13} {found}")
                failed = True
                continue
            speed = median(found)
            local = local or speed
            rate = speed * megabytes / options.events
            print(f"  {title:13} {speed / local:7.2f} {speed:9.0f} {rate:6.0f}")
        if failed:
            raise SystemExit(1)


if __name__ == "__main__":
    main()

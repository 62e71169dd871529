"""A model file that looks around: prints, as JSON, what it could do of what ATTEMPTS lists."""

import json
import os
import socket
from pathlib import Path

ATTEMPTS = json.loads(Path("attempts.json").read_text())
PATIENCE_SECONDS = 3


def read(path):
    if Path(path).is_dir():
        return f"{len(list(Path(path).iterdir()))} entries"
    with Path(path).open("rb") as file:
        return f"{len(file.read(100))} bytes"


def write(path):
    Path(path).write_text("was here")
    Path(path).unlink()
    return "written"


def connect(address):
    host, port = address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), PATIENCE_SECONDS):
        return "connected"


def engine(path):
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE_SECONDS)
        client.connect(path)
        client.sendall(b"GET /version HTTP/1.0\r\n\r\n")
        return client.recv(15).decode()


def resolve(name):
    return socket.gethostbyname(name)


def processes(name):
    for path in Path("/proc").glob("[0-9]*/comm"):
        try:
            if path.read_text().strip() == name:
                return str(path)
        except OSError:  # it has just ended
            continue
    return fail("there is none")


def become(user):
    if os.fork() == 0:
        try:
            os.setuid(int(user))
        except OSError:
            os._exit(1)
        os._exit(0)
    return "became" if os.wait()[1] == 0 else fail("not permitted")


def fail(why):
    raise OSError(why)


def tried(what, thing):
    """(True, what was found) or (False, why not)."""
    try:
        return True, globals()[what](thing)
    except (OSError, ValueError) as error:
        return False, f"{type(error).__name__}: {error}"


def look():
    print("FOUND " + json.dumps([[what, thing, *tried(what, thing)] for what, thing in ATTEMPTS]))


def model(idim):
    from sklearn.ensemble import HistGradientBoostingClassifier

    look()
    return HistGradientBoostingClassifier(max_iter=5)


if __name__ == "__main__":
    look()

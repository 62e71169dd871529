"""Become COMMAND, with a relay beside it from ports of 127.0.0.1 to the data proxy's Unix socket.

    python3 -c THIS_TEXT SOCKET PORTS CREDENTIAL COMMAND...

PORTS are PORT, for clients that know proxies, and PORT=HOST:PORT for those that don't: the relay
asks the data proxy for that host in their place.

So a training's only way out is the data proxy: its container has no network but loopback. The
clients of http know proxies with a port only. Each connection begins with the line CREDENTIAL,
which says whose it is. Nothing but the standard library, as it also runs with the Python of a job's
image.
"""

import asyncio
import os
import socket
import sys
from pathlib import Path

PORT = 3128
PATIENCE_SECONDS = 15
"""How long the data proxy may take to restart."""
PIECE_BYTES = 1 << 18
AWAY = b"HTTP/1.1 503 The data proxy of this installation is away\r\nContent-Length: 0\r\n\r\n"


def proxies(port: int = PORT) -> dict[str, str]:
    """The environment by which clients find the relay."""
    address = f"http://127.0.0.1:{port}"
    names = {"HTTP_PROXY": address, "HTTPS_PROXY": address, "NO_PROXY": "localhost,127.0.0.1"}
    return names | {name.lower(): value for name, value in names.items()}


def relay(
    python: str,
    path: Path,
    credential: str,
    port: int = PORT,
    tunnels: "dict[int, str] | None" = None,
) -> list[str]:
    """The words before a command that is to reach the data proxy at ``path``, with this Python.

    ``tunnels`` are more ports, and the HOST:PORT that each leads to.
    """
    text = Path(__file__).read_text()
    ports = ",".join([str(port), *(f"{own}={target}" for own, target in (tunnels or {}).items())])
    return [python, "-I", "-S", "-c", text, str(path), ports, credential]


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Everything from one to the other, then its end."""
    try:
        while piece := await reader.read(PIECE_BYTES):
            writer.write(piece)
            await writer.drain()
        writer.write_eof()
    except OSError:
        writer.close()


async def connected(path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
    """A connection to the data proxy; None when it is away for longer than a restart takes."""
    for _ in range(PATIENCE_SECONDS * 5):
        try:
            return await asyncio.open_unix_connection(path, limit=PIECE_BYTES)
        except OSError:
            await asyncio.sleep(0.2)
    return None


async def tunnelled(proxy: tuple[asyncio.StreamReader, asyncio.StreamWriter], target: str) -> bool:
    """Ask the data proxy for a tunnel; whether it has made one. Its log says why not."""
    proxy[1].write(f"CONNECT {target} HTTP/1.1\r\n\r\n".encode())
    try:
        return (await proxy[0].readuntil(b"\r\n\r\n")).split(b" ")[1:2] == [b"200"]
    except (OSError, asyncio.IncompleteReadError):
        return False


async def serve(listening: socket.socket, path: str, credential: str, target: str) -> None:
    """Relay for ever."""

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if not (proxy := await connected(path)):
                if not target:
                    writer.write(AWAY)
                return
            proxy[1].write(f"{credential}\n".encode())
            if not target or await tunnelled(proxy, target):
                await asyncio.gather(copy(reader, proxy[1]), copy(proxy[0], writer))
            proxy[1].close()
        finally:
            writer.close()

    server = await asyncio.start_server(client, sock=listening, limit=PIECE_BYTES)
    await server.serve_forever()


async def serve_all(all_listening: "dict[str, socket.socket]", path: str, credential: str) -> None:
    """Relay from each socket, to the target that it is for."""
    works = (serve(each, path, credential, target) for target, each in all_listening.items())
    await asyncio.gather(*works)


def main() -> None:
    """Listen, leave the relay behind, then exec the words."""
    path, ports, credential, *command = sys.argv[1:]
    pairs = [entry.partition("=") for entry in ports.split(",")]
    all_listening = {
        target: socket.create_server(("127.0.0.1", int(port)), backlog=512)
        for port, _, target in pairs
    }
    if os.fork() == 0:
        asyncio.run(serve_all(all_listening, path, credential))
        os._exit(0)
    for listening in all_listening.values():
        listening.close()
    try:
        os.execvp(command[0], command)  # noqa: S606 - no shell, as wanted
    except OSError as error:
        sys.exit(f"can't start {command[0]}: {error.strerror}")


if __name__ == "__main__":
    main()

"""Become COMMAND, with a relay beside it from PORT of 127.0.0.1 to the data proxy's Unix socket.

    python3 -c THIS_TEXT SOCKET PORT CREDENTIAL COMMAND...

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


def relay(python: str, path: Path, credential: str, port: int = PORT) -> list[str]:
    """The words before a command that is to reach the data proxy at ``path``, with this Python."""
    text = Path(__file__).read_text()
    return [python, "-I", "-S", "-c", text, str(path), str(port), credential]


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


async def serve(listening: socket.socket, path: str, credential: str) -> None:
    """Relay for ever."""

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if not (proxy := await connected(path)):
                writer.write(AWAY)
                return
            proxy[1].write(f"{credential}\n".encode())
            await asyncio.gather(copy(reader, proxy[1]), copy(proxy[0], writer))
            proxy[1].close()
        finally:
            writer.close()

    server = await asyncio.start_server(client, sock=listening, limit=PIECE_BYTES)
    await server.serve_forever()


def main() -> None:
    """Listen, leave the relay behind, then exec the words."""
    path, port, credential, *command = sys.argv[1:]
    listening = socket.create_server(("127.0.0.1", int(port)), backlog=512)
    if os.fork() == 0:
        asyncio.run(serve(listening, path, credential))
        os._exit(0)
    listening.close()
    try:
        os.execvp(command[0], command)  # noqa: S606 - no shell, as wanted
    except OSError as error:
        sys.exit(f"can't start {command[0]}: {error.strerror}")


if __name__ == "__main__":
    main()

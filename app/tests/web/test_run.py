from __future__ import annotations

import socket

import pytest

from mlaas4hep.core.errors import UsageError
from mlaas4hep.core.settings import Settings
from mlaas4hep.web.run import address, listen, require_loopback


def test_without_sign_in_only_loopback_is_listened_on() -> None:
    for host in ("0.0.0.0", "::", "192.168.1.1", "example.org", ""):
        with pytest.raises(UsageError, match="no sign-in"):
            require_loopback(host)
    with pytest.raises(UsageError, match="no sign-in"):
        listen(Settings(host="0.0.0.0"), 0)
    with listen(Settings(), 0) as listening:
        port = listening.getsockname()[1]
        assert address(listening) == f"http://127.0.0.1:{port}"
        with pytest.raises(UsageError, match=f"127.0.0.1:{port}: Address already in use"):
            listen(Settings(), port)
        with socket.create_connection(("127.0.0.1", port)):
            pass


@pytest.mark.parametrize(
    "settings",
    [Settings(host="0.0.0.0", issuer="https://i"), Settings(host="::", unsafe_no_sign_in=True)],
)
def test_with_sign_in_any_address_is_listened_on(settings: Settings) -> None:
    with listen(settings, 0) as listening:
        assert listening.getsockname()[0] == settings.host

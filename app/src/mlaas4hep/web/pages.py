"""How both services show pages: templates, and what a browser may do on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.types import Scope

from mlaas4hep import __version__
from mlaas4hep.access.caller import Caller
from mlaas4hep.core.errors import MlaasError
from mlaas4hep.web.problem import status_of
from mlaas4hep.web.sign_in import SIGN_OUT, challenge

POLICY = (
    "default-src 'none'; style-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
SCRIPT_POLICY = f"{POLICY}; script-src 'self'; connect-src 'self'"
"""Of a page that keeps itself fresh."""
REPORT_POLICY = "sandbox; default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""A report was written where user code ran: it may show pictures, nothing else."""

_TEMPLATES = Path(__file__).parent / "templates"


class Pages:
    """The pages of a service; ``filters`` are for its templates."""

    def __init__(self, **filters: Callable[..., object]) -> None:
        self._templates = Environment(
            loader=FileSystemLoader(_TEMPLATES),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters |= filters

    def show(
        self, template: str, who: Caller | None = None, policy: str = POLICY, **content: Any
    ) -> Response:
        """The page that ``template`` makes of ``content``, as seen by ``who``."""
        page = self._templates.get_template(template).render(
            who=who,
            sign_out=SIGN_OUT if who and who.by_cookie else "",
            version=__version__,
            **content,
        )
        return HTMLResponse(page, headers={"content-security-policy": policy})


def refusal(scope: Scope, error: MlaasError) -> Response | None:
    """The page that tells a signed-in browser why access is denied; None for a script."""
    headers = dict(scope["headers"])
    is_browser = b"x-forwarded-access-token" in headers  # oauth2-proxy passes it on
    wants_page = scope["method"] == "GET" and b"text/html" in headers.get(b"accept", b"")
    if not (is_browser and wants_page) or scope["path"] not in ("/", "/docs"):
        return None
    page = Pages().show("refused.html", error=error, leave=SIGN_OUT)
    page.status_code = status_of(error)
    page.headers.update(challenge(error))
    return page


def style() -> Response:
    """How pages look: ``page.css``."""
    return FileResponse(_TEMPLATES / "page.css", media_type="text/css")


def script() -> Response:
    """What keeps a page with a running job fresh: ``page.js``."""
    return FileResponse(_TEMPLATES / "page.js", media_type="text/javascript")

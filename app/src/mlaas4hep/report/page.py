"""report.html: one page about a model, without a link to anywhere."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

_TEMPLATE = Path(__file__).with_name("page.html")


def report_html(values: dict[str, Any], roc: bytes, loss: bytes) -> str:
    """The page, pictures (PNG) inline; ``values`` are what page.html names."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    template = environment.from_string(_TEMPLATE.read_text())
    pictures = {"roc": b64encode(roc).decode(), "loss": b64encode(loss).decode()}
    return template.render(**values, **pictures)

"""report.html: one page about a model, without a link to anywhere."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

_TEMPLATE = Path(__file__).with_name("page.html")


def report_html(
    values: dict[str, Any], pictures: dict[str, bytes], observers: Mapping[str, bytes] | None = None
) -> str:
    """The page; ``values`` are what page.html names.

    ``pictures`` (PNG), and those of ``observers``, are put inline.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    template = environment.from_string(_TEMPLATE.read_text())
    inline = _inline(pictures)
    return template.render(**values, **inline, observers=_inline(observers or {}))


def _inline(pictures: Mapping[str, bytes]) -> dict[str, str]:
    return {name: b64encode(picture).decode() for name, picture in pictures.items()}

"""A person at a browser without scripts, who lets a device in: person.py URL NAME PASSWORD.

Opens the address that the device showed, signs in, consents. Needs nothing but Python, so it runs
on any machine.
"""

from __future__ import annotations

import html
import re
import sys
import urllib.parse
import urllib.request
from http.cookiejar import CookieJar


def form(page: str) -> tuple[str, dict[str, str]]:
    """Where the page's form goes, and what it has filled in."""
    action = html.unescape(re.search(r'<form[^>]*action="([^"]+)"', page)[1])
    fields = {}
    for tag in re.findall(r"<input[^>]*>", page):
        name, value = (re.search(rf'{key}="([^"]*)"', tag) for key in ("name", "value"))
        if name and 'type="submit"' not in tag:
            fields[name[1]] = html.unescape(value[1]) if value else ""
    return action, fields


def main(url: str, name: str, password: str) -> None:
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))

    def submit(at: str, page: str, **filled: str) -> tuple[str, str]:
        action, fields = form(page)
        body = urllib.parse.urlencode(fields | filled).encode()
        with browser.open(urllib.parse.urljoin(at, action), body) as answer:
            return answer.url, answer.read().decode()

    with browser.open(url) as answer:
        at, page = answer.url, answer.read().decode()
    at, page = submit(at, page, username=name, password=password)
    _, page = submit(at, page, accept="Yes")
    if "Device Login Successful" not in page:
        sys.exit(f"the device was not let in: {re.sub('<[^>]+>', ' ', page)[:2000]}")


main(*sys.argv[1:])

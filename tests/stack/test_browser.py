"""Sign-in as a person does it: Debian's Chromium, Keycloak's login form, the pages behind it.

The screenshots that the documents show are taken here, and written by `make docs-img` only.
axe-core looks at every page.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import BrowserContext, Page, Playwright, expect
from signed_in import Stack

ROOT = Path(__file__).parents[2]
SHOWN = ROOT / "docs/img"
TAKEN = SHOWN if os.environ.get("MLAAS4HEP_WRITE_PICTURES") else ROOT / "build/pictures"
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="session")
def axe() -> str:
    """The source of axe-core, as npm installs it from the lock."""
    folder = Path(__file__).parent
    subprocess.run(["npm", "ci", "--silent"], cwd=folder, check=True, timeout=300)
    return (folder / "node_modules/axe-core/axe.min.js").read_text()


@pytest.fixture(scope="session")
def context(
    stack: Stack, playwright: Playwright, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BrowserContext]:
    """A browser that trusts the test CA as a person's would: by its certificate store."""
    home = tmp_path_factory.mktemp("home")
    store = home / ".pki/nssdb"
    store.mkdir(parents=True)
    certutil = ["certutil", "-d", f"sql:{store}"]
    subprocess.run([*certutil, "-N", "--empty-password"], check=True, timeout=300)
    for number, certificate in enumerate(Path(stack.ca).read_text().split("-----END")[:-1]):
        pem = certificate[certificate.index("-----BEGIN") :] + "-----END CERTIFICATE-----\n"
        subprocess.run(
            [*certutil, "-A", "-t", "C,,", "-n", f"test {number}"],
            input=pem, text=True, check=True, timeout=300,
        )  # fmt: skip
    browser = playwright.chromium.launch_persistent_context(
        str(home / "profile"),
        executable_path=shutil.which("chromium"),
        args=arguments(stack),
        env={**os.environ, "HOME": str(home)},
        viewport=WIDE,
    )
    yield browser
    browser.close()


def arguments(stack: Stack) -> list[str]:
    """Of the browser: the names of the service and of the issuer lead to the test's addresses."""
    names = {stack.url: stack.address, stack.issuer: stack.issuer_address}
    rules = ",".join(f"MAP {urlsplit(url).hostname} {to}" for url, to in names.items())
    return ["--no-sandbox", "--no-proxy-server", f"--host-resolver-rules={rules}"]


def sign_in(page: Page, stack: Stack, user: str) -> None:
    page.goto(stack.url)
    page.locator("#username").fill(user)
    page.locator("#password").fill(f"{user}-pw")
    page.locator("#kc-login").click()


def violations(page: Page, axe: str) -> list[str]:
    page.evaluate(axe)
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    return [f"{v['id']}: {v['help']} {[n['target'] for n in v['nodes']]}" for v in found]


def picture(page: Page, name: str) -> None:
    """The page at both widths; nothing of it is wider than the window.

    Times and names differ in every run: of the documents' picture only its width is compared.
    """
    for size in (NARROW, WIDE):
        file = f"{name}-{size['width']}.png"
        page.set_viewport_size(size)  # type: ignore[arg-type]
        page.screenshot(path=TAKEN / file, full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
        assert png_width(SHOWN / file) == png_width(TAKEN / file) == size["width"]


def png_width(file: Path) -> int:
    """Pixels, as the header of the PNG says."""
    with file.open("rb") as png:
        return int.from_bytes(png.read(20)[16:], "big")


def test_alice_signs_in_and_sees_her_things(
    context: BrowserContext, stack: Stack, axe: str
) -> None:
    job = stack.job  # trained by now
    page = context.new_page()
    errors: list[str] = []
    page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    sign_in(page, stack, "alice")
    expect(page.get_by_role("heading", name="MLaaS4HEP")).to_be_visible()
    assert page.url == f"{stack.url}/"
    expect(page.get_by_text("alice").first).to_be_visible()
    for things in ("Jobs", "Models in TFaaS"):
        listed = page.get_by_role("list", name=things)
        expect(listed.get_by_role("heading", name=job)).to_be_visible()
    picture(page, "server")
    assert violations(page, axe) == []
    page.get_by_role("link", name=f"Report with ROC of {job}", exact=True).click()
    expect(page.get_by_role("img", name="ROC").first).to_be_visible()
    picture(page, "report")
    copy = (
        context.new_page()
    )  # the report comes with a policy by which nothing in it runs, axe neither
    copy.set_content(page.content())
    assert violations(copy, axe) == []
    page.goto(f"{stack.url}/tfaas/")
    expect(page.get_by_role("heading", name=job)).to_be_visible()
    expect(page.get_by_text(f"{stack.url}/tfaas/predict/events").first).to_be_visible()
    picture(page, "tfaas")
    assert violations(page, axe) == []
    assert errors == []


def test_a_page_of_another_site_changes_nothing(context: BrowserContext, stack: Stack) -> None:
    """The session's cookie is there, the request is refused: it comes from another origin."""
    page = context.new_page()
    page.goto(stack.url)
    cookies = context.cookies(stack.url)
    session = [cookie for cookie in cookies if cookie["name"].startswith("__Host-")]
    assert session
    for cookie in session:
        assert (cookie["httpOnly"], cookie["secure"], cookie["sameSite"]) == (True, True, "Lax")
    sent = "; ".join(f"{cookie['name']}={cookie['value']}" for cookie in session)

    def ask(path: str, *options: str) -> str:
        """Status and body, with the session's cookie."""
        resolve = f"{urlsplit(stack.url).hostname}:443:{stack.address}"
        command = ["curl", "-sS", "--cacert", stack.ca, "--resolve", resolve, "-b", sent]
        command += ["-w", "%{http_code} ", "-o", "/dev/stdout", *options, stack.url + path]
        return subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=300
        ).stdout

    folder = f"/folders/{stack.folder}"
    assert ask(folder, "-X", "DELETE", "-H", "Origin: https://evil.test").endswith("403 ")
    assert ask(folder, "-X", "DELETE", "-H", "Sec-Fetch-Site: cross-site").endswith("403 ")
    assert ask(f"/delete_folder?name={stack.folder}").endswith("403 ")
    folders = ask("/folders")
    assert folders.endswith("200 ")
    assert f'"{stack.folder}"' in folders


def test_mallory_belongs_to_no_group(stack: Stack, playwright: Playwright) -> None:
    browser = playwright.chromium.launch(
        executable_path=shutil.which("chromium"), args=arguments(stack)
    )
    page = browser.new_context(ignore_https_errors=True).new_page()
    sign_in(page, stack, "mallory")
    expect(page.get_by_text("is in none of the groups")).to_be_visible()
    answer = page.goto(stack.url)
    assert answer
    assert answer.status == 403
    page.get_by_role("link", name="Sign out").click()
    page.goto(stack.url)
    expect(page.locator("#username")).to_be_visible()
    browser.close()


def test_sign_out_ends_the_session(context: BrowserContext, stack: Stack) -> None:
    page = context.new_page()
    page.goto(stack.url)
    page.get_by_role("link", name="Sign out").click()
    page.goto(stack.url)
    expect(page.locator("#username")).to_be_visible()

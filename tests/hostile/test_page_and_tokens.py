"""The page and the tokens against other people's pages: rebinding, posts from elsewhere, guessing, injection."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.api import Answer, Api, running_api, wire
from tests.support.reader import FORM, Browser
from webhookd.admin import sessions, tokens
from webhookd.admin.throttle import REFUSED_MAX
from webhookd.config import Config, Listen
from webhookd.web.ui import routes

ROUTES = [*routes._OPEN, *routes._SIGNED_IN]
READ = sorted({path for method, path, _ in ROUTES if method == "GET"})
CHANGES = sorted({path for method, path, _ in ROUTES if method == "POST"})
EVIL_HOSTS = ["evil.example:8780", "localhost.evil.example"]
# What a browser says of a form that another page sent, and what is said where nothing can be believed.
ELSEWHERE = [
    {"Origin": "https://evil.example"},
    {"Origin": "http://evil.example:8780", "Sec-Fetch-Site": "cross-site"},
    {"Origin": "http://localhost.evil.example", "Sec-Fetch-Site": "same-site"},
    {"Origin": "http://localhost:1", "Sec-Fetch-Site": "same-site"},
    {"Origin": "null", "Sec-Fetch-Site": "cross-site"},
    {"Origin": "null"},
    {"Origin": "file://"},
    {"Origin": "http://[::bad"},
    {"Origin": ""},
    {"Origin": "", "Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "none"},
    {},
]


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with running_api(tmp_path) as running:
        yield running


async def filled(api: Api, path: str) -> str:
    endpoint = await api.engine.endpoint("https://example.com/hook")
    names = {"workspace": "default", "delivery": "dlv_1", "token": "tok_1", "session": "ses_1"}
    return path.format(endpoint=endpoint.id, topic="api", name="page.png", **names)


async def state_of(api: Api) -> list[bytes]:
    return [(await api.get(path)).body for path in ("/v1/endpoints", "/v1/workspaces", "/v1/tokens", "/v1/deliveries")]


@pytest.mark.parametrize("path", [*READ, *CHANGES, "/static/page.css"])
async def test_under_another_name_there_is_no_page(api: Api, path: str) -> None:
    """A name that was rebound to this machine reads nothing and changes nothing, signed in or not: 421."""
    browser, target = Browser(api), await filled(api, path)
    await browser.sign_in(api.admin_token)
    before = await state_of(api)
    for host in EVIL_HOSTS:
        for method in ("GET", "POST"):
            answer = await browser.ask(method, target, {"Host": host, "Origin": f"http://{host}", "Content-Type": FORM})
            assert (421, "wrong_host") == (answer.status, answer.code)
            assert "Set-Cookie" not in answer.headers
    assert before == await state_of(api)


@pytest.mark.parametrize("path", CHANGES)
async def test_no_change_is_taken_from_another_page(api: Api, path: str) -> None:
    """With the reader's cookie and even the form's proof: 403, nothing changed, whatever is said of the origin."""
    browser, target = Browser(api), await filled(api, path)
    await browser.sign_in(api.admin_token)
    shown = (await browser.get("/webhooks")).body.decode()
    proof = re.findall(r'name="proof" value="([0-9a-f]+)"', shown)[0]
    before, cookies = await state_of(api), dict(browser.cookies)
    for said in ELSEWHERE:
        fields = {"proof": proof, "language": "vi", "secret": api.admin_token, "url": "https://evil.example/"}
        answer = await browser.ask("POST", target, {"Content-Type": FORM, **said}, fields)
        assert (said, 403) == (said, answer.status)
        assert b"Traceback" not in answer.body
    assert (before, cookies) == (await state_of(api), browser.cookies)
    assert 200 == (await browser.get("/webhooks")).status


@pytest.mark.parametrize("said", [each for each in ELSEWHERE if each], ids=str)
async def test_a_trusted_program_is_no_page(tmp_path: Path, said: dict[str, str]) -> None:
    """With `trust_local_ingest` a browser on this machine still posts no event without a token; a program does."""
    async with running_api(tmp_path, Config(listen=Listen(trust_local_ingest=True))) as api:
        for content_type in ("application/json", "text/plain", FORM):
            sent = {"Content-Type": content_type, **said}
            answer = await api.post("/v1/events", data=b'{"event_type":"message.sent"}', token=None, headers=sent)
            assert (401, "unauthorized") == (answer.status, answer.code)
        assert 202 == (await api.post("/v1/events", data=b'{"event_type":"message.sent"}', token=None)).status


def hardened(answer: Answer) -> bool:
    policy = answer.headers["Content-Security-Policy"]
    return (
        policy.startswith("default-src 'none'")
        and "frame-ancestors 'none'" in policy
        and "unsafe" not in policy
        and "*" not in policy
        and "nosniff" == answer.headers["X-Content-Type-Options"]
        and answer.headers["Referrer-Policy"] in ("no-referrer", "same-origin")
        and answer.headers["Server"] == "webhookd"
    )


@pytest.mark.parametrize("signed_in", [True, False])
@pytest.mark.parametrize("path", [path for path in READ if path != "/log/stream"])
async def test_every_page_has_the_policy(api: Api, path: str, signed_in: bool) -> None:
    """Also where it leads elsewhere, or is not there."""
    browser, target = Browser(api), await filled(api, path)
    if signed_in:
        await browser.sign_in(api.admin_token)
    for address in (target, f"{target}?workspace=nobody", f"{target}?state=%00&cursor=x"):
        answer = await browser.get(address)
        assert hardened(answer)
        assert "no-store" == answer.headers["Cache-Control"]
        assert b"<style" not in answer.body and b" style=" not in answer.body
        assert not re.search(rb"<script(?! src=)", answer.body)


async def test_every_refusal_has_the_policy(api: Api) -> None:
    """400, 401, 403, 404, 405, 415, 421, 500 and 503, of the page, the API and the parser."""

    async def broken(workspace: str | None) -> dict[str, object]:
        raise RuntimeError

    async def exhausted(workspace: str | None) -> dict[str, object]:
        raise MemoryError

    browser = Browser(api)
    await browser.sign_in(api.admin_token)
    seen = set()
    answers = [
        await api.get("/v1/tokens?cursor=%21"),
        await api.get("/v1/tokens", token=None),
        await browser.post("/webhooks/new", {}),
        await browser.get("/nope"),
        await browser.get("/webhooks/ep_none"),
        await api.call("PUT", "/v1/events"),
        await browser.ask("PUT", "/sign-in"),
        await browser.post("/webhooks/new", {}, Content_Type="text/plain"),
        await browser.ask("GET", "/webhooks", {"Host": "evil.example"}),
    ]
    for fault in (broken, exhausted):
        object.__setattr__(api.app.services, "status", fault)
        answers.append(await api.get("/v1/status"))
    for answer in answers:
        assert hardened(answer), answer
        seen.add(answer.status)
    assert {400, 401, 403, 404, 405, 415, 421, 500, 503} == seen
    async with wire(api.port) as line:
        line.send(b"nonsense\r\n\r\n")
        _, headers, _ = await line.answer()
        assert ("webhookd", "nosniff") == (headers["server"], headers["x-content-type-options"])


# Guessing
def test_secrets_are_looked_up_by_a_hash_and_compared_in_constant_time() -> None:
    """Secrets are compared at once: tokens, codes and cookies by the hash of what came, the form's proof by
    `compare_digest`."""
    for module in (tokens, sessions):
        assert module.__file__
        text = Path(module.__file__).read_text()
        assert not re.search(r"(secret|code|proof|cookie)\w* *[!=]= *\w", text)
    assert "compare_digest" in Path(str(sessions.__file__)).read_text()


@pytest.mark.parametrize("secret", ["wrong", "", "x" * 5000, "whk_admin_" + "A" * 43, "\x00", "' OR 1=1 --", "💥"])
async def test_guessing_at_the_page_is_slowed_down(api: Api, secret: str) -> None:
    """Ten wrong secrets, whatever they look like, and the next one has to wait; the right secret never."""
    browser = Browser(api)
    statuses = [(await browser.sign_in(secret)).status for _ in range(REFUSED_MAX + 1)]
    assert [403] * REFUSED_MAX + [429] == statuses
    assert 303 == (await browser.sign_in(api.admin_token)).status
    assert 303 != (await browser.get("/sign-in")).status


async def test_a_session_can_not_be_chosen_or_guessed(api: Api) -> None:
    """A cookie set beforehand is replaced at the sign-in; made-up ones and hashes out of the table are none."""
    browser = Browser(api)
    browser.cookies["webhookd_session"] = "fixed"
    await browser.sign_in(api.admin_token)
    real = browser.cookies["webhookd_session"]
    assert real != "fixed" and len(real) >= 43
    for cookie in (
        "fixed",
        real[:-1],
        real.swapcase(),
        tokens.secret_digest(real).hex(),
        api.admin_token,
        "",
        "a" * 7000,
    ):
        browser.cookies["webhookd_session"] = cookie
        assert 303 == (await browser.get("/webhooks")).status


@pytest.mark.parametrize(
    "then",
    [
        "//evil.example",
        "/\\evil.example",
        "https://evil.example",
        "/\r\nSet-Cookie: a=b",
        "javascript:alert(1)",
        "\x00",
    ],
)
async def test_no_header_is_injected_and_nobody_is_led_elsewhere(api: Api, then: str) -> None:
    """What comes back in a header is an own path, and one line."""
    browser = Browser(api)
    answer = await browser.send_form("/sign-in", {"secret": api.admin_token, "then": then}, "/sign-in")
    assert (303, "/webhooks") == (answer.status, answer.headers["Location"])
    answer = await browser.send_form("/language", {"language": "vi", "then": then}, "/webhooks")
    assert (303, "/") == (answer.status, answer.headers["Location"])
    assert not any(each.startswith("a=") for each in answer.headers.getall("Set-Cookie", []))

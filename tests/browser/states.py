"""Every page of webhookd in every state that it can be in: one world that has them all, and one table."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web
from msgspec.structs import replace
from playwright.async_api import Frame, Page

from tests.browser.conftest import Site, until
from tests.support.listening import listening, served
from tests.support.mailserver import mail_server
from tests.support.receiver import receiver as receiving
from webhookd import manual
from webhookd.admin.throttle import REFUSED_MAX
from webhookd.app import App
from webhookd.clock import SystemClock
from webhookd.config import Budget, Config, Delivery, Egress, Limits, Listen, Mail
from webhookd.rules.ids import delivery_id
from webhookd.store import delivery_log
from webhookd.store.delivery_log.log_filter import LogFilter
from webhookd.web.router import make_app
from webhookd.web.server.http_server import Runner
from webhookd.web.services import Services
from webhookd.web.ui.help import IN_PORTAL
from webhookd.web.ui.pages import FORM_MAX_BYTES

LONG_URL = "/" + "very-long-path-" * 12
# Three attempts at once, then an hour of waiting: what fails stays in retry.
CONFIG = Config(
    egress=Egress(allow=("127.0.0.0/8",)),
    delivery=Delivery(retry_seconds=(0.05, 0.05, 3600), timeout_seconds=2),
    budget=Budget(limit=8),
    limits=Limits(endpoints=100),
)
# A product's page that embeds the portal, and grows with it.
FRAME = """<!doctype html><html lang="en"><title>Shop</title><body style="margin: 0">
<iframe title="Webhooks" src="{link}" style="width: 100%; height: 700px; border: 0; display: block"></iframe><script>
  addEventListener("message", ({{ data }}) => (document.querySelector("iframe").style.height = `${{data.height}}px`));
</script></body></html>"""


@dataclass(slots=True)
class World:
    """A daemon with the names that the table's addresses use; who is somebody who looks at it."""

    site: Site
    server: web.Application
    product: str
    names: dict[str, str]
    bound_token: str

    @property
    def services(self) -> Services:
        return self.site.app.services

    async def embed(self, page: Page, who: str, language: str) -> Frame:
        """The portal in a product's page: `customer` and `onlooker` came by a link, a `stranger` by none."""
        self.names["link"] = f"{self.site.url}/portal"
        if who != "stranger":
            (token,) = [each for each in await self.services.tokens.list() if each.id == "tok_admin"]
            self.names["link"], _ = await self.services.sessions.portal_link(
                self.site.url,
                token,
                self.services.registry.workspace("default"),
                expires_in_seconds=600,
                read_only=who == "onlooker",
                language=language,
                return_url=f"{self.product}/settings",
            )
        await page.goto(self.product)
        frame = page.frames[1]
        if who != "stranger":
            await enter_code(self.names["link"].partition("#")[2])(frame, self)
        return frame


@asynccontextmanager
async def world(folder: Path, config: Config = CONFIG) -> AsyncIterator[World]:
    """A daemon with webhooks, deliveries, workspaces and readers of every kind."""
    names: dict[str, str] = {}

    async def product(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text=FRAME.format(link=names["link"].partition("#")[0]), content_type="text/html")

    async with AsyncExitStack() as stack:
        mails = await stack.enter_async_context(mail_server())
        receiver = await stack.enter_async_context(receiving())
        receiver.body = b'{"ok": true}'
        receiver.answer = lambda name: 503 if name.startswith("failing") else 200
        origin = await stack.enter_async_context(served(product))
        mail = Mail(host="127.0.0.1", port=mails.port, from_="hooks@example.com", max_per_hour=1000)
        config = replace(config, mail=mail, listen=Listen(public_url="http://127.0.0.1", frame_ancestors=(origin,)))
        app = await App.open(config, folder, clock=SystemClock())
        stack.push_async_callback(app.stop)
        await app.start({})
        server = make_app(app.services)
        url = await stack.enter_async_context(listening(Runner(server, shutdown_seconds=0.2)))
        stack.callback(app.stop_accepting)
        site = Site(app, url, receiver, (folder / "admin-token").read_text().strip())
        made = World(site, server, origin, names, "")
        await _furnish(made)
        text = (await mails.until(1))[0].get_body(("plain",)).get_content()
        made.names["code"] = re.findall(r"/confirm-address\?code=(\S+)", text)[0]
        yield made


async def _furnish(made: World) -> None:
    site, services = made.site, made.site.app.services
    url, create = site.receiver.url, services.endpoints.create
    await services.workspaces.create("acme", name="Acme")
    await services.workspaces.create("crowd", name="A crowd")
    _, made.bound_token = await services.tokens.add("admin", "acme", "of Acme")
    await services.workspaces.change("acme", notify=("new@example.com",), confirm=True)
    orders = await create(
        "default",
        url=f"{url}/orders",
        event_types=["*"],
        description="Orders",
        headers={"Authorization": "Bearer secret"},
        x_webhook_signature_key="a key for bodies",
    )
    gone = await create("default", url=f"{url}/gone", event_types=["*"], description="An old one")
    await site.send(*(f"evt-{number}" for number in range(60)))
    await until(lambda: not any(services.dispatcher.view(each.seq).waiting for each in (orders, gone)))
    await services.endpoints.delete("default", gone.id)
    failing = await create("default", url=f"{url}/failing", event_types=["*"], description="CRM, which is slow")
    await site.send("slow")
    await until(lambda: len(site.receiver.ids("failing")) == 3)
    stopped = await create(
        "default",
        url="http://127.0.0.1:1/nobody",
        event_types=["message.received", "message.sent", "contact.updated"],
        description="Data warehouse",
        ordering={"key": "message.text", "lanes": 16},
        filters={"contact.updated": {"fields": ["email"]}},
    )
    disabled = await create("default", url=f"{url}/disabled", event_types=["message.sent"], description="By hand")
    idle = await create("default", url=f"{url}{LONG_URL}", event_types=["contact.created"])
    await services.endpoints.disable("default", disabled.id)
    for number in range(5):
        await site.send(f"stopped-{number}", text=f"no. {number}")
    await until(lambda: services.registry.endpoint("default", stopped.id).state == "auto_disabled")
    await site.send("held")
    await services.test_events.send("default", failing.id)
    await services.test_events.send("default", orders.id)
    await services.endpoints.rotate_key("default", orders.id, 3600)
    await services.workspaces.create("starter", name="Starter")
    starter = await create("starter", url=f"{url}/starter", event_types=["*"], description="Of too small a plan")
    await services.workspaces.change("starter", plan="starter")
    for number in range(55):
        await create("crowd", url=f"{url}/crowd-{number}", event_types=["*"], description=f"Shop {number}")
    made.names |= {"orders": orders.id, "failing": failing.id, "stopped": stopped.id, "disabled": disabled.id}
    made.names |= {"idle": idle.id, "starter": starter.id, "gone": gone.id}
    await _name_deliveries(made)


async def _name_deliveries(made: World) -> None:
    """One of each kind; of one of them a replay is made."""
    services = made.site.app.services
    wanted = LogFilter(services.registry.workspace("default").seq, paused=False)
    found = await services.store.search(
        wanted.workspace_seq, lambda db, _: delivery_log.page(db, wanted, before_seq=None, limit=500)
    )
    kinds = {
        "delivered": lambda each: each.event_id == "evt-0" and each.endpoint_id == made.names["orders"],
        "of_deleted": lambda each: each.endpoint_id == made.names["gone"],
        "retrying": lambda each: each.event_id == "slow" and each.endpoint_id == made.names["failing"],
        "queued": lambda each: each.event_id == "stopped-4" and each.endpoint_id == made.names["failing"],
        "held": lambda each: each.endpoint_id == made.names["stopped"] and each.event_id == "held",
        "held_tried": lambda each: each.endpoint_id == made.names["stopped"] and each.attempt_count,
        "tested": lambda each: each.is_test and each.state == "delivered",
        "test_failed": lambda each: each.is_test and each.state != "delivered",
    }
    views = {name: next(filter(is_one, found)) for name, is_one in kinds.items()}
    views_by_name = {name: delivery_id(view.seq) for name, view in views.items()}
    made.names |= views_by_name | {"replayed": delivery_id(await services.replayer.one(views["delivered"]))}


# The table

View = Page | Frame
Act = Callable[[View, World], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class State:
    """A page at its address, who looks at it, and what is done there before it is looked at."""

    path: str
    act: Act | None = None
    who: str = "admin"
    busy: bool = False  # the reader's token has as many questions under way as it may


def press(selector: str, **fields: str) -> Act:
    """Fill the fields, shown or not, then press a button, and wait for where it leads."""

    async def act(view: View, _: World) -> None:
        fill = "(each, value) => each.type === 'checkbox' ? each.checked = true : each.value = value"
        for name, value in fields.items():
            await view.locator(f'main [name="{name}"]').first.evaluate(fill, value)
        async with view.expect_navigation():
            await view.locator(f"main {selector}").first.click()

    return act


def enter_code(code: str) -> Act:
    """Come in by a code, as the script does with that of a link."""

    async def act(view: View, _: World) -> None:
        async with view.expect_navigation():
            await view.locator("#sign-in").evaluate(
                "(form, code) => { form.elements.secret.value = code; form.requestSubmit(); }", code
            )

    return act


async def unfolded(view: View, _: World) -> None:
    """Everything that can be opened is open, of menus the first."""
    await view.evaluate("for (const each of document.querySelectorAll('details:not(.menu)')) each.open = true")
    for each in (".fold-label", "details.menu summary"):
        if await view.locator(each).count() and await view.locator(each).first.is_visible():
            await view.locator(each).first.click()


async def site_menu(view: View, _: World) -> None:
    """On a phone the menu of the site is open."""
    if await view.locator(".open-menu").is_visible():
        await view.locator(".open-menu").click()


async def on_a_bar(view: View, _: World) -> None:
    """The keyboard is on a bar of the chart, so what it holds is told."""
    await view.locator("a.bar").last.focus()


async def too_often(view: View, made: World) -> None:
    """The address has guessed too often."""
    for _ in range(REFUSED_MAX):
        await made.site.app.services.audit.refused("127.0.0.1", "/sign-in")
    await enter_code("wrong")(view, made)


# What a form says of each of its fields, by the field and a value that it refuses.
NEW_FAULTS = {
    "url": "ftp://example.com",
    "headers": "no colon",
    "signing_key": "short",
    "x_webhook_signature_key": "short",
    "filters": "no JSON",
    "order_key": "..",
}


def sent(path: str, who: str = "admin", **fields: str) -> State:
    """A webhook's form, sent with these values."""
    good = {"url": "http://127.0.0.1:9/other", "every_type": "yes"} if path.endswith("/new") else {}
    return State(path, press("button.main", **(good | fields)), who)


STATES: dict[str, State] = {
    # Who isn't signed in
    "sign in": State("/sign-in", who="nobody"),
    "signed out": State("/webhooks?state=failing", who="nobody"),
    "a wrong token": State("/sign-in", enter_code("wrong"), "nobody"),
    "confirm an address": State("/confirm-address?code={code}", who="nobody"),
    "an address is confirmed": State("/confirm-address/done", who="nobody"),
    "a link that is spent": State("/confirm-address?code=nothing", who="nobody"),
    "help of all": State("/help", who="nobody"),
    # The list
    "integrations": State("/settings/integrations"),
    "integrations, none yet": State("/settings/integrations?workspace=acme"),
    "webhooks": State("/webhooks", unfolded),
    "the site's menu": State("/webhooks", site_menu),
    "webhooks, after a change": State("/webhooks?said=deleted"),
    "webhooks, none yet": State("/webhooks?workspace=acme"),
    "webhooks, none found": State("/webhooks?workspace=crowd&q=nothing"),
    "webhooks, stopped": State("/webhooks?state=stopped&sort=failures"),
    "webhooks, second page": State("/webhooks?workspace=crowd&page=2", unfolded),
    "webhooks, plan too low": State("/webhooks?workspace=starter"),
    # A webhook
    "a webhook": State("/webhooks/{orders}", on_a_bar),
    "a webhook, an hour": State("/webhooks/{orders}?range=hour"),
    "a webhook, a week": State("/webhooks/{orders}?range=week&said=enabled"),
    "a webhook, failing": State("/webhooks/{failing}"),
    "a webhook, auto-disabled": State("/webhooks/{stopped}"),
    "a webhook, disabled": State("/webhooks/{disabled}?said=disabled"),
    "a webhook, unused": State("/webhooks/{idle}"),
    "a webhook, plan too low": State("/webhooks/{starter}?workspace=starter"),
    "no such webhook": State("/webhooks/ep_nothing"),
    "a new webhook": State("/webhooks/new", unfolded),
    "a new webhook, plan too low": State("/webhooks/new?workspace=starter"),
    **{f"a new webhook, wrong {field}": sent("/webhooks/new", **{field: value}) for field, value in NEW_FAULTS.items()},
    "a change": State("/webhooks/{stopped}/edit", unfolded),
    "a change, wrong": sent("/webhooks/{orders}/edit", headers="no colon"),
    "a change, overtaken": sent("/webhooks/{orders}/edit", version="old"),
    "a form too large": sent("/webhooks/new", headers="x" * (FORM_MAX_BYTES + 1)),
    "a form too old": sent("/webhooks/{orders}/edit", proof="old"),
    "a key": State("/webhooks/{orders}/key", unfolded),
    "a key, revealed": State("/webhooks/{orders}/key", press("form[action*='/key'] button")),
    "a key, new": State("/webhooks/{idle}/key", press("form[action*='/rotate-key'] button")),
    "enable": State("/webhooks/{stopped}/enable"),
    "enable, nothing held": State("/webhooks/{disabled}/enable"),
    "enable, test failed": State("/webhooks/{stopped}/enable?said=tested_failed&test={test_failed}"),
    "delete": State("/webhooks/{stopped}/delete"),
    "delete, nothing waits": State("/webhooks/{idle}/delete"),
    "backfill": State("/webhooks/{orders}/backfill"),
    "backfill, counted": State("/webhooks/{orders}/backfill?since=2026-01-01T00:00:00"),
    "backfill, wrong": State("/webhooks/{orders}/backfill?since=nonsense"),
    # The log
    "log": State("/log", on_a_bar),
    "log, unfolded": State("/log?said=replayed&n=3", unfolded),
    "log, none yet": State("/log?workspace=acme"),
    "log, one webhook": State("/log?endpoint={orders}&state=delivered"),
    "log, a text": State("/log?text=evt-1&status=2xx"),
    "log, a preset": State("/log?span=hour&state=retrying"),
    "log, none found": State("/log?state=expired&since=2026-01-01T00:00"),
    "log, wrong": State("/log?state=nonsense"),
    "log, older": State("/log?cursor=30"),
    "replay": State("/log/replay?endpoint={orders}&state=delivered"),
    "replay, none": State("/log/replay?endpoint={orders}"),
    "replay, too wide": State("/log/replay"),
    **{
        f"a delivery, {name}": State(f"/log/{{{name}}}", unfolded)
        for name in ("delivered", "of_deleted", "retrying", "queued", "held", "held_tried", "replayed")
    },
    "a delivery, tested": State("/log/{tested}?said=tested"),
    "a delivery, test failed": State("/log/{test_failed}?said=tested_failed"),
    "no such delivery": State("/log/dlv_nothing"),
    # Settings, access, audit
    "settings": State("/settings?said=settings_saved"),
    "settings, wrong": State("/settings", press("form.card button.main", notify="nonsense")),
    "settings of its own": State("/settings", who="bound"),
    "access": State("/access", unfolded),
    "access, a new token": State("/access", press("form[action*='/access/tokens'] button.main")),
    "access, wrong": State(
        "/access", press("form[action*='/access/tokens'] button.main", expires="2020-01-01T00:00:00")
    ),
    "access of its own": State("/access", who="bound"),
    "audit": State("/audit"),
    "audit, none found": State("/audit?what=nothing"),
    "audit, wrong": State("/audit?since=nonsense"),
    # Help
    "event types": State("/event-types"),
    "an event type": State("/event-types?type=comment.created"),
    "help": State("/help"),
    **{f"help on {topic}": State(f"/help/{topic}") for topic in manual.TOPICS},
    "no such help": State("/help/nothing"),
    "too many questions": State("/log", busy=True),
    # The portal, in a product's page
    "portal, no link": State("/portal", who="stranger"),
    "portal, a spent link": State("/portal", enter_code("spent"), "stranger"),
    "portal, webhooks": State("/portal/webhooks", unfolded, "customer"),
    "portal, a webhook": State("/portal/webhooks/{orders}", on_a_bar, "customer"),
    "portal, auto-disabled": State("/portal/webhooks/{stopped}", None, "customer"),
    "portal, a new webhook": State("/portal/webhooks/new", unfolded, "customer"),
    "portal, wrong": sent("/portal/webhooks/new", "customer", url="ftp://example.com"),
    "portal, a change": State("/portal/webhooks/{orders}/edit", None, "customer"),
    "portal, a change, wrong": sent("/portal/webhooks/{orders}/edit", "customer", headers="no colon"),
    "portal, a key": State("/portal/webhooks/{orders}/key", None, "customer"),
    "portal, enable": State("/portal/webhooks/{stopped}/enable", None, "customer"),
    "portal, delete": State("/portal/webhooks/{orders}/delete", None, "customer"),
    "portal, backfill": State("/portal/webhooks/{orders}/backfill?since=2026-01-01T00:00:00", None, "customer"),
    "portal, log": State("/portal/log", None, "customer"),
    "portal, none found": State("/portal/log?state=expired", None, "customer"),
    "portal, replay": State("/portal/log/replay?endpoint={orders}&state=delivered", None, "customer"),
    "portal, a delivery": State("/portal/log/{retrying}", unfolded, "customer"),
    "portal, event types": State("/portal/event-types", None, "customer"),
    "portal, help": State("/portal/help", None, "customer"),
    **{f"portal, help on {topic}": State(f"/portal/help/{topic}", None, "customer") for topic in IN_PORTAL},
    "portal, nothing there": State("/portal/webhooks/ep_nothing", None, "customer"),
    **{
        f"read-only, {path}": State(f"/portal{path}", None, "onlooker")
        for path in (
            *("/webhooks", "/webhooks/{orders}", "/webhooks/{stopped}", "/webhooks/{orders}/key", "/log"),
            *("/log/{held}", "/log/{tested}", "/help", "/webhooks/new"),
        )
    },
    "too many guesses": State("/sign-in", too_often, "nobody"),  # from here on every wrong code is refused so
    "portal, too many guesses": State("/portal", too_often, "stranger"),
}

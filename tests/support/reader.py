"""A browser without a script, as far as the page's forms and cookies need one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlencode

from tests.support.api import Answer, Api

FORM = "application/x-www-form-urlencoded"
Fields = Mapping[str, str | Sequence[str]]


@dataclass
class Browser:
    api: Api
    cookies: dict[str, str] = field(default_factory=dict)

    async def get(self, path: str, **headers: str) -> Answer:
        return await self.ask("GET", path, headers)

    async def post(self, path: str, fields: Fields, **headers: str) -> Answer:
        """Send a form, with what `headers` say in place of what a browser would (dashes as underscores)."""
        return await self.ask("POST", path, {"Origin": self.api.url, "Content_Type": FORM, **headers}, fields)

    async def send_form(self, path: str, fields: Fields, shown_at: str, **headers: str) -> Answer:
        shown = (await self.get(shown_at)).body.decode()
        found = re.search(r'name="proof" value="([0-9a-f]+)"', shown)
        assert found is not None
        version = re.search(r'name="version" value="([^"]+)"', shown)
        hidden = {"proof": found[1]} | ({"version": version[1]} if version else {})
        return await self.post(path, {**hidden, **fields}, **headers)

    async def sign_in(self, secret: str) -> Answer:
        return await self.send_form("/sign-in", {"secret": secret}, "/sign-in")

    async def ask(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, fields: Fields | None = None
    ) -> Answer:
        """One request with the cookies that came so far; those of the answer are kept."""
        sent = {name.replace("_", "-"): value for name, value in (headers or {}).items() if value}
        if self.cookies:
            sent["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        data = None if fields is None else urlencode(fields, doseq=True).encode()
        answer = await self.api.call(method, path, data=data, token=None, headers=sent)
        for line in answer.headers.getall("Set-Cookie", []):
            name, _, rest = line.partition("=")
            self.cookies[name] = rest.partition(";")[0].strip('"')
        return answer

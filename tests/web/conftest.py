"""A running API for every test of the web, and a browser that is signed in to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.api import Api, running_api
from tests.support.reader import Browser
from webhookd.config import Config


@pytest.fixture
def config() -> Config:
    """The API's settings; a module that needs others has a fixture of this name."""
    return Config()


@pytest.fixture
async def api(tmp_path: Path, config: Config) -> AsyncIterator[Api]:
    async with running_api(tmp_path, config) as running:
        yield running


@pytest.fixture
async def browser(api: Api) -> Browser:
    made = Browser(api)
    await made.sign_in(api.admin_token)
    return made

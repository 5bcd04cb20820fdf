"""The configuration of a nats-server of a cluster on one machine, and what a version of it can do."""

from __future__ import annotations

import re
import subprocess

SYNCS_ALWAYS = (2, 10)  # the first version that has `sync_interval: always`

NATS_CONFIG = """\
server_name: {name}
listen: 127.0.0.1:{port}
http: 127.0.0.1:{monitor}
jetstream {{ store_dir: "{store}"{sync} }}
cluster {{
  name: webhookd
  listen: 127.0.0.1:{route}
  no_advertise: true
  routes: [{routes}]
}}
mappings = {{ "webhookd.events.*": "webhookd.partition.{{{{partition({partitions},1)}}}}.{{{{wildcard(1)}}}}" }}
"""


def version_of(program: str) -> tuple[int, ...]:
    """The version of a nats-server."""
    printed = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout  # noqa: S603
    found = re.search(r"v(\d+)\.(\d+)\.(\d+)", printed)
    return tuple(map(int, found.groups())) if found else (0, 0, 0)


def syncs_always(program: str) -> bool:
    """Whether it can sync every write."""
    return version_of(program) >= SYNCS_ALWAYS

"""The settings: defaults, ranges, the places of mistakes, the environment, credentials, where things are found."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from webhookd.config import (
    Config,
    Delivery,
    ExtraType,
    Listen,
    Mail,
    networks,
    paths,
    reloadable,
)
from webhookd.config.loader import KEYS, VARIABLES, Mistake, check, load
from webhookd.config.paths import find_config, find_state_dir
from webhookd.config.secret_files import credential
from webhookd.config.toml_lines import lines_of
from webhookd.errors import EXIT_CONFIG, ConfigError


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(text: str | bytes) -> Path:
        path = tmp_path / "webhookd.toml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return write


def only(mistakes: list[Mistake]) -> Mistake:
    assert len(mistakes) == 1, mistakes
    return mistakes[0]


# --- defaults and good values ---

CONTRACT = {
    "listen": {"host": "127.0.0.1", "port": 8780, "unix_socket": "", "trust_local_ingest": False, "allowed_hosts": [],
               "public_url": "", "trusted_proxies": [],
               "frame_ancestors": [], "ingest_token_file": "", "insecure_public": False},
    "store": {"path": "webhookd.db", "key_file": "", "min_free_mb": 64},
    "delivery": {"timeout_seconds": 5, "retry_seconds": [30, 60, 90], "success": "200", "max_body_kb": 256},
    "budget": {"limit": 30, "window_seconds": 1800, "disables": "failing", "warn_at": [0.5, 0.8],
               "warn_by_mail": False},
    "hold": {"max_age_hours": 72, "max_events": 100_000, "max_mb": 1024},
    "egress": {"allow": [], "deny": [], "allow_http": True},
    "mail": {"host": "", "port": 25, "tls": "none", "user": "", "password": "", "from": "", "notify": [],
             "digest_seconds": 3, "max_per_hour": 20, "on_drop": True},
    "plans": {"order": ["starter", "growth", "advanced", "enterprise"], "webhooks_from": "advanced"},
    "limits": {
        "endpoints": 35,
        "waiting_per_workspace": 1_000_000,
        "waiting_mb_per_workspace": 2048,
        "log_mb_per_workspace": 0,
        "events_per_second": 0,
        "questions_per_token": 10,
    },
    "sessions": {"idle_minutes": 120, "max_hours": 12},
    "page": {"name": "", "logo": "", "accent": ""},
    "log": {"format": "auto", "level": "info"},
    "retention": {"max_age_days": 30, "max_size_mb": 2048, "idempotency_hours": 72, "audit_days": 365},
    "cluster": {"servers": [], "credentials": "", "ca_file": "", "monitor": [], "token_file": "", "advertise": "",
                "partitions": 16, "lease_seconds": 15, "allow_unsafe": False},
}  # fmt: skip


def test_without_anything_the_defaults_are_those_of_the_contract() -> None:
    """manual/configuration.md lists every default."""
    actual = msgspec.json.decode(msgspec.json.encode(load(None, {})))
    assert actual.pop("events") == {"validate": "off", "types_folder": "", "types": {}}
    assert actual["listen"].pop("unix_group") == ""
    assert actual == CONTRACT


def test_a_file_changes_what_it_names_and_nothing_else(write: Any) -> None:
    """Each key is optional."""
    path = write('[listen]\nport = 9000\n[delivery]\nretry_seconds = [0.05, 1]\n[mail]\nfrom = "a@example.com"\n')
    expected = Config(
        listen=Listen(port=9000), delivery=Delivery(retry_seconds=(0.05, 1)), mail=Mail(from_="a@example.com")
    )
    assert expected == load(path, {})


@pytest.mark.parametrize(
    ("key", "good"),
    [
        ("delivery.retry_seconds", "[]"), ("delivery.retry_seconds", "[0.01, 86400]"),
        ("delivery.retry_seconds", str([1] * 20)), ("delivery.timeout_seconds", "0.1"),
        ("delivery.timeout_seconds", "60"), ("delivery.success", '"2xx"'), ("budget.window_seconds", "1"),
        ("budget.window_seconds", "86400"), ("budget.limit", "1"), ("budget.disables", '"all"'),
        ("budget.warn_at", "[]"), ("budget.warn_at", "[1]"), ("hold.max_age_hours", "0.001"), ("hold.max_mb", "0.5"),
        ("listen.host", '"::1"'), ("listen.host", '"localhost"'), ("listen.host", '"127.8.9.1"'),
        ("listen.port", "0"), ("listen.public_url", '"https://hooks.example.com:8443/webhooks"'),
        ("listen.public_url", '"http://[::1]:8780"'), ("listen.allowed_hosts", '["hooks.example.com", "10.0.0.1"]'),
        ("egress.allow", '["127.0.0.0/8", "::1/128", "10.1.2.3"]'),
        ("mail.notify", '["ops+hooks@example.com", "o\'neil@mail", "you@bücher.example", "a.b@192.0.2.1"]'),
        ("mail.password", '""'), ("log.format", '"console"'),
    ],
)  # fmt: skip
def test_a_value_on_the_edge_is_taken(write: Any, key: str, good: str) -> None:
    """Ranges include their ends."""
    section, name = key.split(".")
    assert [] == check(write(f"[{section}]\n{name} = {good}\n"))


BAD_ADDRESSES = (
    """
a@b@example.com | .a@example.com | a..b@example.com | ä@example.com | a@exa mple.com | a@-example.com | a@example..com
| a@[192.0.2.1] | a@example.com\\r\\nRCPT TO:<b@example.com> | <a@example.com> | Ops ops@example.com
| a\\u0000@example.com | a@ex\\u2028ample.com
""".strip()
    .replace("\n|", " |")
    .split(" | ")
)
BAD_ADDRESSES += [f"{'a' * 65}@example.com", f"a@{'b' * 60}.{'c' * 60}.{'d' * 60}.{'e' * 70}", f"a@{'ü' * 60}.example"]
BAD = {
    "delivery.retry_seconds": ["[0.001]", "[86400.5]", str([1] * 21), "30", '["30"]', "[nan]"],
    "delivery.timeout_seconds": ["0.09", "60.1", "nan", "inf", "true", '"5"', "9" * 400],
    "delivery.success": ['"201"', "200"],
    "delivery.max_body_kb": ["0", "8193"],
    "budget.window_seconds": ["0.5", "86401"],
    "budget.limit": ["0", "1.5", "9223372036854775808"],
    "budget.disables": ['"none"'],
    "budget.warn_at": ["[0]", "[1.01]"],
    "budget.warn_by_mail": ['"yes"'],
    "hold.max_age_hours": ["0", "nan"],
    "hold.max_events": ["-1"],
    "listen.host": ['""', '"http://127.0.0.1"', '"127.0.0.1:80"'],
    "listen.port": ["65536", "-1", "1979-05-27"],
    "listen.unix_socket": ['"/' + "x" * 107 + '"', '"/run/a\\u0000b"'],
    "listen.allowed_hosts": ['["https://hooks.example.com"]', '["hooks.example.com:443"]', '"hooks.example.com"'],
    "listen.public_url": [
        '"ftp://hooks.example.com"',
        '"https://"',
        '"https://u:p@hooks.example.com"',
        '"https://hooks.example.com/?a=1"',
        '"https://hooks.example.com:99999"',
        '"hooks.example.com"',
    ],
    "store.path": ['""'],
    "store.min_free_mb": ["-1"],
    "egress.allow": ['["10.0.0.1/8"]', '["example.com"]', '["10.0.0.0/33"]'],
    "mail.host": ['"smtp://mail.example.com"'],
    "mail.tls": ['"ssl"'],
    "mail.from": ['"Webhookd"', '"a@example.com\\r\\nBcc: b@example.com"'],
    "mail.notify": ['["a@example.com, b@example.com"]', *(f'["{address}"]' for address in BAD_ADDRESSES)],
    "plans.order": ["[]", '["basic", "advanced", "basic"]'],
    "limits.endpoints": ["0"],
    "log.format": ['"JSON"'],
    "log.level": ['"warn"'],
    "retention.max_age_days": ["0"],
}


@pytest.mark.parametrize(("key", "bad"), [(key, bad) for key, values in BAD.items() for bad in values])
def test_a_wrong_value_is_reported_with_its_key_its_line_and_the_right_form(write: Any, key: str, bad: str) -> None:
    """Wrong type, out of range, not what it should be: each names the place and what to write."""
    section, name = key.split(".")
    path = write(f"# settings\n\n[{section}]\n{name} = {bad}\n")
    mistake = only(check(path))
    assert (str(path), 4, key) == (mistake.source, mistake.line, mistake.key)
    assert mistake.form
    with pytest.raises(ConfigError) as raised:
        load(path, {})
    assert EXIT_CONFIG == raised.value.exit_code
    assert f"{path}:4: {key}: " in str(raised.value) and f", expected {mistake.form}" in str(raised.value)


def test_every_key_refuses_a_wrong_type(write: Any) -> None:
    """A date fits no setting, and each is reported with its place."""
    text = ""
    for section, name in KEYS:
        text += f"[{section}]\n" if f"[{section}]" not in text else ""
        text += f"{name} = 1979-05-27\n"
    expected = [(".".join(path), line) for path, line in lines_of(text).items() if len(path) == 2]
    assert expected == [(mistake.key, mistake.line) for mistake in check(write(text))]
    assert len(KEYS) == len(expected)


def test_all_mistakes_are_reported_at_once_in_the_order_of_the_file(write: Any) -> None:
    """A file can be corrected in one go."""
    path = write(
        '[listen]\nport = "http"\n[deliveri]\n[budget]\nlimits = 3\nlimit = 0\n[egress]\nallow = ["x"]\n'
        "[log]\nport = 25\n"
    )
    with pytest.raises(ConfigError) as raised:
        load(path, {"WEBHOOKD_LISTEN_PORT": "1", "WEBHOOKD_LOG__LEVEL": "loud"})
    assert [
        f'{path}:2: listen.port: got "http", expected a port number from 0 to 65535',
        f"{path}:3: deliveri: unknown section, did you mean delivery?",
        f"{path}:5: budget.limits: unknown key, did you mean limit?",
        f"{path}:6: budget.limit: got 0, expected a whole number from 1 to 1000000000",
        f'{path}:8: egress.allow: got ["x"], expected a list of networks as CIDR, no bit set after the prefix: '
        '["10.0.0.0/8", "fd00::/8"]',
        f"{path}:10: log.port: unknown key, port belongs in [listen] or [mail]",
        "WEBHOOKD_LISTEN_PORT: unknown variable, did you mean WEBHOOKD_LISTEN__PORT?",
        'WEBHOOKD_LOG__LEVEL: log.level: got "loud", expected one of "debug", "info", "warning", "error"',
    ] == str(raised.value).split("\n")


@pytest.mark.parametrize(
    ("text", "key", "line", "part"),
    [
        # the wrong place: the nearest name, the section that has the key, or all keys there are
        ("[log]\nlevel = 'info'\nlevvel = 3\n", "log.levvel", 3, ": unknown key, did you mean level?"),
        ("port = 1\n", "port", 1, "port belongs in [listen] or [mail]"),
        ("listen = 5\n", "listen", 1, "expected a table: [listen]"),
        ("[[listen]]\nport = 1\n", "listen", 1, "expected a table: [listen]"),
        ("[log]\nzzzzzz = 1\n", "log.zzzzzz", 2, "known are format, level"),
        ("events = 1\n", "events", 1, "expected a table: [events]"),
        # event types: the commonest mistake is a name with dots and no quotes
        ("[events.order.paid]\nlabel = 'x'\n", "events.order.paid", 1, '[events."order.paid"]'),
        ("[events.'order.paid']\nlable = 'x'\n", 'events."order.paid".lable', 2, "did you mean label?"),
        ("[events.'order.paid']\nlabel = 1\n", 'events."order.paid".label', 2, "a text in quotes"),
        ("[events]\n'order.paid' = 'x'\n", 'events."order.paid"', 2, '[events."order.paid"]'),
        ("[events.'*']\n", 'events."*"', 1, "not a name of an event type"),
        ("[events.'a..b']\n", 'events."a..b"', 1, "not a name of an event type"),
        # keys that contradict each other: the line of the key, or of the one that makes its default wrong
        ('[listen]\nhost = "0.0.0.0"\n', "listen.host", 2, ", expected "),
        ('[listen]\nport = 1\nhost = "hooks.example.com"\n', "listen.host", 3, ", expected "),
        ('[listen]\nhost = "::"\ninsecure_public = false\n', "listen.host", 2, ", expected "),
        ('[mail]\nuser = "u"\n', "mail.user", 2, ", expected "),
        ('[mail]\npassword = "p"\n', "mail.password", 2, ", expected "),
        ('[plans]\nwebhooks_from = "pro"\n', "plans.webhooks_from", 2, ", expected "),
        ('[plans]\norder = ["basic", "pro"]\n', "plans.webhooks_from", 2, ", expected "),
        ('[listen]\nunix_group = "hooks"\n', "listen.unix_group", 2, ", expected "),
        # a wrong value brings no contradiction after it
        ('[plans]\norder = ["a", "a"]\n', "plans.order", 2, ""),
        # the line of the key, not that of the element; a dotted key at the top has its own
        ("[delivery]\n\nretry_seconds = [\n  30,\n  0,\n]\n", "delivery.retry_seconds", 3, ""),
        ("log.level = 'info'\ndelivery.timeout_seconds = 99\n", "delivery.timeout_seconds", 2, ""),
    ],
)
def test_one_mistake_is_reported_once_with_key_and_line(write: Any, text: str, key: str, line: int, part: str) -> None:
    """`<file>:<line>: <key>: ` and what is meant."""
    path = write(text)
    mistake = str(only(check(path)))
    assert mistake.startswith(f"{path}:{line}: {key}: ") and part in mistake


def test_keys_that_go_together_are_taken(write: Any) -> None:
    """The same keys, put right."""
    listen = '[listen]\nhost = "0.0.0.0"\ninsecure_public = true\nunix_socket = "s"\nunix_group = "hooks"\n'
    mail = '[mail]\nuser = "u"\npassword = "p"\n'
    assert [] == check(write(f'{listen}{mail}[plans]\norder = ["basic", "pro"]\nwebhooks_from = "pro"\n'))


def test_a_contradiction_from_the_environment_names_the_variable() -> None:
    """The place is where the value came from."""
    with pytest.raises(ConfigError, match=r"^WEBHOOKD_LISTEN__HOST: listen\.host: "):
        load(None, {"WEBHOOKD_LISTEN__HOST": "0.0.0.0"})


# --- lines ---

TRICKY = '''# [listen] in a comment
title.sub = 1

[ "quoted table" . inner ]  # with spaces
"a.b" = """
[delivery]
timeout_seconds = 7
"""
'lit"eral' = [
  "]", # ]
  [1,
   2],
]
inline = { x = 1, "y.z" = { w = 2 } }
dotted . key = 3
last = \'\'\'
x = """ \'\'\'
[[many]]
name = 1
[[many]]
name = 2
[after]\t
end = "\\u2028"
'''


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_the_line_of_a_key_is_found_in_tricky_text(newline: str) -> None:
    """Quoted and dotted keys, text that looks like keys, values over many lines, both kinds of line ends."""
    table = ("quoted table", "inner")
    expected = {
        ("title",): 2,
        ("title", "sub"): 2,
        ("quoted table",): 4,
        table: 4,
        (*table, "a.b"): 5,
        (*table, 'lit"eral'): 9,
        (*table, "inline"): 14,
        (*table, "inline", "x"): 14,
        (*table, "inline", "y.z"): 14,
        (*table, "inline", "y.z", "w"): 14,
        (*table, "dotted"): 15,
        (*table, "dotted", "key"): 15,
        (*table, "last"): 16,
        ("many",): 18,
        ("many", "name"): 19,
        ("after",): 22,
        ("after", "end"): 23,
    }
    assert expected == lines_of(TRICKY.replace("\n", newline))


def test_a_long_list_does_not_make_the_search_slow(write: Any) -> None:
    """Ten thousand lines in one value are parsed a few times, not ten thousand times."""
    networks = "".join(f'  "10.{n // 256}.{n % 256}.0/24",\n' for n in range(10_000))
    mistake = only(check(write(f"[egress]\nallow = [\n{networks}]\nalow = 1\n")))
    assert ("egress.alow", 10_004) == (mistake.key, mistake.line)


# --- files that aren't what they should be ---
@pytest.mark.parametrize(
    ("text", "line", "part"),
    [
        (b"[listen]\nport 8780\n", 2, "not TOML"), (b"[listen]\nport = 1\nport = 2\n", 3, "not TOML"),
        (b"[listen]\nport =", 2, "not TOML"), (b'[listen]\nhost = "\n', 2, "not TOML"),
        (b"[listen]\n# \xff\n", 2, "not UTF-8"), (b"[listen]\nport = " + b"[" * 100_000, None, "nested too deeply"),
        (b"[listen]\nport = " + b"9" * 5000, None, "not TOML"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_toml_is_reported_with_its_line(write: Any, text: bytes, line: int | None, part: str) -> None:
    """Whatever tomllib stumbles over ends as one mistake."""
    mistake = only(check(write(text)))
    assert line == mistake.line
    assert part in mistake.what


def test_a_byte_order_mark_is_nothing_to_stumble_over(write: Any) -> None:
    """Some editors put one in front."""
    assert 1 == load(write(b"\xef\xbb\xbf[listen]\nport = 1\n"), {}).listen.port


def test_a_file_that_can_not_be_read_is_reported(tmp_path: Path) -> None:
    """Missing, or a directory."""
    assert f"{tmp_path / 'none.toml'}: the file can't be read: No such file or directory" == str(
        only(check(tmp_path / "none.toml"))
    )
    assert "Is a directory" in str(only(check(tmp_path)))


def test_hostile_text_in_a_message_stays_on_its_line(write: Any) -> None:
    """Escape sequences and line ends in keys and values are shown escaped."""
    mistakes = check(write('[listen]\n"a\\u001b[31m\\nb" = 1\nhost = "\\u001b]0;x\\u0007\\n\\u202e"\n'))
    assert 2 == len(mistakes)
    assert all(str(mistake).isascii() and str(mistake).isprintable() for mistake in mistakes)


# --- event types ---
def test_the_file_adds_event_types(write: Any) -> None:
    """The label is the name where it is left out."""
    path = write('[events."order.paid"]\nlabel = "Order Paid"\ndescription = "When."\n[events."call.ended"]\n')
    expected = {
        "order.paid": ExtraType(label="Order Paid", description="When."),
        "call.ended": ExtraType(label="call.ended"),
    }
    assert expected == load(path, {}).events.types


# --- environment and credentials ---
@pytest.mark.parametrize(
    ("variable", "text", "value"),
    [
        ("WEBHOOKD_LISTEN__PORT", "9000", 9000),
        ("WEBHOOKD_LISTEN__HOST", "127.0.0.2", "127.0.0.2"),
        ("WEBHOOKD_LISTEN__TRUST_LOCAL_INGEST", "true", True),
        ("WEBHOOKD_DELIVERY__TIMEOUT_SECONDS", "0.5", 0.5),
        ("WEBHOOKD_DELIVERY__RETRY_SECONDS", "0.1, 0.2,3", (0.1, 0.2, 3)),
        ("WEBHOOKD_DELIVERY__RETRY_SECONDS", "[0.1, 0.2]", (0.1, 0.2)),
        ("WEBHOOKD_DELIVERY__RETRY_SECONDS", "5", (5,)),
        ("WEBHOOKD_DELIVERY__RETRY_SECONDS", "", ()),
        ("WEBHOOKD_EGRESS__ALLOW", "127.0.0.0/8, ::1/128", ("127.0.0.0/8", "::1/128")),
        ("WEBHOOKD_EGRESS__ALLOW", '["127.0.0.0/8"]', ("127.0.0.0/8",)),
        ("WEBHOOKD_MAIL__FROM", "a@example.com", "a@example.com"),
        ("WEBHOOKD_LISTEN__PUBLIC_URL", "", ""),
        ("WEBHOOKD_DELIVERY__SUCCESS", "200", "200"),
        ("WEBHOOKD_DELIVERY__SUCCESS", "2xx", "2xx"),
    ],
)
def test_a_variable_sets_its_key(variable: str, text: str, value: Any) -> None:
    """Texts as they are, other values as TOML has them, lists also separated by commas."""
    section, key = VARIABLES[variable]
    config = load(None, {variable: text, "PATH": "/bin"})
    assert value == msgspec.structs.asdict(getattr(config, section))[KEYS[section, key].name]


def test_each_key_has_a_variable() -> None:
    """`WEBHOOKD_<SECTION>__<KEY>`, for all of them."""
    assert sorted(KEYS) == sorted(VARIABLES.values())
    assert "WEBHOOKD_LIMITS__WAITING_MB_PER_WORKSPACE" in VARIABLES


def test_a_variable_wins_over_the_file(write: Any) -> None:
    """Also over a wrong value there, which then isn't used."""
    assert 2 == load(write("[listen]\nport = 1\n"), {"WEBHOOKD_LISTEN__PORT": "2"}).listen.port
    assert 2 == load(write("[listen]\nport = 99999\n"), {"WEBHOOKD_LISTEN__PORT": "2"}).listen.port


def test_event_types_can_come_from_the_environment(write: Any) -> None:
    """`WEBHOOKD_EVENTS` is the section as an inline table, beside the file's."""
    path = write('[events."a.b"]\n')
    config = load(path, {"WEBHOOKD_EVENTS": '{"call.ended" = {label = "Call Ended"}}'})
    assert ["a.b", "call.ended"] == list(config.events.types)
    assert "Call Ended" == config.events.types["call.ended"].label


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("WEBHOOKD_LISTEN__PORT", "http"), ("WEBHOOKD_LISTEN__PORT", ""), ("WEBHOOKD_LISTEN__PORT", "1\nx = 2"),
        ("WEBHOOKD_LISTEN__TRUST_LOCAL_INGEST", "1"), ("WEBHOOKD_DELIVERY__RETRY_SECONDS", "30;60"),
        ("WEBHOOKD_DELIVERY__RETRY_SECONDS", "[[1]]"), ("WEBHOOKD_STORE__PATH", "a\udcffb"),
        ("WEBHOOKD_EVENTS", "order.paid"), ("WEBHOOKD_PORT", "1"), ("WEBHOOKD_LISTEN__PROT", "1"),
    ],
)  # fmt: skip
def test_a_wrong_or_unknown_variable_is_reported_by_its_name(variable: str, text: str) -> None:
    """The same care as for the file."""
    mistake = only(check(None, {variable: text}))
    assert (variable, None) == (mistake.source, mistake.line)
    assert str(mistake).isprintable()


def test_variables_that_mean_something_else_are_left_alone() -> None:
    """Those that say where the daemon is are not settings."""
    environ = dict.fromkeys(("WEBHOOKD_CONFIG", "WEBHOOKD_STATE_DIR", "WEBHOOKD_URL", "WEBHOOKD_TOKEN"), "x")
    assert [] == check(None, environ)


def test_the_mail_password_comes_from_a_credential(tmp_path: Path, write: Any) -> None:
    """systemd's credential wins over the file, a variable over both; the newline at its end is not part of it."""
    (tmp_path / "mail-password").write_text("from-systemd\n")
    path = write('[mail]\nuser = "u"\npassword = "from-file"\n')
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert "from-systemd" == load(path, environ).mail.password
    assert "from-file" == load(path, {}).mail.password
    assert "from-variable" == load(path, environ | {"WEBHOOKD_MAIL__PASSWORD": "from-variable"}).mail.password


def test_a_credential_is_read_or_refused(tmp_path: Path) -> None:
    """None where there is none; an empty one, one of no text and a directory are refused."""
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert credential("admin-token", {}) is None
    assert credential("admin-token", environ) is None
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "directory").mkdir()
    for name in ("empty", "binary", "directory"):
        with pytest.raises(ConfigError, match=name):
            credential(name, environ)


def test_a_credential_that_can_not_be_read_is_a_mistake_like_others(tmp_path: Path) -> None:
    """It is reported with its key."""
    (tmp_path / "mail-password").write_text("")
    mistake = only(check(None, {"CREDENTIALS_DIRECTORY": str(tmp_path)}))
    assert "mail.password" == mistake.key and "mail-password" in mistake.what


def test_no_secret_is_shown(write: Any) -> None:
    """Neither a wrong password's value nor the settings as text."""
    path = write('[mail]\nuser = "u"\npassword = ["hunter2"]\n')
    assert "hunter2" not in "".join(map(str, check(path)))
    config = load(None, {"WEBHOOKD_MAIL__USER": "u", "WEBHOOKD_MAIL__PASSWORD": "hunter2"})
    assert "hunter2" not in f"{config!r} {config}"


# --- what the values offer ---
def test_networks_and_sender_are_derived() -> None:
    """Derived values have one definition."""
    config = load(None, {"WEBHOOKD_EGRESS__ALLOW": "127.0.0.0/8,fd00::/8"})
    assert (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("fd00::/8")) == networks(config.egress.allow)
    assert config.mail.sender.startswith("webhookd@")
    assert "a@example.com" == Mail(from_="a@example.com").sender


def test_what_changed_is_split_into_what_can_change_and_what_needs_a_restart(write: Any) -> None:
    """SIGHUP applies the first and tells of the second."""
    new = load(
        write(
            '[listen]\nport = 1\n[store]\nmin_free_mb = 1\n[log]\nlevel = "debug"\n[mail]\nfrom = "a@example.com"\n'
            '[events."order.paid"]\n'
        ),
        {},
    )
    expected = (["mail.from", "log.level", 'events."order.paid"'], ["listen.port", "store.min_free_mb"])
    assert expected == reloadable(Config(), new)
    assert ([], []) == reloadable(new, new)


# --- where things are ---
def test_the_config_is_where_somebody_says_it_is() -> None:
    """The option before the variable, and no place besides."""
    assert Path("/a.toml") == find_config("/a.toml", {"WEBHOOKD_CONFIG": "/b.toml"})
    assert Path("/b.toml") == find_config(None, {"WEBHOOKD_CONFIG": "/b.toml"})
    assert find_config(None, {"WEBHOOKD_CONFIG": ""}) is None


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path, dict[str, str]]:
    """The system's state directory and the user's, neither made yet, and the user's environment."""
    system = tmp_path / "var/lib/webhookd"
    monkeypatch.setattr(paths, "SYSTEM_STATE_DIR", system)
    home = tmp_path / "home"
    return system, home / ".local/state/webhookd", {"HOME": str(home)}


def test_a_named_state_directory_is_taken(places: tuple[Path, Path, dict[str, str]]) -> None:
    """`--state-dir`, then the variables; of systemd's several directories the first."""
    _, _, environ = places
    environ |= {"STATE_DIRECTORY": "/var/lib/one:/var/lib/two"}
    assert Path("/var/lib/one") == find_state_dir(None, environ)
    assert Path("/env") == find_state_dir(None, environ | {"WEBHOOKD_STATE_DIR": "/env"})
    assert Path("/option") == find_state_dir("/option", environ | {"WEBHOOKD_STATE_DIR": "/env"})
    assert Path.cwd() / "relative" == find_state_dir("relative", environ)


@pytest.mark.parametrize(
    ("user", "made", "has_own", "daemon", "command"),
    [
        (1000, None, False, "own", "own"),  # nothing is installed: daemon and commands agree
        (0, None, False, "system", "system"),  # root: also before it is made
        (1000, "directory", False, "system", "system"),  # a service's user: however loose the permissions are
        (1000, "link", False, "own", "system"),  # DynamicUser=: a link into /var/lib/private, which is root's alone
        (1000, "unreadable", False, "own", "system"),  # the daemon would start in the user's own
        (1000, "unreadable", True, "own", "own"),  # a daemon of one's own comes first
    ],
)
def test_where_daemon_and_commands_look(
    places: tuple[Path, Path, dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
    user: int,
    made: str | None,
    has_own: bool,
    daemon: str,
    command: str,
) -> None:
    """Without a name: the system's directory or the user's, by who asks and by what is there."""
    system, own, environ = places
    monkeypatch.setattr(os, "geteuid", lambda: user)
    if made == "link":
        system.parent.mkdir(parents=True)
        system.symlink_to("private/webhookd")
    elif made:
        system.mkdir(parents=True)
    if made == "unreadable":
        monkeypatch.setattr(os, "access", lambda path, mode: False)
    if has_own:
        own.mkdir(parents=True)
    found = {"system": system, "own": own}
    assert found[daemon] == find_state_dir(None, environ)
    assert found[command] == find_state_dir(None, environ, of_running=True)
    assert has_own == own.exists()

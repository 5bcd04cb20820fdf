"""Searching for what no index has: the status of the last answer, and a text in an event's id or body.

A full-text index would cost every event that is accepted (`manual/decisions.md`), so rows are read, newest first, for
as long as a page may take.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace

import orjson

from webhookd.rules.ids import delivery_seq
from webhookd.store.delivery_log.log_filter import LogFilter

# A record that isn't JSON has no status, as in `store/malformed.py`; a shortened one is of a 200 (`store/records.py`).
_LAST_STATUS = (
    "SELECT seq, CASE WHEN instr(record, char(1)) THEN 200 WHEN json_valid(record) THEN record->>'status' END "
    "FROM (SELECT d.seq, CAST(coalesce(d.final_attempt, "
    "(SELECT record FROM attempts a WHERE a.delivery_seq = d.seq ORDER BY a.seq DESC LIMIT 1)) "
    "AS TEXT) AS record FROM deliveries d WHERE d.seq IN (SELECT value FROM json_each(:seqs)) AND d.attempt_count > 0) "
    "ORDER BY seq DESC"
)


def matching(db: sqlite3.Connection, wanted: LogFilter, seqs: list[int]) -> list[int]:
    """Those of `seqs` whose status and text are asked for, newest first."""
    if wanted.text is not None and seqs:
        seqs = _with_text(db, wanted.text, seqs)
    if wanted.status is not None and seqs:
        rows = db.execute(_LAST_STATUS, {"seqs": orjson.dumps(seqs).decode()}).fetchall()
        seqs = [seq for seq, status in rows if wanted.takes_status(status)]
    return seqs


def with_known_id(db: sqlite3.Connection, wanted: LogFilter) -> LogFilter:
    """The filter, with an event's id in place of a text that is one, or that is a delivery's: an index has these."""
    if wanted.text is None or wanted.event_id is not None:
        return wanted
    sql, value = "SELECT id FROM events WHERE workspace_seq = ? AND id = ?", wanted.text
    seq = delivery_seq(wanted.text)
    if seq is not None:
        sql = (
            "SELECT v.id FROM deliveries d JOIN events v ON v.seq = d.event_seq WHERE v.workspace_seq = ? AND d.seq = ?"
        )
    found = db.execute(sql, (wanted.workspace_seq, value if seq is None else seq)).fetchall()
    return replace(wanted, event_id=found[0][0], text=None) if found else wanted


def text_condition(text: str) -> tuple[str, dict[str, str]]:
    """Whether the event of delivery `d` has `text` in its id or body, as a condition of SQL with its values.

    A body may have a character as itself or escaped, by JSON's rules in any of three ways.
    """
    spellings = dict.fromkeys((text, orjson.dumps(text).decode()[1:-1], json.dumps(text)[1:-1]))
    conditions = ["v.id LIKE :text0 ESCAPE '!'"]
    values = {}
    for number, spelling in enumerate(spellings):
        escaped = spelling.replace("!", "!!").replace("%", "!%").replace("_", "!_")
        values[f"text{number}"] = f"%{escaped}%"
        conditions.append(f"CAST(v.body AS TEXT) LIKE :text{number} ESCAPE '!'")
    return f"EXISTS (SELECT 1 FROM events v WHERE v.seq = d.event_seq AND ({' OR '.join(conditions)}))", values


def _with_text(db: sqlite3.Connection, text: str, seqs: list[int]) -> list[int]:
    condition, values = text_condition(text)
    sql = f"SELECT d.seq FROM deliveries d WHERE d.seq IN (SELECT value FROM json_each(:seqs)) AND {condition}"
    rows = db.execute(f"{sql} ORDER BY d.seq DESC", {"seqs": orjson.dumps(seqs).decode(), **values}).fetchall()
    return [row[0] for row in rows]

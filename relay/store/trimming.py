"""What was kept for long enough goes, a bounded bite at a time: the SQL of one bite, the same for every engine.

Each bite is one statement, so that a crash falls between two of them, and its conditions hold whatever else is written
meanwhile. Rows are looked at oldest first along an index, and no more of them than may go.
"""

from typing import Final, Literal

Kind = Literal["keys", "callbacks", "deliveries", "events", "tallies", "breakers", "replays", "deeds"]

# However young: a list looks through all of them.
DEEDS_MAX: Final = 100_000

_OPEN: Final = "state IN ('waiting', 'due', 'sending')"
# The first event that is too young to go, or the one behind the oldest `rows`.
_EDGE: Final = (
    "(SELECT coalesce(min(CASE WHEN at_ms >= :before_ms THEN seq END), max(seq) + 1) "
    "FROM (SELECT seq, at_ms FROM events ORDER BY seq LIMIT :rows) AS oldest)"
)
_OLDEST: Final = "(SELECT seq, event_seq FROM deliveries ORDER BY event_seq, seq LIMIT :rows) AS oldest"

BITES: Final[dict[Kind, str]] = {
    "keys": "DELETE FROM used_keys WHERE id IN (SELECT id FROM used_keys WHERE at_ms < :before_ms LIMIT :rows)",
    # Of jobs that have ended, or are gone.
    "callbacks": (
        "DELETE FROM callbacks WHERE seq IN (SELECT seq FROM (SELECT seq, at_ms FROM callbacks AS c WHERE NOT EXISTS "
        "(SELECT 1 FROM jobs WHERE jobs.id = c.job_id AND finished_at_ms IS NULL) ORDER BY seq LIMIT :rows) AS oldest "
        "WHERE at_ms < :before_ms)"
    ),
    # Those that have ended, as far as the log goes with them: up to the first event that is still owed to somebody.
    "deliveries": (
        f"DELETE FROM deliveries WHERE NOT {_OPEN} AND seq IN (SELECT seq FROM {_OLDEST} WHERE event_seq < {_EDGE} "
        f"AND event_seq < coalesce((SELECT min(event_seq) FROM deliveries WHERE {_OPEN} "
        f"AND event_seq <= (SELECT max(event_seq) FROM {_OLDEST})), event_seq + 1))"
    ),
    # From the start of the log up to the first one of which a delivery is left: readers count on it to have no holes.
    "events": (
        f"DELETE FROM events WHERE seq < {_EDGE} AND seq < coalesce((SELECT min(event_seq) FROM deliveries), seq + 1)"
    ),
    "tallies": (
        "DELETE FROM tallies WHERE (at_ms, figure, model, account, bucket) IN (SELECT at_ms, figure, model, account, "
        "bucket FROM tallies WHERE at_ms < :before_ms ORDER BY at_ms LIMIT :rows)"
    ),
    # Of places that nothing has been sent to for so long: that of a single job's replyUrl may never be tried again.
    "breakers": (
        "DELETE FROM breakers WHERE place IN (SELECT place FROM breakers WHERE since_ms < :before_ms "
        "AND open_until_ms < :before_ms LIMIT :rows)"
    ),
    "replays": (
        "DELETE FROM replays WHERE seq IN (SELECT seq FROM replays WHERE finished_at_ms < :before_ms LIMIT :rows)"
    ),
    "deeds": (
        "DELETE FROM deeds WHERE seq IN (SELECT seq FROM (SELECT seq, at_ms FROM deeds ORDER BY seq LIMIT :rows) "
        f"AS oldest WHERE at_ms < :before_ms OR seq <= (SELECT max(seq) - {DEEDS_MAX} FROM deeds))"
    ),
}
# The oldest of those behind the newest so many, or the newest so many bytes.
QUARANTINE_BITE: Final = (
    "DELETE FROM quarantine WHERE seq IN (SELECT seq FROM (SELECT seq, row_number() OVER newest AS place, "
    "sum(size_bytes) OVER newest AS bytes FROM quarantine WINDOW newest AS (ORDER BY seq DESC)) AS entry "
    "WHERE place > :entries OR bytes > :bytes ORDER BY seq LIMIT :rows)"
)

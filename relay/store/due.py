"""What is owed and may go now, as SQL: what may go to a place depends on what is under way to it."""

from typing import Final

from relay.store.statements import UNDER_WAY

# One subscription after the other along the index: how much each of them is owed is of no account.
OWED: Final = (
    "WITH RECURSIVE owed (id) AS (SELECT min(subscription_id) FROM deliveries WHERE state = 'due' UNION ALL "
    "SELECT (SELECT min(subscription_id) FROM deliveries WHERE state = 'due' AND subscription_id > owed.id) "
    "FROM owed WHERE owed.id IS NOT NULL), "
    "active AS (SELECT s.id, CASE WHEN s.job_id IS NULL THEN s.id ELSE s.url_shown END AS place "
    "FROM owed JOIN subscriptions AS s ON s.id = owed.id WHERE s.state = 'active'), "
    f"under_way AS ({UNDER_WAY}), "
    "ready AS (SELECT a.id, a.place, coalesce(b.open_until_ms, 0) AS open_until_ms, coalesce(u.n, 0) AS under_way, "
    "(CASE WHEN b.place IS NULL THEN :room ELSE 1 END) - coalesce(u.n, 0) AS room FROM active AS a "
    "LEFT JOIN breakers AS b ON b.place = a.place LEFT JOIN under_way AS u ON u.place = a.place) "
)
# What another relay should have sent by then, and has not: one that stands still has its share all the same.
LATE_MS: Final = 5_000

# What of a subscription `r` may go now.
FIRST_DUE: Final = (
    "FROM deliveries WHERE state = 'due' AND subscription_id = r.id AND due_at_ms <= :now_ms "
    "ORDER BY due_at_ms, seq LIMIT :room"
)

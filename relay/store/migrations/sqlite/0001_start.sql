-- The first schema. Times are Unix milliseconds, JSON is text, secrets are sealed before they come here.
CREATE TABLE meta (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- At most one row: nothing is sent to the upstream while it is there.
CREATE TABLE holds (
    id TEXT PRIMARY KEY,
    reason TEXT NOT NULL,
    since_ms INTEGER NOT NULL,
    searched_at_ms INTEGER,
    found INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE jobs (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL,
    model TEXT NOT NULL,
    mode TEXT NOT NULL,
    reply_ref TEXT,
    reply_url_sealed TEXT,
    origin TEXT NOT NULL,
    token_id TEXT NOT NULL,
    submitted_by TEXT NOT NULL,
    priority INTEGER NOT NULL,
    deadline_ms INTEGER,
    pinned TEXT,
    account TEXT,
    task_id TEXT NOT NULL UNIQUE,
    upstream_task_id TEXT UNIQUE,
    upstream_status TEXT,
    progress REAL NOT NULL,
    attempts INTEGER NOT NULL,
    request TEXT NOT NULL,
    task TEXT,
    artifacts TEXT NOT NULL,
    error TEXT,
    problems TEXT NOT NULL,
    retry_of TEXT,
    created_at_ms INTEGER NOT NULL,
    submitted_at_ms INTEGER,
    started_at_ms INTEGER,
    finished_at_ms INTEGER,
    erased_at_ms INTEGER,
    updated_at_ms INTEGER NOT NULL
) STRICT;
-- The queue, in its order; and the lists, newest first, by each filter that is narrow enough to want an index.
CREATE INDEX jobs_done ON jobs (model, mode, finished_at_ms) WHERE state = 'succeeded';
CREATE INDEX jobs_by_end ON jobs (finished_at_ms) WHERE finished_at_ms IS NOT NULL;
CREATE INDEX jobs_by_state ON jobs (state, seq);
CREATE INDEX jobs_by_model ON jobs (model, seq);
CREATE INDEX jobs_by_reply_ref ON jobs (reply_ref, seq) WHERE reply_ref IS NOT NULL;
CREATE INDEX jobs_by_account ON jobs (account, seq) WHERE account IS NOT NULL;
CREATE INDEX jobs_by_origin ON jobs (origin, seq);
CREATE INDEX jobs_by_token ON jobs (token_id, seq);
CREATE INDEX jobs_by_time ON jobs (created_at_ms);
CREATE INDEX jobs_of_day ON jobs (token_id, created_at_ms);
-- After them: of indexes that begin alike SQLite takes the newest, also where only this one is narrow.
CREATE INDEX jobs_queue ON jobs (state, token_id, priority DESC, seq) WHERE state = 'queued';
CREATE INDEX jobs_by_deadline ON jobs (deadline_ms) WHERE state = 'queued' AND deadline_ms IS NOT NULL;
CREATE INDEX jobs_by_retry ON jobs (retry_of) WHERE retry_of IS NOT NULL;

CREATE TABLE attempts (
    job_id TEXT NOT NULL,
    number INTEGER NOT NULL,
    state TEXT NOT NULL,
    account TEXT NOT NULL,
    token_hash TEXT NOT NULL UNIQUE,
    reply_ref TEXT NOT NULL,
    upstream_task_id TEXT,
    hinted_task_id TEXT,
    hinted_at_ms INTEGER,
    reported_at_ms INTEGER,
    sent_at_ms INTEGER NOT NULL,
    expected_ms INTEGER NOT NULL,
    probe INTEGER NOT NULL,
    heralded INTEGER NOT NULL,
    answered_at_ms INTEGER,
    ended_at_ms INTEGER,
    ask_at_ms INTEGER,
    asked INTEGER NOT NULL,
    missing INTEGER NOT NULL,
    missing_since_ms INTEGER,
    empty_since_ms INTEGER,
    unconfirmed_at_ms INTEGER,
    callbacks INTEGER NOT NULL,
    callback_bytes INTEGER NOT NULL,
    detail TEXT,
    candidates TEXT,
    PRIMARY KEY (job_id, number)
) STRICT, WITHOUT ROWID;
CREATE INDEX attempts_to_ask ON attempts (ask_at_ms) WHERE ask_at_ms IS NOT NULL;
CREATE INDEX attempts_occupying ON attempts (account) WHERE state IN ('sending', 'created', 'unknown');

CREATE TABLE adoptions (
    task_id TEXT PRIMARY KEY,
    job_id TEXT NOT NULL UNIQUE,
    first_at_ms INTEGER NOT NULL,
    ask_at_ms INTEGER NOT NULL,
    asked INTEGER NOT NULL,
    missing INTEGER NOT NULL,
    callbacks INTEGER NOT NULL,
    callback_bytes INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX adoptions_to_ask ON adoptions (ask_at_ms);

CREATE TABLE callbacks (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    job_id TEXT NOT NULL,
    number INTEGER NOT NULL,
    at_ms INTEGER NOT NULL,
    content_type TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    body BLOB NOT NULL,
    status TEXT,
    progress REAL,
    effect TEXT NOT NULL,
    UNIQUE (job_id, number, sha256)
) STRICT;

CREATE TABLE quarantine (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    job_id TEXT,
    at_ms INTEGER NOT NULL,
    reason TEXT NOT NULL,
    content_type TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    body BLOB NOT NULL
) STRICT;
CREATE INDEX quarantine_by_body ON quarantine (sha256);
CREATE INDEX quarantine_by_job ON quarantine (job_id) WHERE job_id IS NOT NULL;

CREATE TABLE events (
    seq INTEGER PRIMARY KEY,
    epoch TEXT NOT NULL,
    type TEXT NOT NULL,
    job_id TEXT,
    model TEXT,
    reply_ref TEXT,
    token_id TEXT,
    at_ms INTEGER NOT NULL,
    data TEXT NOT NULL
) STRICT;
CREATE INDEX events_by_job ON events (job_id, seq);
CREATE INDEX events_by_reply_ref ON events (reply_ref, seq) WHERE reply_ref IS NOT NULL;
CREATE INDEX events_by_time ON events (at_ms);

CREATE TABLE subscriptions (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    url_sealed TEXT NOT NULL,
    url_shown TEXT NOT NULL,
    secrets TEXT NOT NULL,
    types TEXT NOT NULL,
    models TEXT NOT NULL,
    reply_ref TEXT,
    format TEXT NOT NULL,
    description TEXT NOT NULL,
    job_id TEXT,
    state TEXT NOT NULL,
    reason TEXT,
    created_at_ms INTEGER NOT NULL,
    updated_at_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX subscriptions_by_job ON subscriptions (job_id);

CREATE TABLE deliveries (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    subscription_id TEXT NOT NULL,
    event_seq INTEGER NOT NULL,
    event_id TEXT NOT NULL,
    event_type TEXT NOT NULL,
    job_id TEXT,
    state TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    due_at_ms INTEGER NOT NULL,
    lease_until_ms INTEGER,
    answers TEXT NOT NULL,
    reason TEXT,
    created_at_ms INTEGER NOT NULL,
    finished_at_ms INTEGER
) STRICT;
CREATE INDEX deliveries_due ON deliveries (subscription_id, due_at_ms) WHERE state = 'due';
CREATE INDEX deliveries_sending ON deliveries (lease_until_ms) WHERE state = 'sending';
CREATE INDEX deliveries_open ON deliveries (job_id, seq, subscription_id)
    WHERE state IN ('waiting', 'due', 'sending');
CREATE INDEX deliveries_by_job ON deliveries (job_id, seq);
CREATE INDEX deliveries_by_subscription ON deliveries (subscription_id, seq);
CREATE INDEX deliveries_by_event ON deliveries (event_seq);

CREATE TABLE breakers (
    place TEXT PRIMARY KEY,
    since_ms INTEGER NOT NULL,
    failures INTEGER NOT NULL,
    opened INTEGER NOT NULL,
    open_until_ms INTEGER NOT NULL,
    trial TEXT
) STRICT, WITHOUT ROWID;

CREATE TABLE replays (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL,
    selection TEXT NOT NULL,
    total INTEGER NOT NULL,
    until_seq INTEGER NOT NULL,
    cursor_seq INTEGER NOT NULL,
    requeued INTEGER NOT NULL,
    skipped INTEGER NOT NULL,
    created_at_ms INTEGER NOT NULL,
    finished_at_ms INTEGER
) STRICT;

CREATE TABLE tokens (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL UNIQUE,
    hash TEXT NOT NULL UNIQUE,
    scopes TEXT NOT NULL,
    max_waiting INTEGER,
    max_per_day INTEGER,
    expires_at_ms INTEGER,
    created_at_ms INTEGER NOT NULL
) STRICT;

-- Who changed what: the newest of it.
CREATE TABLE deeds (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    at_ms INTEGER NOT NULL,
    token_id TEXT NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    object TEXT,
    request_id TEXT NOT NULL
) STRICT;

-- Files of jobs that the relay keeps, or is to keep.
CREATE TABLE artifacts (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    job_id TEXT NOT NULL,
    position INTEGER NOT NULL,
    preview INTEGER,
    state TEXT NOT NULL,
    size_bytes INTEGER,
    sha256 TEXT,
    content_type TEXT,
    path TEXT,
    attempts INTEGER NOT NULL,
    next_at_ms INTEGER NOT NULL,
    held_until_ms INTEGER,
    reason TEXT,
    created_at_ms INTEGER NOT NULL,
    kept_at_ms INTEGER
) STRICT;
CREATE INDEX artifacts_by_job ON artifacts (job_id, seq);
CREATE INDEX artifacts_wanted ON artifacts (next_at_ms) WHERE state = 'wanted';
CREATE INDEX artifacts_held ON artifacts (held_until_ms) WHERE held_until_ms IS NOT NULL;
CREATE INDEX artifacts_doomed ON artifacts (seq) WHERE state = 'doomed';
CREATE INDEX artifacts_kept ON artifacts (kept_at_ms, seq, size_bytes, job_id) WHERE state = 'kept';

CREATE TABLE used_keys (
    id TEXT PRIMARY KEY,
    request_hash TEXT NOT NULL,
    job_id TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    answered_at_ms INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX used_keys_by_time ON used_keys (at_ms);

CREATE TABLE accounts (
    email TEXT PRIMARY KEY,
    slots INTEGER NOT NULL,
    admits INTEGER,
    others INTEGER NOT NULL,
    retry_at_ms INTEGER NOT NULL,
    probe_at_ms INTEGER NOT NULL,
    explore_at_ms INTEGER NOT NULL,
    refusals INTEGER NOT NULL,
    freed_at_ms INTEGER NOT NULL,
    turn TEXT NOT NULL,
    heard INTEGER NOT NULL,
    busy_answers INTEGER NOT NULL,
    parked TEXT,
    reason TEXT,
    moderated_at_ms TEXT NOT NULL,
    updated_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- What became of jobs, counted as it happens: how many a model, an account and an hour. `bucket` is 0, or for
-- 'waited' and 'rendered' a time in seconds, the nearest one of a scale that is as fine as its figures are used; these
-- two are counted by days, or there would be as many rows as jobs.
CREATE TABLE tallies (
    at_ms INTEGER NOT NULL,
    figure TEXT NOT NULL,
    model TEXT NOT NULL,
    account TEXT NOT NULL,
    bucket INTEGER NOT NULL,
    counted INTEGER NOT NULL,
    PRIMARY KEY (at_ms, figure, model, account, bucket)
) STRICT, WITHOUT ROWID;

-- The words of prompts. Nothing but their index is kept: the text itself is in the request, and goes with it.
CREATE VIEW prompts AS
    SELECT seq, group_concat(value, ' ') AS prompt
    FROM jobs, json_each(request)
    WHERE type = 'text' AND (key = 'text_prompt' OR key GLOB 'multishot_prompt_*')
    GROUP BY seq;
CREATE VIRTUAL TABLE jobs_text USING fts5 (prompt, content = 'prompts', content_rowid = 'seq');
CREATE TRIGGER jobs_worded_when_made AFTER INSERT ON jobs
BEGIN
    INSERT INTO jobs_text (rowid, prompt) SELECT seq, prompt FROM prompts WHERE seq = new.seq;
END;
CREATE TRIGGER jobs_unworded BEFORE UPDATE OF request ON jobs WHEN new.request <> old.request
BEGIN
    INSERT INTO jobs_text (jobs_text, rowid, prompt) SELECT 'delete', seq, prompt FROM prompts WHERE seq = old.seq;
END;
CREATE TRIGGER jobs_worded AFTER UPDATE OF request ON jobs WHEN new.request <> old.request
BEGIN
    INSERT INTO jobs_text (rowid, prompt) SELECT seq, prompt FROM prompts WHERE seq = new.seq;
END;
CREATE TRIGGER jobs_removed BEFORE DELETE ON jobs
BEGIN
    INSERT INTO jobs_text (jobs_text, rowid, prompt) SELECT 'delete', seq, prompt FROM prompts WHERE seq = old.seq;
END;

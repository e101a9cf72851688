-- What was said, for good: as on PostgreSQL, with times as text (UTC, ISO 8601) and JSON as text.

CREATE TABLE archive_settings (name TEXT PRIMARY KEY, value TEXT NOT NULL);
INSERT INTO archive_settings VALUES ('salt', lower(hex(randomblob(32))));

-- What people wrote (role user), and what n8n or staff said to them (assistant, system).
CREATE TABLE messages (
    at TEXT NOT NULL, stream TEXT NOT NULL, shard INTEGER NOT NULL, entry TEXT NOT NULL, user_id TEXT NOT NULL,
    message_id TEXT NOT NULL, role TEXT NOT NULL, kind TEXT NOT NULL, text TEXT NOT NULL, sent_at TEXT,
    name TEXT, wa_id TEXT, context TEXT, content TEXT, metadata TEXT,
    PRIMARY KEY (entry, stream, shard)
) WITHOUT ROWID;
CREATE INDEX messages_of_a_person ON messages (user_id, at);

-- What the bot said.
CREATE TABLE replies (
    at TEXT NOT NULL, stream TEXT NOT NULL, shard INTEGER NOT NULL, entry TEXT NOT NULL, user_id TEXT NOT NULL,
    reply_id TEXT NOT NULL, source TEXT NOT NULL, message TEXT NOT NULL, action TEXT, slots TEXT, conversation_id TEXT,
    in_reply_to TEXT NOT NULL, created_at TEXT NOT NULL, wa_id TEXT, metadata TEXT,
    PRIMARY KEY (entry, stream, shard)
) WITHOUT ROWID;
CREATE INDEX replies_to_a_person ON replies (user_id, at);
CREATE INDEX replies_by_id ON replies (reply_id);
CREATE INDEX replies_with_an_action ON replies (action, at) WHERE action IS NOT NULL;

-- What WhatsApp says became of a message: sent, delivered, read, failed.
CREATE TABLE statuses (
    at TEXT NOT NULL, stream TEXT NOT NULL, shard INTEGER NOT NULL, entry TEXT NOT NULL, user_id TEXT NOT NULL,
    message_id TEXT NOT NULL, status TEXT NOT NULL, sent_at TEXT, content TEXT, metadata TEXT,
    PRIMARY KEY (entry, stream, shard)
) WITHOUT ROWID;
CREATE INDEX statuses_of_a_person ON statuses (user_id, at);
CREATE INDEX statuses_of_a_message ON statuses (message_id);

-- What became of a reply at the webhook.
CREATE TABLE deliveries (
    at TEXT NOT NULL, stream TEXT NOT NULL, shard INTEGER NOT NULL, entry TEXT NOT NULL, user_id TEXT NOT NULL,
    reply_id TEXT NOT NULL, type TEXT NOT NULL, outcome TEXT NOT NULL, status INTEGER, attempts INTEGER NOT NULL,
    parts INTEGER NOT NULL, why TEXT,
    PRIMARY KEY (entry, stream, shard)
) WITHOUT ROWID;
CREATE INDEX deliveries_to_a_person ON deliveries (user_id, at);
CREATE INDEX deliveries_of_a_reply ON deliveries (reply_id);

CREATE TABLE people (
    user_id TEXT PRIMARY KEY, wa_id TEXT, name TEXT, named_at TEXT,
    first_seen TEXT, last_seen TEXT, messages INTEGER NOT NULL,
    last_reply TEXT, replies INTEGER NOT NULL, touched_at TEXT NOT NULL
);
CREATE INDEX people_by_age ON people (touched_at);

CREATE TABLE conversations (
    conversation_id TEXT PRIMARY KEY, user_id TEXT NOT NULL,
    started_at TEXT NOT NULL, last_at TEXT NOT NULL, replies INTEGER NOT NULL
);
CREATE INDEX conversations_of_a_person ON conversations (user_id, started_at);
CREATE INDEX conversations_by_age ON conversations (last_at);

-- All that happened to appointments; `appointments` is made of these, anew with each.
CREATE TABLE appointment_events (
    entry TEXT NOT NULL, stream TEXT NOT NULL, shard INTEGER NOT NULL, at TEXT NOT NULL, user_id TEXT NOT NULL,
    event TEXT NOT NULL, ref TEXT, slots TEXT NOT NULL, conversation_id TEXT, message_id TEXT, appointment TEXT,
    PRIMARY KEY (entry, stream, shard)
);
CREATE INDEX appointment_events_of_a_person ON appointment_events (user_id, at);
CREATE INDEX appointment_events_by_age ON appointment_events (at);

CREATE TABLE appointments (
    id TEXT NOT NULL, user_id TEXT NOT NULL, ref TEXT, status TEXT NOT NULL,
    day TEXT, hour TEXT, speciality TEXT, slots TEXT NOT NULL,
    asked TEXT, asked_at TEXT, asked_by TEXT, asked_slots TEXT NOT NULL, conversation_id TEXT,
    requested_at TEXT, requested_by TEXT, confirmed_at TEXT, confirmed_by TEXT,
    moved_at TEXT, moved_by TEXT, cancelled_at TEXT, cancelled_by TEXT,
    ended_at TEXT, ended_by TEXT, updated_at TEXT NOT NULL,
    PRIMARY KEY (user_id, id)
);
CREATE INDEX appointments_by_day ON appointments (day, hour);
CREATE INDEX appointments_asked ON appointments (asked_at) WHERE asked IS NOT NULL;
CREATE INDEX appointments_by_age ON appointments (updated_at);

-- Who was erased lately, as a keyed hash: entries up to `until` that were on their way then are not kept.
CREATE TABLE forgotten (digest TEXT PRIMARY KEY, until TEXT NOT NULL, at TEXT NOT NULL);

-- Both sides, in their order: SELECT * FROM dialogue WHERE user_id = '+591…' ORDER BY at, entry
CREATE VIEW dialogue AS
    SELECT at, entry, user_id, role, kind, text, message_id,
        CASE role WHEN 'user' THEN 'person' ELSE 'staff' END AS source, name, metadata, content
    FROM messages
    UNION ALL
    -- What staff had sent along is a message already.
    SELECT at, entry, user_id, 'assistant', 'text', message, reply_id, source, NULL, metadata, NULL
    FROM replies WHERE source <> 'staff';

CREATE VIEW actions AS
    SELECT at, user_id, action, slots, conversation_id, reply_id, in_reply_to FROM replies WHERE action IS NOT NULL;

-- What was said, for good.  What begins with a dollar is a word in which databases differ: migrations.py has them.
-- On PostgreSQL the tables with a row for each entry are partitioned by month, which the archive makes as it goes.

CREATE TABLE archive_settings (name text PRIMARY KEY, value text NOT NULL);
INSERT INTO archive_settings VALUES ('salt', $random);

-- What people wrote (role user), and what n8n or staff said to them (assistant, system).
CREATE TABLE messages (
    at $time NOT NULL, stream text NOT NULL, shard $small NOT NULL, entry text NOT NULL, user_id text NOT NULL,
    message_id text NOT NULL, role text NOT NULL, kind text NOT NULL, text text NOT NULL, sent_at $time,
    name text, wa_id text, context $json, content $json, metadata $json,
    PRIMARY KEY (entry, stream, shard$and_at)
)$by_entry;
CREATE INDEX messages_of_a_person ON messages (user_id, at);

-- What the bot said.
CREATE TABLE replies (
    at $time NOT NULL, stream text NOT NULL, shard $small NOT NULL, entry text NOT NULL, user_id text NOT NULL,
    reply_id text NOT NULL, source text NOT NULL, message text NOT NULL, action text, slots $json, conversation_id text,
    in_reply_to $json NOT NULL, created_at $time NOT NULL, wa_id text, metadata $json,
    PRIMARY KEY (entry, stream, shard$and_at)
)$by_entry;
CREATE INDEX replies_to_a_person ON replies (user_id, at);
CREATE INDEX replies_by_id ON replies (reply_id);
CREATE INDEX replies_with_an_action ON replies (action, at) WHERE action IS NOT NULL;

-- What WhatsApp says became of a message: sent, delivered, read, failed.
CREATE TABLE statuses (
    at $time NOT NULL, stream text NOT NULL, shard $small NOT NULL, entry text NOT NULL, user_id text NOT NULL,
    message_id text NOT NULL, status text NOT NULL, sent_at $time, content $json, metadata $json,
    PRIMARY KEY (entry, stream, shard$and_at)
)$by_entry;
CREATE INDEX statuses_of_a_person ON statuses (user_id, at);
CREATE INDEX statuses_of_a_message ON statuses (message_id);

-- What became of a reply at the webhook.
CREATE TABLE deliveries (
    at $time NOT NULL, stream text NOT NULL, shard $small NOT NULL, entry text NOT NULL, user_id text NOT NULL,
    reply_id text NOT NULL, type text NOT NULL, outcome text NOT NULL, status integer, attempts integer NOT NULL,
    parts integer NOT NULL, why text,
    PRIMARY KEY (entry, stream, shard$and_at)
)$by_entry;
CREATE INDEX deliveries_to_a_person ON deliveries (user_id, at);
CREATE INDEX deliveries_of_a_reply ON deliveries (reply_id);

CREATE TABLE people (
    user_id text PRIMARY KEY, wa_id text, name text, named_at $time,
    first_seen $time, last_seen $time, messages $big NOT NULL,
    last_reply $time, replies $big NOT NULL, touched_at $time NOT NULL
);
CREATE INDEX people_by_age ON people (touched_at);

CREATE TABLE conversations (
    conversation_id text PRIMARY KEY, user_id text NOT NULL,
    started_at $time NOT NULL, last_at $time NOT NULL, replies $big NOT NULL
);
CREATE INDEX conversations_of_a_person ON conversations (user_id, started_at);
CREATE INDEX conversations_by_age ON conversations (last_at);

-- All that happened to appointments; `appointments` is made of these, anew with each.
CREATE TABLE appointment_events (
    entry text NOT NULL, stream text NOT NULL, shard $small NOT NULL, at $time NOT NULL, user_id text NOT NULL,
    event text NOT NULL, ref text, slots $json NOT NULL, conversation_id text, message_id text, appointment text,
    PRIMARY KEY (entry, stream, shard)
);
CREATE INDEX appointment_events_of_a_person ON appointment_events (user_id, at);
CREATE INDEX appointment_events_by_age ON appointment_events (at);

CREATE TABLE appointments (
    id text NOT NULL, user_id text NOT NULL, ref text, status text NOT NULL,
    day $day, hour $hour, speciality text, slots $json NOT NULL,
    asked text, asked_at $time, asked_by text, asked_slots $json NOT NULL, conversation_id text,
    requested_at $time, requested_by text, confirmed_at $time, confirmed_by text,
    moved_at $time, moved_by text, cancelled_at $time, cancelled_by text,
    ended_at $time, ended_by text, updated_at $time NOT NULL,
    PRIMARY KEY (user_id, id)
);
CREATE INDEX appointments_by_day ON appointments (day, hour);
CREATE INDEX appointments_asked ON appointments (asked_at) WHERE asked IS NOT NULL;
CREATE INDEX appointments_by_age ON appointments (updated_at);

-- Who was erased lately, as a keyed hash: entries up to `until` that were on their way then are not kept.
CREATE TABLE forgotten (digest text PRIMARY KEY, until $time NOT NULL, at $time NOT NULL);

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

-- A chat message may name no room.
--
-- SQLite cannot drop NOT NULL. This is its documented procedure for that
-- (https://www.sqlite.org/lang_altertable.html, section 7): no row is rewritten, and views stay.
-- The index makes other connections read the schema again.
PRAGMA writable_schema = ON;
UPDATE sqlite_schema SET sql = replace(sql, 'room_id    TEXT NOT NULL', 'room_id    TEXT')
    WHERE type = 'table' AND name = 'chat_messages';
PRAGMA writable_schema = RESET;
DROP INDEX chat_messages_room_id;
CREATE INDEX chat_messages_room_id ON chat_messages (room_id, sent_at);

-- A chat message may name no room.
ALTER TABLE chat_messages ALTER COLUMN room_id DROP NOT NULL;

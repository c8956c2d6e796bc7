#!lua flags=allow-oom
-- Writes nothing. Redis refuses this script whenever it refuses to move a queued event.
--
-- KEYS  1 any key that the server serves
-- Reply 1
return 1

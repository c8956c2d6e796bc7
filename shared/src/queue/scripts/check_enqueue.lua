#!lua
-- Writes nothing. Redis refuses this script whenever it refuses to queue an event: full, read-only,
-- without a disk or replicas.
--
-- KEYS  1 any key that the server serves
-- Reply 1; an error if the user may not run a command that enqueueing needs
for _, command in ipairs({
    {'XADD', KEYS[1], '*', 'v', '1'},
    {'SET', KEYS[1], '1'},
    {'HINCRBY', KEYS[1], 'f', '1'},
}) do
    if not redis.acl_check_cmd(unpack(command)) then
        return redis.error_reply(
            'NOPERM this user has no permissions to run ' .. command[1] .. ' on ' .. KEYS[1])
    end
end
return 1

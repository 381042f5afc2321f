"""The Lua that runs inside Redis: what has to happen at once or not at all."""

from __future__ import annotations

from typing import Final

from weir.streams.redis.resp import Script

FLUSH: Final = Script("""
local held = redis.call('GETRANGE', KEYS[1], 8, 23)
if held == string.sub(ARGV[2], 9, 24) then return 1 end
if held ~= ARGV[1] then return string.sub(held, 1, 8) end
local at, chunks, drop, groups = 6, tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local call = redis.call
local rows = at + 2 * groups
if chunks > 0 then
  for i = rows, rows + chunks - 1 do call('RPUSH', KEYS[2], ARGV[i]) end
  rows = rows + chunks
end
if drop > 0 then call('LPOP', KEYS[2], drop) end
local now = call('TIME')
now = now[1] * 1000 + math.floor(now[2] / 1000)
local key = 3
for group = 1, groups do
  local expire = now + ARGV[at + 1]
  for i = 1, tonumber(ARGV[at]) do
    call('SET', KEYS[key], ARGV[rows], 'PXAT', expire)
    key, rows = key + 1, rows + 1
  end
  at = at + 2
end
call('SET', KEYS[1], ARGV[2])
return 0
""")
"""Keys: record, journal, rows. Arguments: expected position and nonce, new record, entries, entries to drop, groups of
rows; count and time to live (ms) of each group; the entries; the rows. Answers 0 done, 1 done before, or the position
held."""

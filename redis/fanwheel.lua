#!lua name=fanwheel
-- Durable topics of Fanwheel in Redis 6.0 or later: publishing, markers, reading, tidying.
--
-- With its first line: FUNCTION LOAD it (Redis 7) and FCALL fanwheel_publish. Without it: EVALSHA, the operation is
-- ARGV[1]. Both do the same; docs/REDIS.md has keys, arguments and examples.
--
-- What always holds: a number is given once, and numbers grow over all topics; what an entry says of the event before
-- it comes from the index, never from the stream; an event that is refused has changed no stream. Whatever may be
-- refused (memory, rights, a key of the wrong type) is refused before an event is seen by anybody.
--
-- Nothing is random in here, and no number is printed by Lua itself, which writes large ones as 1e+14.

local EVENTS_MAX = 1000
local DATA_BYTES_MAX = 1048576
local NAME_BYTES_MAX = 128
local KEY_BYTES_MAX = 255
local TOPIC_BYTES_MAX = 255
local FENCES_MAX = 64
-- Entries looked at in one piece: at 1 MiB each, 16 MiB that Redis copies for nothing at most.
local PIECE_MAX = 16
-- What an entry costs beside its message.
local ENTRY_OVERHEAD = 64

local function fail(sentence)
  error({ err = 'ERR ' .. sentence })
end

-- What went wrong with a command, or nil. Before 7.0 the text begins with the `-` of the protocol; 7.0 does not name
-- a missing right as other versions do.
local function failure(reply)
  if type(reply) == 'table' and reply.err then
    return (string.gsub(string.gsub(reply.err, '^%-', ''), '^ERR The user', 'NOPERM The user'))
  end
end

local function parse(number)
  local ms, n = string.match(number or '', '^(%d+)%-(%d+)$')
  return tonumber(ms), tonumber(n)
end

local function format(ms, n)
  return string.format('%.0f-%.0f', ms, n)
end

-- True exactly when number a is at most b.
local function at_most(a, b)
  local a_ms, a_n = parse(a)
  local b_ms, b_n = parse(b)
  return a_ms < b_ms or (a_ms == b_ms and a_n <= b_n)
end

local function now()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- The clock -----------------------------------------------------------------------------------------------------

local function fences_of(clock)
  if not clock.fences then
    clock.fences = redis.call('HGET', clock.key, 'fences') or ''
  end
  return clock.fences
end

-- A tag that is neither the current one nor at a fence.
local function draw(candidates, tag, fences)
  for candidate in string.gmatch(candidates, '%w%w%w%w') do
    if candidate ~= tag and not string.find(fences, candidate .. ' ', 1, true) then
      return candidate
    end
  end
  fail('none of the candidates for a tag is free; pass some times four random letters or digits')
end

local function server_run()
  local run = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
  return run or fail('this server does not tell its run_id')
end

-- The history begins anew: nothing of it is left, or its index is gone.
local function begin(clock, candidates)
  local ms = now()
  if not clock.ms or ms > clock.ms then
    clock.ms, clock.n = ms, 0
  end
  clock.tag = draw(candidates, clock.tag, fences_of(clock))
  clock.run, clock.epoch, clock.fences, clock.horizon = server_run(), clock.tag, '', '0-0'
  -- The first write needs no memory; after it Redis lets the others pass even when it has none left.
  redis.call('UNLINK', clock.key, clock.index)
  redis.call('HSET', clock.key, 'last', format(clock.ms, clock.n), 'tag', clock.tag, 'run', clock.run,
    'epoch', clock.epoch, 'fences', '')
  redis.call('HSET', clock.index, '', clock.epoch)
end

-- The server was started since, or another has taken its place: perhaps with less than was known.
local function fence(clock, run, candidates)
  local fences = fences_of(clock)
  local _, commas = string.gsub(fences, ',', '')
  for _ = FENCES_MAX, fences == '' and 0 or commas + 1 do
    fences = string.match(fences, ',(.*)$') or ''
  end
  local tag = draw(candidates, clock.tag, fences_of(clock))
  fences = fences .. (fences == '' and '' or ',') .. clock.tag .. ' ' .. format(clock.ms, clock.n) .. ' 0'
  redis.call('HDEL', clock.key, 'run')
  redis.call('HSET', clock.key, 'tag', tag, 'run', run, 'fences', fences)
  clock.tag, clock.run, clock.fences = tag, run, fences
end

-- The clock as it is, whether it is whole, and what the index knows of `fields`; the first is that of its epoch.
local function look(keys, fields)
  local got = redis.call('HMGET', keys[1], 'last', 'tag', 'run', 'epoch', 'horizon')
  local known = redis.call('HMGET', keys[2], unpack(fields))
  local clock = { key = keys[1], index = keys[2], tag = got[2], run = got[3] or '', epoch = got[4] }
  clock.ms, clock.n = parse(got[1])
  clock.horizon = got[5] or '0-0'
  local whole = clock.ms and clock.tag and clock.epoch and clock.epoch == known[1]
  return clock, whole, whole and known or {}
end

-- The clock, made or fenced where that is due, and what the index knows. `run` is that of the server the caller is
-- connected with, or '' if it does not know.
local function open(keys, run, candidates, fields)
  local clock, whole, known = look(keys, fields)
  if not whole then
    begin(clock, candidates)
  elseif run ~= clock.run or run == '' then
    local true_run = server_run()
    if true_run ~= clock.run then
      fence(clock, true_run, candidates)
    end
  end
  return clock, known
end

-- Drops what is before a number.
local function trim(stream, oldest)
  if not failure(redis.pcall('XTRIM', stream, 'MINID', '=', oldest)) then
    return
  end
  -- Before 6.2 there is no MINID.
  repeat
    local dropped = 0
    local entries = redis.pcall('XRANGE', stream, '-', oldest, 'COUNT', PIECE_MAX)
    for _, entry in ipairs(entries) do
      if entry[1] ~= oldest then
        dropped = dropped + 1
        redis.pcall('XDEL', stream, entry[1])
      end
    end
  until dropped < PIECE_MAX
end

-- The topic whose stream has this key.
local function topic_of(stream, prefix)
  if not stream or string.sub(stream, 1, #prefix) ~= prefix then
    fail('the key of a stream is the key of the clock with `:s:` and the topic instead of `:clock`')
  end
  return string.sub(stream, #prefix + 1)
end

-- What the keys begin with.
local function check_keys(keys)
  local base = string.match(keys[1] or '', '^(.*):clock$')
  if not base or keys[2] ~= base .. ':index' then
    fail('the first keys are those of the clock and the index')
  end
  return base
end

-- Publishing ----------------------------------------------------------------------------------------------------

-- What is wrong with an event, or nil. Control characters are C0, DEL, and C1 as UTF-8 writes it.
local function fault(topic, name, key, data, kept, age, window)
  local texts = topic .. name
  if topic == '' or #topic > TOPIC_BYTES_MAX then
    return 'ERR a topic is 1 to 255 bytes long'
  elseif #name > NAME_BYTES_MAX or string.sub(name, 1, 9) == 'fanwheel.' then
    return 'ERR an event name is at most 128 bytes long and does not begin with fanwheel.'
  elseif string.find(texts, '[%z\1-\31\127]') or string.find(texts, '\194[\128-\159]') then
    return 'ERR topics and event names have no control characters'
  elseif string.sub(topic, 1, 1) == '$' then
    return 'ERR topics that begin with $ are reserved'
  elseif string.find(topic, '*', 1, true) and string.find('.' .. string.gsub(topic, '/', '.') .. '.', '%.%*%*?%.') then
    return 'ERR a topic has no segment * or **'
  elseif #key > KEY_BYTES_MAX then
    return 'ERR a key is at most 255 bytes long'
  elseif #data > DATA_BYTES_MAX then
    return 'ERR the data of an event is at most 1048576 bytes long'
  elseif not (kept and age and window) or kept < 1 or age < 0 or window < 0 then
    return 'ERR events, age and window are numbers, and at least one event is kept'
  end
end

-- The outcome of an event that was published before under its idempotency key, or nil.
local function repeated(clock, record, prefix, hash)
  local rest = string.sub(record, #prefix + 1)
  if string.sub(record, 1, #prefix) ~= prefix or rest == '' or string.find(rest, ':', 1, true) then
    return 'ERR a record is kept at `:i:`, the topic, `:` and the idempotency key with % and : as %25 and %3A'
  end
  local stored = redis.pcall('GET', record)
  if not stored or failure(stored) then
    return failure(stored)
  end
  local number, tag, known = string.match(stored, '^(%d+%-%d+)%-(%w%w%w%w) (%x+)$')
  -- It counts while what it names is still there: of this incarnation, or before the fence of its own.
  local last = tag == clock.tag and format(clock.ms, clock.n)
    or tag and string.match(',' .. fences_of(clock), ',' .. tag .. ' (%d+%-%d+) ')
  if last and at_most(number, last) then
    return known == hash and number .. '-' .. tag
      or 'CONFLICT the idempotency key was used for another event on this topic'
  end
end

-- Takes the numbers of all events that may follow; those not used are left out. The first write of every publish: what
-- lacks a right or memory fails here.
local function reserve(clock, count)
  local ms = now()
  if ms > clock.ms then
    clock.ms, clock.n = ms, -1
  end
  return failure(redis.pcall('HSET', clock.key, 'last', format(clock.ms, clock.n + count)))
end

-- Takes back an event that nobody has seen.
local function withdraw(stream, number, record)
  redis.pcall('XDEL', stream, number)
  if record then
    redis.pcall('DEL', record)
  end
end

-- run, candidates, channel prefix; for each event name, key, data, events, age in ms, window in ms, where a window of
-- 0 says that there is no idempotency key. Keys: clock, index; for each event its stream and, with a window, its record.
-- Replies run, tag, and for each event its id (it begins with a digit) or why it was not stored.
local function publish(keys, args, first)
  local base = check_keys(keys)
  local count = (#args - first - 2) / 6
  if count < 1 or count > EVENTS_MAX or count ~= math.floor(count) then
    fail('six arguments for each of 1 to 1000 events follow run, candidates and channel prefix')
  end
  local prefix, streams, records, fields, at_key = base .. ':s:', {}, {}, { '' }, 2
  for which = 1, count do
    at_key = at_key + 1
    streams[which] = keys[at_key]
    fields[which + 1] = topic_of(keys[at_key], prefix)
    if args[first + 2 + which * 6] ~= '0' then
      at_key = at_key + 1
      records[which] = keys[at_key] or fail('an event with a window has the key of its record')
    end
  end
  if at_key ~= #keys then
    fail('each event has the key of its stream and, with a window, of its record')
  end
  local clock, known = open(keys, args[first], args[first + 1], fields)
  local reply, newest, changed = { clock.run, clock.tag }, {}, { 'HSET', clock.index }
  -- Printing a double is dear: once for the call, and once for each age.
  local ms, oldest = nil, {}
  for which = 1, count do
    local at, topic, stream, record = first + which * 6 - 3, fields[which + 1], streams[which], records[which]
    local name, key, data = args[at], args[at + 1], args[at + 2]
    local kept, age, window = tonumber(args[at + 3]), tonumber(args[at + 4]), tonumber(args[at + 5])
    local outcome, hash = fault(topic, name, key, data, kept, age, window)
    if record and not outcome then
      hash = redis.sha1hex(name .. '\0' .. key .. '\0' .. data)
      outcome = repeated(clock, record, base .. ':i:' .. topic .. ':', hash)
    end
    if not outcome and not clock.reserved then
      outcome = reserve(clock, count - which + 1)
      clock.reserved = not outcome
      ms = string.format('%.0f', clock.ms)
    end
    if not outcome then
      local prev = newest[topic] or known[which + 1]
      if not prev then
        -- Whatever stands there is of an earlier epoch, or was forgotten.
        if redis.pcall('TYPE', stream).ok == 'stream' then
          redis.pcall('UNLINK', stream)
        end
        prev = clock.horizon
      end
      clock.n = clock.n + 1
      local number = clock.n < 2147483648 and string.format('%s-%d', ms, clock.n) or format(clock.ms, clock.n)
      local id = number .. '-' .. clock.tag
      local message = string.format('\255FW2 %s %s %d %d\n', id, prev, #name, #key) .. name .. key .. data
      outcome = failure(redis.pcall('XADD', stream, 'MAXLEN', '=', args[at + 3], number, 'm', message))
      if not outcome then
        outcome = record and failure(redis.pcall('SET', record, id .. ' ' .. hash, 'PX', args[at + 5]))
          or failure(redis.pcall('PUBLISH', args[first + 2] .. topic, message))
        if outcome then
          withdraw(stream, number, record)
        else
          if age > 0 and clock.ms > age then
            oldest[age] = oldest[age] or format(clock.ms - age, 0)
            trim(stream, oldest[age])
          end
          newest[topic], outcome = number, id
          changed[#changed + 1], changed[#changed + 2] = topic, number
        end
      end
    end
    reply[which + 2] = outcome
  end
  if #changed > 2 then
    redis.call(unpack(changed))
  end
  return reply
end

-- All but publishing. In functions of their own, since Redis makes what is defined here anew for each call: a publish
-- pays for what is above only. --------------------------------------------------------------------------------------

-- run, candidates, channel, nonce. Publishes on the channel: M, nonce, last, tag, fences. Replies run, tag.
local function barrier(keys, args, first)
  check_keys(keys)
  local clock = open(keys, args[first], args[first + 1], { '' })
  local last = format(clock.ms, clock.n)
  redis.call('PUBLISH', args[first + 2],
    'M ' .. args[first + 3] .. ' ' .. last .. ' ' .. clock.tag .. ' ' .. fences_of(clock))
  return { clock.run, clock.tag }
end

-- run, candidates, channel, tag. Marks the fence of a tag lossy and publishes, the first time: L, tag, fences.
-- Replies run, tag, 1 or 0.
local function lossy(keys, args, first)
  check_keys(keys)
  local clock = open(keys, args[first], args[first + 1], { '' })
  local tag = string.match(args[first + 3], '^%w%w%w%w$') or fail('a tag is four letters or digits')
  local fences, changed = string.gsub(',' .. fences_of(clock), '(,' .. tag .. ' %d+%-%d+) 0', '%1 1')
  if changed > 0 then
    fences = string.sub(fences, 2)
    redis.call('HSET', clock.key, 'fences', fences)
    redis.call('PUBLISH', args[first + 2], 'L ' .. clock.tag .. ' ' .. fences)
  end
  return { clock.run, clock.tag, changed }
end

-- What is done with many topics. Keys: clock, index, streams. Replies begin with run, tag, last, fences.
local function many(operation)
  -- `options` words stand between the candidates and one word for each topic, if `each`.
  local function start(keys, args, first, options, each)
    local prefix, fields = check_keys(keys) .. ':s:', { '' }
    if #args ~= first + 1 + options + (each and #keys - 2 or 0) then
      fail('too many or too few arguments')
    end
    for at = 3, #keys do
      fields[at - 1] = topic_of(keys[at], prefix)
    end
    local clock, known = open(keys, args[first], args[first + 1], fields)
    return clock, known, { clock.run, clock.tag, format(clock.ms, clock.n), fences_of(clock) }, fields
  end

  local function number_of(word)
    return tonumber(word) or fail('`' .. tostring(word) .. '` is no number')
  end

  -- Calls `take` with number and message of entries, in one direction and in pieces that grow, until it says false.
  -- 1 exactly when there may be more.
  local function walk(stream, from, to, command, take)
    local piece = 1
    while true do
      local entries = redis.call(command, stream, from, to, 'COUNT', piece)
      for _, entry in ipairs(entries) do
        -- Of an entry that was added by hand the message is none.
        local message = entry[2][1] == 'm' and entry[2][2] or ''
        if not take(entry[1], message) then
          return 1
        end
      end
      if #entries < piece then
        return 0
      end
      local ms, n = parse(entries[piece][1])
      if command == 'XRANGE' then
        from = format(ms, n + 1)
      elseif n > 0 then
        from = format(ms, n - 1)
      elseif ms > 0 then
        from = format(ms - 1, 999999999999999)
      else
        return 0
      end
      piece = math.min(piece * 4, PIECE_MAX)
    end
  end

  -- One page for each topic in turn, until `bytes_all` are spent: fewer pages than topics say that the others are to
  -- be asked for again. A page: the topic's newest number, 1 if there may be more, messages, oldest first.
  local function pages(keys, clock, known, reply, bytes_max, bytes_all, events_max, range)
    local spent = 0
    for at = 3, #keys do
      if spent >= bytes_all then
        break
      end
      local newest, messages, bytes = known[at - 1], {}, 0
      local page = { newest or clock.horizon, 0 }
      if newest then
        local command, from, to = range(at - 2)
        page[2] = walk(keys[at], from, to, command, function(_, message)
          bytes = bytes + #message + ENTRY_OVERHEAD
          if #messages > 0 and (bytes > bytes_max or #messages >= events_max) then
            return false
          end
          messages[#messages + 1] = message
          return true
        end)
        local count = #messages
        for which = 1, count do
          page[which + 2] = messages[command == 'XRANGE' and which or count + 1 - which]
        end
      end
      spent = spent + bytes + ENTRY_OVERHEAD
      reply[#reply + 1] = page
    end
    return reply
  end

  -- run, candidates, bytes of a topic, bytes of all; for each topic the number after which.
  local function after(keys, args, first)
    local clock, known, reply = start(keys, args, first, 2, true)
    local bytes_max, bytes_all = number_of(args[first + 2]), number_of(args[first + 3])
    return pages(keys, clock, known, reply, bytes_max, bytes_all, math.huge, function(which)
      local ms, n = parse(args[first + 3 + which])
      return 'XRANGE', ms and format(ms, n + 1) or fail('a number of the history is <ms>-<n>'), '+'
    end)
  end

  -- run, candidates, bytes of a topic, bytes of all, events of a topic, the number up to which.
  local function tail(keys, args, first)
    local clock, known, reply = start(keys, args, first, 4, false)
    local bytes_max, bytes_all = number_of(args[first + 2]), number_of(args[first + 3])
    return pages(keys, clock, known, reply, bytes_max, bytes_all, number_of(args[first + 4]), function()
      return 'XREVRANGE', args[first + 5], '-'
    end)
  end

  -- run, candidates, bytes of all, events, the number above which; for each topic the number up to which. Replies for
  -- each topic 1 if there may be more, and the numbers of its newest events, newest first; topics left out as above.
  local function numbers(keys, args, first)
    local _, known, reply = start(keys, args, first, 3, true)
    local bytes_all, count, floor = number_of(args[first + 2]), number_of(args[first + 3]), args[first + 4]
    local spent = 0
    for at = 3, #keys do
      if spent >= bytes_all then
        break
      end
      local found = { 0 }
      if known[at - 1] then
        found[1] = walk(keys[at], args[first + 2 + at], floor, 'XREVRANGE', function(number, message)
          if #found > count or number == floor or (#found > 1 and spent >= bytes_all) then
            return false
          end
          spent = spent + #message + ENTRY_OVERHEAD
          found[#found + 1] = number
          return true
        end)
      end
      spent = spent + ENTRY_OVERHEAD
      reply[#reply + 1] = found
    end
    return reply
  end

  -- run, candidates, ms behind the newest number after which a topic is forgotten; for each topic the age in ms that is
  -- kept of it, 0 for all. Replies how many were forgotten.
  local function tidy(keys, args, first)
    local clock, known, reply, fields = start(keys, args, first, 1, true)
    local forget_ms, forgotten = number_of(args[first + 2]), 0
    for at = 3, #keys do
      local topic, newest, age = fields[at - 1], known[at - 1], number_of(args[first + at])
      local newest_ms = topic ~= '' and parse(newest or '')
      if newest_ms and clock.ms - newest_ms > forget_ms then
        redis.call('UNLINK', keys[at])
        if not at_most(newest, clock.horizon) then
          redis.call('HSET', clock.key, 'horizon', newest)
          clock.horizon = newest
        end
        redis.call('HDEL', clock.index, topic)
        forgotten = forgotten + 1
      elseif newest_ms and age > 0 and clock.ms > age then
        trim(keys[at], format(clock.ms - age, 0))
      end
    end
    reply[#reply + 1] = forgotten
    return reply
  end

  local operations = { after = after, tail = tail, numbers = numbers, tidy = tidy }
  return operations[operation] or fail('the first argument names an operation')
end

-- In and out ----------------------------------------------------------------------------------------------------

local function run(operation, keys, args, first)
  if operation == 'publish' then
    return publish(keys, args, first)
  elseif operation == 'barrier' then
    return barrier(keys, args, first)
  elseif operation == 'lossy' then
    return lossy(keys, args, first)
  end
  return many(operation)(keys, args, first)
end

-- What goes wrong is an answer, also where Redis would wrap it.
local function guarded(operation, keys, args, first)
  local done, reply = pcall(run, operation, keys, args, first)
  return done and reply or redis.error_reply(failure(reply) or 'ERR ' .. tostring(reply))
end

if redis.register_function then
  redis.register_function('fanwheel_publish', function(keys, args)
    return guarded('publish', keys, args, 1)
  end)
  redis.register_function('fanwheel_after', function(keys, args)
    return guarded('after', keys, args, 1)
  end)
  redis.register_function('fanwheel_tail', function(keys, args)
    return guarded('tail', keys, args, 1)
  end)
else
  if redis.replicate_commands then
    redis.replicate_commands()
  end
  return guarded(ARGV[1], KEYS, ARGV, 2)
end

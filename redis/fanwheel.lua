#!lua name=fanwheel
-- Durable topics of Fanwheel in Redis 6.0 or later: publishing, markers, reading, tidying.
--
-- With its first line: FUNCTION LOAD it (Redis 7) and FCALL fanwheel_publish. Without it: EVALSHA, the operation is
-- ARGV[1]. Both do the same; docs/REDIS.md has keys, arguments and examples.
--
-- What always holds: a number is given once, and numbers grow over all topics; what an entry says of the event before
-- it comes from the index, never from the stream; an event that is refused is in no stream and was seen by nobody.
-- Whatever may be refused (memory, rights, a key of the wrong type) is refused before an event is seen by anybody: the
-- clock and the index are written first, and the index is set back where an event is refused all the same. Who has the
-- rights to write must have those to take back: XDEL, DEL, HDEL. Where only the channel is refused, the oldest event of
-- a full stream has left for the one that did not come.
--
-- Nothing is random in here, and no large number is printed by Lua itself, which writes 1e+14.
--
-- EVALSHA makes every function anew that stands outside of another one: those stand first that a publish needs, and
-- the others within one that it does not call.

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

-- `%.0f` is right for every number; `%d` for what fits 32 bits, in half the time.
local function format(ms, n)
  if ms >= 1000000 and n < 2147483648 then
    return string.format('%d%03d-%d', ms / 1000, ms % 1000, n)
  end
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
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- The clock -----------------------------------------------------------------------------------------------------

local function fences_of(clock)
  if not clock.fences then
    clock.fences = redis.call('HGET', clock.key, 'fences') or ''
  end
  return clock.fences
end

-- A clock that is not whole is made anew; of one that another server may have written, `run` is looked at.
local function renew(clock, is_whole, candidates)
  local FENCES_MAX = 64

  local run = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
  if not run then
    fail('this server does not tell its run_id')
  end

  -- A tag that is neither the current one nor at a fence.
  local function draw()
    for candidate in string.gmatch(candidates, '%w%w%w%w') do
      if candidate ~= clock.tag and not string.find(fences_of(clock), candidate .. ' ', 1, true) then
        return candidate
      end
    end
    fail('none of the candidates for a tag is free; pass some times four random letters or digits')
  end

  -- The history begins anew: nothing of it is left, or its index is gone.
  local function begin()
    local ms = now()
    if not clock.ms or ms > clock.ms then
      clock.ms, clock.n = ms, 0
    end
    clock.tag = draw()
    clock.run, clock.fences, clock.horizon = run, '', '0-0'
    -- The first write needs no memory; after it Redis lets the others pass even when it has none left.
    redis.call('UNLINK', clock.key, clock.index)
    redis.call('HSET', clock.key, 'last', format(clock.ms, clock.n), 'tag', clock.tag, 'run', run,
      'epoch', clock.tag, 'fences', '')
    redis.call('HSET', clock.index, '', clock.tag)
  end

  -- The server was started since, or another has taken its place: perhaps with less than was known.
  local function fence()
    local fences = fences_of(clock)
    local _, commas = string.gsub(fences, ',', '')
    for _ = FENCES_MAX, fences == '' and 0 or commas + 1 do
      fences = string.match(fences, ',(.*)$') or ''
    end
    local tag = draw()
    fences = fences .. (fences == '' and '' or ',') .. clock.tag .. ' ' .. format(clock.ms, clock.n) .. ' 0'
    redis.call('HDEL', clock.key, 'run')
    redis.call('HSET', clock.key, 'tag', tag, 'run', run, 'fences', fences)
    clock.tag, clock.run, clock.fences = tag, run, fences
  end

  if not is_whole then
    begin()
  elseif run ~= clock.run then
    fence()
  end
end

-- The clock, made or fenced where that is due, and what the index knows of `fields`, the first of which is ''. `run`
-- is that of the server the caller is connected with, or '' if it does not know.
local function open(keys, run, candidates, fields)
  local got = redis.call('HMGET', keys[1], 'last', 'tag', 'run', 'epoch', 'horizon')
  local known = redis.call('HMGET', keys[2], unpack(fields))
  local ms, n = parse(got[1])
  local clock = {
    key = keys[1], index = keys[2], ms = ms, n = n, tag = got[2], run = got[3], horizon = got[5] or '0-0',
    fences = false,
  }
  local is_whole = ms and clock.tag and got[4] and got[4] == known[1]
  if not is_whole or run == '' or run ~= clock.run then
    renew(clock, is_whole, candidates)
  end
  return clock, is_whole and known or {}
end

-- Drops what is before a number.
local function trim(stream, oldest)
  -- Entries looked at in one piece: at 1 MiB each, 16 MiB that Redis copies for nothing at most.
  local PIECE_MAX = 16
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
  if not stream or string.find(stream, prefix, 1, true) ~= 1 then
    fail('the key of a stream is the key of the clock with `:s:` and the topic instead of `:clock`')
  end
  return string.sub(stream, #prefix + 1)
end

-- What the keys begin with.
local function base_of(keys)
  local base = string.sub(keys[1] or '', 1, -7)
  if keys[1] ~= base .. ':clock' or keys[2] ~= base .. ':index' then
    fail('the first keys are those of the clock and the index')
  end
  return base
end

-- Publishing ----------------------------------------------------------------------------------------------------

-- What is wrong with texts that are not plain ASCII, or nil. Control characters are C0, DEL, and C1 as UTF-8 writes it.
-- What a node cannot take for a topic would stay in the index for ever.
local function odd(topic, name)
  local texts = topic .. name
  if string.find(texts, '%c') or string.find(texts, '\194[\128-\159]') then
    return 'ERR topics and event names have no control characters'
  end
  -- UTF-8 has no sequence that is longer than need be, half of a pair, or beyond what there is.
  for _, never in ipairs({ '\224[\128-\159]', '\237[\160-\191]', '\240[\128-\143]', '\244[\144-\191]' }) do
    if string.find(topic, never) then
      return 'ERR a topic is UTF-8'
    end
  end
  local rest = string.gsub(topic, '[\194-\223][\128-\191]', ' ')
  rest = string.gsub(rest, '[\224-\239][\128-\191][\128-\191]', ' ')
  rest = string.gsub(rest, '[\240-\244][\128-\191][\128-\191][\128-\191]', ' ')
  return string.find(rest, '[\128-\255]') and 'ERR a topic is UTF-8' or nil
end

-- What is wrong with an event, or nil.
local function fault(topic, name, key, data, kept, age, window)
  if topic == '' or #topic > 255 then
    return 'ERR a topic is 1 to 255 bytes long'
  elseif #name > 128 or string.find(name, 'fanwheel.', 1, true) == 1 then
    return 'ERR an event name is at most 128 bytes long and does not begin with fanwheel.'
  elseif string.byte(topic) == 36 then
    return 'ERR topics that begin with $ are reserved'
  elseif string.find(topic, '*', 1, true) and string.find('.' .. string.gsub(topic, '/', '.') .. '.', '%.%*%*?%.') then
    return 'ERR a topic has no segment * or **'
  elseif #key > 255 then
    return 'ERR a key is at most 255 bytes long'
  elseif #data > 1048576 then
    return 'ERR the data of an event is at most 1048576 bytes long'
  end
  kept, age, window = tonumber(kept), tonumber(age), tonumber(window)
  if not (kept and age and window) or kept < 1 or age < 0 or window < 0 then
    return 'ERR events, age and window are numbers, and at least one event is kept'
  end
  return string.find(topic .. name, '[^ -~]') and odd(topic, name)
end

-- The outcome of an event that was published before under its idempotency key, or nil.
local function repeated(clock, last, record, prefix, hash)
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
  local fences = tag and tag ~= clock.tag and (clock.fences or redis.pcall('HGET', clock.key, 'fences') or '')
  if failure(fences) then
    return failure(fences)
  end
  last = tag == clock.tag and last or fences and string.match(',' .. fences, ',' .. tag .. ' (%d+%-%d+) ')
  if last and at_most(number, last) then
    return known == hash and number .. '-' .. tag
      or 'CONFLICT the idempotency key was used for another event on this topic'
  end
end

-- Gives numbers to all events that have no outcome yet, and writes each topic's last one into the index: what lacks a
-- right or memory fails here, before anything is stored. Numbers that are not used are left out. Replies the numbers,
-- the last one, and why they were refused or nil.
local function reserve(clock, count, outcomes, fields)
  local ms = now()
  if ms > clock.ms then
    clock.ms, clock.n = ms, -1
  end
  local n = clock.n
  clock.n = n + count
  local last = format(clock.ms, clock.n)
  local begin = clock.n < 1000000000 and string.match(last, '^%d+%-')
  local numbers, entries = {}, { 'HSET', clock.index }
  for which = 1, count do
    if not outcomes[which] then
      local number = begin and begin .. n + which or format(clock.ms, n + which)
      numbers[which], entries[#entries + 1], entries[#entries + 2] = number, fields[which + 1], number
    end
  end
  if #entries > 2 then
    return numbers, last, failure(redis.pcall('HSET', clock.key, 'last', last)) or failure(redis.pcall(unpack(entries)))
  end
  return numbers, last
end

-- run, candidates, channel prefix; for each event name, key, data, events, age in ms, window in ms, where a window of
-- 0 says that there is no idempotency key. Keys: clock, index; for each event its stream and, with a window, its
-- record. Replies run, tag, and for each event its id (it begins with a digit) or why it was not stored.
local function publish(keys, args, first)
  local base, count = base_of(keys), (#args - first - 2) / 6
  if count < 1 or count > 1000 or count ~= math.floor(count) then
    fail('six arguments for each of 1 to 1000 events follow run, candidates and channel prefix')
  end
  local fields, records, outcomes = { '' }, {}, {}
  local prefix, at_key, at = base .. ':s:', 2, first + 3
  for which = 1, count do
    at_key = at_key + 1
    local topic, window = topic_of(keys[at_key], prefix), args[at + 5]
    fields[which + 1] = topic
    if window ~= '0' then
      at_key = at_key + 1
      records[which] = keys[at_key] or fail('an event with a window has the key of its record')
    end
    outcomes[which] = fault(topic, args[at], args[at + 1], args[at + 2], args[at + 3], args[at + 4], window)
    at = at + 6
  end
  if at_key ~= #keys then
    fail('each event has the key of its stream and, with a window, of its record')
  end

  local clock, known = open(keys, args[first], args[first + 1], fields)
  local numbers, last, refused = reserve(clock, count, outcomes, fields)
  local second, tag, newest, unused, reply = string.sub(last, 1, 10), clock.tag, {}, {}, { clock.run, clock.tag }
  at = first + 3
  for which = 1, count do
    local topic, record, number, outcome = fields[which + 1], records[which], numbers[which], outcomes[which]
    local stream, name, key, data = prefix .. topic, args[at], args[at + 1], args[at + 2]
    local hash, id
    if record and not outcome then
      hash = redis.sha1hex(name .. '\0' .. key .. '\0' .. data)
      outcome = repeated(clock, last, record, base .. ':i:' .. topic .. ':', hash)
    end
    outcome = outcome or refused
    if not outcome then
      local prev = newest[topic] or known[which + 1]
      if not prev then
        -- Whatever stands there is of an earlier epoch, or was forgotten.
        if redis.pcall('TYPE', stream).ok == 'stream' then
          redis.pcall('UNLINK', stream)
        end
        prev = clock.horizon
      end
      id = number .. '-' .. tag
      local lengths = name == '' and key == '' and ' 0 0\n' or string.format(' %d %d\n', #name, #key)
      local message = '\255FW2 ' .. id .. ' ' .. prev .. lengths .. name .. key .. data
      outcome = record and failure(redis.pcall('SET', record, id .. ' ' .. hash, 'PX', args[at + 5]))
        or failure(redis.pcall('XADD', stream, 'MAXLEN', '=', args[at + 3], number, 'm', message))
      if not outcome then
        outcome = failure(redis.pcall('PUBLISH', args[first + 2] .. topic, message))
        if outcome then
          redis.pcall('XDEL', stream, number)
        end
      end
      if not outcome then
        newest[topic], outcome = number, id
        -- Once a second: what has become too old since is a second older at most.
        local age = args[at + 4]
        if age ~= '0' and string.find(prev, second, 1, true) ~= 1 and clock.ms - age > 0 then
          trim(stream, format(clock.ms - age, 0))
        end
      elseif record then
        redis.pcall('DEL', record)
      end
    end
    if number and outcome ~= id and not refused then
      unused[#unused + 1] = which
    end
    reply[which + 2] = outcome
    at = at + 6
  end
  for _, which in ipairs(unused) do
    local topic = fields[which + 1]
    local number = newest[topic] or known[which + 1]
    if number then
      redis.pcall('HSET', clock.index, topic, number)
    else
      redis.pcall('HDEL', clock.index, topic)
    end
  end
  return reply
end

-- All but publishing --------------------------------------------------------------------------------------------

local function other(keys, args, first, operation)
  local PIECE_MAX = 16
  -- What an entry costs beside its message.
  local ENTRY_OVERHEAD = 64

  -- run, candidates, channel, nonce. Publishes on the channel: M, nonce, last, tag, fences. Replies run, tag.
  local function barrier(keys, args, first)
    base_of(keys)
    local clock = open(keys, args[first], args[first + 1], { '' })
    local last = format(clock.ms, clock.n)
    redis.call('PUBLISH', args[first + 2],
      'M ' .. args[first + 3] .. ' ' .. last .. ' ' .. clock.tag .. ' ' .. fences_of(clock))
    return { clock.run, clock.tag }
  end

  -- run, candidates, channel, tag. Marks the fence of a tag lossy and publishes, the first time: L, tag, fences.
  -- Replies run, tag, 1 or 0.
  local function lossy(keys, args, first)
    base_of(keys)
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

  -- The clock, what the index knows, and what replies begin with: run, tag, last, fences.
  local function look(keys, args, first, fields)
    local clock, known = open(keys, args[first], args[first + 1], fields)
    local last = format(clock.ms, clock.n)
    for at = 2, #fields do
      if known[at] and fields[at] ~= '' and not string.find(known[at], '^%d+%-%d+$') then
        -- What is no number was not written here: from now on the topic may have had events up to the newest of all.
        known[at] = last
        redis.pcall('HSET', clock.index, fields[at], last)
      end
    end
    return clock, known, { clock.run, clock.tag, last, fences_of(clock) }
  end

  -- What is done with many topics. Keys: clock, index, streams. `options` words stand between the candidates and one
  -- word for each topic, if `each`.
  local function start(keys, args, first, options, each)
    local prefix, fields = base_of(keys) .. ':s:', { '' }
    if #args ~= first + 1 + options + (each and #keys - 2 or 0) then
      fail('too many or too few arguments')
    end
    for at = 3, #keys do
      fields[at - 1] = topic_of(keys[at], prefix)
    end
    local clock, known, reply = look(keys, args, first, fields)
    return clock, known, reply, fields
  end

  local function number_of(word)
    return tonumber(word) or fail('`' .. tostring(word) .. '` is no number')
  end

  -- Calls `take` with number and message of entries, in one direction and in pieces that grow, until it says false.
  -- 1 when there may be more, 0 when there is no more, or why nothing can be there: the key is of another type.
  local function walk(stream, from, to, command, take)
    local piece = 1
    while true do
      local entries = redis.pcall(command, stream, from, to, 'COUNT', piece)
      local wrong = failure(entries)
      if wrong and string.find(wrong, '^WRONGTYPE') then
        return wrong
      elseif wrong then
        -- Of all streams, then, and not of this one. The word in front is for a key that may not be named at all.
        fail(wrong)
      end
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
      -- Numbers of more than fifteen digits are of entries that were added by hand; Lua cannot count with all of them.
      if ms > 999999999999999 then
        return 0
      elseif n > 999999999999999 then
        n = 999999999999999
      end
      if command == 'XRANGE' then
        from = n < 999999999999999 and format(ms, n + 1) or format(ms + 1, 0)
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
  -- be asked for again. A page: the topic's newest number, what `walk` says, messages, oldest first.
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

  -- run, candidates; for each topic its name. Keys: clock, index. Replies pages without messages: for who may not read
  -- the streams.
  local function newest(keys, args, first)
    base_of(keys)
    local fields = { '', unpack(args, first + 2) }
    local clock, known, reply = look(keys, args, first, fields)
    for at = 2, #fields do
      reply[#reply + 1] = { known[at] or clock.horizon, 0 }
    end
    return reply
  end

  -- run, candidates, bytes of all, events, the number above which; for each topic the number up to which. Replies for
  -- each topic what `walk` says, and the numbers of its newest events, newest first; topics left out as above.
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

  local operations = {
    barrier = barrier, lossy = lossy, after = after, tail = tail, newest = newest, numbers = numbers, tidy = tidy,
  }
  local run = operations[operation or args[1]] or fail('the first argument names an operation')
  return run(keys, args, first)
end

-- In and out ----------------------------------------------------------------------------------------------------

-- What goes wrong is an answer, also where Redis would wrap it.
local function guarded(run, keys, args, first, operation)
  local done, reply = pcall(run, keys, args, first, operation)
  return done and reply or redis.error_reply(failure(reply) or 'ERR ' .. tostring(reply))
end

if redis.register_function then
  redis.register_function('fanwheel_publish', function(keys, args)
    return guarded(publish, keys, args, 1)
  end)
  redis.register_function('fanwheel_after', function(keys, args)
    return guarded(other, keys, args, 1, 'after')
  end)
  redis.register_function('fanwheel_tail', function(keys, args)
    return guarded(other, keys, args, 1, 'tail')
  end)
else
  if redis.replicate_commands then
    redis.replicate_commands()
  end
  return guarded(ARGV[1] == 'publish' and publish or other, KEYS, ARGV, 2)
end

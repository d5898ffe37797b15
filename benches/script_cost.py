#!/usr/bin/env python3
"""What the script of durable topics costs Redis: µs of `EVALSHA` and `FCALL` per event, by Redis' own account.

    benches/script_cost.py [rounds] [another version of redis/fanwheel.lua]…

Starts a redis-server of its own. Cases take turns, so that only figures of one run are compared; the least of the
rounds is what the machine can do, the median what it did. Events have 100 bytes of data, a name and a key.
"""

import pathlib
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time

EVENTS = 1600  # of a case in one round
TOPICS = 3200  # those of the cases in which each event is its topic's first of the second
FIRST = "first of a second"
FLOOR = """
redis.call('TIME')
redis.call('HMGET', KEYS[1], 'last', 'tag', 'run', 'epoch', 'horizon')
redis.call('HMGET', KEYS[2], '', 't')
redis.call('HSET', KEYS[1], 'last', ARGV[1])
redis.call('HSET', KEYS[2], 't', ARGV[1])
redis.call('XADD', KEYS[3], 'MAXLEN', '=', '1000', '*', 'm', ARGV[2])
redis.call('PUBLISH', 'f:t', ARGV[2])
"""


class Redis:
    def __init__(self, directory):
        path = pathlib.Path(directory, "socket")
        options = ["--port", "0", "--unixsocket", str(path), "--save", "", "--dir", directory]
        self.process = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)
        while not path.exists():
            time.sleep(0.01)  # polls until it listens
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(path))
        self.file = self.socket.makefile("rb")

    def call(self, *words):
        return self.pipeline([command(words)])

    def pipeline(self, commands):
        self.socket.sendall(b"".join(commands))
        replies = [self.reply() for _ in commands]
        return replies[-1]

    def reply(self):
        line = self.file.readline()[:-2]
        kind, rest = line[:1], line[1:]
        if kind == b"-":
            raise RuntimeError(rest.decode())
        if kind == b"$":
            return None if rest == b"-1" else self.file.read(int(rest) + 2)[:-2]
        return [self.reply() for _ in range(int(rest))] if kind == b"*" else rest

    def us_per_call(self, commands, depth):
        self.call("CONFIG", "RESETSTAT")
        for at in range(0, len(commands), depth):
            self.pipeline(commands[at : at + depth])
        stats = self.call("INFO", "commandstats").decode()
        return float(re.search(r"cmdstat_(?:evalsha|fcall):.*?usec_per_call=([\d.]+)", stats)[1])


def command(words):
    words = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


def publish(begin, end, run, topics, kept=1000):
    """The call that publishes an event on each of the topics."""
    keys = ["f:{0}:clock", "f:{0}:index", *(f"f:{{0}}:s:{topic}" for topic in topics)]
    event = ["tick", "k", "x" * 100, kept, 86_400_000, 0]
    return command([*begin, len(keys), *keys, *end, run, "aaaabbbbccccdddd", "f:", *event * len(topics)])


def cases_of(redis, text, name, run):
    first, body = text.split(b"\n", 1)
    script = ["EVALSHA", redis.call("SCRIPT", "LOAD", body)]
    for count, kept in [(1, 1000), (1, 10**9), (16, 1000), (100, 1000)]:
        call = publish(script, ["publish"], run, [f"t{kept}-{n}" for n in range(count)], kept)
        full = "streams that are full" if kept == 1000 else "a stream that is not full"
        yield f"{name}{count} per call, {full}", count, [call] * (EVENTS // count)
    for count in [1, 16]:
        topics = [f"first{count}-{n}" for n in range(TOPICS)]
        parts = [topics[at : at + count] for at in range(0, TOPICS, count)]
        calls = [publish(script, ["publish"], run, part) for part in parts]
        yield f"{name}{count} per call, {FIRST}", count, calls
    library = f"bench{abs(hash(name))}".encode()
    body = body.replace(b"'fanwheel_", b"'" + library + b"_")
    try:
        redis.call("FUNCTION", "LOAD", b"#!lua name=" + library + b"\n" + body)
    except RuntimeError:
        return  # before 7.0
    call = publish(["FCALL", library + b"_publish"], [], run, ["t1000-0"])
    yield f"{name}1 per call, full, as a Function", 1, [call] * EVENTS


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    here = pathlib.Path(__file__).parent.parent / "redis" / "fanwheel.lua"
    with tempfile.TemporaryDirectory() as directory:
        redis = Redis(directory)
        try:
            run = re.search(r"run_id:(\w+)", redis.call("INFO", "server").decode())[1]
            cases = []
            for name, text in [("the floor: 7 commands", FLOOR), ("the floor: an empty script", "return 1")]:
                keys = ["floor:clock", "floor:index", "floor:stream"]
                words = ["EVALSHA", redis.call("SCRIPT", "LOAD", text), 3, *keys, "1790000000000-0", "x" * 160]
                cases.append((name, 1, [command(words)] * EVENTS))
            cases += cases_of(redis, here.read_bytes(), "", run)
            for other in sys.argv[2:]:
                cases += cases_of(redis, pathlib.Path(other).read_bytes(), f"{pathlib.Path(other).name}: ", run)
            found = {name: [] for name, *_ in cases}
            for _ in range(rounds + 1):
                for name, count, calls in cases:
                    if FIRST in name:
                        time.sleep(1.001 - time.time() % 1)  # paced: a second that none of its topics has seen
                    found[name].append(redis.us_per_call(calls, max(1, 64 // count)) / count)
            print(f"{'µs of Redis per event':44} {'least':>6} {'median':>7}")
            for name, figures in found.items():
                # The first round makes what the others find.
                print(f"{name:44} {min(figures[1:]):6.1f} {statistics.median(figures[1:]):7.1f}")
        finally:
            redis.process.terminate()
            redis.process.wait()


main()

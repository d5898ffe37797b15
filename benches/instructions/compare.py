#!/usr/bin/env python3
"""Counts the instructions of counts.rs and holds them against baseline.json.

    compare.py             fails where a count is more than 3 % above its baseline
    compare.py --record    writes what was counted as the baseline of this compiler and target

Code differs from compiler to compiler and from target to target, so a baseline belongs to one pair of
them; the others stay as they are. Where a pair has none, or valgrind or the runner is missing, this says
so and passes. A bench that has no count in the baseline, or that a baseline names and nobody ran, fails:
it would be guarded by nobody. A count that fell passes, and is named from 3 % on: record it, or the next
one may grow by as much unseen.

Flags of the caller's for the compiler do not apply: they would make other code.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BASELINE = Path(__file__).with_name("baseline.json")
BOUND = 0.03


def judge(counts, baseline):
    """What fails, and what is only worth saying.

    >>> judge({"a": 1030, "b": 100}, {"a": 1000, "b": 100})
    ([], [])
    >>> judge({"a": 1031}, {"a": 1000})
    (['a: 1,031 instructions, baseline 1,000: +3.1 %, allowed 3 %'], [])
    >>> judge({"a": 960}, {"a": 1000})
    ([], ['a: 960 instructions, baseline 1,000: -4.0 %, worth recording'])
    >>> judge({"new": 1}, {"gone": 1})
    (['new: has no baseline', 'gone: has a baseline, but was not run'], [])
    """
    failures, remarks = [], []
    for name, count in counts.items():
        before = baseline.get(name)
        if before is None:
            failures.append(f"{name}: has no baseline")
            continue
        change = f"{name}: {count:,} instructions, baseline {before:,}: {count / before - 1:+.1%}".replace("%", " %")
        if count > before * (1 + BOUND):
            failures.append(f"{change}, allowed {BOUND:.0%}".replace("3%", "3 %"))
        elif count < before * (1 - BOUND):
            remarks.append(f"{change}, worth recording")
    failures += [f"{name}: has a baseline, but was not run" for name in baseline if name not in counts]
    return failures, remarks


def lacking():
    """What hinders counting, with the command that helps; None when nothing does.

    The runner speaks only to the library of its own version, which Cargo.lock names.
    """
    lock = (ROOT / "Cargo.lock").read_text()
    wanted = re.search(r'name = "gungraun"\nversion = "(.+)"', lock).group(1)
    if not shutil.which("valgrind"):
        return "valgrind is not installed; on Debian: sudo apt-get install valgrind"
    install = f"cargo install gungraun-runner --version {wanted} --locked"
    runner = os.environ.get("GUNGRAUN_RUNNER") or shutil.which("gungraun-runner")
    if not runner:
        return f"gungraun-runner is not installed; {install}"
    found = subprocess.run([runner, "--version"], capture_output=True, text=True).stdout.split()
    return None if found[-1:] == [wanted] else f"gungraun-runner is {' '.join(found[-1:])}, not {wanted}; {install}"


def environment():
    """The caller's, without flags for the compiler."""
    return {name: value for name, value in os.environ.items() if not name.endswith("RUSTFLAGS")}


def compiler():
    """Version, commit and target, as in `1.95.0 59807616e x86_64-unknown-linux-gnu`."""
    lines = subprocess.run(["rustc", "-vV"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    facts = dict(line.split(": ", 1) for line in lines if ": " in line)
    return f"{facts['release']} {facts['commit-hash'][:9]} {facts['host']}"


def count():
    """Instructions by bench, as in `frame/encode one_line`."""
    command = ["cargo", "bench", "--quiet", "--locked", "-p", "instructions", "--bench", "counts"]
    command += ["--", "--output-format=json"]
    run = subprocess.run(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if run.returncode != 0:
        sys.exit(f"{run.stderr}{' '.join(command)}: exit code {run.returncode}")
    counts = {}
    for line in run.stdout.splitlines():
        bench = json.loads(line)
        name = f"{bench['group'].removeprefix('of_')}/{bench['function_name']} {bench['id']}"
        counts[name] = bench["profiles"][0]["data"]["total"]["metrics"]["Ir"]["values"]["new"]
    return counts


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true", help="write the baseline of this compiler and target")
    record = parser.parse_args().record
    if hindrance := lacking():
        sys.exit(hindrance) if record else print(f"instructions are not counted: {hindrance}")
        return
    baselines = json.loads(BASELINE.read_text())
    pair = compiler()
    counts = count()
    if record:
        baselines[pair] = counts
        BASELINE.write_text(json.dumps(dict(sorted(baselines.items())), indent=2) + "\n")
        print(f"recorded {len(counts)} counts for {pair}")
        return
    if pair not in baselines:
        for name, instructions in counts.items():
            print(f"{name}: {instructions:,} instructions")
        print(f"no baseline for {pair}; {Path(__file__).relative_to(ROOT)} --record writes one")
        return
    failures, remarks = judge(counts, baselines[pair])
    print("\n".join(remarks + failures + [f"{len(counts)} counts, {len(failures)} failures, for {pair}"]))
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()

"""``python -m holdfast.bench.fuzz``: fuzz the parsers, or go through the inputs that are kept.

--replay            only the kept inputs, once with true checksums and once with weak ones
--runs N            executions for each parser: half of them with each sort of checksums
--parsers a,b       not all of them
--corpus DIRECTORY  where the inputs are kept; new ones are added to them
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from holdfast.bench.fuzz import corpus
from holdfast.bench.fuzz.checksums import weaken

_SECONDS_MAX, _MIB_MAX, _INPUT_BYTES_MAX = 10, 2048, 1 << 13
"""For one input: longer is a hang, more memory is unbounded."""
_RUNS_AT_ONCE = 100_000
"""Executions of one process: what the fuzzer's own hooks leak of each is not to add up."""


def main(arguments: Sequence[str]) -> int:
    """Exit code 1 if a parser raised what it may not, hung, or took too much memory."""
    options = argparse.ArgumentParser(prog="python -m holdfast.bench.fuzz")
    options.add_argument("--replay", action="store_true")
    options.add_argument("--weak", action="store_true", help="With --replay: weak checksums only.")
    options.add_argument("--runs", type=int, default=1_000_000)
    options.add_argument("--parsers", default="")
    options.add_argument("--corpus", default=os.path.join("tests", "data", "fuzz"))
    chosen = options.parse_args(arguments)
    names = [name for name in chosen.parsers.split(",") if name]
    if chosen.replay:
        return replay(chosen.corpus, names, weak=chosen.weak)
    return fuzz(chosen.corpus, names, chosen.runs)


def replay(directory: str, names: Sequence[str], *, weak: bool) -> int:
    """Parse every kept input; a parser's defect is an exception."""
    if weak:
        weaken()
    from holdfast.bench.fuzz.parsers import PARSERS, refusal

    parsed = refused = 0
    for name in names or PARSERS:
        for data in corpus.load(directory, name):
            try:
                refused += refusal(PARSERS[name], data) is not None
            except Exception as error:
                error.add_note(f"{name} of {data!r}")
                raise
            parsed += 1
    print(json.dumps({"inputs": parsed, "refused": refused, "weak": weak}))
    return 0


def fuzz(directory: str, names: Sequence[str], runs: int) -> int:
    """Fuzz each parser, print a line about it, and keep what reaches more of it."""
    from holdfast.bench.fuzz.parsers import PARSERS

    failed = []
    for name in names or PARSERS:
        kept = corpus.load(directory, name)
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="holdfast-fuzz-") as work:
            outcomes = [_fuzz_one(work, name, sort, kept, runs // 2) for sort in ("true", "weak")]
            inputs = [data for _, _, found in outcomes for data in found]
        done = sum(runs for _, runs, _ in outcomes)
        seconds = time.monotonic() - began
        problems = [text for text, _, _ in outcomes if text]
        print(f"{name}: {done} executions in {seconds:.0f} s, {len(inputs)} inputs that differ; "
              + ("; ".join(problems) or "no crash, no hang"), flush=True)  # fmt: skip
        failed += problems
        corpus.save(directory, name, inputs)
    return 1 if failed else 0


def _fuzz_one(
    work: str, name: str, sort: str, kept: Sequence[bytes], runs: int
) -> tuple[str, int, list[bytes]]:
    """What is wrong if anything is, how often it was executed, and the smallest inputs found."""
    inputs, smallest = os.path.join(work, sort), os.path.join(work, sort + "-smallest")
    corpus.unpack([*kept, *_seeds(name, sort)], inputs)
    os.makedirs(smallest)
    limits = [
        f"-timeout={_SECONDS_MAX}", f"-rss_limit_mb={_MIB_MAX}",
        f"-max_len={_INPUT_BYTES_MAX}", f"-artifact_prefix={os.path.abspath(name)}-",
    ]  # fmt: skip
    program = os.path.join(work, f"fuzz-{sort}")
    with open(program, "w", encoding="utf-8") as script:
        target = f"{sys.executable} -m holdfast.bench.fuzz.target"
        script.write(f'#!/bin/sh\nexec {target} "$0" {name} {sort} "$@"\n')
    os.chmod(program, 0o700)
    executed = 0
    steps = [[f"-runs={min(_RUNS_AT_ONCE, runs - done)}", inputs]
             for done in range(0, runs, _RUNS_AT_ONCE)]  # fmt: skip
    for options in [*steps, ["-merge=1", smallest, inputs]]:
        step = subprocess.run(
            [program, *limits, *options], capture_output=True, text=True, check=False
        )
        if options[0] != "-merge=1":
            numbers = re.findall(r"^#(\d+)\t", step.stderr, re.MULTILINE)
            executed += max(map(int, numbers), default=0)
        if step.returncode:
            words = " | ".join(_last_words(step.stderr + step.stdout))
            return f"with {sort} checksums: {words}", executed, corpus.collect(inputs)
    return "", executed, corpus.collect(smallest)


def _seeds(name: str, sort: str) -> list[bytes]:
    """What the parser accepts, made by a process with that sort of checksums."""
    script = (
        "import sys, msgspec\n"
        "from holdfast.bench.fuzz import checksums\n"
        "checksums.weaken() if sys.argv[2] == 'weak' else None\n"
        "from holdfast.bench.fuzz.seeds import seeds\n"
        "sys.stdout.buffer.write(msgspec.msgpack.encode(seeds()[sys.argv[1]]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, name, sort], stdout=subprocess.PIPE, check=True
    )
    import msgspec

    return msgspec.msgpack.decode(done.stdout, type=list[bytes])


def _last_words(output: str) -> list[str]:
    words = ("Exception", "Error", "ERROR", "Test unit written", "SUMMARY", 'File "')
    lines = [line.strip() for line in output.splitlines()]
    return [line for line in lines if any(word in line for word in words)][-8:]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""A parser under the fuzzer: ``python -m holdfast.bench.fuzz.target PROGRAM NAME SORT OPTIONS``.

``PROGRAM`` is what libFuzzer is to start when it wants another such process; ``SORT`` is of
checksums, ``true`` or ``weak``; the options are libFuzzer's. Ends with libFuzzer's exit code: not 0
for an exception that the parser may not raise, a hang, or too much memory.
"""

import sys

import atheris

from holdfast.bench.fuzz.checksums import weaken


def main(program: str, name: str, checksums: str, options: list[str]) -> None:
    """Fuzz until libFuzzer's options say that it is enough; does not return."""
    if checksums == "weak":
        weaken()
    with atheris.instrument_imports(include=["holdfast.formats"]):
        from holdfast.bench.fuzz.parsers import PARSERS, refusal
    parser = PARSERS[name]

    def once(data: bytes) -> None:
        refusal(parser, data)

    atheris.Setup([program, *options], once)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:])

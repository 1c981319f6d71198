"""The inputs that are kept for each parser: one file of MessagePack, an array of byte strings."""

import os
from collections.abc import Iterable, Sequence

import msgspec

FILE_BYTES_MAX = 16 << 10
"""Of the inputs of one parser together: the corpus is read in every test run."""


def load(directory: str, name: str) -> list[bytes]:
    """The inputs kept for a parser; none if there are none."""
    try:
        with open(_place(directory, name), "rb") as file:
            return msgspec.msgpack.decode(file.read(), type=list[bytes])
    except FileNotFoundError:
        return []


def save(directory: str, name: str, inputs: Iterable[bytes]) -> None:
    """Keep the smallest of these inputs."""
    kept: list[bytes] = []
    room = FILE_BYTES_MAX
    for data in sorted(set(inputs), key=lambda data: (len(data), data)):
        room -= len(data) + 4
        if room < 0:
            break
        kept.append(data)
    os.makedirs(directory, exist_ok=True)
    with open(_place(directory, name), "wb") as file:
        file.write(msgspec.msgpack.encode(kept))


def unpack(inputs: Sequence[bytes], directory: str) -> None:
    """Inputs as files, as a fuzzer wants them."""
    os.makedirs(directory, exist_ok=True)
    for number, data in enumerate(inputs):
        with open(os.path.join(directory, f"{number:06}"), "wb") as file:
            file.write(data)


def collect(directory: str) -> list[bytes]:
    """The inputs that lie in a directory as files."""
    inputs = []
    for entry in os.scandir(directory):
        with open(entry.path, "rb") as file:
            inputs.append(file.read())
    return inputs


def _place(directory: str, name: str) -> str:
    return os.path.join(directory, f"{name}.msgpack")

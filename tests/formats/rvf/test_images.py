"""Embedded programs: layouts, round trips, limits, and damage."""

import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.formats.errors import InvalidArgument, InvalidFormat, LimitExceeded
from holdfast.formats.rvf import images
from holdfast.formats.rvf.addrot import addrot
from holdfast.formats.rvf.images import (
    Dashboard,
    Ebpf,
    Kernel,
    KernelBinding,
    Wasm,
    decode_dashboard,
    decode_ebpf,
    decode_kernel,
    decode_wasm,
    encode_dashboard,
    encode_ebpf,
    encode_kernel,
    encode_wasm,
)

U8, U16 = st.integers(0, 255), st.integers(0, (1 << 16) - 1)
U32, U64 = st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 64) - 1)
DATA = st.binary(max_size=60)
HASH = st.binary(min_size=32, max_size=32)

BINDINGS = st.builds(KernelBinding, HASH, HASH, U16, U16, U64)
KERNELS = st.builds(
    Kernel,
    image=DATA,
    arch=U8,
    kernel_type=U8,
    flags=U32,
    port=U16,
    cmdline=st.text(max_size=20),
    binding=st.none() | BINDINGS,
    min_memory_mib=U32,
    entry_point=U64,
    compression=U8,
    transport=U8,
    api_version=U32,
    build_id=st.binary(min_size=16, max_size=16),
    build_time=U64,
    vcpus=U32,
)
EBPFS = st.builds(Ebpf, DATA, U8, U8, U16, DATA, U32, U32)
WASMS = st.builds(Wasm, DATA, U8, U8, U16, U16, U8, U8, U8, U8, U8, U8)
DASHBOARDS = DATA.flatmap(
    lambda bundle: st.builds(
        Dashboard, st.just(bundle), U8, st.integers(0, len(bundle)), U64, U8, U32
    )
)
Codec = tuple[Callable[[Any], bytes], Callable[[bytes], Any]]
CODECS: dict[type, Codec] = {
    Kernel: (encode_kernel, decode_kernel),
    Ebpf: (encode_ebpf, decode_ebpf),
    Wasm: (encode_wasm, decode_wasm),
    Dashboard: (encode_dashboard, decode_dashboard),
}
BINDING = KernelBinding(b"M" * 32, b"P" * 32, 1, 2, 3)
SAMPLES = [
    Kernel(b"kernel" * 30, arch=1, kernel_type=2, cmdline="quiet", port=8080),
    Kernel(b"kernel" * 30, arch=1, kernel_type=2, cmdline="quiet", binding=BINDING),
    Ebpf(b"program!" * 3, 1, 2, 1536, b"types"),
    Wasm(b"\0asm" + b"code" * 9, 1, 2, 3, 4),
    Dashboard(b"index.html<html>", 1, 10, 1_800_000_000),
]


def test_kernel_layout() -> None:
    """Fields lie where the table says, the port the other way round."""
    kernel = Kernel(
        image=b"image",
        arch=1,
        kernel_type=2,
        flags=3,
        port=0x1234,
        cmdline="ro",
        min_memory_mib=4,
        entry_point=5,
        compression=6,
        transport=7,
        api_version=8,
        build_id=b"B" * 16,
        build_time=9,
        vcpus=10,
    )
    payload = encode_kernel(kernel)
    assert payload[:4] == (0x52564B4E).to_bytes(4, "little")
    assert struct.unpack_from("<HBBII", payload, 4) == (1, 1, 2, 3, 4)
    assert struct.unpack_from("<QQQBB", payload, 16) == (5, 5, 5, 6, 7)
    assert payload[42:44] == b"\x12\x34"
    assert struct.unpack_from("<I", payload, 44) == (8,)
    assert payload[48:80] == addrot(b"image")
    assert payload[80:96] == b"B" * 16
    assert struct.unpack_from("<QIIQII", payload, 96) == (9, 10, 0, 128, 2, 0)
    assert payload[128:] == b"imagero"


def test_bound_kernel_layout() -> None:
    """The binding follows the header, and the command line precedes the image."""
    payload = encode_kernel(Kernel(b"image", arch=0, kernel_type=0, cmdline="ro", binding=BINDING))
    assert struct.unpack_from("<QI", payload, 112) == (256, 2)
    assert payload[128:192] == b"M" * 32 + b"P" * 32
    assert struct.unpack_from("<HHIQ", payload, 192) == (1, 2, 0, 3)
    assert payload[208:256] == bytes(48)
    assert payload[256:] == b"roimage"


def test_ebpf_layout() -> None:
    """Fields lie where the table says; the instruction count wraps as the original's does."""
    payload = encode_ebpf(Ebpf(b"12345678" * 2 + b"9", 1, 2, 3, b"btf", 4, 5))
    assert payload[:4] == (0x52564250).to_bytes(4, "little")
    assert struct.unpack_from("<HBBIHHQII", payload, 4) == (1, 1, 2, 4, 2, 3, 17, 5, 3)
    assert payload[32:64] == addrot(b"12345678" * 2 + b"9")
    assert payload[64:] == b"12345678" * 2 + b"9btf"
    wrapped = encode_ebpf(Ebpf(bytes(8 * 0x10002), 0, 0, 0))
    assert struct.unpack_from("<H", wrapped, 12) == (2,)


def test_wasm_layout() -> None:
    """Fields lie where the table says."""
    payload = encode_wasm(Wasm(b"code", 1, 2, 3, 4, 5, 6, 7, 8, 9, 10))
    assert payload[:4] == (0x5256574D).to_bytes(4, "little")
    assert struct.unpack_from("<HBBHHIIBBBB", payload, 4) == (1, 1, 2, 3, 4, 4, 0, 7, 8, 9, 10)
    assert payload[24:56] == addrot(b"code")
    assert payload[56:] == b"\5\6" + bytes(6) + b"code"


def test_dashboard_layout() -> None:
    """Fields lie where the table says, and of the entry path only the length."""
    payload = encode_dashboard(Dashboard(b"a.html<p>", 1, 6, 7, 8, 9))
    assert payload[:4] == (0x52564442).to_bytes(4, "little")
    assert struct.unpack_from("<HBBQIHHQ", payload, 4) == (1, 1, 8, 9, 9, 6, 0, 7)
    assert payload[32:64] == addrot(b"a.html<p>")
    assert payload[64:] == b"a.html<p>"


@given(KERNELS | EBPFS | WASMS | DASHBOARDS)
def test_round_trip(image: Any) -> None:
    """What was written is read back, whatever follows it."""
    encode, decode = CODECS[type(image)]
    payload = encode(image)
    assert decode(payload) == image
    assert decode(memoryview(payload + b"more").tobytes()) == image


@pytest.mark.parametrize("image", SAMPLES, ids=lambda image: type(image).__name__)
def test_every_length(image: Any) -> None:
    """A payload cut short anywhere is refused."""
    encode, decode = CODECS[type(image)]
    payload = encode(image)
    for size in range(len(payload)):
        with pytest.raises(InvalidFormat):
            decode(payload[:size])


@pytest.mark.parametrize("image", SAMPLES, ids=lambda image: type(image).__name__)
def test_every_bit_flip(image: Any) -> None:
    """A flipped bit raises nothing but InvalidFormat, and one in the hashed bytes always does."""
    encode, decode = CODECS[type(image)]
    payload = encode(image)
    hashed = next(
        data
        for name in ("image", "program", "bytecode", "bundle")
        if (data := getattr(image, name, None)) is not None
    )
    start = payload.index(hashed)
    for bit in range(len(payload) * 8):
        damaged = bytearray(payload)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            decode(bytes(damaged))
        except InvalidFormat:
            continue
        assert not start <= bit // 8 < start + len(hashed)


@given(st.binary(max_size=400), st.sampled_from(SAMPLES))
def test_any_bytes(data: bytes, image: Any) -> None:
    """Whatever follows the magic, nothing but InvalidFormat is raised."""
    encode, decode = CODECS[type(image)]
    for payload in (data, encode(image)[:6] + data):
        try:
            decode(payload)
        except InvalidFormat:
            continue


@pytest.mark.parametrize(
    ("sample", "at", "field", "message"),
    [
        (0, 0, b"NKVX", "bad kernel magic"),
        (0, 4, b"\2\0", "unsupported kernel version 2"),
        (0, 24, b"\xff" * 8, "kernel image of 18446744073709551615 bytes"),
        (0, 112, b"\0", "command line at 0, expected 128 or 256"),
        (0, 120, b"\xff" * 4, "kernel command line of 4294967295 bytes"),
        (0, 308, b"\xff", "command line is not UTF-8"),
        (0, 48, b"\0", "kernel image whose hash is"),
        (1, 120, b"\xff" * 4, "kernel image of 180 bytes"),
        (2, 4, b"\0\0", "unsupported eBPF version 0"),
        (2, 28, b"\6", "BTF of 6 bytes"),
        (3, 12, b"\xff" * 4, "WebAssembly module of 4294967295 bytes"),
        (4, 63, b"\xff", "dashboard's bundle whose hash is"),
    ],
)
def test_problems_are_named(sample: int, at: int, field: bytes, message: str) -> None:
    """What is wrong is said with the value that is."""
    image = SAMPLES[sample]
    encode, decode = CODECS[type(image)]
    payload = bytearray(encode(image))
    payload[at : at + len(field)] = field
    with pytest.raises(InvalidFormat, match=message):
        decode(bytes(payload))


def test_plain_images_are_not_mistaken_for_bound_ones() -> None:
    """An image that begins with what could be a binding stays an image.

    The original tells the forms apart by two bytes of the image, and hands out the first 128 bytes
    of this one as a binding.
    """
    plain = encode_kernel(Kernel(b"\xff" * 300, arch=0, kernel_type=1, cmdline="quiet"))
    assert decode_kernel(plain).binding is None
    unversioned = KernelBinding(version=0)  # which the original takes for no binding
    bound = encode_kernel(Kernel(b"i", arch=0, kernel_type=1, binding=unversioned))
    assert decode_kernel(bound).binding == unversioned


@pytest.mark.parametrize(
    ("limit", "image"),
    [
        ("KERNEL_BYTES_MAX", Kernel(bytes(100), 0, 0)),
        ("KERNEL_BYTES_MAX", Kernel(bytes(60), 0, 0, cmdline="x" * 13, binding=KernelBinding())),
        ("EBPF_BYTES_MAX", Ebpf(bytes(80), 0, 0, 0, bytes(20))),
        ("WASM_BYTES_MAX", Wasm(bytes(100), 0, 0, 0, 0)),
        ("DASHBOARD_BYTES_MAX", Dashboard(bytes(100), 0, 0)),
    ],
)
def test_limits(limit: str, image: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One byte more than the limit is refused with both numbers, the limit itself is not."""
    encode, _ = CODECS[type(image)]
    size = 201 if isinstance(image, Kernel) and image.binding else 100
    monkeypatch.setattr(images, limit, size)
    encode(image)
    monkeypatch.setattr(images, limit, size - 1)
    with pytest.raises(LimitExceeded, match=f"{size} bytes, over the limit of {size - 1}"):
        encode(image)


def test_the_limits_are_the_originals() -> None:
    """128, 16, 8 and 64 MiB; a plain kernel's command line does not count."""
    assert [images.KERNEL_BYTES_MAX >> 20, images.EBPF_BYTES_MAX >> 20] == [128, 16]
    assert [images.WASM_BYTES_MAX >> 20, images.DASHBOARD_BYTES_MAX >> 20] == [8, 64]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (Kernel(b"", arch=256, kernel_type=0), "arch 256 of the kernel is not from 0 to 255"),
        (Kernel(b"", arch=0, kernel_type=0, port=65536), "port 65536"),
        (Kernel(b"", arch=0, kernel_type=0, port=-1), "port -1"),
        (Kernel(b"", arch=0, kernel_type=0, build_id=b"short"), "build id is 5 bytes, expected 16"),
        (
            Kernel(b"", arch=0, kernel_type=0, binding=KernelBinding(policy_hash=b"")),
            "policy hash is 0 bytes, expected 32",
        ),
        (
            Kernel(b"", arch=0, kernel_type=0, binding=KernelBinding(version=1 << 16)),
            "version 65536 of the kernel binding is not from 0 to 65535",
        ),
        (Ebpf(b"", 0, 0, max_dimension=1 << 16), "max_dimension 65536 of the eBPF is not from"),
        (Wasm(b"", 0, 0, 0, 0, tables=-1), "tables -1 of the WebAssembly is not from 0 to 255"),
        (Dashboard(b"abc", 0, 4), "entry path of 4 bytes in a bundle of 3"),
        (Dashboard(b"abc", 300, 3), "framework 300 of the dashboard is not from 0"),
    ],
)
def test_values_that_do_not_fit(image: Any, message: str) -> None:
    """A number or a hash that its field cannot hold is the caller's mistake."""
    with pytest.raises(InvalidArgument, match=message):
        CODECS[type(image)][0](image)


def test_hashing_ticks() -> None:
    """Large images call out while they are hashed, on the way in and out."""
    ticks: list[int] = []
    payload = encode_wasm(Wasm(bytes(2_000_000), 0, 0, 0, 0), lambda: ticks.append(1))
    assert ticks
    ticks.clear()
    decode_wasm(payload, lambda: ticks.append(1))
    assert ticks

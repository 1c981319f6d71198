"""Programs a file carries along: kernels, eBPF, WebAssembly, dashboards (RVF 5.5 to 5.8).

Each is a header, then the bytes. All integers little-endian but the kernel's port::

    offset  size  KERNEL, 128 bytes            offset  size  EBPF, 64 bytes
         0     4  magic "NKVR"                      0     4  magic "PBVR"
         4     2  version, 1                        4     2  version, 1
         6     1  architecture                      6     1  program type
         7     1  kernel type                       7     1  attach type
         8     4  flags                             8     4  flags
        12     4  least memory, MiB                12     2  instructions: bytes / 8
        16     8  entry point                      14     2  largest dimension
        24     8  image length                     16     8  program length
        32     8  compressed length, the same      24     4  maps
        40     1  compression                      28     4  BTF length
        41     1  transport                        32    32  hash of the program alone
        42     2  port, big-endian
        44     4  api version                  offset  size  WASM, 64 bytes
        48    32  hash of the image                 0     4  magic "MWVR"
        80    16  build id                          4     2  version, 1
        96     8  build time                        6     1  role
       104     4  virtual processors                7     1  target
       108     4  zero                              8     2  features
       112     8  offset of the command line       10     2  exports
       120     4  its length                       12     4  bytecode length
       124     4  zero                             16     4  zero
                                                   20     1  compression
    offset  size  DASHBOARD, 64 bytes              21     1  least pages
         0     4  magic "BDVR"                     22     1  most pages
         4     2  version, 1                       23     1  tables
         6     1  framework                        24    32  hash
         7     1  compression                      56     1  priority
         8     8  bundle length                    57     1  interpreter type
        16     4  files                            58     6  zero
        20     2  entry path length
        22     2  zero                         offset  size  a kernel's binding, 128 bytes
        24     8  build time, seconds               0    32  hash of the manifest's root
        32    32  hash                             32    32  hash of the policy
                                                   64     2  version
                                                   66     2  least runtime
                                                   68     4  zero
                                                   72     8  mask of allowed segment types
                                                   80    48  zero

    plain kernel   header, image, command line              its offset says 128, which is wrong
    bound kernel   header, binding, command line, image     its offset says 256
    eBPF           header, program, BTF

Nothing marks a kernel as bound. The original takes any 128 bytes behind the header for a binding
whose 65th and 66th are not zero, and so hands out a piece of most plain images as one. The offset
of the command line is always 128 or 256, and decides here.

Hashes are ADDROT, and are checked here. A dashboard's entry path is not stored, only its length:
the bundle has to begin with it.
"""

import operator
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

from holdfast.formats.errors import InvalidArgument, InvalidFormat, LimitExceeded
from holdfast.formats.limits import MIB
from holdfast.formats.rvf.addrot import addrot
from holdfast.formats.rvf.segment import Buffer

KERNEL_BYTES_MAX = 128 * MIB  # of a bound one, all that follows the header
EBPF_BYTES_MAX = 16 * MIB  # program and BTF
WASM_BYTES_MAX = 8 * MIB
DASHBOARD_BYTES_MAX = 64 * MIB

_VERSION = 1
_KERNEL = struct.Struct("<4sHBBIIQQQBB2sI32s16sQI4xQI4x")
_BINDING = struct.Struct("<32s32sHH4xQ48x")
_EBPF = struct.Struct("<4sHBBIHHQII32s")
_WASM = struct.Struct("<4sHBBHHI4xBBBB32sBB6x")
_DASHBOARD = struct.Struct("<4sHBBQIH2xQ32s")
_FIELD_CODE = re.compile(r"\d*[a-zA-Z]")
assert _KERNEL.size == _BINDING.size == 128
assert _EBPF.size == _WASM.size == _DASHBOARD.size == 64

_PLAIN_OFFSET = _KERNEL.size
_BOUND_OFFSET = _KERNEL.size + _BINDING.size

_KERNEL_MAGIC, _EBPF_MAGIC, _WASM_MAGIC, _DASHBOARD_MAGIC = b"NKVR", b"PBVR", b"MWVR", b"BDVR"


def _no_tick() -> None:
    pass


@dataclass(frozen=True, slots=True)
class KernelBinding:
    """What a kernel is meant for: the manifest and policy it was made with, by hash."""

    manifest_root_hash: bytes = bytes(32)
    policy_hash: bytes = bytes(32)
    version: int = 1
    min_runtime: int = 0
    allowed_segments: int = 0


@dataclass(frozen=True, slots=True)
class Kernel:
    """A bootable image; numbers as in RVF 5.5. ``compression`` says how ``image`` is stored."""

    image: bytes = field(repr=False)
    arch: int
    kernel_type: int
    flags: int = 0
    port: int = 0
    cmdline: str = ""
    binding: KernelBinding | None = None
    min_memory_mib: int = 0
    entry_point: int = 0
    compression: int = 0
    transport: int = 0
    api_version: int = 1
    build_id: bytes = bytes(16)
    build_time: int = 0
    vcpus: int = 0


@dataclass(frozen=True, slots=True)
class Ebpf:
    """An eBPF program with its type information; numbers as in RVF 5.6."""

    program: bytes = field(repr=False)
    program_type: int
    attach_type: int
    max_dimension: int
    btf: bytes = field(default=b"", repr=False)
    flags: int = 0
    maps: int = 0


@dataclass(frozen=True, slots=True)
class Wasm:
    """A WebAssembly module; numbers as in RVF 5.7."""

    bytecode: bytes = field(repr=False)
    role: int
    target: int
    features: int
    exports: int
    priority: int = 0
    interpreter_type: int = 0
    compression: int = 0
    min_pages: int = 2
    max_pages: int = 0
    tables: int = 0


@dataclass(frozen=True, slots=True)
class Dashboard:
    """A bundle of web pages that begins with the path of its first page; as in RVF 5.8."""

    bundle: bytes = field(repr=False)
    framework: int
    entry_path_bytes: int
    build_time: int = 0
    """Seconds since 1970."""
    compression: int = 0
    files: int = 0


def encode_kernel(kernel: Kernel, tick: Callable[[], None] = _no_tick) -> bytes:
    """The payload, bound if the kernel has a binding; hashing calls ``tick`` now and then."""
    _check_types(kernel)
    cmdline = _text_bytes("Kernel.cmdline", kernel.cmdline)
    binding = b""
    if kernel.binding is not None:
        binding = _binding_bytes(kernel.binding)
        _check_size("a bound kernel", len(binding + cmdline) + len(kernel.image), KERNEL_BYTES_MAX)
    else:
        _check_size("a kernel image", len(kernel.image), KERNEL_BYTES_MAX)
    _check_length("a build id", kernel.build_id, 16)
    head = _pack(
        _KERNEL,
        "kernel",
        magic=_KERNEL_MAGIC,
        version=_VERSION,
        arch=kernel.arch,
        kernel_type=kernel.kernel_type,
        flags=kernel.flags,
        min_memory_mib=kernel.min_memory_mib,
        entry_point=kernel.entry_point,
        image_bytes=len(kernel.image),
        compressed_bytes=len(kernel.image),
        compression=kernel.compression,
        transport=kernel.transport,
        port=_big_endian(kernel.port),
        api_version=kernel.api_version,
        image_hash=addrot(kernel.image, tick),
        build_id=kernel.build_id,
        build_time=kernel.build_time,
        vcpus=kernel.vcpus,
        cmdline_offset=_BOUND_OFFSET if binding else _PLAIN_OFFSET,
        cmdline_bytes=len(cmdline),
    )
    rest = (binding, cmdline, kernel.image) if binding else (kernel.image, cmdline)
    return b"".join((head, *rest))


def decode_kernel(payload: Buffer, tick: Callable[[], None] = _no_tick) -> Kernel:
    """The kernel in ``payload``; raises ``InvalidFormat``, also for an image of another hash."""
    (
        arch, kernel_type, flags, min_memory_mib, entry_point, image_bytes, _, compression,
        transport, port, api_version, image_hash, build_id, build_time, vcpus, cmdline_offset,
        cmdline_bytes,
    ) = _unpack(_KERNEL, "kernel", _KERNEL_MAGIC, payload)  # fmt: skip
    binding = None
    if cmdline_offset == _BOUND_OFFSET:
        binding = _decode_binding(_part(payload, _KERNEL.size, _BINDING.size, "kernel binding"))
        cmdline_at, image_at = _BOUND_OFFSET, _BOUND_OFFSET + cmdline_bytes
    elif cmdline_offset == _PLAIN_OFFSET:
        cmdline_at, image_at = _PLAIN_OFFSET + image_bytes, _PLAIN_OFFSET
    else:
        raise InvalidFormat(
            f"a kernel's command line at {cmdline_offset}, expected {_PLAIN_OFFSET} or "
            f"{_BOUND_OFFSET}"
        )
    image = _part(payload, image_at, image_bytes, "kernel image")
    try:
        cmdline = _part(payload, cmdline_at, cmdline_bytes, "kernel command line").decode()
    except UnicodeDecodeError as error:
        raise InvalidFormat(f"a kernel's command line is not UTF-8: {error}") from None
    _check_hash("kernel image", image, image_hash, tick)
    return Kernel(
        image=image,
        arch=arch,
        kernel_type=kernel_type,
        flags=flags,
        port=int.from_bytes(port, "big"),
        cmdline=cmdline,
        binding=binding,
        min_memory_mib=min_memory_mib,
        entry_point=entry_point,
        compression=compression,
        transport=transport,
        api_version=api_version,
        build_id=build_id,
        build_time=build_time,
        vcpus=vcpus,
    )


def _binding_bytes(binding: KernelBinding) -> bytes:
    _check_types(binding)
    _check_length("a manifest root hash", binding.manifest_root_hash, 32)
    _check_length("a policy hash", binding.policy_hash, 32)
    return _pack(
        _BINDING,
        "kernel binding",
        manifest_root_hash=binding.manifest_root_hash,
        policy_hash=binding.policy_hash,
        version=binding.version,
        min_runtime=binding.min_runtime,
        allowed_segments=binding.allowed_segments,
    )


def _decode_binding(data: bytes) -> KernelBinding:
    return KernelBinding(*_BINDING.unpack(data))


def encode_ebpf(ebpf: Ebpf, tick: Callable[[], None] = _no_tick) -> bytes:
    """The payload; hashing calls ``tick`` now and then."""
    _check_types(ebpf)
    _check_size("an eBPF program with its BTF", len(ebpf.program) + len(ebpf.btf), EBPF_BYTES_MAX)
    head = _pack(
        _EBPF,
        "eBPF",
        magic=_EBPF_MAGIC,
        version=_VERSION,
        program_type=ebpf.program_type,
        attach_type=ebpf.attach_type,
        flags=ebpf.flags,
        instructions=len(ebpf.program) // 8 & 0xFFFF,
        max_dimension=ebpf.max_dimension,
        program_bytes=len(ebpf.program),
        maps=ebpf.maps,
        btf_bytes=len(ebpf.btf),
        program_hash=addrot(ebpf.program, tick),
    )
    return b"".join((head, ebpf.program, ebpf.btf))


def decode_ebpf(payload: Buffer, tick: Callable[[], None] = _no_tick) -> Ebpf:
    """The program in ``payload``; raises ``InvalidFormat``, also for one of another hash."""
    program_type, attach_type, flags, _, max_dimension, length, maps, btf_bytes, stored = _unpack(
        _EBPF, "eBPF", _EBPF_MAGIC, payload
    )
    program = _part(payload, _EBPF.size, length, "eBPF program")
    btf = _part(payload, _EBPF.size + length, btf_bytes, "eBPF program's BTF")
    _check_hash("eBPF program", program, stored, tick)
    return Ebpf(program, program_type, attach_type, max_dimension, btf, flags, maps)


def encode_wasm(wasm: Wasm, tick: Callable[[], None] = _no_tick) -> bytes:
    """The payload; hashing calls ``tick`` now and then."""
    _check_types(wasm)
    _check_size("a WebAssembly module", len(wasm.bytecode), WASM_BYTES_MAX)
    head = _pack(
        _WASM,
        "WebAssembly",
        magic=_WASM_MAGIC,
        version=_VERSION,
        role=wasm.role,
        target=wasm.target,
        features=wasm.features,
        exports=wasm.exports,
        bytecode_bytes=len(wasm.bytecode),
        compression=wasm.compression,
        min_pages=wasm.min_pages,
        max_pages=wasm.max_pages,
        tables=wasm.tables,
        bytecode_hash=addrot(wasm.bytecode, tick),
        priority=wasm.priority,
        interpreter_type=wasm.interpreter_type,
    )
    return head + wasm.bytecode


def decode_wasm(payload: Buffer, tick: Callable[[], None] = _no_tick) -> Wasm:
    """The module in ``payload``; raises ``InvalidFormat``, also for one of another hash."""
    (
        role, target, features, exports, length, compression, min_pages, max_pages, tables, stored,
        priority, interpreter_type,
    ) = _unpack(_WASM, "WebAssembly", _WASM_MAGIC, payload)  # fmt: skip
    bytecode = _part(payload, _WASM.size, length, "WebAssembly module")
    _check_hash("WebAssembly module", bytecode, stored, tick)
    return Wasm(
        bytecode=bytecode,
        role=role,
        target=target,
        features=features,
        exports=exports,
        priority=priority,
        interpreter_type=interpreter_type,
        compression=compression,
        min_pages=min_pages,
        max_pages=max_pages,
        tables=tables,
    )


def encode_dashboard(dashboard: Dashboard, tick: Callable[[], None] = _no_tick) -> bytes:
    """The payload; hashing calls ``tick`` now and then."""
    _check_types(dashboard)
    _check_size("a dashboard's bundle", len(dashboard.bundle), DASHBOARD_BYTES_MAX)
    if dashboard.entry_path_bytes > len(dashboard.bundle):
        raise InvalidArgument(
            f"an entry path of {dashboard.entry_path_bytes} bytes in a bundle of "
            f"{len(dashboard.bundle)}"
        )
    head = _pack(
        _DASHBOARD,
        "dashboard",
        magic=_DASHBOARD_MAGIC,
        version=_VERSION,
        framework=dashboard.framework,
        compression=dashboard.compression,
        bundle_bytes=len(dashboard.bundle),
        files=dashboard.files,
        entry_path_bytes=dashboard.entry_path_bytes,
        build_time=dashboard.build_time,
        bundle_hash=addrot(dashboard.bundle, tick),
    )
    return head + dashboard.bundle


def decode_dashboard(payload: Buffer, tick: Callable[[], None] = _no_tick) -> Dashboard:
    """The dashboard in ``payload``; raises ``InvalidFormat``, also for one of another hash."""
    framework, compression, length, files, entry_path_bytes, build_time, stored = _unpack(
        _DASHBOARD, "dashboard", _DASHBOARD_MAGIC, payload
    )
    bundle = _part(payload, _DASHBOARD.size, length, "dashboard's bundle")
    _check_hash("dashboard's bundle", bundle, stored, tick)
    return Dashboard(bundle, framework, entry_path_bytes, build_time, compression, files)


def _check_size(what: str, size: int, limit: int) -> None:
    if size > limit:
        raise LimitExceeded(f"{what} is {size} bytes, over the limit of {limit}")


def _check_length(what: str, value: bytes, length: int) -> None:
    if len(value) != length:
        raise InvalidArgument(f"{what} is {len(value)} bytes, expected {length}")


def _big_endian(port: int) -> bytes:
    if not 0 <= port <= 0xFFFF:
        raise InvalidArgument(f"port {port} is not between 0 and 65535")
    return port.to_bytes(2, "big")


def _check_types(image: "Kernel | KernelBinding | Ebpf | Wasm | Dashboard") -> None:
    """Raise ``InvalidArgument`` naming the first field that is not of its type."""
    for each in fields(image):
        value, expected = getattr(image, each.name), each.type
        if expected is int:
            fits = _is_int(value)
        elif expected is bytes:
            fits = isinstance(value, bytes | bytearray | memoryview)
        else:
            fits = isinstance(value, expected)  # type: ignore[arg-type]  # a class or a union
        if not fits:
            wanted = getattr(expected, "__name__", str(expected))
            raise InvalidArgument(
                f"{type(image).__name__}.{each.name} is {wanted}, not {type(value).__name__}: "
                f"{value!r:.80}"
            )


def _is_int(value: object) -> bool:
    try:
        operator.index(value)  # type: ignore[arg-type]  # raises TypeError
    except TypeError:
        return False
    return True


def _text_bytes(what: str, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgument(f"{what} is not text: {error}") from None


def _pack(layout: struct.Struct, what: str, **values: int | bytes) -> bytes:
    try:
        return layout.pack(*values.values())
    except struct.error:
        pass
    codes = [code for code in _FIELD_CODE.findall(layout.format) if not code.endswith("x")]
    for code, (name, value) in zip(codes, values.items(), strict=True):
        if not code.endswith("s"):
            most = (1 << 8 * struct.calcsize("<" + code)) - 1
            if not 0 <= operator.index(value) <= most:  # type: ignore[arg-type]  # an int
                raise LimitExceeded(f"{name} {value!r} of the {what} is not from 0 to {most}")
    raise AssertionError(f"every field of the {what} fits")


def _unpack(layout: struct.Struct, what: str, magic: bytes, payload: Buffer) -> tuple[Any, ...]:
    """The fields behind magic and version, which are checked."""
    if len(payload) < layout.size:
        raise InvalidFormat(
            f"a {what} segment of {len(payload)} bytes, shorter than its header of {layout.size}"
        )
    values = layout.unpack_from(payload)
    found, version = values[:2]
    if found != magic:
        raise InvalidFormat(f"bad {what} magic {found.hex(' ')}, expected {magic.hex(' ')}")
    if version != _VERSION:
        raise InvalidFormat(f"unsupported {what} version {version}")
    return values[2:]


def _part(payload: Buffer, start: int, length: int, what: str) -> bytes:
    if start + length > len(payload):
        raise InvalidFormat(f"a {what} of {length} bytes at {start} in a payload of {len(payload)}")
    return bytes(payload[start : start + length])


def _check_hash(what: str, data: bytes, stored: bytes, tick: Callable[[], None]) -> None:
    computed = addrot(data, tick)
    if computed != stored:
        raise InvalidFormat(
            f"a {what} whose hash is {computed.hex()}, while its header says {stored.hex()}"
        )

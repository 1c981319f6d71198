"""Embedded images of a vector store: stored and given back, never executed."""

from collections.abc import Callable
from typing import TypeVar

from holdfast.call import Call, awaitable, operation
from holdfast.formats.errors import InvalidArgument
from holdfast.formats.rvf import images
from holdfast.formats.rvf.images import Dashboard, Ebpf, Kernel, KernelBinding, Wasm
from holdfast.handles.base import AsyncHandle, Handle, expecting
from holdfast.handles.checks import check_flag
from holdfast.workers import messages
from holdfast.workers import vector_messages as vm

T = TypeVar("T")
_done = expecting(messages.Done, lambda _: None)


class ImageOperations(Handle):
    """The operations on embedded images; limits and fields as in RVF 5.5 to 5.8."""

    @operation
    def embed_kernel(self, kernel: Kernel, *, timeout: float | None = None) -> Call[None]:
        """Store a kernel image, with its binding if it has one; nothing ever runs it."""
        return _embed("kernel", images.encode_kernel(_image(kernel, Kernel)), timeout)

    @operation
    def extract_kernel(self, *, timeout: float | None = None) -> Call[Kernel | None]:
        """The kernel embedded last, checked against its hash; None if there is none."""
        return _extract("kernel", images.decode_kernel, timeout)

    @operation
    def extract_kernel_binding(
        self, *, check: bool = False, timeout: float | None = None
    ) -> Call[KernelBinding | None]:
        """The binding of the kernel embedded last, if it has one.

        With ``check`` its manifest hash must be that of the manifest in force: ``InvalidArgument``
        if it is not.
        """

        check_flag("check", check)

        def unwrap(reply: vm.Image) -> KernelBinding | None:
            binding = None
            if reply.payload is not None:
                binding = images.decode_kernel(reply.payload).binding
            if check and binding and binding.manifest_root_hash != reply.manifest_hash:
                raise InvalidArgument(
                    f"the kernel is bound to manifest {binding.manifest_root_hash.hex()}, the one "
                    f"in force is {reply.manifest_hash.hex()}"
                )
            return binding

        return Call(vm.VectorsExtract("kernel"), expecting(vm.Image, unwrap), timeout)

    @operation
    def embed_ebpf(self, program: Ebpf, *, timeout: float | None = None) -> Call[None]:
        """Store an eBPF program; nothing ever loads it."""
        return _embed("ebpf", images.encode_ebpf(_image(program, Ebpf)), timeout)

    @operation
    def extract_ebpf(self, *, timeout: float | None = None) -> Call[Ebpf | None]:
        """The eBPF program embedded last; None if there is none."""
        return _extract("ebpf", images.decode_ebpf, timeout)

    @operation
    def embed_wasm(self, module: Wasm, *, timeout: float | None = None) -> Call[None]:
        """Store a WebAssembly module; nothing ever runs it."""
        return _embed("wasm", images.encode_wasm(_image(module, Wasm)), timeout)

    @operation
    def extract_wasm(self, *, timeout: float | None = None) -> Call[Wasm | None]:
        """The WebAssembly module embedded last; None if there is none."""
        return _extract("wasm", images.decode_wasm, timeout)

    @operation
    def embed_dashboard(self, dashboard: Dashboard, *, timeout: float | None = None) -> Call[None]:
        """Store a dashboard; nothing ever shows it."""
        return _embed("dashboard", images.encode_dashboard(_image(dashboard, Dashboard)), timeout)

    @operation
    def extract_dashboard(self, *, timeout: float | None = None) -> Call[Dashboard | None]:
        """The dashboard embedded last; None if there is none."""
        return _extract("dashboard", images.decode_dashboard, timeout)


class AsyncImageOperations(AsyncHandle):
    """``ImageOperations`` for asyncio."""

    embed_kernel = awaitable(ImageOperations.embed_kernel)
    extract_kernel = awaitable(ImageOperations.extract_kernel)
    extract_kernel_binding = awaitable(ImageOperations.extract_kernel_binding)
    embed_ebpf = awaitable(ImageOperations.embed_ebpf)
    extract_ebpf = awaitable(ImageOperations.extract_ebpf)
    embed_wasm = awaitable(ImageOperations.embed_wasm)
    extract_wasm = awaitable(ImageOperations.extract_wasm)
    embed_dashboard = awaitable(ImageOperations.embed_dashboard)
    extract_dashboard = awaitable(ImageOperations.extract_dashboard)


def _image(value: object, kind: type[T]) -> T:
    if not isinstance(value, kind):
        raise InvalidArgument(f"{kind.__name__} expected, got {type(value).__name__}")
    return value


def _embed(kind: vm.ImageKind, payload: bytes, timeout: float | None) -> Call[None]:
    return Call(vm.VectorsEmbed(kind, memoryview(payload)), _done, timeout)


def _extract(
    kind: vm.ImageKind, decode: Callable[[bytes | memoryview], T], timeout: float | None
) -> Call[T | None]:
    def unwrap(reply: vm.Image) -> T | None:
        return None if reply.payload is None else decode(reply.payload)

    return Call(vm.VectorsExtract(kind), expecting(vm.Image, unwrap), timeout)

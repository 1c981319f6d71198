"""RVF, the vector store's file: segments one behind the other, the newest manifest is the truth.

Each module is one kind of bytes and nothing else; "RVF 5.2" in a docstring is that section of the
format's description.

==============  ===================================================================================
``segment``     the 64-byte header in front of every payload, its hash, the type numbers
``scan``        segment boundaries from the front, and the newest manifest that may be believed
``manifest``    the directory, the deleted ids, the file's identity, and what holdfast adds to them
``vec``         rows of ids and vectors
``journal``     lists of deleted ids, written for the record and never read back
``witness``     entries of the audit chain
``addrot``      the 32-byte fingerprint of images, witnesses and parents
``images``      programs to start: kernels and eBPF
``bundles``     programs to run beside a query: WebAssembly modules and dashboards
``cow``         how a branch refers to its parent: the cluster map and the membership bitmap
``lock_file``   the note in the file beside a store that a writer has open
==============  ===================================================================================

The decoders raise ``InvalidFormat`` for bytes that break their format, whatever they are; sizes are
checked before anything is allocated. Offsets in their messages count from the payload's start, as
a payload does not know where it lies.
"""

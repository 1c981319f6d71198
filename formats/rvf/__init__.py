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
``images``      programs a file carries along: kernels, eBPF, WebAssembly, dashboards
``cow``         how a branch refers to its parent: the cluster map and the membership bitmap
``lock_file``   the note in the file beside a store that a writer has open
``meta``        metadata of rows, which the original keeps in memory only
``record``      what else holdfast keeps in a file: the store record, and hidden ids
``terms``       names of options
==============  ===================================================================================

The decoders raise ``InvalidFormat`` for bytes that break their format, whatever they are; sizes are
checked before anything is allocated. A payload does not know where in a file it lies, so only the
errors of ``scan`` have an offset.
"""

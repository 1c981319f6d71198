"""Bytes to values and back. Nothing in here opens a file, reads a clock or starts a thread."""

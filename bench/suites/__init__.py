"""Micro-benchmarks for pytest-benchmark: formats, transport, workers, handles.

``make bench`` runs them and keeps the figures, ``make bench-compare`` runs them again and compares.
Inputs are the same every time. Where bytes are gone through, the figures of a run have their
rate, and their share of what a plain copy of the same bytes comes to in the same run.
"""

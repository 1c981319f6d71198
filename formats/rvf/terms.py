"""The names that options of a vector store have, in files and messages alike."""

from typing import Literal

Metric = Literal["l2", "ip", "cosine"]
"""Squared Euclidean distance, negative inner product, or one minus the cosine; RVF 8."""

Profile = Literal["generic", "dna", "text", "graph", "vision"]
"""What the vectors are about; the original takes it from the file's extension."""

Origin = Literal["root", "branch", "derived"]
"""How a file came to be."""

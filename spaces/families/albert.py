"""Family `albert` (arXiv:1909.11942): factorised embeddings and layers shared in groups, as a stock `AlbertModel`.

Sharing saves stored parameters and bytes, not computation: depth is what is run, groups are what is stored.
"""

from __future__ import annotations

from spaces.families.layout import Family, albert_tensors

FAMILY = Family(name="albert", tensors=albert_tensors, fault=lambda shape: "", model_type=lambda shape: "albert")

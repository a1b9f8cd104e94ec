"""Manifests: the text that people write, and the workloads that it means.

`parse` goes three steps: `loader` turns YAML or JSON into a tree whose nodes know their line and column,
`decode` turns a tree into domain objects by the table that `schema` derives from the dataclasses, and
`cloudless.core.validation` judges the result. Every step reports all that it finds as `Problem`s; nothing is
raised. `encode` goes the way back for `get -o yaml`.
"""

from cloudless.manifest.parse import Manifest, Parsed, Source, parse
from cloudless.manifest.problem import Problem

__all__ = ["Manifest", "Parsed", "Problem", "Source", "parse"]

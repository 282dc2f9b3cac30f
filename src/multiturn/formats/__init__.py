"""Trajectories and pairs in the formats of other programs: found out, read, written."""

from __future__ import annotations

from multiturn.formats.base import BadRecord, Context, Format, Item
from multiturn.formats.containers import has_rollout_header
from multiturn.formats.convert import ConversionReport, convert
from multiturn.formats.detect import FORMATS, detect, format_named
from multiturn.formats.reading import (
    ReadOptions,
    RecordReader,
    load_pairs,
    load_trajectories,
    pairs_of,
    trajectories_of,
)

__all__ = [
    "FORMATS",
    "BadRecord",
    "Context",
    "ConversionReport",
    "Format",
    "Item",
    "ReadOptions",
    "RecordReader",
    "convert",
    "detect",
    "format_named",
    "has_rollout_header",
    "load_pairs",
    "load_trajectories",
    "pairs_of",
    "trajectories_of",
]

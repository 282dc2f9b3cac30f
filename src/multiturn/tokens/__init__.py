"""From conversations to token ids whose turns are known exactly, and to batches of them."""

from multiturn.tokens.batches import Layout, lay_out
from multiturn.tokens.layout import PackedForest, Segment, forest_size, plant
from multiturn.tokens.packing import fill_passes
from multiturn.tokens.padded import PaddedBatch, collate
from multiturn.tokens.render import Renderer
from multiturn.tokens.rendered import NO_TURN, Overlong, Rendered, cut
from multiturn.tokens.template import resolve_template

__all__ = [
    "NO_TURN",
    "Layout",
    "Overlong",
    "PackedForest",
    "PaddedBatch",
    "Rendered",
    "Renderer",
    "Segment",
    "collate",
    "cut",
    "fill_passes",
    "forest_size",
    "lay_out",
    "plant",
    "resolve_template",
]

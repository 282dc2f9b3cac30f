"""From conversations to token ids whose turns are known exactly, and to batches of them."""

from multiturn.tokens.layout import PackedForest, Segment, forest_size, plant
from multiturn.tokens.padded import PaddedBatch, collate
from multiturn.tokens.render import Renderer
from multiturn.tokens.rendered import NO_TURN, Overlong, Rendered, cut
from multiturn.tokens.template import resolve_template

__all__ = [
    "NO_TURN",
    "Overlong",
    "PackedForest",
    "PaddedBatch",
    "Rendered",
    "Renderer",
    "Segment",
    "collate",
    "cut",
    "forest_size",
    "plant",
    "resolve_template",
]

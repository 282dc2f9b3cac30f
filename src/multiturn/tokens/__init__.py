"""From conversations to token ids whose turns are known exactly."""

from multiturn.tokens.layout import TokenBatch, collate
from multiturn.tokens.render import Renderer
from multiturn.tokens.rendered import NO_TURN, Overlong, Rendered, cut
from multiturn.tokens.template import resolve_template

__all__ = ["NO_TURN", "Overlong", "Rendered", "Renderer", "TokenBatch", "collate", "cut", "resolve_template"]

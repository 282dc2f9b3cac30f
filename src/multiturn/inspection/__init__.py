"""Looking at data before it is trained on: what is scored, what it weighs, what would be refused."""

from __future__ import annotations

from multiturn.inspection.rows import (
    InspectedRow,
    InspectedSide,
    InspectedToken,
    Inspector,
    LeftOutError,
    token_texts,
)
from multiturn.inspection.survey import Survey, survey

__all__ = [
    "InspectedRow",
    "InspectedSide",
    "InspectedToken",
    "Inspector",
    "LeftOutError",
    "Survey",
    "survey",
    "token_texts",
]

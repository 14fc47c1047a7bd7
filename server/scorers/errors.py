"""Why a scorer gave nothing."""

from __future__ import annotations


class ScorerError(Exception):
    """In words for the operator: never with the text of an answer, a key, or what an endpoint said in its own words."""

"""Text and token ids: what is typed as ids with open positions, samples as text up to their end, passages to be scored."""

from __future__ import annotations

from .encoding import MASK_TEXT, OPEN, check_ids, decode, encode, has_surrogates, plain_ids
from .endings import Ending, check_stops, ending
from .passage import Passage, encode_passage

__all__ = [
    "MASK_TEXT",
    "OPEN",
    "Ending",
    "Passage",
    "check_ids",
    "check_stops",
    "decode",
    "encode",
    "encode_passage",
    "ending",
    "has_surrogates",
    "plain_ids",
]

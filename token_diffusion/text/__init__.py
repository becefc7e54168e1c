"""Text and token ids: what is typed as ids with open positions, conversations, texts of samples to their end, texts to score."""

from __future__ import annotations

from .chat import chat_template, check_messages, read_messages
from .encoding import MASK_TEXT, OPEN, chat_ids, check_ids, decode, encode, has_surrogates, plain_ids
from .endings import Ending, check_stops, ending
from .passage import Passage, encode_passage

__all__ = [
    "MASK_TEXT",
    "OPEN",
    "Ending",
    "Passage",
    "chat_ids",
    "chat_template",
    "check_ids",
    "check_messages",
    "check_stops",
    "decode",
    "encode",
    "encode_passage",
    "ending",
    "has_surrogates",
    "plain_ids",
    "read_messages",
]

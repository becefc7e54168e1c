"""Text as token ids, and back, with no sampling in it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from .values import Text, TokenIds


class TokenPieces(BaseModel):
    """The vocabulary of a checkpoint."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    model: str
    vocab_size: int
    mask_token_id: int
    special_token_ids: list[int]
    """control tokens, and the one that stands for text that has no token"""
    pieces: list[str]
    """[vocab_size]: what each token is in the middle of a text; "" where there is no token"""


class TokenizeRequest(BaseModel):
    """A text to be tokenised as a prompt is; an unknown field is refused."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)

    prompt: Text
    """control tokens typed in it are ordinary text"""
    model: str | None = None
    """name of a loaded checkpoint; without it the default one"""
    add_frame: bool = False
    """put the frame's control tokens around it"""


class Tokens(BaseModel):
    """What a text is in tokens."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    model: str
    count: int
    max_model_len: int
    """longest seq_len that this server takes for this model, frame included"""
    tokens: list[int]
    token_strs: list[str]
    """as in /models/{name}/tokens"""


class DetokenizeRequest(BaseModel):
    """Token ids to be read; an unknown field is refused."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)

    tokens: TokenIds
    """at most as many as the longest seq_len"""
    model: str | None = None
    """name of a loaded checkpoint; without it the default one"""


class Detokenized(BaseModel):
    """What tokens are as text: masks are shown, other control tokens left out, as in the text of samples."""

    model: str
    prompt: str

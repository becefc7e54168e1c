"""Text as text: token ids of strings in which nothing that is typed becomes a control token, for prompts and training data alike.

Most tokenizers only have to be told not to look for control tokens. Some know them as pieces of their model, too: a unigram model
has `<mask>` in its vocabulary, a word-level one `[MASK]` among its words. For text that spells one of those there is a second
tokenizer, whose pieces of control tokens have names that nobody can type.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from ..facts import control_ids

LONGEST_WORD = 100
"""Characters that one token may stand for at least, as where a whole word is unknown."""


class LostToken(ValueError):
    """Text spells the control token `name`, which the tokenizer cannot write in other tokens."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name!r} cannot be written as text")
        self.name = name


def writes_text(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether it has a token besides control tokens and the unknown one.

    AutoTokenizer makes one that has none, without a word, of a folder whose vocabulary is in a file that it does not look for.
    """
    return not set(tokenizer.get_vocab().values()) <= control_ids(tokenizer) | {tokenizer.unk_token_id}


def plain(tokenizer: PreTrainedTokenizerBase) -> Plain:
    """The tokenizer's way with plain text; made once, and anew after control tokens were added."""
    known = _known.get(tokenizer)
    if known is None or known.state != _state(tokenizer):
        known = _known[tokenizer] = Plain(tokenizer)
    return known


def hidden_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Ids that no text shows: control tokens, those that the tokenizer has no role for among them, and the unknown one."""
    return plain(tokenizer).control | frozenset(tokenizer.all_special_ids)


class Plain:
    """Tokenises text in which nothing is special.

    control: the ids that never come of it. reach: characters that a token stands for at most, see `exceeds`.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.state, self.control = _state(tokenizer), control_ids(tokenizer)
        self.unknown = None if tokenizer.unk_token_id in self.control else tokenizer.unk_token_id
        self.reach = max(LONGEST_WORD, max(map(len, tokenizer.get_vocab()), default=0))
        self._names = dict(zip(self.control, tokenizer.convert_ids_to_tokens(list(self.control)), strict=True))
        self._backend = _rust(tokenizer)
        self._slow = _Slow(tokenizer, set(self._names.values())) if self._backend is None else None
        self._tokenizer = None if self._backend is None else _copy(self._backend, lambda layout: None)

    def ids(self, texts: Sequence[str], *, continuing: bool = False, lossless: bool = False) -> list[list[int]]:
        """The token ids of each text, no frame around them.

        A control token that is spelled out and that the tokenizer cannot write in other tokens becomes the unknown token, or
        nothing where there is none: see `lost`.

        continuing: the texts go on after something; no space is put before them, and those that they begin with stay.
        lossless: raise `LostToken` instead of losing a control token.
        """
        if continuing and self._strips:
            return [self._continued(text, lossless) for text in texts]
        return [ids for ids, _ in self._encode(texts, continuing, offsets=False, lossless=lossless)]

    def exceeds(self, text: str, num_tokens: int) -> bool:
        """Whether `text` is too long for that many tokens, by its characters alone: it takes no tokenizing.

        White space, which many a tokenizer drops, does not count, nor what a word has beyond `LONGEST_WORD`, as to some any
        long word is one unknown token. (Other characters that are dropped do: a text of hardly anything else is refused.)
        """
        most = num_tokens * self.reach
        return len(text) > most and sum(min(len(word), LONGEST_WORD) for word in text.split()) > most

    def ids_and_ends(self, texts: Sequence[str]) -> list[tuple[list[int], list[int]]]:
        """The same, each token with the character that it ends at. Raises `NotImplementedError` for a slow tokenizer."""
        if self._slow is not None:
            raise NotImplementedError(f"{self._slow.name} does not tell where its tokens end")
        return self._encode(texts, False, offsets=True)

    def lost(self, text: str) -> str | None:
        """The first control token that `text` spells and that this tokenizer cannot write in other tokens, if there is one."""
        return self._first_lost(self._spelled(text))

    def _first_lost(self, ids: Sequence[int]) -> str | None:
        for id in ids:
            if id not in self.control:
                continue
            name = self._names[id]
            written = [] if self._strict is None else self._strict.encode(name, add_special_tokens=False).ids
            if not written or self.unknown in written or not self.control.isdisjoint(written):
                return name
        return None

    @cached_property
    def holds_space(self) -> bool:
        """Whether a word's token holds the space before it, as byte-level and sentencepiece ones do."""
        together, apart = self.ids(["a a", "a"])
        rest = together[len(apart) :]
        return bool(rest) and self._piece(rest[0]).startswith(("\u0120", "\u2581"))

    def _piece(self, id: int) -> str:
        if self._slow is not None:
            return self._slow.piece(id)
        assert self._tokenizer is not None
        return str(self._tokenizer.id_to_token(id))

    def _spelled(self, text: str) -> list[int]:
        """The ids that come of `text` where only looking for control tokens is left off."""
        if self._slow is not None:
            return self._slow.ids(text)
        assert self._tokenizer is not None
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def _refuse_lost(self, ids: Sequence[int]) -> None:
        if (name := self._first_lost(ids)) is not None:
            raise LostToken(name)

    def _encode(
        self, texts: Sequence[str], continuing: bool, offsets: bool, lossless: bool = False
    ) -> list[tuple[list[int], list[int]]]:
        if self._slow is not None:
            slow = [self._slow.ids(text) for text in texts]
            for ids in slow if lossless else []:
                self._refuse_lost(ids)
            return [self._without_control(ids, []) for ids in slow]
        tokenizer = self._continuing if continuing else self._tokenizer
        assert tokenizer is not None
        batch = tokenizer.encode_batch if offsets else tokenizer.encode_batch_fast
        found = []
        for text, encoding in zip(texts, batch(list(texts), add_special_tokens=False), strict=True):
            ids = encoding.ids
            if self.control.isdisjoint(ids):
                found.append((ids, [end for _, end in encoding.offsets] if offsets else []))
            else:
                if lossless:
                    self._refuse_lost(ids)
                found.append(self._encode_strictly(text, continuing, offsets))
        return found

    def _encode_strictly(self, text: str, continuing: bool, offsets: bool) -> tuple[list[int], list[int]]:
        """Text that spells control tokens which the tokenizer's model knows as pieces."""
        tokenizer = self._strict_continuing if continuing else self._strict
        assert tokenizer is not None
        encoding = tokenizer.encode(text, add_special_tokens=False)
        return self._without_control(encoding.ids, [end for _, end in encoding.offsets] if offsets else [])

    def _without_control(self, ids: list[int], ends: list[int]) -> tuple[list[int], list[int]]:
        """Control tokens that are still there, for want of any others, become the unknown token, or go where there is none."""
        written = [self.unknown if id in self.control else id for id in ids]
        kept = [index for index, id in enumerate(written) if id is not None]
        return [id for id in written if id is not None], [ends[index] for index in kept] if ends else []

    def _continued(self, text: str, lossless: bool) -> list[int]:
        """A word that goes on has no space before it; from the first white space on it is a text like any other."""
        word = re.match(r"\S*", text)[0]  # type: ignore[index]  # it matches everything
        rest = text[len(word) :]
        ((start, _),) = self._encode([word], True, False, lossless)
        ((end, _),) = self._encode([rest], False, False, lossless)
        return (start if word else []) + (end if rest.strip() else [])

    @cached_property
    def _strips(self) -> bool:
        """Whether spaces at the start of a text are thrown away before one is put there, as XLM-R's and ALBERT's kind does."""
        together, apart = (ids for ids, _ in self._encode([" a", "a"], True, False))
        return together == apart != self._encode(["a"], False, False)[0][0]

    @cached_property
    def _continuing(self) -> Tokenizer | None:
        return self._backend and _copy(self._backend, _put_no_space_before)

    @cached_property
    def _strict(self) -> Tokenizer | None:
        return self._backend and _copy(self._backend, self._rename_control)

    @cached_property
    def _strict_continuing(self) -> Tokenizer | None:
        return self._strict and _copy(self._strict, _put_no_space_before)

    def _rename_control(self, layout: dict[str, Any]) -> None:
        """Gives the control tokens names that nobody can type, in the vocabulary and among the added tokens; their ids stay."""
        # A noncharacter of Unicode, and a number that is drawn now.
        names = {name: f"\uffff{secrets.token_hex(8)}{id}" for id, name in self._names.items()}
        for token in layout["added_tokens"]:
            token["content"] = names.get(token["content"], token["content"])
        model = layout["model"]
        if isinstance(model["vocab"], dict):
            model["vocab"] = {names.get(piece, piece): id for piece, id in model["vocab"].items()}
        else:  # unigram
            model["vocab"] = [[names.get(piece, piece), score] for piece, score in model["vocab"]]
        if model.get("unk_token") in names:
            model["unk_token"] = names[model["unk_token"]]
        if model.get("merges"):
            mark = len(model.get("continuing_subword_prefix") or "")
            pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
            model["merges"] = [(a, b) for a, b in pairs if names.keys().isdisjoint({a, b, a + b[mark:]})]


_known: WeakKeyDictionary[PreTrainedTokenizerBase, Plain] = WeakKeyDictionary()


def _state(tokenizer: PreTrainedTokenizerBase) -> tuple[object, ...]:
    return len(tokenizer), tuple(tokenizer.all_special_ids), tokenizer.unk_token_id


def _rust(tokenizer: PreTrainedTokenizerBase) -> Tokenizer | None:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return backend if isinstance(backend, Tokenizer) else None


def _copy(backend: Tokenizer, edit: Callable[[dict[str, Any]], None]) -> Tokenizer:
    """A tokenizer of its own, told not to look for control tokens: a call of transformers sets the original as it likes."""
    layout = json.loads(backend.to_str())
    layout["truncation"] = layout["padding"] = None
    edit(layout)
    tokenizer = Tokenizer.from_str(json.dumps(layout))
    tokenizer.encode_special_tokens = True
    return tokenizer


def _put_no_space_before(layout: dict[str, Any]) -> None:
    """Takes away whatever puts a space before a text: it is there where the text has one."""
    layout["normalizer"] = _parts(layout["normalizer"], "normalizers")
    layout["pre_tokenizer"] = _parts(layout["pre_tokenizer"], "pretokenizers")


def _parts(part: dict[str, Any] | None, name: str) -> dict[str, Any] | None:
    if part is None or part["type"] == "Prepend":
        return None
    if part["type"] == "Sequence":
        kept = [inner for each in part[name] if (inner := _parts(each, name)) is not None]
        return part | {name: kept} if kept else None
    if part["type"] == "Metaspace":
        return part | {"prepend_scheme": "never"}
    if part["type"] == "ByteLevel":
        return part | {"add_prefix_space": False}
    return part


class _Slow:
    """A tokenizer written in Python. Told not to look for control tokens, it looks for no others either: ESM's finds its
    letters, and all of them theirs that were added, by looking. So that is done here, for all but those called `control`.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, control: set[str]) -> None:
        self.tokenizer, self.name = tokenizer, type(tokenizer).__name__
        looked_for: set[str] = getattr(getattr(tokenizer, "tokens_trie", None), "_tokens", set())
        words = sorted({*looked_for, *tokenizer.get_added_vocab()} - control - {""}, key=len, reverse=True)
        self.words: dict[str, Any] = {word: tokenizer.convert_tokens_to_ids(word) for word in words}
        self.pattern = re.compile(f"({'|'.join(map(re.escape, words))})") if words else None

    def ids(self, text: str) -> list[int]:
        ids: list[int] = []
        for part in [text] if self.pattern is None else self.pattern.split(text):
            known = self.words.get(part)
            if known is not None:
                ids.append(known)
            elif part:
                ids += self.tokenizer(part, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return ids

    def piece(self, id: int) -> str:
        return str(self.tokenizer.convert_ids_to_tokens(id))

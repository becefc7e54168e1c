"""Tokens of the pieces are tokens of the whole, whatever the tokenizer does around white space; or there is one piece."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from tests.tiny import byte_tokenizer, tiny_tokenizer, wordpiece_tokenizer
from token_diffusion.text.plain import plain
from trainer.data import cutting
from trainer.data.cutting import Cutter, cut, cutter_of
from trainer.data.reading.documents import Piece

WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "w1",
    "w2",
    "unable",
    "naïve",
    "猫が",
    "3.14",
    "don't",
    "e\u0301",
    "x" * 40,
]
SPACES = [" "] * 12 + ["\n", "\n\n", "  ", "\t", "\r\n", " \n  ", "\u00a0", "\u2028", "\x0c", " " * 30, "\n" * 9]
MARKS = ["", "", "", "", ".", ",", "!", '."', " —", "…", "[MASK]", " [SEP]", "</s>", " <mask>"]
CL100K = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def random_text(seed: int, num_words: int = 1500) -> str:
    chosen = random.Random(seed)
    parts = (chosen.choice(WORDS) + chosen.choice(MARKS) + chosen.choice(SPACES) for _ in range(num_words))
    return chosen.choice(["", " ", "\n\n"]) + "".join(parts)


def trained(model: str, pre_tokenizer: object, normalizer: object = None) -> PreTrainedTokenizerBase:
    """A tokenizer of random text."""
    kinds = {"bpe": (models.BPE, trainers.BpeTrainer), "unigram": (models.Unigram, trainers.UnigramTrainer)}
    make, make_trainer = kinds[model]
    tokenizer = Tokenizer(make())
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer  # type: ignore[assignment]
    if normalizer is not None:
        tokenizer.normalizer = normalizer  # type: ignore[assignment]
    tokenizer.decoder = decoders.ByteLevel()
    names = ["<unk>", "<pad>", "<mask>", "</s>"]
    options = {"unk_token": "<unk>"} if model == "unigram" else {}
    trainer = make_trainer(vocab_size=400, special_tokens=names, show_progress=False, **options)
    text = random_text(99).replace("</s>", "").replace("[MASK]", "").replace("[SEP]", "")
    tokenizer.train_from_iterator([text], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>", mask_token="<mask>", eos_token="</s>"
    )


def bytes_after(pattern: str) -> pre_tokenizers.Sequence:
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


TIDY = normalizers.Sequence(
    [normalizers.Replace(Regex(r"\s+"), " "), normalizers.NFKC(), normalizers.Strip(), normalizers.Lowercase()]
)
SPLITTING: dict[str, Callable[[], PreTrainedTokenizerBase]] = {
    "byte-level": byte_tokenizer,
    "byte-level with a space put before": lambda: trained("bpe", pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "byte-level of newer models": lambda: trained("bpe", bytes_after(CL100K)),
    "wordpiece": wordpiece_tokenizer,
    "words": tiny_tokenizer,
    "unigram": lambda: trained("unigram", pre_tokenizers.Metaspace()),
    "unigram, a space put first only": lambda: trained("unigram", pre_tokenizers.Metaspace(prepend_scheme="first")),
    "unigram, no space put": lambda: trained("unigram", pre_tokenizers.Metaspace(prepend_scheme="never")),
    "unigram of tidied text": lambda: trained("unigram", pre_tokenizers.Metaspace(), TIDY),
    "sentencepiece BPE": lambda: trained("bpe", pre_tokenizers.Metaspace(), normalizers.NFKC()),
}
WHOLE: dict[str, Callable[[], PreTrainedTokenizerBase]] = {
    "no pre-tokenizer": lambda: trained(
        "bpe", None, normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    ),
    "sentences in one": lambda: trained("unigram", pre_tokenizers.Metaspace(split=False)),
}


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutting, "PIECE_CHARS", 100)
    monkeypatch.setattr(cutting, "CONTEXT", 64)


@pytest.mark.parametrize("kind", [*SPLITTING, *WHOLE])
def test_the_tokens_are_those_of_the_whole(kind: str) -> None:
    tokenizer = (SPLITTING | WHOLE)[kind]()
    cutter = cutter_of(tokenizer)
    for seed in range(8):
        text = random_text(seed)
        pieces = list(cutter.pieces([text]))
        assert "".join(pieces) == text
        (whole,) = plain(tokenizer).ids([text])
        assert [token for ids in plain(tokenizer).ids(pieces) for token in ids] == whole
        assert len(pieces) > 15 if kind in SPLITTING else len(pieces) == 1, "otherwise a book is tokenised at once"


def test_how_text_comes_does_not_matter() -> None:
    """Chunks of a file, or all of it."""
    cutter, text = cutter_of(byte_tokenizer()), random_text(1)
    chunks = [text[start : start + 77] for start in range(0, len(text), 77)]
    assert "".join(cutter.pieces(chunks)) == text and len(list(cutter.pieces(chunks))) > 15


def test_a_cut_that_changes_tokens_is_found_out() -> None:
    """Words that hold the punctuation and line end before them: those cuts that are refused would have been wrong."""
    tokenizer = trained("bpe", bytes_after(r"\s*\S+\s*"))
    assert len(list(cutter_of(tokenizer).pieces([random_text(2)]))) == 1
    assert len(list(Cutter(None).pieces([random_text(2)]))) > 15


def test_text_without_white_space_stays_whole() -> None:
    assert list(cutter_of(byte_tokenizer()).pieces(["abc" * 2000])) == ["abc" * 2000]


def test_documents_are_cut_one_by_one() -> None:
    text = random_text(3)
    pieces = [Piece("one", (0, 0)), Piece(text[:500], (0, 4)), Piece(text[500:], (0, 4), 1), Piece(" two", (1, 0))]
    found = list(cut(pieces, byte_tokenizer()))
    assert found[0] == pieces[0] and found[-1] == pieces[-1]
    inner = found[1:-1]
    assert "".join(piece.text for piece in inner) == text and {piece.document for piece in inner} == {(0, 4)}
    assert [piece.number for piece in inner] == list(range(len(inner))) and len(inner) > 15

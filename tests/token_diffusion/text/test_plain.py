"""What is typed is text: no control token comes of it, whatever kind of tokenizer, and what cannot be written is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    ByT5Tokenizer,
    EsmTokenizer,
    PerceiverTokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from tests.tiny import byte_tokenizer, tiny_tokenizer, wordpiece_tokenizer
from token_diffusion.errors import ParameterError
from token_diffusion.facts import control_ids
from token_diffusion.text import OPEN, decode, encode
from token_diffusion.text.plain import plain, writes_text

NAMES = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "mask_token": "<mask>"}
TEXT = "the cat sat on the mat, and the dog sat on the cat. < / s p a d m k u n > abcdefghijklmnopqrstuvwxyz"


def unigram(prepend_scheme: str = "always") -> PreTrainedTokenizerFast:
    """As XLM-R's and CamemBERT's: the control tokens are pieces of the model."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend_scheme)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=prepend_scheme)
    trainer = trainers.UnigramTrainer(
        vocab_size=80, special_tokens=list(NAMES.values()), unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator([TEXT] * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **NAMES)


def stripped_unigram(splits: bool = True) -> PreTrainedTokenizerFast:
    """As XLM-R, CamemBERT and ALBERT are made by transformers 5: spaces go before one is put in front of each word."""
    layout = unigram()
    backend = layout.backend_tokenizer
    metaspace = pre_tokenizers.Metaspace(prepend_scheme="always")
    if splits:
        backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), metaspace])
    else:
        backend.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Strip()])
    return PreTrainedTokenizerFast(tokenizer_object=backend, **NAMES)


def words(mask: str = "<mask>", unknown: bool = True) -> PreTrainedTokenizerFast:
    """Words between spaces, the control tokens among them."""
    names = NAMES | {"mask_token": mask}
    vocabulary = [*names.values(), "the", "cat", "sat", "a", "b"]
    model = models.WordLevel({word: id for id, word in enumerate(vocabulary)}, unk_token="<unk>" if unknown else "the")
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def bpe_with_mask_as_a_word() -> PreTrainedTokenizerFast:
    """Merges lead to "mask", which is the mask; whole words are looked up before they are cut up, as Llama 3 does."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(["mask masks masked unmask"] * 9, trainer)
    assert tokenizer.token_to_id("mask") is not None
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, mask_token="mask", eos_token="<|end|>", unk_token="<|end|>"
    )


def bpe_with_marked_pieces() -> PreTrainedTokenizerFast:
    """BPE whose pieces within a word begin with ##, which merges leave out; its mask is a word that merges lead to."""
    tokenizer = Tokenizer(models.BPE(continuing_subword_prefix="##", unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece()
    names = NAMES | {"mask_token": "and"}
    trainer = trainers.BpeTrainer(
        vocab_size=150, special_tokens=list(names.values()), continuing_subword_prefix="##", show_progress=False
    )
    tokenizer.train_from_iterator([TEXT] * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def protein_tokenizer(folder: Path) -> EsmTokenizer:
    """Written in Python; it finds its letters by looking for them, as others look for control tokens."""
    letters = ["<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWC", "<mask>"]
    (folder / "vocab.txt").write_text("\n".join(letters))
    return EsmTokenizer(str(folder / "vocab.txt"))


WRITERS: dict[str, Callable[[], PreTrainedTokenizerBase]] = {
    "unigram": unigram,
    "unigram, no space at the start": lambda: unigram(prepend_scheme="never"),
    "unigram, words apart": stripped_unigram,
    "unigram, stripped": lambda: stripped_unigram(splits=False),
    "marked pieces": bpe_with_marked_pieces,
    "bytes": lambda: byte_tokenizer("<mask>"),
    "wordpiece": wordpiece_tokenizer,
    "a word is the mask": bpe_with_mask_as_a_word,
}


@pytest.fixture(scope="module", params=WRITERS)
def writer(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    return WRITERS[request.param]()


def test_every_control_token_can_be_typed(writer: PreTrainedTokenizerBase) -> None:
    control = control_ids(writer)
    assert writer.mask_token_id in control and len(control) >= 2
    names = writer.convert_ids_to_tokens(sorted(control))
    texts = [f"the {name} cat{name}" for name in names] + ["".join(names), " ".join(names), *names]
    for text, ids in zip(texts, plain(writer).ids(texts), strict=True):
        assert ids and control.isdisjoint(ids), text
        assert encode(writer, seq_len=None, prompt=text) == ids


def test_what_was_typed_is_what_is_read(writer: PreTrainedTokenizerBase) -> None:
    text = f"the {writer.mask_token} cat {writer.eos_token or writer.pad_token}"
    ids = encode(writer, seq_len=None, prompt=text)
    assert decode(writer, ids).replace(" ", "").lower() == text.replace(" ", "").lower() or writer.unk_token_id in ids


def test_text_without_control_tokens_is_the_tokenizers_own(writer: PreTrainedTokenizerBase) -> None:
    texts = ["the cat sat on the mat.", "", " the  cat", "dogs\n\nsat"]
    assert plain(writer).ids(texts) == writer(texts, add_special_tokens=False)["input_ids"]


def test_one_text_with_control_tokens_changes_no_other(writer: PreTrainedTokenizerBase) -> None:
    texts = ["the cat", str(writer.mask_token), "sat on"]
    assert plain(writer).ids(texts) == [plain(writer).ids([text])[0] for text in texts]


def test_ends_are_those_of_the_whole_text(writer: PreTrainedTokenizerBase) -> None:
    text = f"the cat {writer.mask_token} sat"
    ((ids, ends),) = plain(writer).ids_and_ends([text])
    assert ids == plain(writer).ids([text])[0] and len(ids) == len(ends)
    assert ends == sorted(ends) and ends[-1] == len(text)


@pytest.mark.parametrize("typed", ["<mask>", "</s>", "<pad>"])
def test_a_tokenizer_that_cannot_write_it_says_so(typed: str) -> None:
    tokenizer = words()
    assert plain(tokenizer).lost(f"the {typed} cat") == typed
    assert plain(tokenizer).lost("the dog cat") is None  # an unknown word is no control token
    with pytest.raises(
        ParameterError, match=f"prompt must hold no '{typed}', which the tokenizer knows as a control token"
    ):
        encode(tokenizer, seq_len=9, prompt=f"the {typed} cat")
    with pytest.raises(ParameterError, match="template must hold no"):
        encode(tokenizer, seq_len=9, template=f"the {typed} [MASK]")
    vocabulary = tokenizer.get_vocab()
    assert plain(tokenizer).ids([f"the {typed} cat"]) == [[vocabulary["the"], vocabulary["<unk>"], vocabulary["cat"]]]


def test_a_mask_that_is_an_ordinary_word() -> None:
    tokenizer = words(mask="cat")
    assert plain(tokenizer).lost("the cat sat") == "cat"
    assert encode(tokenizer, seq_len=None, template="the [MASK] sat")[1] == OPEN


def test_an_unknown_token_that_ends_texts_is_a_control_token() -> None:
    tokenizer = bpe_with_mask_as_a_word()
    assert tokenizer.unk_token_id in control_ids(tokenizer)
    assert tiny_tokenizer().unk_token_id not in control_ids(tiny_tokenizer())


def test_control_tokens_that_were_added_later_are_text_too() -> None:
    tokenizer = byte_tokenizer()
    before = plain(tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken("<|turn|>", special=True)]})
    added = tokenizer.get_vocab()["<|turn|>"]
    assert plain(tokenizer) is not before and added in plain(tokenizer).control
    assert added not in plain(tokenizer).ids(["the <|turn|> cat"])[0]
    assert plain(tokenizer) is plain(tokenizer)


def test_a_tokenizer_without_a_vocabulary_writes_no_text() -> None:
    """As AutoTokenizer makes of a folder whose vocab.txt its kind does not look for."""
    assert not writes_text(PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.Unigram()), **NAMES))
    assert all(writes_text(make()) for make in (*WRITERS.values(), words))


def test_added_words_that_are_no_control_tokens_stay_tokens() -> None:
    tokenizer = unigram()
    tokenizer.add_tokens(["mat!"])
    added = tokenizer.get_vocab()["mat!"]
    text = "the mat! </s> mat!"
    assert plain(tokenizer).ids([text])[0].count(added) == 2


@pytest.mark.parametrize(
    ("tokenizer", "expected"),
    [(byte_tokenizer, True), (unigram, True), (wordpiece_tokenizer, False), (words, False)],
)
def test_whether_words_hold_the_space_before_them(
    tokenizer: Callable[[], PreTrainedTokenizerBase], expected: bool
) -> None:
    assert plain(tokenizer()).holds_space is expected


@pytest.mark.parametrize("scheme", ["always", "first", "never"])
def test_text_after_a_hole_gets_no_space_of_its_own(scheme: str) -> None:
    tokenizer = unigram(prepend_scheme=scheme)
    ids = encode(tokenizer, seq_len=None, template="the c[MASK]t sat")
    ids[ids.index(OPEN)] = tokenizer.get_vocab()["a"]
    assert decode(tokenizer, ids).strip() == "the cat sat"


@pytest.mark.parametrize("splits", [True, False])
def test_text_after_a_hole_keeps_the_space_that_it_begins_with(splits: bool) -> None:
    tokenizer = stripped_unigram(splits)
    a, space_a = (tokenizer.get_vocab()[piece] for piece in ("a", "\u2581a"))
    for template, fill, text in [
        ("the [MASK] sat on", space_a, "the a sat on"),
        ("the[MASK]\nsat", space_a, "the a sat"),
        ("the c[MASK]t sat on ", a, "the cat sat on"),
        ("[MASK] ", a, "a"),
    ]:
        ids = encode(tokenizer, seq_len=None, template=template)
        assert decode(tokenizer, [fill if id == OPEN else id for id in ids]).strip() == text, template


def test_a_tokenizer_that_looks_for_its_letters_finds_them(tmp_path: Path) -> None:
    tokenizer = protein_tokenizer(tmp_path)
    assert (
        plain(tokenizer).ids(["MKTAY", "M K", ""])
        == tokenizer(["MKTAY", "M K", ""], add_special_tokens=False)["input_ids"]
    )
    assert tokenizer.unk_token_id not in plain(tokenizer).ids(["MKTAY"])[0]
    assert plain(tokenizer).lost("MK<mask>T") == "<mask>" and plain(tokenizer).lost("MKT") is None
    assert encode(tokenizer, seq_len=None, template="MK[MASK]T")[2] == OPEN
    vocabulary = tokenizer.get_vocab()
    assert plain(tokenizer).ids(["M<mask>K"]) == [[vocabulary["M"], tokenizer.unk_token_id, vocabulary["K"]]]


@pytest.mark.parametrize("kind", [PerceiverTokenizer, ByT5Tokenizer])
def test_bytes_of_a_tokenizer_in_python_spell_its_control_tokens(kind: type[PreTrainedTokenizerBase]) -> None:
    tokenizer = kind() if kind is PerceiverTokenizer else kind(mask_token="<extra_id_0>")
    tokenizer.add_tokens(["cat"])
    added = tokenizer.get_vocab()["cat"]
    for name in (tokenizer.mask_token, tokenizer.pad_token):
        text = f"a{name} cat"
        (ids,) = plain(tokenizer).ids([text])
        assert plain(tokenizer).control.isdisjoint(ids) and ids[-1] == added
        assert len(ids) == len(text) - 2 and decode(tokenizer, ids) == text

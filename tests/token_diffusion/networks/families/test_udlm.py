"""UDLM's folders: labels, and the tokenizer of molecules."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.token_diffusion.networks.families.dit_folders import answers, load, network, write_folder, write_tokenizer
from tests.token_diffusion.networks.families.recording import recording
from token_diffusion import ParameterError
from token_diffusion.checkpoint import open_checkpoint
from token_diffusion.facts import Frame
from token_diffusion.networks.families import udlm
from token_diffusion.networks.families.dit.udlm import SMILESTokenizer

MOLECULES = {
    "C#CC1(O)C[NH2+]1": [0, 15, 5, 15, 15, 9, 6, 18, 7, 15, 24, 9, 1],
    "Cn1cc[nH]c1=O": [0, 15, 33, 9, 32, 32, 31, 32, 9, 14, 18, 1],
    "O=C([O-])C1C[NH+]2CC12": [0, 18, 14, 15, 6, 26, 7, 15, 9, 15, 23, 10, 15, 15, 9, 10, 1],
    "[Si]C": [0, 4, 15, 1],
}
"""Token ids as the authors' own tokenizer (discrete-diffusion-guidance/tokenizer.py) gave them."""


def test_a_label_is_one_of_the_classes_or_none(tmp_path: Path) -> None:
    checkpoint, recorded = load(tmp_path, "udlm-labels"), recording("udlm-labels")
    labels = recorded.inputs["labels"]
    assert checkpoint.num_classes == 3 and labels.tolist() == [0, 1, 2, 3, 0]  # theirs for none is the last row
    ours = torch.where(labels == 3, -1, labels)
    tokens, t = recorded.inputs["tokens"], recorded.inputs["t"].double()
    valid, positions = torch.ones_like(tokens, dtype=torch.bool), torch.arange(tokens.numel())
    logits = checkpoint.denoiser(tokens, t, valid, positions, ours).view_as(recorded.outputs["logits"])
    torch.testing.assert_close(logits, recorded.outputs["logits"], rtol=0, atol=1e-5)
    unasked = checkpoint.denoiser(tokens, t, valid, positions).view_as(logits)
    torch.testing.assert_close(unasked[3], logits[3], rtol=0, atol=1e-5)
    assert ((unasked - logits).abs().amax((1, 2)) > 1e-2).tolist() == [True, True, True, False, True]


def test_what_a_label_adds_is_added_to_the_time() -> None:
    """Their network without a label adds nothing, which it has not learnt; the same as an embedding of zeros."""
    recorded = recording("udlm-labels")
    table = "backbone.cond_map.embedding_table.weight"
    zeros = network(recorded, recorded.weights | {table: torch.zeros_like(recorded.weights[table])})
    without = recorded.outputs["logits_without_labels"]
    torch.testing.assert_close(answers(zeros, recorded), without, rtol=0, atol=1e-5)
    assert (recorded.outputs["logits"] - without).abs().max() > 0.1


def test_labels_in_the_weights_alone_are_refused() -> None:
    recorded = recording("udlm-labels")
    with pytest.raises(ParameterError, match="cfg must be true where there is an embedding of labels"):
        udlm.read(recorded.config | {"cfg": False}, recorded.weights)
    with pytest.raises(ParameterError, match="cfg_num_classes must be >= 1, got -1"):
        udlm.read(recorded.config | {"cfg_num_classes": -1}, recorded.weights)


def test_molecules_are_written_as_theirs_are(tmp_path: Path) -> None:
    tokenizer = SMILESTokenizer.from_pretrained(str(write_tokenizer(tmp_path / "qm9", "udlm")))
    for smiles, ids in MOLECULES.items():
        assert tokenizer(smiles)["input_ids"] == ids
        if 4 not in ids:
            assert tokenizer.decode(ids, skip_special_tokens=True) == smiles
    tokenizer.save_pretrained(tmp_path / "saved")
    again = SMILESTokenizer.from_pretrained(str(tmp_path / "saved"))
    assert again.get_vocab() == tokenizer.get_vocab() and again.mask_token_id == 2


def test_a_molecule_ends_and_is_padded_and_a_sentence_ends(tmp_path: Path) -> None:
    """Padding counts in the loss of QM9, not in LM1B's."""
    facts = load(tmp_path, "udlm").facts
    assert facts.frame == Frame((0,), ()) and facts.learnt == {1, 3}
    lm1b = udlm.read(recording("udlm").config | {"vocab_size": 30522, "model_length": 128}, ())
    assert lm1b is not None and lm1b.scheduler["mask_token_id"] == 103
    assert (lm1b.prefix, lm1b.learnt, lm1b.tokenizer) == (("cls",), ("sep",), "bert-base-uncased")


@pytest.mark.parametrize("vocabulary", [["C"], {"C": "one"}, 3, "nonsense"])
def test_a_broken_vocabulary_of_molecules_is_refused(vocabulary: object, tmp_path: Path) -> None:
    folder, tokenizer = write_folder(tmp_path / "udlm", recording("udlm")), write_tokenizer(tmp_path / "qm9", "udlm")
    (tokenizer / "vocab.json").write_text(json.dumps(vocabulary) if vocabulary != "nonsense" else "{")
    with pytest.raises(ParameterError, match="hold a readable tokenizer"):
        open_checkpoint(folder, tokenizer_name=tokenizer)


def test_one_that_is_not_told_the_time_is_told_zero() -> None:
    recorded = recording("udlm")
    untold = replace(recorded, config=recorded.config | {"time_conditioning": False})
    late, early = ({"t": torch.full_like(recorded.inputs["t"], t)} for t in (0.9, 0.1))
    model = network(untold)
    assert answers(model, replace(untold, inputs=untold.inputs | late)).equal(
        answers(model, replace(untold, inputs=untold.inputs | early))
    )

"""The head of a card: what it claims of a folder is true of it, and what is not known is left out."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard, ModelCardData
from transformers import pipeline

from tests.tiny import save_tiny
from tests.trainer.report.test_card import BOUND, FACTS, HUB
from tests.workplaces import make_workplace
from trainer.__main__ import main
from trainer.report.card import model_card
from trainer.report.metadata import HubFacts, metadata


def head(facts: HubFacts) -> dict[str, object]:
    """As the hub reads it: from the text of the card."""
    return ModelCard(model_card(replace(FACTS, hub=facts))).data.to_dict()


def test_what_was_not_said_is_not_there() -> None:
    known = head(replace(HUB, bound=None))
    assert known == {
        "library_name": "transformers",
        "pipeline_tag": "fill-mask",
        "tags": ["token-diffusion", "discrete-diffusion", "hybrid"],
    }


def test_what_was_said_is() -> None:
    told = replace(HUB, base_model="ann/base", datasets=("ann/texts",), license="apache-2.0", language=("en", "de"))
    found = head(told)
    assert (found["base_model"], found["license"], found["language"]) == ("ann/base", "apache-2.0", ["en", "de"])
    assert found["datasets"] == ["ann/texts"]
    card = ModelCard(model_card(replace(FACTS, hub=told)))
    assert isinstance(card.data, ModelCardData) and card.data.eval_results is not None
    (result,) = card.data.eval_results
    assert (result.metric_type, result.verified) == ("perplexity", False) and "upper bound" in str(result.metric_name)
    assert result.metric_value == pytest.approx(BOUND.perplexity, abs=1e-4)
    assert (result.dataset_type, result.dataset_name) == ("ann/texts", "input.txt (last 10 %)")
    assert card.data.model_name == "run"


@pytest.mark.parametrize("process", ["absorbing", "hybrid"])
def test_where_a_card_says_fill_mask_a_stranger_can_fill_masks(process: str, tmp_path: Path) -> None:
    facts = replace(HUB, process=process)
    assert metadata(facts).pipeline_tag == "fill-mask"
    folder = save_tiny(tmp_path / "saved", process)
    filled = pipeline("fill-mask", model=str(folder), tokenizer=str(folder))("w1 [MASK] w3")
    assert len(filled) == 5 and all(0 < each["score"] < 1 for each in filled)


def test_where_it_does_not_say_so_they_cannot(tmp_path: Path) -> None:
    """Our own network is asked for a time, and known after `import token_diffusion` only; uniform noise has no mask."""
    uniform, native = replace(HUB, process="uniform"), replace(HUB, model_type="token-diffusion")
    for facts in (uniform, native):
        assert metadata(facts).pipeline_tag is None
    assert "has not learnt what a mask is" in model_card(replace(FACTS, hub=uniform))
    assert metadata(native).library_name == "token-diffusion"
    assert "after `import token_diffusion` only" in model_card(replace(FACTS, hub=native))
    folder = save_tiny(tmp_path / "saved", "absorbing", "token-diffusion")
    program = f"""
from transformers import AutoModelForMaskedLM
try:
    AutoModelForMaskedLM.from_pretrained({str(folder)!r})
except ValueError as error:
    print(error)
import token_diffusion
AutoModelForMaskedLM.from_pretrained({str(folder)!r})
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "has model type `token-diffusion` but Transformers does not recognize" in done.stdout


def test_a_trained_folder_tells_its_licence_and_precision(tmp_path: Path) -> None:
    workplace = make_workplace(tmp_path, ["the cat sat on the mat", "a dog ran"] * 10, vocab_size=280)
    flags = [
        f"--train_file={workplace / 'text.txt'}",
        f"--tokenizer_name={workplace / 'tokenizer'}",
        "--config_name=bert",
    ]
    flags += ["--config_overrides=hidden_size=16,num_hidden_layers=1,num_attention_heads=2,intermediate_size=32"]
    flags += ["--max_length=12", "--max_steps=1", "--report_to=none", f"--output_dir={tmp_path / 'run'}"]
    flags += ["--license=mit", "--language", "en", "--validation_split_percentage=20"]
    assert main(["udlm", *flags]) == 0
    card = ModelCard.load(tmp_path / "run" / "final" / "README.md")
    found = card.data.to_dict()
    assert (found["license"], found["language"], found["library_name"]) == ("mit", ["en"], "transformers")
    assert "base_model" not in found and "pipeline_tag" not in found and "datasets" not in found
    assert found["model-index"][0]["name"] == "run"
    for part in ("| Precision | float32 |", "| Optimizer | `adamw_torch`, learning rate 5e-05, cosine", "not on PyPI"):
        assert part in card.content
    assert str(tmp_path) not in card.content


def test_the_snippet_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("token_diffusion.pipelines")
    folder = save_tiny(tmp_path / "saved", "absorbing")
    snippet = re.search(r"```python\n(.*?)```", model_card(replace(FACTS, place=str(folder))), re.DOTALL)
    assert snippet is not None
    exec(snippet[1], {})
    assert len(capsys.readouterr().out.splitlines()) == 4

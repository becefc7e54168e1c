"""MAUVE against its authors' figures and known answers; what is measured of samples, and which settings there are."""

from __future__ import annotations

import argparse
import math
from collections import Counter as Counts
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from benchmarks.decoders import part
from benchmarks.decoders.mauve import area, mauve, shares
from benchmarks.decoders.overhead import measure
from benchmarks.decoders.part import add_arguments, named, section
from benchmarks.decoders.quality import Counter, Examiner, features
from benchmarks.decoders.settings import Setting, settings
from tests.tiny import PROCESSES, save_tiny, tiny_model
from token_diffusion import TokenDiffusionScheduler
from token_diffusion.checkpoint import load_checkpoint
from token_diffusion.networks.denoiser import as_denoiser
from token_diffusion.samplers.catalogue import KINDS
from token_diffusion.samplers.parameters import SamplingParameters
from token_diffusion.sampling import run
from trainer.evaluation.quality import Text, load_judge


def test_the_area_is_that_of_the_authors_code() -> None:
    """Figures of mauve-text 0.4.0."""
    assert area(np.array([0.5, 0.3, 0.2]), np.array([0.1, 0.3, 0.6])) == pytest.approx(0.5789393058069949, abs=1e-12)
    assert area(np.array([0.5, 0.5, 0]), np.array([0.2, 0, 0.8])) == pytest.approx(0.02776322036859432, abs=1e-12)


def test_two_laws_alike_and_two_that_share_nothing() -> None:
    p, q = np.array([0.25, 0.75, 0.0]), np.array([0.0, 0.0, 1.0])
    assert area(p, p) == pytest.approx(1)
    assert area(p, q) < 0.01
    assert area(p, q) == pytest.approx(area(q, p))


def test_features_of_one_law_are_near_and_of_two_are_far() -> None:
    random = np.random.default_rng(0)
    one, same, other = (random.normal(centre, 1, (200, 8)) for centre in ([3, 0] * 4, [3, 0] * 4, [0, 3] * 4))
    near, far = mauve(one, same), mauve(one, other)
    assert near > 0.9 > 0.05 > far
    assert mauve(one, one) == pytest.approx(1)
    assert mauve(7 * one, same) == pytest.approx(near)  # lengths do not count
    assert mauve(np.ones((20, 4)), np.ones((30, 4))) == pytest.approx(1)  # one point
    p, q = shares(one, other, clusters=10)
    assert p.sum() == pytest.approx(1) and q.sum() == pytest.approx(1)
    assert not (p * q).any()


def test_every_sampler_of_a_process_is_measured_and_its_settings_can_be_asked_for() -> None:
    for process in PROCESSES:
        found = list(settings(process, [1, 2]))
        fitting = {name for name, kind in KINDS.items() if process in kind.decoders}
        assert {setting.asked["sampler"] for setting in found} == fitting
        assert len({(setting.name, setting.budget) for setting in found}) == len(found)
        names = [setting.name for setting in found]
        assert len(Counts(names)) == sum(a != b for a, b in zip(names, ["", *names], strict=False))  # together
        scheduler = TokenDiffusionScheduler(50, 4, forward_process=process)
        for setting in {setting.name: setting for setting in found}.values():
            parameters = setting.parameters(seq_len=6, num_samples=2)
            output = run(lambda tokens, t: torch.zeros(*tokens.shape, 50), scheduler, parameters)
            assert output.sequences.shape == (2, 6)


def test_steps_of_a_setting_in_blocks_are_those_of_all_blocks() -> None:
    setting = Setting("x", "8 steps", {"num_inference_steps": 8, "block_size": 16, "threshold": 0.5})
    parameters = setting.parameters(seq_len=60, num_samples=3, temperature=0.5)
    assert (parameters.num_inference_steps, parameters.block_size, parameters.temperature) == (2, 16, 0.5)
    assert parameters.options == {"threshold": 0.5}
    assert setting.label == "x, 8 steps" and Setting("x", "").label == "x"
    assert Setting("x", "", {"temperature": 0.0}).parameters(8, 1, top_p=0.9, temperature=1.0).temperature == 0


def test_evaluations_are_counted_by_rows() -> None:
    counter = Counter(as_denoiser(tiny_model()))
    output = run(counter, TokenDiffusionScheduler(50, 4), SamplingParameters(12, 3, None))
    assert counter.views == 3 * output.nfe == 36


def test_the_overhead_replays_the_passes_of_the_very_run() -> None:
    found = measure(
        as_denoiser(tiny_model()), TokenDiffusionScheduler(50, 4), SamplingParameters(12, 2, None), rounds=2
    )
    assert found.passes == 12
    assert 0 < found.alone < found.ours
    assert found.ratio > 1


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `model`, a `judge` and `text.txt`."""
    folder = tmp_path_factory.mktemp("decoders")
    save_tiny(folder / "model", "absorbing")
    checkpoint = load_checkpoint(folder / "model")
    tokenizer: Any = checkpoint.tokenizer
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=50, n_positions=16, n_embd=16, n_layer=1, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(folder / "judge")
    tokenizer.save_pretrained(folder / "judge")
    words = " ".join(f"w{(7 * number * number) % 45}" for number in range(400))
    (folder / "text.txt").write_text(words, encoding="utf-8")
    return folder


def test_samples_and_text_are_measured_alike(place: Path) -> None:
    examiner = Examiner(load_checkpoint(place / "model"), load_judge(str(place / "judge")), place / "text.txt", 8, 12)
    text, samples = examiner.text(), examiner.samples(SamplingParameters(12, 8, 4))
    assert text.nfe is None and 0 < (samples.nfe or 0) <= 4
    for found in (text, samples):
        assert 1 < found.perplexity.value < 1000 and math.isfinite(found.perplexity.error)
        assert 0 < found.sample_entropy <= found.entropy <= math.log(50)
        assert found.sample_entropy <= math.log(12)
        assert found.bound.value > 0 and 0 < found.mauve <= 1 + 1e-9
    with pytest.raises(ValueError, match="reference must hold at least 4800 tokens of model"):
        Examiner(examiner.checkpoint, examiner.judge, place / "text.txt", 200, 12)


def test_padding_changes_no_features(place: Path) -> None:
    judge = load_judge(str(place / "judge"))
    long, short = (Text(ids, [True] * len(ids)) for ids in ([5, 6, 7, 8, 9, 10], [5, 6, 7]))
    together, alone = features(judge, [long, short]), features(judge, [short])
    assert np.allclose(together[1], alone[0], atol=1e-5) and not np.allclose(together[0], together[1], atol=1e-3)


def test_what_is_given_by_name_goes_before_what_is_given_for_all() -> None:
    models = ["a", "b"]
    assert named("judge", ["b=two", "one"], models) == {"a": "one", "b": "two"}
    with pytest.raises(ValueError, match="judge must be given for a, got 'b=two'"):
        named("judge", ["b=two"], models)
    with pytest.raises(ValueError, match="judge must be for one of a, b, got 'c=x'"):
        named("judge", ["c=x", "y"], models)


def asked(place: Path, *more: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    flags = ["--judge", str(place / "judge"), "--reference", str(place / "text.txt")]
    flags += ["--checkpoint", f"tiny={place / 'model'}", "--only", "tiny"]
    common = argparse.Namespace(quick=False, output=None, device="cpu", dtype="float32")
    return parser.parse_args([*flags, "--num_samples", "4", "--seq_len", "12", "--budgets", "2", *more], common)


def test_the_part_writes_a_table_and_a_picture(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part, "settings", lambda process, budgets: islice(settings(process, budgets), 3))
    arguments = asked(place)
    arguments.output = tmp_path / "page.md"
    found = section(arguments)
    page = found.markdown("from here")
    assert "no paper's figures" in page and "(pictures/decoders.png)" in page
    rows = page.partition("**tiny**")[2].partition("from here")[0].count("\n| ")
    assert rows == 2 + 1 + 3  # the head, and the text
    assert (tmp_path / "pictures" / "decoders.png").read_bytes().startswith(b"\x89PNG")


def test_what_the_part_cannot_do_is_said_in_a_line(place: Path) -> None:
    with pytest.raises(ValueError, match="only must be among mdlm, udlm, hybrid, tiny, got 'nobody'"):
        section(asked(place, "--only", "nobody"))
    with pytest.raises(ValueError, match="checkpoint must be NAME=DIR, got 'x'"):
        section(asked(place, "--checkpoint", "x"))
    with pytest.raises(ValueError, match="num_samples must be"):
        section(asked(place, "--num_samples", "1"))
    with pytest.raises(ValueError, match="num_inference_steps must be"):
        section(asked(place, "--budgets", "0"))
    with pytest.raises(ValueError, match="reference must be given for tiny"):
        section(asked(place, "--reference", "mdlm=x", "--only", "mdlm", "tiny"))

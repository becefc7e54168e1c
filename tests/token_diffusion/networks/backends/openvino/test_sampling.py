"""Samples drawn from a network in OpenVINO: the law they follow, the same tokens alone and among others, and a server's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import httpx2
import pytest
import torch
from torch import Tensor, nn

from tests.batches import together
from tests.laws import Law, chi_square_p, counts, make_law
from tests.live_server import serving
from tests.tiny import PROCESSES, save_labelled, save_tiny
from token_diffusion import ParameterError, TokenDiffusionScheduler, sample, sample_block, score
from token_diffusion.checkpoint import load_checkpoint
from token_diffusion.networks.backends import handed_over
from token_diffusion.networks.denoiser import MaskedLMDenoiser
from token_diffusion.samplers.parameters import SamplingParameters

P = 0.001
DEMOS = Path(__file__).parents[5] / "checkpoints"


class Exact(nn.Module):
    """The posterior of a law of three positions, given the tokens that show, as a masked LM: sums over all its sequences."""

    def __init__(self, law: Law) -> None:
        super().__init__()
        self.config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(vocab_size=law.vocab_size))
        self.mask = law.mask_token_id
        sequences = nn.functional.one_hot(law.sequences, law.vocab_size).float()  # [S, L, V]
        self.sequences = nn.Parameter(sequences.transpose(0, 1).contiguous())
        self.log_probability = nn.Parameter(law.probability.log().float())

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        length = input_ids.shape[1]
        places = torch.arange(length) % len(self.sequences)
        shown = nn.functional.one_hot(input_ids, self.sequences.shape[2]).float()  # [B, L, V]
        known = (input_ids != self.mask).float() * attention_mask
        misses = torch.einsum("blv,lsv->bls", shown, 1 - self.sequences[places]) * known.unsqueeze(-1)
        others = misses.sum(1, keepdim=True) - misses  # a position's own token says nothing of itself
        weight = (self.log_probability - 30 * others).softmax(-1)
        posterior = torch.einsum("bls,lsv->blv", weight, self.sequences[places])
        return SimpleNamespace(logits=posterior.clamp(min=1e-30).log())


@pytest.mark.parametrize("steps", [None, 500])
def test_samples_follow_the_law(steps: int | None) -> None:
    law, scheduler = make_law(4, 3, 3), TokenDiffusionScheduler(4, 3)
    ours = handed_over("openvino", MaskedLMDenoiser(Exact(law)), "float32")
    output = sample(ours, scheduler, num_samples=4000, seq_len=3, num_inference_steps=steps, seed=2)
    assert chi_square_p(counts(law, output.sequences), law.probability) > P
    blocks = sample_block(ours, scheduler, num_samples=4000, seq_len=3, block_size=1, num_inference_steps=None, seed=3)
    assert chi_square_p(counts(law, blocks.sequences), law.probability) > P
    other = make_law(4, 3, 3, seed=1)  # the test can tell
    assert chi_square_p(counts(other, output.sequences), other.probability) < 1e-9


@pytest.mark.parametrize("determinism", ["fast", "exact"])
@pytest.mark.parametrize("process", PROCESSES)
def test_the_same_seed_gives_the_same_tokens_alone_and_among_others(
    process: str, determinism: str, tmp_path: Path
) -> None:
    checkpoint = load_checkpoint(save_tiny(tmp_path, process), backend="openvino")
    requests = [SamplingParameters(9 + 4 * number, 1 + number % 2, 8, seed=number) for number in range(6)]
    all_of_them = together(checkpoint.denoiser, checkpoint.scheduler, requests, determinism=determinism)
    for request, tokens in zip(requests, all_of_them, strict=True):
        alone = together(checkpoint.denoiser, checkpoint.scheduler, [request], determinism=determinism)
        assert alone == [tokens]
    plain = load_checkpoint(tmp_path)
    assert together(plain.denoiser, plain.scheduler, requests) == all_of_them


def test_labels_and_scores_are_those_of_torch(tmp_path: Path) -> None:
    folder = save_labelled(tmp_path)
    ours, plain = load_checkpoint(folder, backend="openvino"), load_checkpoint(folder)
    assert (ours.backend, ours.num_classes, ours.time_input, ours.device) == ("openvino", 3, "sigma", "cpu")
    for label in (None, 2):
        asked = [SamplingParameters(8, 2, 6, seed=5, label=label)]
        assert together(ours.denoiser, ours.scheduler, asked) == together(plain.denoiser, plain.scheduler, asked)
    text = [7, 9, 11, 8, 20]
    one, other = (score(each.denoiser, each.scheduler, [text], num_times=8)[0] for each in (ours, plain))
    assert one.nats == pytest.approx(other.nats, rel=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_server_answers_with_it(dtype: str) -> None:
    folder = DEMOS / "mdlm-english"
    checkpoint = load_checkpoint(folder, backend="openvino", dtype=dtype)
    with serving({checkpoint.name: checkpoint}) as server, httpx2.Client(base_url=server.url, timeout=60) as client:
        assert client.get("/models").json()["models"][0]["backend"] == "openvino"
        asked = {"prompt": "Once upon a time", "seq_len": 24, "num_inference_steps": 8, "seed": 3, "stream": False}
        answers = [client.post("/sample", json=asked) for _ in range(2)]
        assert answers[0].status_code == 200, answers[0].text
        assert answers[0].json()["samples"] == answers[1].json()["samples"]
        scored = client.post("/score", json={"texts": ["I am here."], "num_times": 4})
        assert scored.status_code == 200, scored.text


SILENT = """
import json, sys
from pathlib import Path
from token_diffusion.checkpoint import load_checkpoint
asked = "openvino" in sys.modules
load_checkpoint(sys.argv[1], backend="openvino")
loaded = sorted(name for name, module in sys.modules.items() if "telemetry" in name and module and "openvino" in name)
files = [path.name for path in Path.home().rglob("*") if "openvino" in path.name]
print(json.dumps([asked, [name for name in loaded if name.startswith("openvino_telemetry")], files]))
"""


def test_nothing_is_told_to_its_makers(tmp_path: Path) -> None:
    """It is imported when it is asked for; the module that would send is not, and the home has no id."""
    folder, home = save_tiny(tmp_path / "checkpoint", "absorbing"), tmp_path / "home"
    home.mkdir()
    command = [sys.executable, "-c", SILENT, str(folder)]
    environment = os.environ | {"HOME": str(home), "CI": ""}  # where it is "true" nothing is sent anyway
    root = DEMOS.parent
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [False, [], []]


def test_without_the_package_one_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from token_diffusion.networks.backends.openvino import library

    library.openvino.cache_clear()
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "openvino", None)
        with pytest.raises(ParameterError, match=r"pip install '\.\[openvino\]'"):
            load_checkpoint(save_tiny(tmp_path, "absorbing"), backend="openvino")
    library.openvino.cache_clear()

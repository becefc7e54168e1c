"""Every published format of which there is a recording: a folder as its authors' hub page has it is served with one command.

So is what `convert` makes of it, which answers with the same tokens. No code that lies beside the weights is run.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stderr
from io import StringIO
from itertools import chain
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import AutoModelForMaskedLM, PreTrainedTokenizerFast

from server.app import load_engine
from server.settings import read_settings
from tests.fake_hub import FakeHub, Repository, fake_hub, hub_in_place
from tests.live_server import LiveServer, serving
from tests.token_diffusion.networks.families.hub_folders import write_dream, write_llada
from tests.token_diffusion.networks.families.recording import NAMES, recording
from tests.token_diffusion.networks.families.turned_folders import write_turned
from token_diffusion.__main__ import main
from token_diffusion.facts import control_ids
from token_diffusion.networks.families import Published, published

ROOT = Path(__file__).parent.parent
ROLES = ("bos", "eos", "cls", "sep", "pad")
CODE = {"modeling_theirs.py": b"raise SystemExit('code of a checkpoint was run')"}
LONGEST = 12
REFUSED: dict[str, str] = {}
"""By the recording what kept its folder from being converted, if anything did."""


def words_for(known: Published) -> PreTrainedTokenizerFast:
    """A tokenizer of the right size, w0, w1, …, with the control tokens that such a folder's has.

    Which of them is the mask the tokenizer says only if the format does not.
    """
    size = known.tokenizer_size or known.config.vocab_size
    mask = known.scheduler.get("mask_token_id", size - 1)
    named = dict.fromkeys(chain(known.prefix, known.suffix, known.learnt))
    spelt = {token: f"<|{token}|>" for token in named if isinstance(token, int)}
    spelt |= {mask: known.mask_token} if mask < size else {}
    free = (id for id in reversed(range(size)) if id not in spelt)
    roles = {} if "mask_token_id" in known.scheduler else {"mask_token": known.mask_token}
    for token in named:
        if isinstance(token, str):
            spelt[next(free)] = text = f"<|{token}|>" if token in ROLES else token
            roles |= {f"{token}_token": text} if token in ROLES else {}
    vocabulary = {spelt.get(id, f"w{id}"): id for id in range(size)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=spelt.get(size - 1, f"w{size - 1}")))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in spelt.values()])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **dict[str, Any](roles))


WRITERS: dict[str, Callable[[Path, str], Path]] = {
    "dream": write_dream,
    "llada": write_llada,
    "a2d": write_turned,
    "diffugpt": write_turned,
    "diffullama": write_turned,
}
"""By the start of its name what writes a recording as a folder whose tokenizer has files that others do not have."""

WITHOUT_TOKENIZER = {"mdlm", "udlm", "duo", "bd3lm", "sedd"}
"""Families whose authors' folders hold none: it has a repository of its own, which has to be named."""


def publish(hub: FakeHub, name: str, root: Path) -> list[str]:
    """Puts the repository on the hub, and that of its tokenizer if it is another; the flags that name them."""
    folder, kind = root / "theirs" / name, name.partition("-")[0]
    if kind in WRITERS:
        WRITERS[kind](folder, name)
    else:
        known = published(recording(name).write(folder))
        assert known is not None, f"{name} is none of the families"
        words = root / "words" / name if known.family in WITHOUT_TOKENIZER else folder
        words_for(known).save_pretrained(words)
    hub.repositories[f"theirs/{name}"] = Repository.of(folder)
    hub.repositories[f"theirs/{name}"].files |= CODE
    flags = [f"--checkpoint_path=theirs/{name}"]
    if (root / "words" / name).exists():
        hub.repositories[f"words/{name}"] = Repository.of(root / "words" / name)
        flags.append(f"--tokenizer_name=words/{name}")
    return flags


def converted(hub: FakeHub, name: str, root: Path) -> list[str]:
    """What the server is to be told of a recording's folder, and of that which it is converted to."""
    flags = publish(hub, name, root)
    with redirect_stderr(StringIO()) as said:
        assert main(["convert", *flags, f"--output_dir={root / 'ours' / name}"]) == 0, said.getvalue()
    command = [f"--checkpoint=our-{name}={root / 'ours' / name}"]
    command += [flag.replace("_path=", f"={name}=").replace("_name=", f"_name={name}=") for flag in flags]
    return command


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """All of them on one server, and beside each what it was converted to; none that could not be."""
    root = tmp_path_factory.mktemp("published")
    command: list[str] = []
    with pytest.MonkeyPatch.context() as patch, hub_in_place(patch, root / "cache") as hub:
        for name in NAMES:
            try:
                command += converted(hub, name, root)
            except AssertionError as error:  # its own test fails then, not those of the others
                REFUSED[name] = str(error)
        checkpoints = load_engine(read_settings(command)).checkpoints
    assert not [path for path in hub.fetched if path.endswith(".py")]
    with serving(checkpoints) as server:
        yield server


def models_of(live: LiveServer) -> dict[str, dict[str, Any]]:
    return {model["name"]: model for model in live.get("/models").json()["models"]}


@pytest.mark.parametrize("name", NAMES)
def test_it_samples_and_scores_as_it_is_and_converted(live: LiveServer, name: str) -> None:
    assert name not in REFUSED, REFUSED[name]
    theirs, ours = models_of(live)[name], models_of(live)[f"our-{name}"]
    assert theirs["family"] and ours["family"] is None
    assert theirs | {"name": "", "family": None} == ours | {"name": ""}
    length = min(LONGEST, theirs["max_seq_len"] or LONGEST)
    body: dict[str, Any] = {"seq_len": length, "num_inference_steps": 4, "seed": 1, "stream": False}
    path = "/sample/hybrid" if theirs["process"] == "hybrid" else "/sample"
    if theirs["block_size"] is not None:
        path, body = "/sample/block", body | {"block_size": theirs["block_size"]}
    drawn = [live.post(path, body | {"model": model["name"]}).json() for model in (theirs, ours)]
    assert drawn[0]["samples"] == drawn[1]["samples"], drawn
    (sample,) = drawn[0]["samples"]
    assert len(sample["tokens"]) == length and theirs["mask_token_id"] not in sample["tokens"]
    assert sample["tokens"][: len(theirs["frame"]["prefix"])] == theirs["frame"]["prefix"]
    tokenizer = live.engine.checkpoints[name].tokenizer
    words = [id for id in range(20) if id not in control_ids(tokenizer)]
    asked = {"texts": [tokenizer.decode(words[:3])], "num_times": 4, "seed": 1}
    scores = [live.post("/score", asked | {"model": model["name"]}).json() for model in (theirs, ours)]
    assert scores[0].get("scores") == scores[1].get("scores"), scores
    assert "scores" in scores[0] or scores[0]["error"]["code"] == 422, scores


@pytest.mark.parametrize("name", [name for name in NAMES if "tokens" in recording(name).inputs])  # one has texts alone
def test_its_conversion_is_the_same_network_for_plain_transformers(live: LiveServer, name: str) -> None:
    assert name not in REFUSED, REFUSED[name]
    theirs, ours = (live.engine.checkpoints[each] for each in (name, f"our-{name}"))
    plain = AutoModelForMaskedLM.from_pretrained(ours.path)
    assert type(plain) is type(theirs.model) and plain.dtype == theirs.model.dtype
    weights = theirs.model.state_dict()
    assert all(torch.equal(tensor, weights[key]) for key, tensor in plain.state_dict().items())
    some = torch.arange(8).view(2, 4) % theirs.model.config.vocab_size
    tokens = recording(name).inputs.get("tokens", some)  # one recording holds what was sampled alone
    t, positions = torch.linspace(0.2, 0.9, len(tokens), dtype=torch.float64), torch.arange(tokens.numel())
    both = [each.denoiser(tokens, t, torch.ones_like(tokens, dtype=torch.bool), positions) for each in (theirs, ours)]
    assert torch.equal(*both) and both[0].isfinite().all()
    card = (ours.path / "README.md").read_text()
    assert f"base_model: theirs/{name}\n" in card and f"of the {theirs.family} format" in card
    assert "/cache/" not in "".join(file.read_text() for file in ours.path.glob("*.json"))


@pytest.mark.slow
def test_a_process_is_started_with_one_command_and_without_the_hub_again(tmp_path: Path) -> None:
    """As a stranger does it: nothing of this process but its environment."""
    with fake_hub() as hub:
        command = publish(hub, "mdlm", tmp_path)
        there = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
        first = answer_of(command, there)
    assert first == answer_of(command, there | {"HF_HUB_OFFLINE": "1"})


def answer_of(command: Sequence[str], environment: Mapping[str, str]) -> list[dict[str, Any]]:
    """The samples of a server in a process of its own."""
    program = [sys.executable, "-m", "server", "--port=0", *command]
    options: dict[str, Any] = {"stderr": subprocess.PIPE, "text": True, "env": {**os.environ, **environment}}
    with subprocess.Popen(program, cwd=ROOT, **options) as process:
        try:
            lines: Iterator[str] = iter(process.stderr or ())
            url = next(line.split()[-1] for line in lines if "running on" in line)
            body = {"seq_len": 8, "num_inference_steps": 4, "seed": 1, "stream": False}
            samples: list[dict[str, Any]] = httpx2.post(f"{url}/sample", json=body, timeout=60).json()["samples"]
            return samples
        finally:
            process.terminate()

"""Every published format of which there is a recording: a folder as its authors' hub page has it is served with one command.

So is what `convert` makes of it, which answers with the same tokens. No code that lies beside the weights is run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from io import StringIO
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import AutoModelForMaskedLM, PreTrainedTokenizerFast

from server.app import load_engine
from server.settings import read_settings
from tests.fake_hub import FakeHub, Repository, hub_in_place
from tests.live_server import LiveServer, serving
from tests.token_diffusion.networks.families.hub_folders import write_dream, write_llada
from tests.token_diffusion.networks.families.recording import NAMES, recording
from token_diffusion.__main__ import main
from token_diffusion.networks.families import Published, published
from token_diffusion.plain import control_ids

ROLES = ("bos", "eos", "cls", "sep", "pad")
CODE = {"modeling_theirs.py": b"raise SystemExit('code of a checkpoint was run')"}
LONGEST = 12
REFUSED: dict[str, str] = {}
"""By the recording what kept its folder from being converted, if anything did."""


def words_for(known: Published) -> PreTrainedTokenizerFast:
    """A tokenizer of the right size, w0, w1, …, with the control tokens that such a folder's has, the mask without a role."""
    mask, width = known.scheduler["mask_token_id"], known.config.vocab_size
    size = known.tokenizer_size or width
    named = dict.fromkeys(chain(known.prefix, known.suffix, known.learnt))
    spelt = {token: f"<|{token}|>" for token in named if isinstance(token, int)}
    spelt |= {mask: known.mask_token} if mask < size else {}
    free = (id for id in reversed(range(size)) if id not in spelt)
    roles = {}
    for token in named:
        if isinstance(token, str):
            spelt[next(free)] = roles[token] = token if token not in ROLES else f"<|{token}|>"
    vocabulary = {spelt.get(id, f"w{id}"): id for id in range(size)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=spelt.get(size - 1, f"w{size - 1}")))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in spelt.values()])
    given: dict[str, Any] = {f"{role}_token": text for role, text in roles.items() if role in ROLES}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **given)


WITHOUT_TOKENIZER = {"mdlm", "udlm", "duo", "bd3lm", "sedd"}
"""Families whose authors' folders hold none: it has a repository of its own, which has to be named."""

WRITERS: dict[str, Callable[[Path, str], Path]] = {"dream": write_dream, "llada": write_llada}
"""By its family what writes a folder with a tokenizer whose files others do not have; for all others words do."""


def publish(hub: FakeHub, name: str, root: Path) -> list[str]:
    """Puts the repository on the hub, and that of its tokenizer if it is another; what has to be said to name that."""
    folder = recording(name).write(root / "theirs" / name)
    known = published(folder)
    assert known is not None
    if known.family in WRITERS:
        WRITERS[known.family](folder, name)
        (folder / "model.safetensors").unlink()
    elif known.family not in WITHOUT_TOKENIZER:
        words_for(known).save_pretrained(folder)
    hub.repositories[f"theirs/{name}"] = Repository.of(folder)
    hub.repositories[f"theirs/{name}"].files |= CODE
    if known.family not in WITHOUT_TOKENIZER:
        return []
    words_for(known).save_pretrained(root / "words" / name)
    hub.repositories[f"words/{name}"] = Repository.of(root / "words" / name)
    return [f"words/{name}"]


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """All of them on one server, and beside each what it was converted to; none that could not be."""
    root = tmp_path_factory.mktemp("published")
    command: list[str] = []
    with pytest.MonkeyPatch.context() as patch, hub_in_place(patch, root / "cache") as hub:
        for name in NAMES:
            tokenizer = [f"--tokenizer_name={each}" for each in publish(hub, name, root)]
            output = root / "ours" / name
            with redirect_stderr(StringIO()) as said:
                code = main(["convert", f"--checkpoint_path=theirs/{name}", f"--output_dir={output}", *tokenizer])
            REFUSED[name] = said.getvalue() if code else ""
            if not code:
                command += [f"--checkpoint={name}=theirs/{name}", f"--checkpoint=our-{name}={output}"]
                command += [each.replace("=", f"={name}=", 1) for each in tokenizer]
        checkpoints = load_engine(read_settings(command)).checkpoints
    assert not [path for path in hub.fetched if path.endswith(".py")]
    with serving(checkpoints) as server:
        yield server


def models_of(live: LiveServer) -> dict[str, dict[str, Any]]:
    return {model["name"]: model for model in live.get("/models").json()["models"]}


@pytest.mark.parametrize("name", NAMES)
def test_it_samples_and_scores_as_it_is_and_converted(live: LiveServer, name: str) -> None:
    assert not REFUSED[name]
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


@pytest.mark.parametrize("name", NAMES)
def test_its_conversion_is_the_same_network_for_plain_transformers(live: LiveServer, name: str) -> None:
    assert not REFUSED[name]
    theirs, ours = (live.engine.checkpoints[each] for each in (name, f"our-{name}"))
    plain = AutoModelForMaskedLM.from_pretrained(ours.path)
    assert type(plain) is type(theirs.model) and plain.dtype == theirs.model.dtype
    weights = theirs.model.state_dict()
    assert all(torch.equal(tensor, weights[key]) for key, tensor in plain.state_dict().items())
    tokens = recording(name).inputs["tokens"]
    t, positions = torch.linspace(0.2, 0.9, len(tokens), dtype=torch.float64), torch.arange(tokens.numel())
    both = [each.denoiser(tokens, t, torch.ones_like(tokens, dtype=torch.bool), positions) for each in (theirs, ours)]
    assert torch.equal(*both) and both[0].isfinite().all()
    card = (ours.path / "README.md").read_text()
    assert f"base_model: theirs/{name}\n" in card and f"of the {theirs.family} format" in card
    assert "/cache/" not in "".join(file.read_text() for file in ours.path.glob("*.json"))

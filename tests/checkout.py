"""Where the snippets of the pages run: a folder like the checkout of somebody who has trained, and a server like `make serve`;
a module asks for it with `pytest_plugins = ["tests.checkout"]`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from tests.live_server import LiveServer, serving
from tests.pages import ROOT
from tests.tiny import PROCESSES, save_tiny, tiny_model
from tests.token_diffusion.networks.families.dit_folders import write_folder, write_gpt2
from tests.token_diffusion.networks.families.hub_folders import write_llada
from tests.token_diffusion.networks.families.recording import recording
from token_diffusion import TokenDiffusionScheduler
from token_diffusion.checkpoint import load_checkpoint, save_checkpoint
from token_diffusion.checkpoint.adapter import Adapter
from trainer.data.tokenizer import build_smiles_tokenizer

DEMOS = dict(zip(("mdlm-english", "udlm-english", "hybrid-english"), PROCESSES, strict=True))
POSITIONS = 256
HOST = "127.0.0.1:8000"
SMILES = "albert_heads_8_uspto_all_1310k"


@dataclass(frozen=True)
class Workplace:
    """Where the snippets run: `folder` looks like the checkout of somebody who has trained, `server` like `make serve`."""

    folder: Path
    server: LiveServer

    def here(self, code: str) -> str:
        """Code that asks this server, and about a request that it has."""
        host = self.server.url.removeprefix("http://")
        code = code.replace("localhost:8000", HOST).replace(HOST, host)
        return re.sub(r"\bID\b", self._kept, code) if re.search(r"\bID\b", code) else code

    def _kept(self, match: re.Match[str]) -> str:
        body = {"seq_len": 4, "num_inference_steps": 1, "on_disconnect": "keep"}
        return str(json.loads(self.server.events("/sample", body)[0].data)["id"])


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    folder = tmp_path_factory.mktemp("checkout")
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "checkpoints" / "mdlm-english")
    for demo, process in DEMOS.items():
        model = tiny_model("bert", len(tokenizer), max_position_embeddings=POSITIONS)
        scheduler = TokenDiffusionScheduler(len(tokenizer), tokenizer.mask_token_id, forward_process=process)
        save_checkpoint(folder / "checkpoints" / demo, model, tokenizer, scheduler)
    (folder / "my-run").mkdir()
    (folder / "my-run" / "final").symlink_to(folder / "checkpoints" / "mdlm-english")
    for kept in ("clients", "examples"):
        (folder / kept).symlink_to(ROOT / kept)
    for trained in ("molecules", "molecules-rings"):
        save_molecules(folder / trained / "final")
    chat = publish(folder)
    (folder / SMILES).mkdir()
    (folder / SMILES / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"CNOcn()=1"]))
    loaded = {demo: load_checkpoint(folder / "checkpoints" / demo, name=demo) for demo in DEMOS}
    with serving(loaded | {chat.name: load_checkpoint(chat)}) as server:
        yield Workplace(folder, server)


def save_molecules(folder: Path) -> None:
    """A model of SMILES that knows two labels."""
    tokenizer = build_smiles_tokenizer(["CC(=O)Oc1ccccc1C(=O)O"])
    save_tiny(folder, "uniform", tokenizer=tokenizer)
    tiny_model("token-diffusion", len(tokenizer), time_conditioning="sigma", num_classes=2).save_pretrained(folder)


def publish(folder: Path) -> Path:
    """Puts models there that others have published, and adapters of the one that chats, which is returned."""
    write_folder(folder / "mdlm-owt", recording("mdlm"))
    write_gpt2(folder / "gpt2", 60)
    chat = write_llada(folder / "LLaDA-8B-Instruct")
    model = load_checkpoint(chat).model
    adapter = Adapter(model, str(chat), r=2, target_modules=["q_proj"])
    adapter.save_pretrained(folder / "my-talks" / "final", Adapter.of(model.state_dict()))
    return chat

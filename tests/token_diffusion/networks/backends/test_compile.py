"""The compiled network against the plain one: shapes, times, labels, blocks; what cannot be compiled; recorded passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tiny import mixer, save_tiny, tiny_model
from token_diffusion.checkpoint import load_checkpoint
from token_diffusion.engine.batch import Batch
from token_diffusion.errors import ParameterError
from token_diffusion.networks.backends import compile as backend
from token_diffusion.networks.denoiser import MaskedLMDenoiser, in_pieces
from token_diffusion.samplers.parameters import SamplingParameters
from token_diffusion.sampling import sample

NETWORKS: dict[str, dict[str, Any]] = {
    "bert": {},
    "distilbert": {},
    "token-diffusion": {"time_conditioning": "t", "num_classes": 3},
    "modernbert": {},
}
SHAPES = [(1, 17, 5), (3, 33, 40), (4, 90, 1), (1, 5, 5)]


EAGER = partial(torch.compile, backend="aot_eager")
"""torch.compile's tracing, without the C++ or Triton that it writes: a second instead of half a minute."""


@pytest.fixture(scope="module")
def handed() -> Iterator[Callable[[str], backend.Compiled]]:
    """Networks by their names, handed over once each."""

    @cache
    def hand_over(name: str) -> backend.Compiled:
        plain = MaskedLMDenoiser(tiny_model(name, **NETWORKS[name]), forbidden=(3,), ends=(5,))
        return backend.hand_over(plain, "float32")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", EAGER)
        yield hand_over


@pytest.fixture
def recording(handed: Callable[[str], backend.Compiled], monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The same, as on CUDA: they record passes, so far none."""
    monkeypatch.setattr(backend, "Recorded", Replayed)
    Replayed.made, made = 0, []

    def hand_over(name: str) -> backend.Compiled:
        compiled = handed(name)
        compiled.records = True
        made.append(compiled)
        return compiled

    yield hand_over
    for compiled in made:
        compiled.records = False
        compiled._graphs.clear()


def asked(plain: MaskedLMDenoiser, rows: int, length: int, count: int) -> tuple[Tensor, ...]:
    """Arguments of a call: the last row padded where there are several, labels where the network knows any."""
    generator = torch.Generator().manual_seed(rows * length)
    valid = torch.ones(rows, length, dtype=torch.bool)
    valid[1:, length - length // 3 :] = False
    places = valid.flatten().nonzero().squeeze(1)
    positions = places[torch.randperm(len(places), generator=generator)[:count]].sort().values
    tokens = torch.randint(0, 50, (rows, length), generator=generator)
    labels = (torch.arange(rows) % 4 - 1,) if plain.num_classes else ()
    return (tokens, torch.rand(rows, generator=generator, dtype=torch.float64), valid, positions, *labels)


class Replayed:
    """A recorded pass without CUDA: as a graph it reads what lies in its own tensors, and writes over its last logits."""

    made = 0

    def __init__(self, forward: Callable[..., Tensor], given: dict[str, Tensor], beside: Replayed | None) -> None:
        self.forward, self.given = forward, {name: each.clone() for name, each in given.items()}
        self.logits = forward(**self.given)
        Replayed.made += 1

    def __call__(self, given: dict[str, Tensor]) -> Tensor:
        for name, each in given.items():
            self.given[name].copy_(each)
        return self.logits.copy_(self.forward(**self.given)).clone()


@pytest.mark.parametrize("name", NETWORKS)
def test_it_answers_as_the_plain_network_does(handed: Callable[[str], backend.Compiled], name: str) -> None:
    compiled = handed(name)
    plain = compiled.plain
    for shape in SHAPES:
        arguments = asked(plain, *shape)
        torch.testing.assert_close(compiled(*arguments), plain(*arguments), rtol=1e-4, atol=1e-4)
    assert (compiled.forbidden, compiled.ends, compiled.num_classes) == ((3,), (5,), plain.num_classes)
    if plain.num_classes:
        *unlabelled, _ = asked(plain, 3, 33, 40)
        torch.testing.assert_close(compiled(*unlabelled), plain(*unlabelled), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_recorded_passes_do_so_too(recording: Callable[[str], backend.Compiled], name: str) -> None:
    compiled = recording(name)
    for shape in (*SHAPES, *SHAPES):
        arguments = asked(compiled.plain, *shape)
        torch.testing.assert_close(compiled(*arguments), compiled.plain(*arguments), rtol=1e-4, atol=1e-4)
    assert Replayed.made == 3  # (1, 17, 5) and (1, 5, 5) are padded to one shape


def test_one_compilation_is_for_all_shapes(handed: Callable[[str], backend.Compiled]) -> None:
    compiled = handed("bert")
    with torch._dynamo.config.patch(error_on_recompile=True):
        for shape in SHAPES:
            compiled(*asked(compiled.plain, *shape))


def test_logits_are_the_callers_own_and_what_is_beyond_the_bound_stays_unrecorded(
    recording: Callable[[str], backend.Compiled], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "MOST_GRAPHS", 1)
    compiled = recording("bert")
    first, second = asked(compiled.plain, 3, 33, 40), asked(compiled.plain, 4, 40, 50)
    logits = compiled(*first)
    kept = logits.clone()
    compiled(*second)
    assert logits.equal(kept)
    compiled(*asked(compiled.plain, 4, 90, 3))
    assert Replayed.made == 1


def test_what_no_graph_can_hold_is_computed_without(
    recording: Callable[[str], backend.Compiled], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*arguments: Any) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(backend, "Recorded", fail)
    compiled = recording("bert")
    arguments = asked(compiled.plain, 3, 33, 40)
    torch.testing.assert_close(compiled(*arguments), compiled.plain(*arguments), rtol=1e-4, atol=1e-4)
    assert "passes of 4 x 48 tokens, 64 positions stay unrecorded: operation not permitted" in caplog.text


def test_more_than_a_piece_is_asked_of_the_plain_network(
    handed: Callable[[str], backend.Compiled], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "PIECE_BYTES", 10 * 50 * 4)
    monkeypatch.setattr("token_diffusion.networks.denoiser.PIECE_BYTES", 10 * 50 * 4)
    compiled = handed("bert")
    arguments = asked(compiled.plain, 3, 33, 40)
    pieces = in_pieces(compiled)(*arguments)
    assert [each.stop - each.start for each in pieces.slices] == [10] * 4
    torch.testing.assert_close(pieces[:], compiled.plain(*arguments), rtol=1e-4, atol=1e-4)


def test_shapes_follow_from_what_is_asked() -> None:
    assert backend.bucket((1, 1, 0)) == (2, 32, 16)
    assert backend.bucket((3, 33, 17)) == (4, 48, 32)
    assert backend.bucket((4, 49, 200)) == (4, 64, 256)
    assert backend.bucket((5, 97, 5), longest=100) == (8, 100, 16)
    for length in range(1, 600):
        width = backend.bucket((1, length, 1))[1]
        assert length <= width <= max(32, length * 3 // 2)


def test_what_it_cannot_take_is_named() -> None:
    plain = MaskedLMDenoiser(tiny_model())
    with pytest.raises(ParameterError, match=r"^backend must be torch for weights in int8, got 'compile'$"):
        backend.hand_over(plain, "int8")
    with pytest.raises(ParameterError, match=r"^backend must be torch for FNetForMaskedLM, whose answers"):
        backend.hand_over(MaskedLMDenoiser(mixer("fnet")), "float32")


def test_a_compiler_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(function: Any, **options: Any) -> Any:
        def call(**given: Any) -> Tensor:
            raise RuntimeError("No working C++ compiler found\nin torch._inductor.config.cpp.cxx")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    plain = MaskedLMDenoiser(tiny_model())
    with pytest.raises(
        ParameterError, match=r"^backend must compile BertForMaskedLM \(No working C.. compiler"
    ) as raised:
        backend.hand_over(plain, "float32")
    assert "\n" not in str(raised.value)
    assert not plain.model.bert._forward_hooks  # nothing has changed


def test_answers_that_are_not_the_plain_ones_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda asked, **options: lambda **given: asked(**given) * 1.01)
    with pytest.raises(ParameterError, match=r"whose logits compiling changes by 0.01"):
        backend.hand_over(MaskedLMDenoiser(tiny_model()), "float32")


@pytest.mark.parametrize("determinism", ["fast", "exact"])
def test_the_same_seed_gives_the_same_tokens_alone_and_among_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, determinism: Any
) -> None:
    monkeypatch.setattr(torch, "compile", EAGER)
    checkpoint = load_checkpoint(save_tiny(tmp_path / "tiny", "uniform"), backend="compile")
    assert checkpoint.backend == "compile" and checkpoint.device == "cpu"
    requests = [SamplingParameters(seq_len=8 + 3 * k, num_samples=2, num_inference_steps=6, seed=k) for k in range(5)]

    def run(some: list[int]) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        batch = Batch(checkpoint.denoiser, checkpoint.scheduler, determinism=determinism)
        for k in some:
            batch.add(k, [-1] * requests[k].seq_len, requests[k])
        while not batch.idle:
            found |= {update.key: update.result.tokens for update in batch.step() if update.result is not None}
        return found

    together = run([0, 1, 2, 3, 4])
    assert all(run([k])[k] == together[k] for k in range(5))


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # the compiler has some of its own
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_compiled_in_earnest(tmp_path: Path, dtype: str) -> None:
    folder = save_tiny(tmp_path / "tiny", "absorbing")
    torch._dynamo.reset()
    compiled, plain = (load_checkpoint(folder, dtype=dtype, backend=name) for name in ("compile", "torch"))
    drawn = [
        sample(each.denoiser, each.scheduler, num_samples=4, seq_len=24, num_inference_steps=8).sequences
        for each in (compiled, plain)
    ]
    share = (drawn[0] == drawn[1]).float().mean().item()
    assert share == 1 if dtype == "float32" else share > 0.3

from __future__ import annotations

import numpy as np
import pytest
import torch

from token_diffusion.samplers.randomness import Purpose, philox, uniform


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [  # the known answers that the authors of Philox publish with Random123
        ([0, 0, 0, 0], [0, 0], [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_philox_gives_the_published_answers(counter: list[int], key: list[int], expected: list[int]) -> None:
    words = (np.array(each, dtype=np.uint64).reshape(-1, 1) for each in (counter, key))
    assert philox(*words).flatten().tolist() == expected


def _grid(seed: int, purpose: Purpose = Purpose.TOKEN) -> torch.Tensor:
    sample, step, position = torch.meshgrid(torch.arange(4), torch.arange(50), torch.arange(100), indexing="ij")
    return uniform(torch.tensor(seed), sample, step, position, purpose)


def test_uniform_is_flat_and_inside_the_unit_interval() -> None:
    u = _grid(2**62 + 12345)
    assert u.min() >= 0 and u.max() < 1
    observed = torch.histc(u.float(), bins=20, min=0, max=1)
    expected = u.numel() / 20
    assert ((observed - expected) ** 2 / expected).sum() < 43.8  # chi-square, 19 degrees of freedom, p = 0.001


def test_a_draw_depends_on_each_of_its_names_and_on_nothing_else() -> None:
    base = _grid(7)
    one = uniform(torch.tensor(7), torch.tensor(2), torch.tensor(30), torch.tensor(99), Purpose.TOKEN)
    assert one == base[2, 30, 99]
    assert base.unique().numel() == base.numel()
    for other in (_grid(8), _grid(7 + 2**32), _grid(7, Purpose.ROUTE)):
        assert not torch.isin(other, base).any()

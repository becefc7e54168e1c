"""The picture: generative perplexity and unigram entropy against evaluations of the network, a row of panels a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from itertools import groupby
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from .quality import Quality
from .settings import Setting

Measured = tuple[Setting, Quality]

MARKERS = "osD^v<>pXP*h"


def draw(models: Mapping[str, tuple[Quality, Sequence[Measured]]]) -> bytes:
    """A PNG. models: name -> what held-out text has, and the settings of each decoder one after the other."""
    figure = Figure(figsize=(11, 3.6 * len(models)), dpi=110, layout="constrained")
    grid: Any = figure.subplots(len(models), 2, squeeze=False)
    for (name, (text, measured)), (left, right) in zip(models.items(), grid, strict=True):
        for index, (decoder, group) in enumerate(groupby(measured, lambda each: each[0].name)):
            found = sorted((quality for _, quality in group), key=lambda quality: quality.nfe or 0)
            nfe = [quality.nfe for quality in found]
            style = {
                "marker": MARKERS[index % len(MARKERS)],
                "color": f"C{index % 10}",
                "markersize": 4,
                "linewidth": 1,
            }
            style |= {"linestyle": "-" if index < 10 else "--"}
            left.plot(nfe, [quality.perplexity.value for quality in found], label=decoder, **style)
            right.plot(nfe, [quality.entropy for quality in found], **style)
        for axes, level in ((left, text.perplexity.value), (right, text.entropy)):
            axes.axhline(level, color="black", linestyle=":", linewidth=1, label="held-out text")
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter("{x:g}")
            axes.set_xlabel("evaluations of the network a sample")
            axes.grid(alpha=0.3)
        left.set_yscale("log", base=2)
        left.yaxis.set_major_formatter("{x:g}")
        left.yaxis.set_minor_formatter("{x:g}")
        left.set(title=name, ylabel="generative perplexity")
        right.set(title=f"{name}: too low is text that repeats itself", ylabel="unigram entropy, nats")
        handles, labels = left.get_legend_handles_labels()
        right.legend(handles, labels, fontsize="x-small", loc="center left", bbox_to_anchor=(1.01, 0.5))
    drawn, picture = BytesIO(), BytesIO()
    figure.savefig(drawn, format="png")
    Image.open(drawn).convert("RGB").quantize(256).save(picture, format="png", optimize=True)
    return picture.getvalue()

"""How far two sets of texts are apart, by the frontier of their quantised features.

This is MAUVE (Pillutla et al. 2021, arXiv:2102.01454). The features of both are clustered together; p and q are the shares of
each set in each cluster. Every mixture r = w p + (1 - w) q gives a point (exp(-c KL(q|r)), exp(-c KL(p|r))), and what lies under
the curve of them is 1 for two sets that fill the clusters alike and near 0 for two that share none. Constants, and the way to
the clusters, are those of the authors' `mauve-text`; the k-means is scipy's.
"""

from __future__ import annotations

import numpy as np
from scipy.cluster.vq import kmeans, vq

SCALE, POINTS = 5.0, 25
EXPLAINED = 0.9
"""Of the variance of the features, kept by their first principal components."""
RESTARTS, CLUSTERINGS = 5, 5


def mauve(samples: np.ndarray, reference: np.ndarray) -> float:
    """Of features [n, d] and [m, d], in as many clusters as a tenth of the smaller set, and at least two.

    The mean over a few clusterings, as each is an accident of where it began.
    """
    clusters = max(2, round(min(len(samples), len(reference)) / 10))
    return sum(area(*shares(samples, reference, clusters, seed)) for seed in range(CLUSTERINGS)) / CLUSTERINGS


def shares(samples: np.ndarray, reference: np.ndarray, clusters: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The share of each set in each cluster of both."""
    points = principal(np.vstack([samples, reference]).astype(np.float64))
    # What all clusters have alike is one point: kmeans wants no more centres than there are.
    centres, _ = kmeans(points, min(clusters, len(np.unique(points, axis=0))), iter=RESTARTS, rng=seed)
    labels, _ = vq(points, centres)
    counts = [np.bincount(each, minlength=len(centres)) for each in np.split(labels, [len(samples)])]
    return counts[0] / len(samples), counts[1] / len(reference)


def principal(features: np.ndarray) -> np.ndarray:
    """Features of length one, in the fewest principal components that have `EXPLAINED` of their variance."""
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    left, size, _ = np.linalg.svd(unit - unit.mean(0), full_matrices=False)
    variance = size**2
    if not variance.sum():
        return np.zeros((len(features), 1))
    kept = int(np.argmax(variance.cumsum() >= EXPLAINED * variance.sum())) + 1
    return left[:, :kept] * size[:kept]


def area(p: np.ndarray, q: np.ndarray) -> float:
    """Under the curve of two laws on the same clusters, from (1, 0) at w = 0 to (0, 1) at w = 1."""
    weights = np.linspace(1e-6, 1 - 1e-6, POINTS)[:, None]
    mixture = weights * p + (1 - weights) * q
    x = np.concatenate([[1.0], np.exp(-SCALE * divergence(q, mixture)), [0.0]])
    y = np.concatenate([[0.0], np.exp(-SCALE * divergence(p, mixture)), [1.0]])
    return float(-np.trapezoid(y, x))


def divergence(law: np.ndarray, mixture: np.ndarray) -> np.ndarray:
    """KL(law | each mixture) in nats, [points]; 0 ln 0 is 0."""
    held = law > 0
    return (law[held] * np.log(law[held] / mixture[:, held])).sum(1)

"""MAUVE: the area under the divergence curve of two sets of embeddings."""

import numpy as np
from scipy.special import rel_entr
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from threadpoolctl import threadpool_limits

from seqgan_jax.evaluation.frechet import Halves
from seqgan_jax.evaluation.report import Metric
from seqgan_jax.evaluation.statistics import BLOCKS, block_jackknife

_SCALE = 5.0  # c of the paper
_MIXTURES = 501
_CLUSTERS = 500  # at most


def mauve(parts: Halves, seed: int, unit: str) -> dict[str, Metric]:
    """`mauve`, of samples and references, and `mauve_references`, of the references' two halves.

    Pillutla et al. (2021), arXiv:2102.01454: embeddings of both sets, reduced to 90 % of their
    variance, are quantised together by k-means with a cluster for every ten of a set (500 at most);
    the area under the divergence curve of the two histograms, see `divergence_area`, is 1 where
    they are equal and 0.004 where they share no cluster. Higher is better, `mauve_references` is
    what to aim at: with few samples a perfect generator stays well below 1. It depends on the
    number of samples, on k and on the embedding, so compare at equal ones only. Blind to what the
    embedding doesn't show and to differences inside a cluster.

    The mean over the two pairs of halves. The standard error is the jackknife's over ten blocks,
    the clusters taken as fixed.

    Args:
      parts: see `frechet.halves`.
      seed: of k-means.
      unit: what made the embeddings.
    """
    size = len(parts.references[0])
    if size < 2 * BLOCKS:
        nothing = Metric(None, None, size, unit)
        return {"mauve": nothing, "mauve_references": nothing}
    pairs = [*zip(parts.samples, parts.references, strict=True), parts.references]
    with threadpool_limits(1):
        histograms = [_histograms(p, q, seed) for p, q in pairs]
    areas = [divergence_area(p.sum(0), q.sum(0)) for p, q in histograms]
    left = np.array(
        [
            [divergence_area(p.sum(0) - p[k], q.sum(0) - q[k]) for p, q in histograms]
            for k in range(BLOCKS)
        ]
    )
    return {
        "mauve": Metric(
            (areas[0] + areas[1]) / 2, block_jackknife(left[:, :2].mean(1)), 2 * size, unit
        ),
        "mauve_references": Metric(areas[2], block_jackknife(left[:, 2]), 2 * size, unit),
    }


def _histograms(p: np.ndarray, q: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Counts of each cluster in blocks of both sets, [blocks, k] each."""
    both = np.concatenate([p, q]).astype(np.float64)
    both = PCA(min(both.shape), svd_solver="full").fit(both)
    kept = int(np.searchsorted(np.cumsum(both.explained_variance_ratio_), 0.9)) + 1
    reduced = both.transform(np.concatenate([p, q]))[:, :kept]
    clusters = int(np.clip(len(p) // 10, 2, _CLUSTERS))
    labels = KMeans(clusters, n_init=1, max_iter=100, random_state=seed).fit_predict(reduced)
    count = lambda own: np.array(
        [np.bincount(own[k::BLOCKS], minlength=clusters) for k in range(BLOCKS)]
    )
    return count(labels[: len(p)]), count(labels[len(p) :])


def divergence_area(p: np.ndarray, q: np.ndarray) -> float:
    """The area under {(exp(-c KL(q | r)), exp(-c KL(p | r))): r = w p + (1 - w) q}, c = 5.

    By the trapezoidal rule over 501 mixtures w from 0 to 1, whose ends are (1, 0) and (0, 1) where
    neither histogram covers the other. Symmetric in p and q.

    Args:
      p: histogram, not necessarily normalised, [k].
      q: likewise.
    """
    p, q = p / p.sum(), q / q.sum()
    weight = np.linspace(0, 1, _MIXTURES)[:, None]
    mixture = weight * p + (1 - weight) * q
    x = np.exp(-_SCALE * rel_entr(q, mixture).sum(1))
    y = np.exp(-_SCALE * rel_entr(p, mixture).sum(1))
    # The curve falls from (1, y) at w = 0 to (x, 1) at w = 1; it is level outside these.
    return float(np.trapezoid(y[::-1], x[::-1]) + x[-1])

"""Fréchet distance between embeddings, always beside that of real data from itself."""

from typing import NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from seqgan_jax.evaluation.report import Metric
from seqgan_jax.evaluation.statistics import BLOCKS, block_jackknife


class Halves(NamedTuple):
    """Four sets of one size: samples twice, and disjoint halves of the references.

    Attributes:
      samples: the two halves of the samples, [m, D] each.
      references: the two halves of the references, [m, D] each.
    """

    samples: tuple[np.ndarray, np.ndarray]
    references: tuple[np.ndarray, np.ndarray]


def halves(samples: np.ndarray, references: np.ndarray, seed: int) -> Halves:
    """Splits both at random and cuts all four parts to one size m.

    A distance between finite samples is biased by an amount that depends on their sizes. With one
    size, that of the references' halves from each other is the value of a perfect generator.

    Args:
      samples: [N, D].
      references: [M, D].
      seed: of the split.
    """
    rng = np.random.default_rng(seed)
    size = min(len(samples), len(references)) // 2
    split = lambda rows: tuple(np.split(rows[rng.permutation(len(rows))[: 2 * size]], 2))
    return Halves(split(samples), split(references))


def frechet(parts: Halves, unit: str) -> dict[str, Metric]:
    """`frechet`, samples from references, and `frechet_references`, references from themselves.

    The squared Fréchet distance between normal distributions of the same means and covariances
    (Heusel et al., 2017, arXiv:1706.08500; for text Semeniuta et al., 2018, arXiv:1806.04936):
    the mean over the two pairs of halves. Lower is better, and `frechet_references` is what to aim
    at. Blind to everything that the embedding doesn't show and that its first two moments don't;
    one that averages over words is blind to their order. Biased upwards, the more so the fewer the
    samples (Chong and Forsyth, 2020, arXiv:1911.07023): compare it at equal numbers only, and with
    `frechet_references`, which has the same bias where the two are alike.

    The standard error is the jackknife's over ten blocks.

    Args:
      parts: see `halves`.
      unit: what made the embeddings, since distances in two embeddings are no matter of comparison.
    """
    size = len(parts.references[0])
    if size < 2:
        nothing = Metric(None, None, size, unit)
        return {"frechet": nothing, "frechet_references": nothing}
    samples, references = ([_Moments(rows) for rows in pair] for pair in parts)

    def figures(left_out=None):
        s, r = ([m.of_all_but(left_out) for m in pair] for pair in (samples, references))
        roots = [_root(covariance) for _, covariance in r]
        ours = [_distance(*real, root, *own) for real, root, own in zip(r, roots, s, strict=True)]
        return np.mean(ours), _distance(*r[0], roots[0], *r[1])

    # More threads than free cores make these small problems ten times slower.
    with threadpool_limits(1):
        values, left = figures(), None
        if size >= 4 * BLOCKS:
            left = np.array([figures(block) for block in range(BLOCKS)])
    return {
        name: Metric(
            float(values[i]),
            None if left is None else block_jackknife(left[:, i]),
            2 * size,
            unit,
        )
        for i, name in enumerate(("frechet", "frechet_references"))
    }


class _Moments:
    """Sums over blocks of rows, from which the moments of all but one block follow."""

    def __init__(self, rows: np.ndarray):
        rows = np.asarray(rows, np.float64)
        self._shift = rows.mean(0)  # keeps the difference of squares precise
        blocks = [rows[k::BLOCKS] - self._shift for k in range(BLOCKS)]
        self._count = np.array([len(block) for block in blocks])
        self._sum = np.array([block.sum(0) for block in blocks])
        self._square = np.array([block.T @ block for block in blocks])

    def of_all_but(self, block: int | None) -> tuple[np.ndarray, np.ndarray]:
        n, total, square = (
            x.sum(0) - (0 if block is None else x[block])
            for x in (self._count, self._sum, self._square)
        )
        mean = total / n
        return self._shift + mean, (square - n * np.outer(mean, mean)) / (n - 1)


def gaussian_distance(
    mean_a: np.ndarray, covariance_a: np.ndarray, mean_b: np.ndarray, covariance_b: np.ndarray
) -> float:
    """|m_a - m_b|^2 + tr(A + B - 2 (A B)^(1/2)), means [D] and covariances [D, D].

    The trace of the root is the sum of the roots of the eigenvalues of the symmetric
    A^(1/2) B A^(1/2) (Dowson and Landau, 1982), which need no complex arithmetic and are exact
    where A or B is singular, as they are for fewer samples than dimensions.
    """
    return _distance(mean_a, covariance_a, _root(covariance_a), mean_b, covariance_b)


def _distance(mean_a, covariance_a, root, mean_b, covariance_b) -> float:
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root.T @ covariance_b @ root), 0)).sum()
    offset = mean_a - mean_b
    distance = offset @ offset + np.trace(covariance_a) + np.trace(covariance_b) - 2 * cross
    return float(max(distance, 0.0))


def _root(covariance) -> np.ndarray:
    """R with R R^T = A."""
    values, vectors = np.linalg.eigh(covariance)
    return vectors * np.sqrt(np.maximum(values, 0))

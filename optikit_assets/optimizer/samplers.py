"""Strategies that draw a trial's calibration rows (paper section 4.1).

Notation: N rows with token counts l_i ≥ 1, n rows to draw, p(t) the share of token t in the whole
data. Every sampler draws without replacement and depends on nothing but its arguments and the
generator's state, so a seed fixes the subset.

- ``random``: every subset of size n is equally likely.
- ``length_weighted``: weighted sampling without replacement with weights l_i (Efraimidis and
  Spirakis, 2006: the n largest of u_i^(1/l_i)), so that long rows, which carry most of the token
  statistics a Hessian is made of, are not drowned by many short ones.
- ``token_stratified``: rows are binned by length, by mean surprisal −Σ_t log p(t) / l_i and by
  type-token ratio (distinct tokens / l_i); each stratum gets its proportional share by largest
  remainders and at least one row while n allows it; within a stratum rows are drawn uniformly. The
  drawn set mirrors the data's token statistics with less variance between trials than ``random``.

The paper names the strategies without defining them; the two definitions above are ours.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from optikit_assets.errors import CompressionError
from optikit_assets.specs import plugins

Tokens = Sequence[Sequence[int]]
SamplerFunction = Callable[[Tokens, int, np.random.Generator], list[int]]

_SAMPLERS: plugins.Registry[SamplerFunction] = plugins.Registry("sampler", plugins.SAMPLERS)

LENGTH_BINS = 4
SURPRISAL_BINS = 3
DIVERSITY_BINS = 2


def register_sampler(name: str) -> Callable[[SamplerFunction], SamplerFunction]:
    """Register a sampler under `name`.

    Other packages register theirs as entry points in the group ``optikit.samplers``.

    A sampler takes the token ids of all rows, the number of rows to draw (at most their number)
    and a generator, and returns distinct row indices in the order of drawing.
    """
    return _SAMPLERS.register(name)


def sampler_names() -> tuple[str, ...]:
    """Return the names of all registered samplers, sorted."""
    return _SAMPLERS.names()


def draw(name: str, tokens: Tokens, samples: int, seed: int) -> list[int]:
    """Draw the indices of `samples` rows, or of all rows if there are fewer.

    Parameters
    ----------
    name
        A registered sampler.
    tokens
        Token ids of every row, none empty.
    samples
        Rows asked for, at least 1.
    seed
        Fixes the subset and its order.

    Returns
    -------
    list of int
        Distinct indices into `tokens`.

    Raises
    ------
    UnknownNameError
        If no sampler has that name.
    EnvironmentMissingError
        If the package that registered it cannot be imported.
    CompressionError
        If there is no row, or an empty one.
    """
    sampler = _SAMPLERS.get(name)
    if samples < 1:
        raise CompressionError(f"at least one calibration row must be drawn, not {samples}")
    if not tokens or any(len(row) == 0 for row in tokens):
        raise CompressionError("calibration rows must exist and have at least one token each")
    wanted = min(samples, len(tokens))
    drawn = sampler(tokens, wanted, np.random.default_rng(seed))
    if len(set(drawn)) != wanted:
        raise CompressionError(
            f"sampler {name!r} drew {len(set(drawn))} distinct rows instead of {wanted}"
        )
    return drawn


@register_sampler("random")
def _random(tokens: Tokens, samples: int, rng: np.random.Generator) -> list[int]:
    return rng.choice(len(tokens), size=samples, replace=False).tolist()


@register_sampler("length_weighted")
def _length_weighted(tokens: Tokens, samples: int, rng: np.random.Generator) -> list[int]:
    lengths = np.array([len(row) for row in tokens], dtype=np.float64)  # (N,)
    # log(u^(1/l)) orders like u^(1/l) and does not underflow for long rows.
    keys = np.log1p(-rng.random(len(tokens))) / lengths  # (N,)
    return np.argsort(-keys, kind="stable")[:samples].tolist()


@register_sampler("token_stratified")
def _token_stratified(tokens: Tokens, samples: int, rng: np.random.Generator) -> list[int]:
    strata = token_strata(tokens)  # (N,)
    labels, sizes = np.unique(strata, return_counts=True)
    shares = allocate(sizes, samples)
    drawn = [
        int(index)
        for label, share in zip(labels, shares, strict=True)
        for index in rng.choice(np.flatnonzero(strata == label), size=share, replace=False)
    ]
    # Without this the rows would come ordered by stratum, and a backend may stop early.
    return rng.permutation(drawn).tolist()


def token_strata(tokens: Tokens) -> NDArray[np.int64]:
    """Return each row's stratum number, shape (N,).

    Length is cut at its quantiles first; surprisal within each length bin, diversity within each of
    those, because the type-token ratio falls with length and global cuts would leave most
    combinations empty.
    """
    lengths, surprisal, diversity = _statistics(tokens)
    strata = np.zeros(len(tokens), dtype=np.int64)
    for feature, bins in (
        (lengths, LENGTH_BINS),
        (surprisal, SURPRISAL_BINS),
        (diversity, DIVERSITY_BINS),
    ):
        refined = strata * bins
        for label in np.unique(strata):
            members = np.flatnonzero(strata == label)
            refined[members] += _quantile_bin(feature[members], bins)
        strata = refined
    return strata


def allocate(sizes: NDArray[np.int64], samples: int) -> NDArray[np.int64]:
    """Share `samples` out over strata of the given sizes (largest remainders, none overdrawn).

    Every stratum gets at least one while `samples` allows it, else the largest strata do.

    Parameters
    ----------
    sizes
        Rows per stratum, each at least 1, shape (K,).
    samples
        At most the sum of `sizes`.

    Returns
    -------
    ndarray
        Rows to draw per stratum, shape (K,), summing to `samples`.
    """
    if samples <= len(sizes):
        shares = np.zeros(len(sizes), dtype=np.int64)
        shares[np.argsort(-sizes, kind="stable")[:samples]] = 1
        return shares
    exact = sizes * (samples / sizes.sum())
    shares = np.minimum(np.maximum(np.floor(exact).astype(np.int64), 1), sizes)
    while (missing := samples - int(shares.sum())) != 0:
        step = 1 if missing > 0 else -1
        possible = shares < sizes if step > 0 else shares > 1
        order = np.argsort(-step * (exact - shares), kind="stable")
        shares[order[possible[order]][: abs(missing)]] += step
    return shares


def _statistics(
    tokens: Tokens,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return lengths, mean surprisals (nats) and type-token ratios, each of shape (N,)."""
    lengths = np.array([len(row) for row in tokens], dtype=np.float64)
    flat = np.concatenate([np.asarray(row, dtype=np.int64) for row in tokens])
    _, inverse, counts = np.unique(flat, return_inverse=True, return_counts=True)
    costs = -np.log(counts / len(flat))[inverse]
    starts = np.concatenate([[0], np.cumsum(lengths[:-1])]).astype(np.int64)
    surprisal = np.add.reduceat(costs, starts) / lengths
    diversity = np.array([len(set(row)) for row in tokens]) / lengths
    return lengths, surprisal, diversity


def _quantile_bin(values: NDArray[np.float64], bins: int) -> NDArray[np.int64]:
    """Return bin numbers below `bins`; equal values share a bin."""
    edges = np.quantile(values, np.arange(1, bins) / bins)
    return np.searchsorted(edges, values, side="left")

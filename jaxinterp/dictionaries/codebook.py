"""A codebook that is fitted rather than descended: running means, and restarts of dead words."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jaxinterp.dictionaries.base import Codes, Stats, new_stats
from jaxinterp.dictionaries.decode import linear_decode
from jaxinterp.dictionaries.errors import squared_error
from jaxinterp.dictionaries.info import loss_info
from jaxinterp.dictionaries.learner import Learner
from jaxinterp.dictionaries.sparse_products import scatter_outer
from jaxinterp.dictionaries.vector_quantised import book_perplexity, choose, vector_quantised

Params = dict[str, Array]


class CodebookState(NamedTuple):
    """What the next step needs.

    Attributes:
        params: `decoder` and `decoder_bias`, as `vector_quantised` has them.
        rows: running mean number of a batch's rows that chose each word.
        sums: running mean of the sum of those rows.
        stats: firing statistics.
        key: the run's key.
    """

    params: Params
    rows: Float[Array, " width"]
    sums: Float[Array, "width d"]
    stats: Stats
    key: Key[Array, ""]

    @property
    def step(self) -> Int[Array, ""]:
        """Steps taken."""
        return self.stats.step


def moving_average(
    width: int,
    *,
    books: int = 1,
    decay: float | Array = 0.99,
    restart_below: float | Array = 0.01,
    dead_after: int = 100_000,
) -> Learner:
    r"""Learns a codebook by exponential moving averages of the rows that choose each word.

    With $n_j$ the rows of a batch that chose word j and $s_j$ their sum,

    $N_j \leftarrow \gamma N_j + (1 - \gamma) n_j$, $S_j \leftarrow \gamma S_j + (1 - \gamma) s_j$,
    $W_{d,j} = S_j / N_j$.

    With $\gamma = 0$ a step on all rows is a step of Lloyd's k-means. Averages start as if every
    word had been chosen by its fair share of rows. A word whose $N_j$ falls below `restart_below`
    fair shares becomes a row of the batch, drawn without repetition in proportion to its squared
    error, as k-means++ would draw it; it starts with a fair share.

    The bias is fixed. There is no Laplace smoothing of $N_j$, which would pull rare words away from
    the mean of their rows: a word that nobody chose keeps its place instead.

    Args:
        width: words of all books.
        books: as in `vector_quantised`; each book averages what the books before it leave.
        decay: $\gamma$.
        restart_below: in fair shares (batch rows over words of a book); 0 for no restarts.
        dead_after: rows without activity after which a word is reported as dead.

    Returns:
        The learner; its parameters are those of `vector_quantised(width, books=books)`.

    Raises:
        ValueError: as `vector_quantised`; a concrete decay outside 0 .. 1 (excluded).

    Reference:
        van den Oord et al. (2017), arXiv 1711.00937, appendix A.1; restarts after Dhariwal et al.
        (2020), "Jukebox", arXiv 2005.00341, whose words restart at uniformly drawn rows.
    """
    if isinstance(decay, float | int) and not 0 <= decay < 1:
        raise ValueError(f"{decay=} must be at least 0 and below 1")
    dictionary, size = vector_quantised(width, books=books, dead_after=dead_after), width // books

    def init(key: Key[Array, ""], sample: Float[Array, "n d"]) -> CodebookState:
        start, run = jax.random.split(key)
        params = dictionary.init(start, jnp.asarray(sample))
        # Averages in shares of one row: the first step, which knows the batch, scales them.
        return CodebookState(
            params, jnp.ones(width), params["decoder"] + 0.0, new_stats(width), run
        )

    def average(
        state: CodebookState, indices: Array, rests: Array, fair: float
    ) -> tuple[Array, Array, Array]:
        """(rows, sums, words) after a batch."""
        kept = decay * jnp.where(state.step == 0, fair, 1.0)
        chosen, total = jnp.zeros(width), jnp.zeros_like(state.sums)
        for book in range(books):
            place = indices[:, book, None]
            chosen = chosen.at[place[:, 0]].add(1.0)
            total = total + scatter_outer(jnp.ones(place.shape), rests[book], place, total)
        rows = kept * state.rows + (1 - decay) * chosen
        sums = kept * state.sums + (1 - decay) * total
        used = (rows > 0)[:, None]
        mean = sums / jnp.where(used, rows[:, None], 1.0)
        return rows, sums, jnp.where(used, mean, state.params["decoder"])

    def candidates(key: Array, left: Array, rest: Array, weak: Array) -> tuple[Array, Array]:
        """(which weak words of a book restart, at which rows): each row starts one at most."""
        order = _by_error(key, jnp.square(left).sum(1))
        place = jnp.cumsum(weak) - 1
        return weak & (place < len(rest)), rest[order[jnp.clip(place, 0, len(rest) - 1)]]

    def step(
        state: CodebookState, batch: Float[Array, "b d"]
    ) -> tuple[CodebookState, dict[str, Array]]:
        x, atoms, fair = jnp.asarray(batch), state.params["decoder"], batch.shape[0] / size
        indices, rests = choose(state.params, x, books)
        codes = Codes(jnp.ones(indices.shape), indices)
        x_hat = linear_decode(state.params, codes)
        rows, sums, words = average(state, indices, rests, fair)

        keys = jax.random.split(jax.random.fold_in(state.key, state.step), books)
        weak = (rows < restart_below * fair).reshape(books, size)
        left = rests - jnp.moveaxis(atoms[indices], 1, 0)
        again, fresh = jax.vmap(candidates)(keys, left, rests, weak)
        again, fresh = again.reshape(width), fresh.reshape(width, -1)
        words = jnp.where(again[:, None], fresh, words)
        rows = jnp.where(again, fair, rows)
        sums = jnp.where(again[:, None], fair * fresh, sums)

        own = {
            "perplexity": book_perplexity(indices, width, books),
            "restarted": again.sum(dtype=jnp.float32),
        }
        report = loss_info(codes, x_hat, x, state.stats, dead_after, own)
        silent = jnp.minimum(state.stats.silent, 2**30) + x.shape[0]
        silent = jnp.where(report.fired | again, 0, silent)
        stats = Stats(silent, state.stats.step + 1)
        new = CodebookState(state.params | {"decoder": words}, rows, sums, stats, state.key)
        return new, report.metrics | {"loss": squared_error(x_hat, x)}

    return Learner(init, step)


def _by_error(key: Key[Array, ""], errors: Float[Array, " b"]) -> Int[Array, " b"]:
    """Row numbers in random order, drawn without repetition in proportion to the error."""
    noise = jax.random.gumbel(key, errors.shape)
    return jnp.argsort(jnp.log(errors) + noise, descending=True)

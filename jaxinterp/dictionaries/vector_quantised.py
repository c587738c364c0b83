"""Vector quantisation as a dictionary: an activation is one atom from each of a few codebooks."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxinterp.dictionaries import atoms as atom_kinds
from jaxinterp.dictionaries import quantise
from jaxinterp.dictionaries.base import Codes, Dictionary, LossInfo, Stats
from jaxinterp.dictionaries.decode import linear_decode
from jaxinterp.dictionaries.errors import Measure, unexplained
from jaxinterp.dictionaries.info import loss_info

Params = dict[str, Array]


def vector_quantised(
    width: int,
    *,
    books: int = 1,
    measure: Measure = unexplained,
    centre: Callable[[Array], Array] = atom_kinds.mean_centre,
    dead_after: int = 100_000,
) -> Dictionary:
    r"""Residual vector quantisation: k-means, `books` times over.

    The width is cut into `books` codebooks of equal size. With $r_1 = x - b_d$,

    $j_s = \arg\min_{j \in \text{book}\,s} \lVert r_s - W_{d,j} \rVert$, $r_{s+1} = r_s -
    W_{d,j_s}$, $\hat x = b_d + \sum_s W_{d,j_s}$, $L = \mathrm{error}(\hat x, x)$.

    The choice has no gradient, so the loss moves the chosen atoms only: the codebook loss, which
    for one book is that of VQ-VAE. `codebook.moving_average` fits the same parameters without an
    optimiser, and restarts dead atoms.

    Args:
        width: atoms of all books.
        books: codebooks; 1 is a nearest code word.
        measure: the reconstruction error.
        centre: first decoder bias.
        dead_after: rows without activity after which an atom is reported as dead.

    Returns:
        The dictionary; its codes are `Codes` of value 1, one per book. Parameters: `decoder`
        (width, d), starting as k-means++ of the sample, and `decoder_bias` (d).

    Raises:
        ValueError: a width that is not a multiple of the books.

    Reference:
        van den Oord et al. (2017), arXiv 1711.00937; Zeghidour et al. (2021), "SoundStream", arXiv
        2107.03312 (residual books); the bottleneck of Dedieu et al. (2024), arXiv 2401.05946.
    """
    if books < 1 or width % books:
        raise ValueError(f"{width=} is not a multiple of {books=} >= 1: books are of equal size")
    size = width // books

    def init(key: Key[Array, ""], sample: Float[Array, "n d"]) -> Params:
        bias = centre(sample.astype(jnp.float32))
        rest, found = sample.astype(jnp.float32) - bias[None], []
        for one in jax.random.split(key, books):
            book = plus_plus(one, rest, size)
            found.append(book)
            rest = rest - book[quantise.nearest(rest, book)]
        return {"decoder": jnp.concatenate(found), "decoder_bias": bias}

    def encode(params: Params, x: Float[Array, "... d"]) -> Codes:
        indices, _ = choose(params, x, books)
        return Codes(jnp.ones(indices.shape, params["decoder"].dtype), indices)

    def loss(
        params: Params,
        stats: Stats,
        x: Float[Array, "b d"],
        target: Float[Array, "b t"],
        key: Key[Array, ""],
    ) -> tuple[Float[Array, ""], LossInfo]:
        del key
        codes = encode(params, x)
        x_hat = linear_decode(params, codes)
        own = {"perplexity": book_perplexity(codes.indices, width, books)}
        info = loss_info(codes, x_hat, target, stats, dead_after, own)
        return measure(x_hat, target), info

    return Dictionary(width, init, encode, linear_decode, loss, lambda p: p, lambda p, g: g)


def choose(
    params: Params, x: Float[Array, "... d"], books: int
) -> tuple[Array, Float[Array, "books ... d"]]:
    """The atom that each book gives, (..., books), and the rest that it was chosen for."""
    atoms, indices, rests = params["decoder"], [], []
    size = atoms.shape[0] // books
    if x.shape[-1] != atoms.shape[1]:
        quantise.nearest(x, atoms)  # refuses it, in words
    rest = x - params["decoder_bias"].reshape((1,) * (x.ndim - 1) + (-1,))
    for book in range(books):
        words = atoms[book * size : (book + 1) * size]
        place = quantise.nearest(rest, words)
        rests.append(rest)
        indices.append(place + book * size)
        rest = rest - words[place]
    return jnp.stack(indices, -1), jnp.stack(rests)


def book_perplexity(indices: Array, width: int, books: int) -> Float[Array, ""]:
    """How many words of a book are in use, as equals: the mean over the books."""
    counts = jnp.zeros(width).at[indices.ravel()].add(1.0)
    return quantise.perplexity(counts.reshape(books, -1)).mean()


def plus_plus(key: Key[Array, ""], rows: Float[Array, "n d"], size: int) -> Float[Array, "size d"]:
    r"""k-means++: each word is a row drawn in proportion to its squared distance to the others.

    Expected error within $8 (\ln k + 2)$ of the best k words. Costs n d per word. Where there are
    fewer different rows than words, the surplus words repeat rows.

    Args:
        key: of the draws.
        rows: candidates.
        size: words to choose.

    Reference:
        Arthur & Vassilvitskii (2007), "k-means++: the advantages of careful seeding".
    """
    keys = jax.random.split(key, size)

    def apart(word: Array) -> Array:
        return jnp.square(rows - word[None]).sum(1)

    def add(carry: tuple[Array, Array], one: Array) -> tuple[tuple[Array, Array], Array]:
        distance, _ = carry
        log = jnp.log(distance)  # -inf at rows that are words already
        place = jax.random.categorical(one, jnp.where(distance.max() > 0, log, 0.0))
        word = rows[place]
        return (jnp.minimum(distance, apart(word)), word), word

    start = rows[jax.random.randint(keys[0], (), 0, rows.shape[0])]
    _, others = jax.lax.scan(add, (apart(start), start), keys[1:])
    return jnp.concatenate([start[None], others])

"""Which layer of one model is which of another, and how alike two dictionaries of data are."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def jaccard(first: Int[Array, " n"], second: Int[Array, " m"]) -> Float[Array, ""]:
    r"""$|A \cap B| / |A \cup B|$ of two sets of labels, such as those of two `itda` dictionaries.

    Args:
        first: labels of the first; a negative one is an empty place, a repeated one counts once.
        second: labels of the second, which mean the same things.

    Returns:
        Between 0 and 1; 0 where both are empty.

    Reference:
        Leask et al. (2025), arXiv 2505.17769, section 3.3.
    """
    union = _distinct(jnp.concatenate([first, second]))
    both = _distinct(first) + _distinct(second) - union
    return both / jnp.maximum(union, 1)


def matching_accuracy(similarity: Float[Array, "layers others"]) -> Float[Array, ""]:
    """Share of the first model's layers whose most similar layer of the second is the same one.

    Args:
        similarity: of each layer of the first model (rows) to each of the second, of equal depth;
            a row with a NaN does not match.

    Raises:
        ValueError: the models are not of equal depth.

    Reference:
        Leask et al. (2025), arXiv 2505.17769, section 4 (there averaged over ordered pairs of
        models); Kornblith et al. (2019), arXiv 1905.00414, section 6.1.
    """
    rows, columns = similarity.shape
    if rows != columns:
        raise ValueError(f"similarities of {rows} to {columns} layers: which is the same one?")
    right = jnp.argmax(similarity, 1) == jnp.arange(rows)
    return (right & ~jnp.isnan(similarity).any(1)).mean(dtype=jnp.float32)


def _distinct(labels: Int[Array, " n"]) -> Int[Array, ""]:
    """How many different labels there are, the negative ones left out."""
    ordered = jnp.sort(labels)
    new = jnp.concatenate([jnp.ones((1,), bool), ordered[1:] != ordered[:-1]])
    return (new & (ordered >= 0)).sum()

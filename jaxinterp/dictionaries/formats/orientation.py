"""Whether the tensors of a square dictionary are the right way round, which shapes can't tell.

With as many latents as dimensions, a transposed encoder or decoder fits. Two signs of it are left:

- trained decoders often have rows of one length; turned round, their columns have;
- a trained encoder reads about what its decoder writes, so that the rows of the two, latent by
  latent, have a cosine well above zero; with one of them turned round, rows and columns have.

What can't be told: which of the two is turned, by the second sign; that both are, unless by the
first; and anything of dictionaries without these signs, such as untrained ones and transcoders.
Then the file is believed.
"""

from collections.abc import Mapping

import numpy as np

from jaxinterp.dictionaries.formats import lazy
from jaxinterp.dictionaries.formats.lazy import Lazy

_EQUAL = 1e-3  # relative spread of lengths that were made equal, in half precision too
_CLEAR = 0.2  # mean cosine that random rows of 25 dimensions or more never have


def check(tensors: Mapping[str, Lazy]) -> None:
    """Refuses a square dictionary that fits better turned round.

    Args:
        tensors: `encoder` and `decoder` (width, d), and others.

    Raises:
        ValueError: one is turned round, with the sign that tells it.
    """
    decoder = tensors.get("decoder")
    if decoder is None or len(decoder.shape) != 2 or decoder.shape[0] != decoder.shape[1]:
        return
    if decoder.shape[0] < 2:
        return
    atoms = lazy.whole(decoder).astype(np.float64)
    by_row, by_column = (_spread(np.linalg.norm(atoms, axis=axis)) for axis in (1, 0))
    if by_column < _EQUAL < 10 * _EQUAL < by_row:
        raise ValueError(
            f"{decoder.name} seems to be transposed: its columns have one length, its rows, which "
            "should be the atoms, have not"
        )
    encoder = tensors.get("encoder")
    if encoder is None or encoder.shape != decoder.shape:
        return
    rows = lazy.whole(encoder).astype(np.float64)
    kept, turned = _mean_cosine(rows, atoms), _mean_cosine(rows, atoms.T)
    if turned > max(_CLEAR, 2 * kept):
        raise ValueError(
            f"either {encoder.name} or {decoder.name} seems to be transposed: encoder and decoder "
            f"of a latent have a mean cosine of {kept:.2f} as they are, {turned:.2f} with one of "
            "them turned round"
        )


def _spread(lengths: np.ndarray) -> float:
    return float((lengths.max() - lengths.min()) / max(lengths.max(), 1e-30))


def _mean_cosine(a: np.ndarray, b: np.ndarray) -> float:
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(1) / np.where(lengths > 0, lengths, 1.0)).mean())

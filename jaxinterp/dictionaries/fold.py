r"""Moves a normalisation, or the lengths of the atoms, into the weights of a trained dictionary.

A dictionary that was trained on $y = (x - c) A$ is used on the model's own $x$. By the role of each
parameter, with $A^- A = I$ (see `activations.normalise`):

    encoder (or the first layer of an encoder of several)   $E' = E A^\top$
    decoder                                                 $D' = D A^-$
    decoder_bias                                            $b' = b A^- + c$
    skip                                                    $S' = A^{-\top} S A^\top$
    encoder biases, thresholds, magnitudes                  unchanged, where the encoder takes
                                                            decoder_bias away: $(x - b') E'^\top
                                                            = (y - b) E^\top$
    encoder bias (or that of the first layer)               $e' = e - c E'^\top$, where it does not

The scores, and so the codes, are those on the normalised input, thresholds included. Nothing is
lost where A drops coordinates: what is folded reads and writes the kept ones only, and its bias
holds the mean of the rest.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxinterp.activations.normalise import Affine, apply, invert, times
from jaxinterp.dictionaries.base import Codes, Dictionary, LossInfo, Stats, WithRest, latents
from jaxinterp.dictionaries.dependence import depends_on

Params = dict[str, Array]
# One map for the last axis, or one for each site of activations (..., sites, d).
Spaces = Affine | Sequence[Affine]
# (name, which) -> those rows of a parameter; (rows, which) -> the same rows of one that changed.
Rows = Callable[[str, slice], np.ndarray]
Change = Callable[[Rows, slice], np.ndarray]

_FOLDED = ("encoder", "hidden", "decoder", "decoder_bias", "skip")
_IN_UNITS_OF_SCORES = ("encoder_bias", "magnitude_bias", "threshold")
_UNCHANGED = (*_IN_UNITS_OF_SCORES, "hidden_bias", "log_threshold", "log_magnitude")


def fold(
    dictionary: Dictionary, params: Params, affine: Spaces, *, target: Spaces | None = None
) -> tuple[Dictionary, Params]:
    """A dictionary for raw activations from one trained on normalised ones.

    Into the weights where the roles of the parameters allow it (linear, uncentred, gated and MLP
    encoders, any threshold or top-k, skip paths): the dictionary stays, the parameters are
    new. Else, `normalised`: the parameters stay, in the units of the normalised activations, and
    encode and decode normalise around them. That is for encoders that read the decoder (tied ones,
    pursuits, attention over codes, crosscoders that weigh latents by what they write), whose atoms
    can't be stretched one way for reading and the other for writing, and for cross-layer
    transcoders. To fold a tied encoder, untie it: give the untied variant and
    `params | {"encoder": params["decoder"]}`.

    What is folded is for use, not for more training: atoms of unit length no longer are.

    Args:
        dictionary: any variant.
        params: its parameters; arithmetic is in float64 on the host, their types stay.
        affine: the normalisation of the input, or one for each site of a crosscoder.
        target: that of the target of a transcoder; None for the same as the input.

    Returns:
        (dictionary, params) whose encode takes raw activations and whose decode gives raw ones.
    """
    changes = row_changes(dictionary, params, affine, target=target)
    if changes is None:
        return normalised(dictionary, affine, target=target), params

    def rows(name: str, which: slice) -> np.ndarray:
        return np.asarray(params[name], np.float64)[which]

    folded = {name: change(rows, slice(None)) for name, change in changes.items()}
    return dictionary, params | _like({name: params[name] for name in folded}, folded)


def row_changes(
    dictionary: Dictionary, params: Any, affine: Spaces, *, target: Spaces | None = None
) -> dict[str, Change] | None:
    """What `fold` does to the weights, some rows at a time, for those that are not in memory.

    Args:
        dictionary: see `fold`.
        params: its parameters, or their shapes and types.
        affine: see `fold`.
        target: see `fold`.

    Returns:
        For each parameter that changes, `(rows, which) -> new rows` in float64, where
        `rows(name, which)` gives those of a parameter before, in float64 too. None where the
        weights can't hold it.
    """
    wanted = affine if target is None else target
    # What would be traced: a float64 of a file becomes float32 unless JAX is told otherwise.
    params = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, jax.dtypes.canonicalize_dtype(a.dtype)), params
    )
    by_site = not (isinstance(affine, Affine) and isinstance(wanted, Affine))
    if not _foldable(dictionary, params, shared=target is None) or ("skip" in params and by_site):
        return None
    first = "hidden" if "hidden" in params else "encoder"

    def skip(rows: Rows, which: slice) -> np.ndarray:
        both = _over(_writing, wanted, rows("skip", slice(None)).T).T
        return _over(_reading, affine, both)[which]

    def read(rows: Rows, which: slice) -> np.ndarray:
        return _over(_reading, affine, rows(first, which))

    def point(rows: Rows, which: slice) -> np.ndarray:
        return _over(_point, wanted, rows("decoder_bias", slice(None)))[which]

    changes: dict[str, Change] = {
        first: read,
        "decoder": lambda rows, which: _over(_writing, wanted, rows("decoder", which)),
        "decoder_bias": point,
    } | ({"skip": skip} if "skip" in params else {})
    if _reads(dictionary, params, "decoder_bias"):
        return changes
    # The input is not centred: what the encoder makes of the centre goes into its bias.
    place = affine.centre if isinstance(affine, Affine) else [one.centre for one in affine]
    place = np.asarray(place, np.float64)
    if not np.any(place):
        return changes

    def missing(rows: Rows, which: slice) -> np.ndarray:
        seen = read(rows, which)
        return (seen * place).reshape(len(seen), -1).sum(1)

    def bias(rows: Rows, which: slice) -> np.ndarray:
        return rows(f"{first}_bias", which) - missing(rows, which)

    def magnitude(rows: Rows, which: slice) -> np.ndarray:
        # A gated encoder scales the same scores once more.
        stretch = np.exp(rows("log_magnitude", which))
        return rows("magnitude_bias", which) - stretch * missing(rows, which)

    def output(rows: Rows, which: slice) -> np.ndarray:
        return point(rows, which) - skip(rows, which) @ place

    changed: dict[str, Change] = {f"{first}_bias": bias}
    changed |= {"magnitude_bias": magnitude} if "magnitude_bias" in params else {}
    changed |= {"decoder_bias": output} if "skip" in params else {}
    return changes | changed


def normalised(
    dictionary: Dictionary, affine: Spaces, *, target: Spaces | None = None
) -> Dictionary:
    """The same dictionary seen from raw activations: every function normalises around it.

    Exact for any variant, at the price of one affine map of input and output per call. The metrics
    of its loss are those of the normalised activations.

    Args:
        dictionary: any variant; its parameters stay in normalised units.
        affine: the normalisation of the input, or one for each site.
        target: that of the target; None for the same as the input.
    """
    wanted = affine if target is None else target

    def init(key: Array, sample: Any) -> Any:
        if isinstance(sample, tuple):
            x, y = sample
            return dictionary.init(key, (_over(apply, affine, x), _over(apply, wanted, y)))
        return dictionary.init(key, _over(apply, affine, sample))

    def encode(params: Any, x: Array) -> Any:
        return dictionary.encode(params, _over(apply, affine, x))

    def decode(params: Any, codes: Any) -> Array:
        return _over(invert, wanted, dictionary.decode(params, codes))

    def loss(
        params: Any, stats: Stats, x: Array, target: Array, key: Array
    ) -> tuple[Array, LossInfo]:
        x, y = _over(apply, affine, x), _over(apply, wanted, target)
        return dictionary.loss(params, stats, x, y, key)

    return dictionary._replace(init=init, encode=encode, decode=decode, loss=loss)


def unit_norms(dictionary: Dictionary, params: Params) -> Params:
    r"""Atoms of length one, their lengths moved to where the codes are made.

    With $n_j = \lVert D_j \rVert$: $D_j / n_j$; encoder row, encoder bias, magnitude bias and
    threshold times $n_j$. Codes become $n_j z_j$, the length of what a latent writes; the
    reconstruction stays. An atom of length zero is left as it is.

    Args:
        dictionary: a variant that compares each latent with a threshold of its own.
        params: its parameters.

    Returns:
        The new parameters, for the same dictionary.

    Raises:
        ValueError: the lengths differ and the k largest codes are kept, whose order they would
            change, or all latents share one threshold; or the encoder reads the decoder.
    """
    if not _foldable(dictionary, params, shared=True):
        raise ValueError(
            f"lengths of atoms can't be moved in a dictionary with parameters {sorted(params)} "
            "whose encoder reads the decoder or has parts of unknown role"
        )
    p = {name: np.asarray(value, np.float64) for name, value in params.items()}
    width = len(p["decoder"])
    norms = np.linalg.norm(p["decoder"].reshape(width, -1), axis=1)
    norms = np.where(norms > 0, norms, 1.0)
    if norms.max() > norms.min() * (1 + 1e-5):
        told = f"atoms of length {norms.min():.4g} to {norms.max():.4g} in a dictionary "
        codes = jax.eval_shape(dictionary.encode, params, _row(params))
        if isinstance(codes.codes if isinstance(codes, WithRest) else codes, Codes):
            raise ValueError(
                told + "that keeps the k largest codes: with other lengths it would keep others"
            )
        if jnp.ndim(params.get("threshold", norms)) == 0:
            raise ValueError(
                told + "with one threshold for all: take it for a `jumprelu` with that threshold "
                "repeated for each latent, which has the same codes"
            )
    scaled = dict(p)
    scaled["decoder"] = p["decoder"] / _column(norms, p["decoder"])
    scaled["encoder"] = p["encoder"] * _column(norms, p["encoder"])
    for name in _IN_UNITS_OF_SCORES:
        if name in p:
            scaled[name] = p[name] * (norms if p[name].ndim else norms[0])
    if "log_threshold" in p:
        scaled["log_threshold"] = p["log_threshold"] + np.log(norms)
    return _like(params, scaled)


def _foldable(dictionary: Dictionary, params: Any, *, shared: bool) -> bool:
    """Whether every parameter that matters has a role that is known here.

    An encoder that reads the decoder ties the two; one that reads the decoder's bias needs input
    and target in one space.
    """
    needed = {"encoder", "encoder_bias", "decoder", "decoder_bias"}
    if not isinstance(params, dict) or not needed <= set(params):
        return False
    if params["encoder_bias"].shape != params["encoder"].shape[:1]:
        return False  # latents of several layers
    x = jnp.zeros(_row(params).shape)
    codes = jax.eval_shape(dictionary.encode, params, x)
    if isinstance(codes, WithRest) and codes.scale is not None:
        return False  # a row's own scale is no part of an affine map

    def run(p: Params) -> Array:
        return dictionary.decode(p, dictionary.encode(p, x))

    if any(depends_on(run, params, name) for name in set(params) - {*_FOLDED, *_UNCHANGED}):
        return False
    if _reads(dictionary, params, "decoder"):
        return False
    return shared or not _reads(dictionary, params, "decoder_bias")


def _reads(dictionary: Dictionary, params: Any, name: str) -> bool:
    """Whether the codes depend on a parameter."""
    x = jnp.zeros(_row(params).shape)
    return depends_on(lambda p: latents(dictionary.encode(p, x)), params, name)


def _row(params: Any) -> jax.ShapeDtypeStruct:
    """Shape of one row of what the input layer reads."""
    first = params["hidden" if "hidden" in params else "encoder"]
    return jax.ShapeDtypeStruct((1, *first.shape[1:]), jnp.float32)


def _over(map_one: Callable[[Affine, Any], Any], spaces: Spaces, x: Any) -> Any:
    """Maps x (..., d) by one affine, or x (..., sites, d) by one for each site."""
    if isinstance(spaces, Affine):
        return map_one(spaces, x)
    if len(spaces) != x.shape[-2]:
        raise ValueError(f"{len(spaces)} normalisations for {x.shape[-2]} sites: give one for each")
    parts = [map_one(affine, x[..., i, :]) for i, affine in enumerate(spaces)]
    return (np if isinstance(x, np.ndarray) else jnp).stack(parts, axis=-2)


def _reading(affine: Affine, rows: np.ndarray) -> np.ndarray:
    """Rows that are multiplied with y, as rows that are multiplied with x - c."""
    matrix = np.asarray(affine.matrix, np.float64)
    return times(rows, matrix.T)


def _writing(affine: Affine, rows: np.ndarray) -> np.ndarray:
    """Directions of y as directions of x."""
    return times(rows, np.asarray(affine.inverse, np.float64))


def _point(affine: Affine, points: np.ndarray) -> np.ndarray:
    """Points of y as points of x."""
    return _writing(affine, points) + np.asarray(affine.centre, np.float64)


def _column(values: np.ndarray, like: np.ndarray) -> np.ndarray:
    return values.reshape((-1,) + (1,) * (like.ndim - 1))


def _like(params: Params, changed: dict[str, np.ndarray]) -> Params:
    return {name: jnp.asarray(changed[name], value.dtype) for name, value in params.items()}

"""Activation rows from a model: one jitted forward gives all sites, and where each row is from."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Array, Float, Int

from jaxinterp.data import Images, Rows, Stream, iterate, looking_ahead, mapped, random_access
from jaxinterp.encoders.dual import DualConfig
from jaxinterp.encoders.encoder import Encoder
from jaxinterp.encoders.sites import Request, resolve
from jaxinterp.parallel import global_batch

_NOT_OF_ONE_TOKEN = ("scores", "pattern")


class Harvest(NamedTuple):
    """Activations of the wanted places of one batch; padding and row starts are left out.

    Attributes:
        sites: captured site -> rows (n, d), or (layers, n, d) for a site of several layers; the
            heads of a site that has them are laid side by side.
        token: token id of each row; -1 in pictures.
        document: number of the document (or picture) that it is from.
        index: which token of its document it is; in pictures, its place in the sequence.
        row: which row of the batch (of `rows`, for `harvest`) it is from.
        position: its place within that row.
    """

    sites: dict[str, Float[np.ndarray, "... n d"]]
    token: Int[np.ndarray, " n"]
    document: Int[np.ndarray, " n"]
    index: Int[np.ndarray, " n"]
    row: Int[np.ndarray, " n"]
    position: Int[np.ndarray, " n"]


def capture_function(
    encoder: Encoder, sites: Sequence[str], *, dtype: Any = None
) -> Callable[..., dict[str, Array]]:
    """A jitted `(params, inputs, mask) -> captured`; runs only the layers the sites need.

    Args:
        encoder: the model.
        sites: what to capture; see `encoders.sites`.
        dtype: of what is returned; None for the model's own.

    Returns:
        The function. Its mask may be None.
    """
    sites = tuple(sites)

    @jax.jit
    def run(params: Any, inputs: Array, mask: Array | None) -> dict[str, Array]:
        masked = {} if mask is None else {"mask": mask}
        captured = encoder.forward(
            params, encoder.config, inputs, capture=sites, return_logits=False, **masked
        )[1]
        return captured if dtype is None else jax.tree.map(lambda x: x.astype(dtype), captured)

    return run


def harvest(
    encoder: Encoder,
    rows: Rows,
    sites: Sequence[str],
    *,
    order: Int[np.ndarray, " m"] | None = None,
    batch: int = 32,
    dtype: Any = None,
) -> Iterator[Harvest]:
    """Captures sites over rows of tokens that are in memory, batch by batch.

    Args:
        encoder: the model.
        rows: tokens, masks and which places are wanted (`Rows.keep`).
        sites: as for `harvest_stream`.
        order: which rows, in which order; None for all as they come.
        batch: rows in a forward.
        dtype: of the activations; None for the model's own.

    Yields:
        One `Harvest` per batch.

    Raises:
        ValueError: as `harvest_stream`.
    """
    order = np.arange(len(rows.tokens)) if order is None else order

    def chosen(block: list[tuple[int, int]]) -> Rows:
        numbers = np.asarray([number for _, number in block])
        return Rows(*(column[numbers] for column in rows))

    batches = mapped(random_access(order.tolist(), block=batch), chosen)
    parts = harvest_stream(encoder, batches, sites, batch=batch, dtype=dtype)
    for start, (_, part) in zip(range(0, len(order), batch), iterate(parts), strict=True):
        yield part._replace(row=order[start + part.row].astype(np.int32))


def harvest_stream(
    encoder: Encoder,
    batches: Stream,
    sites: Sequence[str],
    *,
    batch: int,
    dtype: Any = None,
    skip_positions: Sequence[int] = (),
) -> Stream:
    """Captures sites over a stream of batches; resumes wherever the stream does.

    All sites come from one forward, which stops behind the last layer that is needed. Where the
    parameters are spread over a mesh with an axis `data`, the batches are split over that axis;
    with several processes each gives its own part and gets back its own rows.

    Args:
        encoder: the model.
        batches: a stream of `Rows` or of `Images`.
        sites: sites with one vector per place: `(batch, seq, d)` or `(batch, seq, heads, d_head)`.
        batch: rows in a forward (of this process); shorter batches are filled up, so that all
            compile to one program.
        dtype: of the activations; None for the model's own.
        skip_positions: places of a row whose activations are left out, such as the class token of
            a picture.

    Returns:
        A stream of `Harvest`. The next batch is under way while one is used.

    Raises:
        ValueError: a site of another shape, sites of pictures that do not have the same places, a
            batch larger than `batch` or longer than the model's context, padding for a model that
            takes no mask, a model of two towers, or activations that are not finite.
    """
    _refuse_two_towers(encoder)
    run = capture_function(encoder, sites, dtype=dtype)
    place = _placement(encoder.params)
    takes_mask = "mask" in inspect.signature(encoder.forward).parameters
    reach = getattr(encoder.config, "context", None)

    def dispatch(item: Rows | Images) -> tuple[Rows | Images, dict[str, Array]]:
        inputs, mask = (item.pixels, None) if isinstance(item, Images) else (item.tokens, item.mask)
        if len(inputs) > batch:
            raise ValueError(
                f"{len(inputs)} rows in a batch of {batch}: cut the stream into {batch}"
            )
        if isinstance(item, Rows) and reach is not None and inputs.shape[1] > reach:
            raise ValueError(f"rows of {inputs.shape[1]} tokens; {encoder.name} reaches {reach}")
        if mask is not None and not takes_mask:
            if not mask.all():
                raise ValueError(f"{encoder.name} takes no mask: give rows without padding")
            mask = None
        filled = np.resize(np.arange(len(inputs)), batch)
        given = place(inputs[filled]), None if mask is None else place(mask[filled])
        return item, run(encoder.params, *given)

    def collect(pair: tuple[Rows | Images, dict[str, Array]]) -> Harvest:
        item, captured = pair
        stacked = {name: _stacked(encoder, name, item, x) for name, x in captured.items()}
        seq = _common_places({name: x.shape[2] for name, x in stacked.items()})
        keep, token, document, index = _whereabouts(item, seq)
        keep[:, list(skip_positions)] = False
        row, position = np.nonzero(keep)
        flat = row * seq + position
        values = {}
        for name, x in stacked.items():
            kept = x.reshape(x.shape[0], -1, x.shape[-1]).take(flat, axis=1)
            _refuse_infinite(name, kept, document[row, position], index[row, position])
            values[name] = kept if _is_layered(encoder, name) else kept[0]
        columns = (column[row, position] for column in (token, document, index))
        return Harvest(values, *columns, row.astype(np.int32), position.astype(np.int32))

    return mapped(looking_ahead(mapped(batches, dispatch)), collect)


def _placement(params: Any) -> Callable[[np.ndarray], Array]:
    """Puts a batch where the parameters are: split over the mesh's `data` axis, if there is one."""
    sharding = getattr(jax.tree.leaves(params)[0], "sharding", None)
    if isinstance(sharding, NamedSharding):
        return lambda rows: global_batch(rows, sharding.mesh)
    return jnp.asarray


def _stacked(encoder: Encoder, name: str, item: Rows | Images, value: Array) -> np.ndarray:
    """What was captured as (layers, batch, seq, d)."""
    _check_shape(encoder, name, item, value.shape)
    layered = _is_layered(encoder, name)
    x = _local(value, axis=int(layered))
    x = x if layered else x[None]
    return x.reshape(*x.shape[:3], -1)


def _check_shape(encoder: Encoder, name: str, item: Rows | Images, shape: tuple[int, ...]) -> None:
    of_one_layer = shape[_is_layered(encoder, name) :]
    seq = item.tokens.shape[1] if isinstance(item, Rows) else None
    fits = len(of_one_layer) >= 3 and seq in (None, of_one_layer[1])
    request = _resolved(encoder, name)
    word = name.split(".")[-1] if request is None else request.site
    if not fits or word in _NOT_OF_ONE_TOKEN:
        raise ValueError(
            f"{name!r} has the shape {shape}: only sites with one vector per token, of shape "
            "(batch, seq, d) or (batch, seq, heads, d_head), can be harvested"
        )


def _common_places(places: dict[str, int]) -> int:
    """The places of a picture that all sites have; text has one for each token."""
    if len(set(places.values())) > 1:
        told = ", ".join(f"{name} {count}" for name, count in places.items())
        raise ValueError(
            f"sites with different numbers of places in a picture ({told}) have no rows in common: "
            "harvest them one after the other"
        )
    return next(iter(places.values()))


def _refuse_two_towers(encoder: Encoder) -> None:
    if isinstance(encoder.config, DualConfig):
        raise ValueError(
            f"{encoder.name} has a tower for text and one for pictures: harvest one of them, "
            "encoders.dual.tower(encoder, 'image')"
        )


def _local(value: Array, axis: int) -> np.ndarray:
    """This process' part of an array whose batch axis may be split over processes."""
    if value.is_fully_addressable:
        return np.asarray(value)
    parts = {shard.index[axis].start or 0: shard.data for shard in value.addressable_shards}
    return np.concatenate([np.asarray(parts[start]) for start in sorted(parts)], axis=axis)


def _is_layered(encoder: Encoder, name: str) -> bool:
    """Whether a captured value has a leading axis of layers."""
    request = _resolved(encoder, name)
    return request is not None and not request.single


def _resolved(encoder: Encoder, name: str) -> Request | None:
    """A captured site, whatever its spelling; None in models of other libraries."""
    layers = getattr(encoder.config, "n_layers", None)
    if layers is None:  # see `layer_sites`
        return None
    return resolve(name, layers, encoder.sites(encoder.config))[0]


def check_sites(encoder: Encoder, sites: Sequence[str], item: Rows | Images) -> None:
    """Refuses sites that can't be harvested from such a batch, without running the model.

    Raises:
        ValueError: an unknown site, one without a vector per token, or sites of pictures that do
            not have the same places.
    """
    _refuse_two_towers(encoder)
    shapes = {n: x.shape for n, x in _captured_shapes(encoder, sites, item).items()}
    for name, shape in shapes.items():
        _check_shape(encoder, name, item, shape)
    _common_places({n: s[1 + _is_layered(encoder, n)] for n, s in shapes.items()})


def count_wanted(
    encoder: Encoder,
    sites: Sequence[str],
    item: Rows | Images,
    skip_positions: Sequence[int] = (),
) -> int:
    """How many rows `harvest_stream` makes of a batch, without running the model."""
    if isinstance(item, Rows):
        return int(item.keep.sum())
    name, value = _captured_shapes(encoder, sites[:1], item).popitem()
    places = value.shape[1 + _is_layered(encoder, name)]
    return len(item.number) * (places - len(set(skip_positions)))


def _captured_shapes(
    encoder: Encoder, sites: Sequence[str], item: Rows | Images
) -> dict[str, jax.ShapeDtypeStruct]:
    inputs = item.tokens if isinstance(item, Rows) else item.pixels
    return jax.eval_shape(capture_function(encoder, sites), encoder.params, inputs, None)


def layer_sites(encoder: Encoder, sites: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """What each captured value holds: its name -> the short names of its layers, in order.

    Args:
        encoder: the model. Sites of a model without a stack of layers stand for themselves.
        sites: what is asked for, in any spelling, with ranges and globs.

    Raises:
        ValueError: an unknown site, or the same site of the same layer twice.
    """
    layers = getattr(encoder.config, "n_layers", None)
    if layers is None:
        return {site: (site,) for site in sites}
    available = encoder.sites(encoder.config)
    requests = [r for site in sites for r in resolve(site, layers, available)]
    found = {
        r.name: tuple(f"L{layer}.{r.site}" for layer in r.layers) or (r.site,) for r in requests
    }
    every = [name for names in found.values() for name in names]
    twice = sorted({name for name in every if every.count(name) > 1})
    if twice or len(found) < len(requests):
        raise ValueError(f"{', '.join(sites)}: {', '.join(twice)} asked for twice")
    return found


def by_layer(encoder: Encoder, part: Harvest) -> dict[str, Float[np.ndarray, "n d"]]:
    """The rows of each site and layer, under its short name ("L3.resid_post")."""
    found = {}
    for name, values in part.sites.items():
        names = layer_sites(encoder, (name,))[name]
        found |= dict(zip(names, values if values.ndim == 3 else values[None], strict=True))
    return found


def _whereabouts(item: Rows | Images, seq: int) -> tuple[np.ndarray, ...]:
    """Which places are wanted, and the token, document and index of each."""
    if isinstance(item, Rows):
        return item.keep.copy(), item.tokens, item.document, item.index
    shape = (len(item.number), seq)
    index = np.broadcast_to(np.arange(seq, dtype=np.int32), shape)
    document = np.broadcast_to(item.number[:, None], shape)
    return np.ones(shape, bool), np.full(shape, -1, np.int32), document, index


def _refuse_infinite(name: str, kept: np.ndarray, document: np.ndarray, index: np.ndarray) -> None:
    finite = np.isfinite(kept)
    if finite.all():
        return
    bad = int(finite.all(axis=(0, 2)).argmin())
    raise ValueError(
        f"{name} is not finite at token {index[bad]} of document {document[bad]}: run the model in "
        "bfloat16 or float32, or leave that document out"
    )

"""From settings to activations: a stream of batches, a store that is written, a feed.

`config.HarvestConfig` says which model reads which data and which sites are kept;
`config.FeedConfig` says in which of three ways a trainer gets such rows.
"""

import dataclasses
import hashlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxinterp import data, distributed
from jaxinterp.activations import feed, store
from jaxinterp.activations.harvest import (
    Harvest,
    by_layer,
    check_sites,
    count_wanted,
    harvest_stream,
    layer_sites,
)
from jaxinterp.activations.live import from_model
from jaxinterp.config import FeedConfig, HarvestConfig
from jaxinterp.data import Stream, iterate
from jaxinterp.distributed import MustStop, never
from jaxinterp.encoders import dual, hf
from jaxinterp.encoders.encoder import Encoder
from jaxinterp.parallel import make_mesh
from jaxinterp.report.terminal import progress

PLACES = ("token", "document", "index", "position")  # fields that say where a row is from
_APPEND_BYTES = 1 << 26  # rows that are collected before they are written
_BLOCK = 64  # documents that are tokenised together
_PROBE = "The quick brown fox: 12,345 caf\u00e9s \u2014 \u4f60\u597d\n\tdef f(x): return x"


class Source(NamedTuple):
    """A model and the batches that it is to read.

    Attributes:
        encoder: the model.
        batches: a stream of `data.Rows` or `data.Images`.
        sites: what is captured.
        fields: the short names of the sites, one for each layer.
    """

    encoder: Encoder
    batches: Stream
    sites: tuple[str, ...]
    fields: tuple[str, ...]


def open_source(
    config: HarvestConfig, *, epochs: int | None = 1, process: tuple[int, int] = (0, 1)
) -> Source:
    """Loads the model and opens the data.

    Args:
        config: the settings.
        epochs: how often the data is read; None for ever.
        process: (i, n): this process' share of the data.

    Raises:
        ValueError: settings that can't be, or that do not fit the model or the data.
    """
    config.check()
    devices = jax.local_devices()
    mesh = make_mesh(config.mesh, devices) if config.mesh else None
    encoder = hf.load(config.model, dtype=jnp.dtype(config.model_dtype), mesh=mesh)
    encoder, sites = _one_tower(config, encoder)
    fields = tuple(n for names in layer_sites(encoder, sites).values() for n in names)
    open_batches = _open_images if config.images else _open_text
    return Source(encoder, open_batches(config, encoder, epochs, process), sites, fields)


def _one_tower(config: HarvestConfig, encoder: Encoder) -> tuple[Encoder, tuple[str, ...]]:
    """Of a pair of towers the one that reads such data, and the sites without it in front."""
    if not isinstance(encoder.config, dual.DualConfig):
        return encoder, tuple(config.sites)
    name = "image" if config.images else "text"
    other = [site for site in config.sites if "/" in site and not site.startswith(f"{name}/")]
    if other:
        read = "pictures are" if config.images else "text is"
        raise ValueError(f"{', '.join(other)}: {read} read by the {name} tower, {name}/...")
    return dual.tower(encoder, name), tuple(s.removeprefix(f"{name}/") for s in config.sites)


def _open_text(
    config: HarvestConfig, encoder: Encoder, epochs: int | None, process: tuple[int, int]
) -> Stream:
    tokenizer = encoder.tokenizer
    if tokenizer is None:
        raise ValueError(
            f"{config.model} has no tokenizer, which reading text needs; for pictures give --images"
        )
    reach = getattr(encoder.config, "context", config.context)
    if config.context > reach:
        raise ValueError(f"context is {config.context}; {config.model} reaches {reach}")
    read: dict[str, Any] = {"column": config.text_column, "split_name": config.split}
    order: dict[str, Any] = {"seed": config.seed, "epochs": epochs, "process": process}
    if config.streaming:
        documents = data.forward_only(config.text, **read, **order)
    else:
        documents = data.random_access(data.open_text(config.text, **read), block=_BLOCK, **order)
    if config.side != "all":
        documents = data.mapped(documents, lambda block: _of_side(block, config.side))
    layout = data.rows_packed if config.packed else data.rows_apart
    drop = tokenizer.special if config.special == "drop" else ()
    rows = layout(documents, tokenizer, seq=config.context, batch=config.batch, drop=drop)

    def wanted(rows: data.Rows) -> data.Rows:
        rows = data.without_positions(rows, config.skip_positions)
        return data.without_tokens(rows, tokenizer.special) if config.special == "mask" else rows

    return data.mapped(rows, wanted)


def _of_side(block: list[tuple[int, data.Document]], side: str) -> list[tuple[int, data.Document]]:
    held_out = side == "held_out"
    return [(i, d) for i, d in block if data.is_held_out(d.name) == held_out]


def _open_images(
    config: HarvestConfig, encoder: Encoder, epochs: int | None, process: tuple[int, int]
) -> Stream:
    if encoder.preprocess is None:
        raise ValueError(f"{config.model} has no settings for pictures: it reads text")
    pictures = data.open_images(config.images, column=config.image_column, split_name=config.split)
    order: dict[str, Any] = {"seed": config.seed, "epochs": epochs, "process": process}
    blocks = data.random_access(pictures, block=config.batch, **order)
    return data.pixel_batches(blocks, encoder.preprocess)


def _harvested(config: HarvestConfig, source: Source) -> Stream:
    return harvest_stream(
        source.encoder,
        source.batches,
        source.sites,
        batch=config.batch,
        dtype=jnp.dtype(config.dtype),
        skip_positions=config.skip_positions if config.images else (),
    )


def write_store(
    config: HarvestConfig, *, process: tuple[int, int] = (0, 1), must_stop: MustStop = never
) -> store.Writer:
    """Harvests into a store, or goes on with one where it was stopped.

    The rows that are there are counted, the data is read again up to them (without the model), and
    the model goes on from there, so the store ends up as if nobody had stopped it. A store is
    also gone on with when `tokens` was raised.

    Args:
        config: the settings. A store that was made with others is refused; only `tokens`, `batch`
            and `mesh` may differ, since they do not change what the rows are.
        process: (i, n): of n processes that write at once; each harvests its share of the data
            with a model of its own.
        must_stop: of `distributed.stop_requests`; asked before every group of rows.

    Returns:
        The writer; `rows` says what is there.

    Raises:
        ValueError: settings that can't be, another store, or data without a token that is wanted.
        OSError: the store can't be written.
        Preempted: it was asked to stop; what is written stays.
    """
    with distributed.together():
        source = open_source(config, process=process)
        first = source.batches.next(source.batches.init())
    if not any(distributed.gathered(first is not None)):
        raise distributed.Agreed(_no_tokens(config))
    with distributed.together():
        if first is not None:
            check_sites(source.encoder, source.sites, first[1])  # before there is a store
        meta = _meta(config, source, process[1])
        writer = store.create(config.store, meta, writer=str(process[0]))
        wanted = len(range(process[0], config.tokens, process[1])) - writer.rows
        groups: Iterator[dict[str, np.ndarray]] = iter(())
        if wanted > 0:
            state, before = _place(config, source, writer.rows)
            parts = iterate(_harvested(config, source), state)
            groups = _groups(parts, source.encoder, writer.rows - before, wanted)
    with progress("harvest", max(wanted, 0), unit="tokens") as advance:
        for group in distributed.in_step(groups, must_stop):
            writer.append(group)
            advance(len(group["token"]))
    if not any(distributed.gathered(writer.rows)):
        raise distributed.Agreed(_no_tokens(config))
    return writer


def _no_tokens(config: HarvestConfig) -> str:
    return (
        f"{config.images or config.text} gave no tokens to harvest (side {config.side}, "
        f"skip_positions {config.skip_positions}): give more data"
    )


def _place(config: HarvestConfig, source: Source, rows: int) -> tuple[data.State, int]:
    """The state of the batches before the one that holds row `rows`, and the rows before it."""
    state, before = source.batches.init(), 0
    for following, item in iterate(source.batches):
        count = count_wanted(source.encoder, source.sites, item, config.skip_positions)
        if before + count > rows:
            break
        state, before = following, before + count
    return state, before


def _groups(
    parts: Iterator[tuple[data.State, Harvest]], encoder: Encoder, skip: int, wanted: int
) -> Iterator[dict[str, np.ndarray]]:
    """Rows `skip` to `skip + wanted` of the harvest, in groups of some tens of megabytes."""
    group: list[dict[str, np.ndarray]] = []
    for _, part in parts:
        places = {name: getattr(part, name) for name in PLACES}
        fields = by_layer(encoder, part) | places
        fields = {name: rows[skip : skip + wanted] for name, rows in fields.items()}
        taken = len(fields["token"])
        skip, wanted = max(0, skip - len(part.token)), wanted - taken
        if taken:
            group.append(fields)
        if wanted == 0 or sum(a.nbytes for f in group for a in f.values()) >= _APPEND_BYTES:
            yield _joined(group)
            group = []
        if wanted == 0:
            return
    if group:
        yield _joined(group)


def _joined(group: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([fields[name] for fields in group]) for name in group[0]}


def _meta(config: HarvestConfig, source: Source, processes: int) -> dict[str, Any]:
    """What the rows of a store are: everything that changes them."""
    left_out = ("store", "sites", "text", "images", "tokens", "batch", "mesh")
    rest = {n: v for n, v in dataclasses.asdict(config).items() if n not in left_out}
    return rest | {
        "model": f"{config.model} {_model_digest(source.encoder)}",
        "sites": source.fields,
        "tokenizer": None if config.images else _tokenizer_digest(source.encoder),
        "data": config.images or config.text,
        "normalisation": None,
        "processes": processes,
    }


def _model_digest(encoder: Encoder) -> str:
    """Of the config and of some values of every parameter."""
    digest = hashlib.sha256(repr(encoder.config).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(encoder.params):
        digest.update(f"{jax.tree_util.keystr(path)} {leaf.shape} {leaf.dtype}".encode())
        corner = leaf[tuple(slice(None, None, -(-n // 4)) for n in leaf.shape)]
        digest.update(np.asarray(corner).tobytes())
    return digest.hexdigest()[:16]


def _tokenizer_digest(encoder: Encoder) -> str:
    """Of the vocabulary's size, the special ids, and what some text becomes."""
    tokenizer = encoder.tokenizer
    assert tokenizer is not None  # open_source refuses text for such a model
    told = (tokenizer.size, tokenizer.bos, tokenizer.pad, tokenizer.encode_batch([_PROBE])[0])
    return hashlib.sha256(repr(told).encode()).hexdigest()[:16]


def open_feed(config: FeedConfig, *, process: tuple[int, int] = (0, 1)) -> feed.Feed:
    """A feed from one config, in any of the three ways.

    Args:
        config: the settings.
        process: (i, n): this process' share, where the rows come from a store or a model.

    Raises:
        ValueError: settings that can't be, or a source that can't be read.
    """
    sites = config.sites[0] if len(config.sites) == 1 else config.sites
    order: dict[str, Any] = {"batch": config.batch, "seed": config.seed}
    if config.source == "file":
        return feed.from_file(config.path, names=sites or None, **order)
    if config.source == "store":
        reader = store.open_store(config.path)
        return feed.from_store(
            reader, sites or _only_site(reader.fields, config), **order, share=process
        )
    wanted = dataclasses.replace(config.harvest, sites=config.sites or config.harvest.sites)
    source = open_source(wanted, epochs=None, process=process)
    return from_model(
        source.encoder,
        source.batches,
        source.fields if len(source.fields) > 1 else source.fields[0],
        forward_batch=wanted.batch,
        pool=config.pool,
        dtype=jnp.dtype(wanted.dtype),
        skip_positions=wanted.skip_positions if wanted.images else (),
        **order,
    )


def _only_site(fields: dict[str, Any], config: FeedConfig) -> str:
    sites = [name for name in fields if name not in PLACES]
    if len(sites) != 1:
        raise ValueError(f"{config.path} has {', '.join(sites)}: name the sites to read")
    return sites[0]

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp import data
from jaxinterp.activations import by_layer, harvest_stream
from jaxinterp.activations.harvest import (
    capture_function,
    check_sites,
    count_wanted,
    harvest,
    layer_sites,
)
from jaxinterp.data import Images
from jaxinterp.encoders import assets, bidirectional, from_function, hf
from jaxinterp.encoders.encoder import Encoder
from jaxinterp.encoders.preprocess import Preprocess, preprocess
from jaxinterp.parallel import global_batch, make_mesh

SITES = ("L2.resid_post", "resid_post")


@pytest.fixture(scope="module")
def rows(shipped):
    texts = ["The module provides a queue. " * n for n in (1, 9, 3, 2, 20)]
    documents = [data.Document(str(i), t) for i, t in enumerate(texts)]
    return data.token_rows(documents, shipped.tokenizer, 24)


def test_rows_equal_a_direct_forward_without_padding(shipped, rows):
    @jax.jit
    def direct_forward(params, tokens):
        return shipped.forward(params, shipped.config, tokens, capture=SITES)[1]

    parts = list(harvest(shipped, rows, SITES, batch=4))
    for part in parts:
        for r in np.unique(part.row):
            length = int(rows.mask[r].sum())
            alone = jnp.asarray(rows.tokens[r : r + 1, :length])
            direct = direct_forward(shipped.params, alone)
            mine = part.row == r
            assert part.position[mine].tolist() == list(range(1, length))
            assert (part.token[mine] == rows.tokens[r, 1:length]).all()
            for site in SITES:
                got, expected = part.sites[site][..., mine, :], direct[site][..., 0, 1:, :]
                np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
    assert sum(len(p.token) for p in parts) == rows.mask[:, 1:].sum()


def test_order_and_batch_size_change_nothing(shipped, rows):
    order = np.arange(len(rows.tokens))[::-1]
    forward = list(harvest(shipped, rows, SITES[:1], batch=4))
    backward = list(harvest(shipped, rows, SITES[:1], order=order, batch=3))
    ends = []
    for parts in (forward, backward):
        row, position = (
            np.concatenate([getattr(p, n) for p in parts]) for n in ("row", "position")
        )
        place = np.lexsort((position, row))
        ends.append(np.concatenate([p.sites[SITES[0]] for p in parts])[place])
    np.testing.assert_allclose(ends[0], ends[1], rtol=1e-4, atol=1e-4)


def test_layers_behind_the_last_site_are_not_run(shipped, rows):
    def layers_run(site):
        run = capture_function(shipped, (site,))
        jaxpr = jax.make_jaxpr(run)(shipped.params, rows.tokens[:4], rows.mask[:4]).jaxpr
        return sum(scan_lengths(jaxpr))

    assert layers_run("L0.resid_post") == 1
    assert layers_run("L3.resid_post") == 4
    assert layers_run("resid_post") == shipped.config.n_layers


def scan_lengths(jaxpr):
    for equation in jaxpr.eqns:
        if equation.primitive.name == "scan":
            yield equation.params["length"]
        inner = equation.params.get("jaxpr")
        if equation.primitive.name != "scan" and inner is not None:
            yield from scan_lengths(getattr(inner, "jaxpr", inner))


def test_every_row_says_where_it_is_from(shipped, rows):
    texts = ["The module provides a queue. " * n for n in (1, 9, 3, 2, 20)]
    ids = shipped.tokenizer.encode_batch(texts)
    seen = []
    for part in harvest(shipped, rows, SITES[:1], batch=4):
        for document, index, token in zip(part.document, part.index, part.token, strict=True):
            assert ids[document][index] == token
            seen.append((int(document), int(index)))
    assert sorted(seen) == [(i, j) for i, document in enumerate(ids) for j in range(len(document))]


def test_only_the_wanted_places_are_kept(shipped, rows):
    fewer = data.without_positions(rows, (1, 5))
    whole = list(harvest(shipped, rows, SITES[:1], batch=4))
    parts = list(harvest(shipped, fewer, SITES[:1], batch=4))
    for one, other in zip(whole, parts, strict=True):
        kept = ~np.isin(one.position, (1, 5))
        np.testing.assert_array_equal(other.position, one.position[kept])
        np.testing.assert_allclose(other.sites[SITES[0]], one.sites[SITES[0]][kept], rtol=1e-5)


def test_half_precision_is_the_rounded_value(shipped, rows):
    whole = next(harvest(shipped, rows, SITES[:1], batch=4))
    half = next(harvest(shipped, rows, SITES[:1], batch=4, dtype=jnp.bfloat16))
    values = half.sites[SITES[0]]
    assert values.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        values.astype(np.float32), whole.sites[SITES[0]], rtol=2**-7, atol=1e-3
    )


def test_layers_and_heads_become_rows(shipped, rows):
    part = next(harvest(shipped, rows, ("L1-2.z", "resid_post", "embed"), batch=4))
    fields = by_layer(shipped, part)
    assert set(fields) == {"L1.z", "L2.z", *(f"L{i}.resid_post" for i in range(6)), "embed"}
    tokens, mask = (jnp.asarray(a[:4]) for a in (rows.tokens, rows.mask))
    _, direct = shipped.forward(
        shipped.params, shipped.config, tokens, mask=mask, capture=("L2.z", "L3.resid_post")
    )
    places = part.row, part.position
    expected = np.asarray(direct["L2.z"])[places].reshape(len(part.token), -1)
    np.testing.assert_allclose(fields["L2.z"], expected, rtol=1e-4, atol=1e-5)
    expected = np.asarray(direct["L3.resid_post"])[places]
    np.testing.assert_allclose(fields["L3.resid_post"], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("axes", [{"data": 8}, {"data": 4, "model": 2}])
def test_a_mesh_changes_nothing(rows, axes):
    mesh = make_mesh(axes)
    spread = hf.load(assets.folder(), mesh=mesh)
    alone = hf.load(assets.folder())
    one, other = (list(harvest(encoder, rows, SITES, batch=8)) for encoder in (spread, alone))
    assert len(one) == len(other) > 1
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a.position, b.position)
        for site in SITES:
            np.testing.assert_allclose(a.sites[site], b.sites[site], rtol=1e-4, atol=1e-4)
    run = capture_function(spread, SITES)
    placed = [global_batch(column[:8], mesh) for column in (rows.tokens, rows.mask)]
    shards = run(spread.params, *placed)[SITES[0]].addressable_shards
    assert {shard.data.shape[0] for shard in shards} == {8 // axes["data"]}
    with pytest.raises(ValueError, match="6 rows of a batch over data="):
        next(harvest(spread, rows, SITES, batch=6))


def test_a_stream_resumes_anywhere(shipped):
    texts = ["The module provides a queue. " * n for n in (1, 9, 3, 2, 12)]
    documents = [data.Document(str(i), t) for i, t in enumerate(texts)]

    def make():
        stream = data.random_access(documents, seed=1, block=2)
        packed = data.rows_packed(stream, shipped.tokenizer, seq=16, batch=3)
        return harvest_stream(shipped, packed, SITES[:1], batch=3)

    unbroken = list(data.iterate(make()))
    assert len(unbroken) > 3
    for at in (0, 2):
        rest = list(data.iterate(make(), unbroken[at][0]))
        assert len(rest) == len(unbroken) - at - 1
        for (_, one), (_, other) in zip(unbroken[at + 1 :], rest, strict=True):
            np.testing.assert_array_equal(one.sites[SITES[0]], other.sites[SITES[0]])
            np.testing.assert_array_equal(one.token, other.token)


def test_pictures(tmp_path, rng):
    from PIL import Image

    encoder = tiny_vision()
    for i in range(5):
        pixels = rng.integers(0, 256, (12 + i, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    pictures = data.open_images(str(tmp_path))
    batches = data.pixel_batches(data.random_access(pictures, block=2), encoder.preprocess)
    stream = harvest_stream(
        encoder, batches, ("L0.resid_post",), batch=2, skip_positions=(0,), dtype=jnp.bfloat16
    )
    parts = [part for _, part in data.iterate(stream)]
    assert [len(part.token) for part in parts] == [8, 8, 4]
    found = np.concatenate([part.document for part in parts])
    np.testing.assert_array_equal(found, np.repeat(np.arange(5), 4))
    np.testing.assert_array_equal(parts[0].index, [1, 2, 3, 4, 1, 2, 3, 4])
    assert (parts[0].token == -1).all()
    _, direct = encoder.forward(
        encoder.params,
        encoder.config,
        jnp.asarray(encoder.preprocess([pictures[4]])),
        capture=("L0.resid_post",),
        return_logits=False,
    )
    np.testing.assert_allclose(
        parts[2].sites["L0.resid_post"].astype(np.float32),
        np.asarray(direct["L0.resid_post"])[0, 1:],
        rtol=2**-7,
        atol=1e-2,
    )
    item = Images(np.zeros((3, 16, 16, 3), np.float32), np.arange(3, dtype=np.int32))
    assert count_wanted(encoder, ("L0.resid_post",), item, (0,)) == 12


def test_places_that_pictures_have_no_rows_for_are_refused():
    encoder = tiny_vision()
    item = Images(np.zeros((2, 16, 16, 3), np.float32), np.arange(2, dtype=np.int32))
    for sites, message in (
        (("patch_embed", "L0.resid_post"), r"L0.resid_post 5, patch_embed 4.*one after the other"),
        (("blocks.0.attn.hook_pattern",), "only sites with one vector per token"),
        (("L0.patter?",), "only sites with one vector per token"),
    ):
        with pytest.raises(ValueError, match=message):
            check_sites(encoder, sites, item)
        batches = data.mapped(data.random_access([0], block=1), lambda _: item)
        with pytest.raises(ValueError, match=message):
            next(data.iterate(harvest_stream(encoder, batches, sites, batch=2)))


def random_params(config):
    params: dict = {}
    for i, (path, shape) in enumerate(bidirectional.shapes(config).items()):
        *parents, leaf = path.split(".")
        node = params
        for key in parents:
            node = node.setdefault(key, {})
        node[leaf] = 0.3 * jax.random.normal(jax.random.key(i), shape)
    return params


def tiny_vision():
    """A vision transformer with random parameters: a class token and 2 x 2 patches."""
    config = bidirectional.BidirectionalConfig(
        n_layers=2,
        d_model=16,
        n_heads=2,
        n_kv_heads=2,
        d_head=8,
        d_mlp=24,
        activation="gelu",
        image_size=(16, 16),
        patch_size=(8, 8),
        class_token=True,
    )
    settings = Preprocess(None, (16, 16), None, 2, 1 / 255, (0.5,) * 3, (0.5,) * 3)
    return Encoder(
        "vision",
        bidirectional.forward,
        bidirectional.sites,
        config,
        random_params(config),
        preprocess=functools.partial(preprocess, settings),
    )


def test_models_of_other_kinds(rng):
    """A function that taps its intermediates, reads tokens and takes no mask."""
    table = jnp.asarray(rng.normal(size=(11, 6)), jnp.float32)

    def function(params, tokens, tap):
        return tap("hidden", params[tokens] * 2)

    encoder = from_function(function, table, jax.ShapeDtypeStruct((2, 4), jnp.int32))
    tokens = rng.integers(0, 11, (3, 4)).astype(np.int32)
    real = np.ones((3, 4), bool)
    places = np.broadcast_to(np.arange(4, dtype=np.int32), (3, 4))
    rows = data.Rows(tokens, real, real, np.zeros((3, 4), np.int32), places)
    part = next(harvest(encoder, rows, ("hidden",), batch=3))
    np.testing.assert_allclose(part.sites["hidden"], 2 * np.asarray(table)[tokens.ravel()])
    assert set(by_layer(encoder, part)) == {"hidden"}
    padded = rows._replace(mask=real & (places < 3))
    with pytest.raises(ValueError, match="takes no mask"):
        next(harvest(encoder, padded, ("hidden",), batch=3))


def test_what_cannot_be_harvested_is_refused(shipped, rows):
    with pytest.raises(ValueError, match="only sites with one vector per token"):
        next(harvest(shipped, rows, ("L1.pattern",), batch=4))
    long = data.Rows(*(np.resize(column, (2, 257)) for column in rows))
    with pytest.raises(ValueError, match="rows of 257 tokens; .* reaches 256"):
        next(harvest(shipped, long, SITES, batch=2))
    with pytest.raises(ValueError, match="asked for twice"):
        layer_sites(shipped, ("L2.resid_post", "resid_post"))
    broken = jax.tree.map(lambda x: x, shipped.params)
    broken["embed"]["tokens"] = broken["embed"]["tokens"].at[rows.tokens[0, 1]].set(jnp.nan)
    with pytest.raises(ValueError, match="L2.resid_post is not finite at token 0 of document 0"):
        next(harvest(shipped._replace(params=broken), rows, SITES[:1], batch=4))


def test_padding_is_not_read(shipped, rows):
    """A model that reads in both directions gives a padded row what it gives the row alone."""
    config = bidirectional.BidirectionalConfig(
        n_layers=2,
        d_model=16,
        n_heads=2,
        n_kv_heads=2,
        d_head=8,
        d_mlp=24,
        activation="gelu",
        vocab_size=shipped.tokenizer.size,
        context=24,
    )
    encoder = Encoder(
        "both", bidirectional.forward, bidirectional.sites, config, random_params(config)
    )
    part = next(harvest(encoder, rows, ("L1.resid_post",), order=np.asarray([0]), batch=2))
    length = int(rows.mask[0].sum())
    assert length < rows.tokens.shape[1]
    _, direct = encoder.forward(
        encoder.params, config, jnp.asarray(rows.tokens[:1, :length]), capture=("L1.resid_post",)
    )
    expected = np.asarray(direct["L1.resid_post"])[0, 1:]
    np.testing.assert_allclose(part.sites["L1.resid_post"], expected, rtol=1e-4, atol=1e-5)

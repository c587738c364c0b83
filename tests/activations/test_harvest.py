import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp import data
from jaxinterp.activations import store
from jaxinterp.activations.harvest import capture_function, harvest

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


def test_store_goes_on_where_it_was_and_refuses_other_activations(tmp_path):
    meta = {"site": "L2.resid_post", "model": "tiny", "seed": 0}
    folder = tmp_path / "store"
    assert store.create(folder, meta) == 0
    arrays = [np.arange(12, dtype=np.float32).reshape(4, 3) + 100 * i for i in range(3)]
    for i, a in enumerate(arrays[:2]):
        store.write(folder, i, {"activations": a})
    (folder / ".chunk-00002.safetensors.99").write_bytes(b"half a chunk")  # what a kill leaves
    assert store.create(folder, meta) == 2
    store.write(folder, 2, {"activations": arrays[2]})
    np.testing.assert_array_equal(store.read(folder, "activations"), np.concatenate(arrays))
    with pytest.raises(ValueError, match="seed: 0, not 1"):
        store.create(folder, meta | {"seed": 1})
    with pytest.raises(ValueError, match="no array 'layers'; it has activations"):
        store.read(folder, "layers")


def test_damaged_and_empty_stores_are_named(tmp_path):
    store.create(tmp_path, {})
    with pytest.raises(ValueError, match="no activations"):
        store.read(tmp_path, "activations")
    store.write(tmp_path, 0, {"activations": np.ones((4, 3), np.float32)})
    chunk = store.chunks(tmp_path)[0]
    chunk.write_bytes(chunk.read_bytes()[:-5])
    with pytest.raises(ValueError, match=r"chunk-00000.safetensors is missing, truncated"):
        store.read(tmp_path, "activations")

"""Feeds: every row once an epoch, the same again, resumed exactly, whatever they read from."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxinterp.activations import feed, store
from jaxinterp.checkpoint import Checkpoints

META = {"model": "m", "sites": ["a"], "tokenizer": "m", "data": "d", "normalisation": None}


def numbered(n=50, d=4, offset=0):
    """Rows whose every entry tells which row it is."""
    return np.repeat(np.arange(n, dtype=np.float32)[:, None] + offset, d, axis=1)


def batches(source, count, state=None):
    state = source.init() if state is None else state
    found = []
    for _ in range(count):
        state, batch = source.next(state)
        found.append(batch)
    return found, state


def write(path, rows):
    if path.suffix == ".npy":
        np.save(path, rows)
    elif path.suffix == ".npz":
        np.savez(path, activations=rows)
    elif path.suffix == ".safetensors":
        save_file({"activations": rows}, path)
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"activations": rows.tolist()}), path)
    return path


def make_feed(kind, tmp_path, rows, **options):
    if kind == "array":
        return feed.from_array(rows, **options)
    if kind == "device array":
        return feed.from_array(jnp.asarray(rows), **options)
    if kind == "store":
        if not (tmp_path / "store").exists():
            writer = store.create(tmp_path / "store", META, chunk_bytes=200)
            for start in range(0, len(rows), 20):
                writer.append({"a": rows[start : start + 20]})
        return feed.from_store(store.open_store(tmp_path / "store"), "a", **options)
    path = tmp_path / f"rows{kind}"
    return feed.from_file(path if path.exists() else write(path, rows), **options)


KINDS = ["array", "device array", "store", ".npy", ".npz", ".safetensors", ".parquet"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [5, 8, 50])
def test_every_epoch_gives_every_row_once(kind, batch, tmp_path):
    source = make_feed(kind, tmp_path, numbered(), batch=batch, seed=0)
    found = np.concatenate(batches(source, 3 * 50 // batch)[0])
    assert found.shape[1] == 4
    assert (found == found[:, :1]).all()
    order = found[:, 0].astype(int).tolist()
    for epoch in range(len(order) // 50):
        assert sorted(order[50 * epoch : 50 * (epoch + 1)]) == list(range(50))
    assert order[:50] != list(range(50))
    assert order[:50] != order[50:100]


@pytest.mark.parametrize("kind", KINDS)
def test_seed_decides_the_order(kind, tmp_path):
    one, again, other = (
        np.concatenate(
            batches(make_feed(kind, tmp_path, numbered(), batch=8, seed=seed), 6)[0]
        ).tolist()
        for seed in (1, 1, 2)
    )
    assert one == again
    assert one != other


def test_files_and_arrays_give_the_same_batches(tmp_path):
    kinds = [kind for kind in KINDS if kind != "store"]
    all_found = [
        batches(make_feed(kind, tmp_path, numbered(), batch=8, seed=3), 9)[0] for kind in kinds
    ]
    for found in all_found[1:]:
        np.testing.assert_array_equal(np.asarray(found), np.asarray(all_found[0]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_goes_on_sees_what_an_unbroken_one_sees(kind, tmp_path, rng):
    def fresh():
        return make_feed(kind, tmp_path, numbered(), batch=8, seed=0)

    unbroken = np.asarray(batches(fresh(), 20)[0])
    for stop in rng.integers(1, 19, 4).tolist():
        first, state = batches(fresh(), stop)
        with Checkpoints(tmp_path / f"checkpoints{stop}") as checkpoints:
            checkpoints.save(stop, {"feed": state})
        with Checkpoints(tmp_path / f"checkpoints{stop}") as checkpoints:
            restored = checkpoints.restore({"feed": fresh().init()})[0]["feed"]
        rest = batches(fresh(), 20 - stop, restored)[0]
        np.testing.assert_array_equal(np.concatenate([first, rest]), unbroken)


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_stays_valid(kind, tmp_path):
    source = make_feed(kind, tmp_path, numbered(), batch=8, seed=0)
    _, state = batches(source, 3)
    once = source.next(state)[1]
    batches(source, 2, state)
    np.testing.assert_array_equal(source.next(state)[1], once)


def test_the_order_is_a_uniform_shuffle():
    """Where row 0 comes in the epoch, over seeds, is spread evenly (chi-squared, 9 degrees)."""
    places = [
        int(np.flatnonzero(feed.batch_rows(10, batch=10, seed=seed, step=0) == 0)[0])
        for seed in range(2000)
    ]
    counts = np.bincount(places, minlength=10)
    assert ((counts - 200) ** 2 / 200).sum() < 27.9  # 0.1 %


def test_sites_stay_together(tmp_path):
    rows = {"a": numbered(), "b": numbered(d=3, offset=1000)}
    save_file(rows, tmp_path / "both.safetensors")
    writer = store.create(tmp_path / "store", META, chunk_bytes=300)
    writer.append(rows)
    sources = [
        feed.from_array(rows, batch=8, seed=0),
        feed.from_file(tmp_path / "both.safetensors", names=("a", "b"), batch=8, seed=0),
        feed.from_store(store.open_store(tmp_path / "store"), ("a", "b"), batch=8, seed=0),
    ]
    for source in sources:
        for found in batches(source, 10)[0]:
            assert {name: rows.shape for name, rows in found.items()} == {"a": (8, 4), "b": (8, 3)}
            np.testing.assert_array_equal(found["a"][:, 0] + 1000, found["b"][:, 0])
    alone = feed.from_file(tmp_path / "both.safetensors", names="b", batch=8, seed=0)
    assert alone.next(alone.init())[1].shape == (8, 3)


def test_processes_read_different_parts_of_a_store(tmp_path):
    writer = store.create(tmp_path / "store", META, chunk_bytes=160)
    writer.append({"a": numbered(60)})
    reader = store.open_store(tmp_path / "store")
    seen = []
    for i in range(2):
        source = feed.from_store(reader, "a", batch=5, seed=0, share=(i, 2))
        seen.append(set(np.concatenate(batches(source, 8)[0])[:, 0].astype(int).tolist()))
    assert seen[0] | seen[1] == set(range(60))
    assert not seen[0] & seen[1]


def test_precision_is_kept(tmp_path):
    rows = numbered().astype(jnp.bfloat16)
    save_file({"activations": rows}, tmp_path / "half.safetensors")
    for source in (
        feed.from_array(rows, batch=4, seed=0),
        feed.from_file(tmp_path / "half.safetensors", batch=4, seed=0),
    ):
        assert source.next(source.init())[1].dtype == jnp.bfloat16


def test_batches_go_into_a_jitted_step():
    source = feed.from_array(numbered(), batch=8, seed=0)
    step = jax.jit(lambda x: x.sum())
    assert np.isfinite(step(source.next(source.init())[1]))


def test_columns_of_floats_are_coordinates(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    pq.write_table(
        pa.table({"x": rows[:, 0], "y": rows[:, 1], "z": rows[:, 2], "id": np.arange(20)}),
        tmp_path / "table.parquet",
    )
    source = feed.from_file(tmp_path / "table.parquet", batch=20, seed=0)
    found = source.next(source.init())[1]
    order = feed.batch_rows(20, batch=20, seed=0, step=0)
    np.testing.assert_array_equal(found, rows[order])


def test_a_store_that_grew_is_another_store(tmp_path):
    writer = store.create(tmp_path / "store", META)
    writer.append({"a": numbered()})
    source = feed.from_store(store.open_store(tmp_path / "store"), "a", batch=8, seed=0)
    _, state = batches(source, 2)
    writer.append({"a": numbered()})
    grown = feed.from_store(store.open_store(tmp_path / "store"), "a", batch=8, seed=0)
    with pytest.raises(ValueError, match="other rows than when this feed began"):
        grown.next(state)


def bad(row, value):
    rows = numbered()
    rows[row, 1] = value
    return rows


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (numbered(), {"batch": 51}, "50 rows for a batch of 51"),
        (numbered(), {"batch": 0}, "batch is 0"),
        (bad(17, np.nan), {}, "row 17 holds NaN"),
        ({"a": numbered(), "b": bad(3, np.inf)}, {}, "row 3 of b holds NaN or infinity"),
        ({"a": numbered(), "b": numbered(49)}, {}, "a 50, b 49"),
        ({}, {}, "no sites"),
    ],
)
def test_arrays_that_cannot_be_fed_are_refused(rows, options, message):
    with pytest.raises(ValueError, match=message):
        feed.from_array(rows, **({"batch": 8, "seed": 0} | options))


def bad_file_cases():
    def some(**arrays):
        return lambda path: save_file(arrays, path)

    ints = np.zeros((9, 2), np.int64)
    return {
        "missing.npy": (lambda path: None, {}, "no such file"),
        "table.csv": (lambda path: path.write_text("1,2"), {}, "read from .npy, .npz"),
        "empty.npy": (lambda path: path.write_bytes(b""), {}, "is empty"),
        "text.npy": (lambda path: path.write_text("text"), {}, "can't be read as .npy"),
        "text.npz": (lambda path: path.write_text("text"), {}, "can't be read as .npz"),
        "text.safetensors": (lambda path: path.write_text("text"), {}, "not safetensors"),
        "text.parquet": (lambda path: path.write_text("text"), {}, "can't be read as parquet"),
        "objects.npy": (
            lambda path: np.save(path, np.asarray([{}, {}]), allow_pickle=True),
            {},
            "can't be read as .npy",
        ),
        "swapped.npy": (
            lambda path: np.save(path, np.zeros((9, 2), ">f4")),
            {},
            "another byte order",
        ),
        "cube.npy": (lambda path: np.save(path, np.zeros((2, 2, 2))), {}, r"shape \(2, 2, 2\)"),
        "ints.safetensors": (some(a=ints), {}, "a is int64"),
        "two.safetensors": (some(a=numbered(), b=numbered()), {}, "a, b: name those"),
        "other.safetensors": (some(a=numbered()), {"names": "c"}, "no array c; it has a"),
        "uneven.safetensors": (
            some(a=numbered(), b=numbered(40)),
            {"names": ("a", "b")},
            "a 50, b 40",
        ),
    }


@pytest.mark.parametrize("name", bad_file_cases())
def test_bad_files_are_named(name, tmp_path):
    make, options, message = bad_file_cases()[name]
    make(tmp_path / name)
    with pytest.raises(ValueError, match=message):
        feed.from_file(tmp_path / name, batch=4, seed=0, **options)


def test_a_truncated_file_is_named(tmp_path):
    save_file({"a": numbered()}, tmp_path / "a.safetensors")
    content = (tmp_path / "a.safetensors").read_bytes()
    (tmp_path / "a.safetensors").write_bytes(content[:-7])
    with pytest.raises(ValueError, match=r"a.safetensors is truncated"):
        feed.from_file(tmp_path / "a.safetensors", batch=4, seed=0)
    np.save(tmp_path / "a.npy", numbered())
    content = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(content[:-7])
    with pytest.raises(ValueError, match=r"a.npy can't be read"):
        feed.from_file(tmp_path / "a.npy", batch=4, seed=0)


def test_rows_of_different_widths_are_refused(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    for columns, message in (
        ({"a": [[1.0, 2.0], [3.0]]}, "the rows of a have 1 to 2 values"),
        ({"a": [1.0, None, 2.0], "b": [1.0, 2.0, 3.0]}, "has no value for a in 1 rows"),
        ({"a": [[1.0, 2.0], None]}, "has no value for a in 1 rows"),
        ({"a": pa.array([[], []], pa.list_(pa.float32()))}, r"a is float32 of shape \(2, 0\)"),
    ):
        pq.write_table(pa.table(columns), tmp_path / "holes.parquet")
        with pytest.raises(ValueError, match=message):
            feed.from_file(tmp_path / "holes.parquet", batch=1, seed=0)


def test_a_bad_row_of_a_file_is_found_when_it_is_read(tmp_path):
    np.save(tmp_path / "a.npy", bad(17, np.nan))
    source = feed.from_file(tmp_path / "a.npy", batch=10, seed=0)
    with pytest.raises(ValueError, match="row 17 of activations in .*a.npy holds NaN"):
        batches(source, 5)


def test_missing_fields_of_a_store_are_named(tmp_path):
    writer = store.create(tmp_path / "store", META)
    reader = store.open_store(tmp_path / "store")
    with pytest.raises(ValueError, match="no rows"):
        feed.from_store(reader, "a", batch=8, seed=0)
    writer.append({"a": numbered()})
    reader = store.open_store(tmp_path / "store")
    with pytest.raises(ValueError, match="no field 'b'; it has a"):
        feed.from_store(reader, "b", batch=8, seed=0)
    with pytest.raises(ValueError, match="for a batch of 51"):
        feed.from_store(reader, "a", batch=51, seed=0)
    json.dumps(reader.meta)

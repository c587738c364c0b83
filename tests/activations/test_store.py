import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import tensorstore as ts
from mixing import distances, mates, places

import jaxinterp
from jaxinterp.activations import shuffle, store

META = {
    "model": "tiny",
    "sites": ["L2.resid_post"],
    "tokenizer": "tiny",
    "data": {"text": "docs", "seed": 0},
    "normalisation": None,
}


def numbered(start, stop, width=64):
    """Rows that say which they are, in two fields."""
    number = np.arange(start, stop, dtype=np.int32)
    return {
        "x": np.float32(number)[:, None] + np.arange(width, dtype=np.float32)[None],
        "n": number,
    }


def in_memory():
    return ts.KvStore.open("memory://").result()


@pytest.fixture
def chunked(tmp_path):
    """A store of 5000 rows in about ten chunks of several slabs, by two writers."""
    for writer, start, stop in (("a", 0, 2000), ("b", 2000, 5000)):
        handle = store.create(tmp_path / "s", META, writer=writer, chunk_bytes=1 << 20)
        handle.append(numbered(start, stop, width=512))
    return tmp_path / "s"


@pytest.mark.parametrize("place", ["folder", "file", "memory"])
def test_what_is_read_is_what_was_appended(tmp_path, rng, place):
    url = {"folder": tmp_path, "file": f"file://{tmp_path}/a", "memory": in_memory()}[place]
    x = rng.standard_normal((700, 3, 5)).astype(np.float32)
    rows = {
        "float32": x,
        "bfloat16": x.astype(ml_dtypes.bfloat16),
        "float8": x.astype(ml_dtypes.float8_e4m3fn),
        "float16": x[:, 0].astype(np.float16),
        "transposed": np.asarray(x.T, order="C").T,
        "token": np.arange(700),
        "mask": x[:, 0, 0] > 0,
    }
    writer = store.create(url, META, chunk_bytes=20_000)
    writer.append({name: a[:300] for name, a in rows.items()})
    writer.append(
        {name: jnp.asarray(a[300:]) if a.dtype != int else a[300:] for name, a in rows.items()}
    )
    assert writer.rows == 700
    reader = store.open_store(url)
    assert (reader.rows, reader.meta) == (700, META)
    assert reader.fields["bfloat16"] == ("bfloat16", (3, 5))
    for name, expected in rows.items():
        got = reader.read(name)
        assert got.dtype == expected.dtype
        np.testing.assert_array_equal(
            got.view(np.uint8), np.ascontiguousarray(expected).view(np.uint8)
        )


def test_any_rows_can_be_read_in_any_order(chunked, rng):
    reader = store.open_store(chunked)
    assert reader.rows == 5000
    for start, stop in ((0, 1), (17, 2300), (1999, 2001), (4999, 5000), (30, 30)):
        assert reader.read("n", start, stop).tolist() == list(range(start, stop))
    rows = rng.integers(0, 5000, 300)
    np.testing.assert_array_equal(reader.take("x", rows)[:, 0], rows)
    with pytest.raises(ValueError, match="rows 4990 to 5000 of .*, which has 5000 rows"):
        reader.read("n", 4990, 5001)
    with pytest.raises(ValueError, match="no field 'y'; it has x, n"):
        reader.read("y")


def test_the_batches_of_an_epoch_hold_every_row_once_and_go_on_from_any_step(chunked):
    reader = store.open_store(chunked)
    options = {"batch": 384, "seed": 3, "pool_bytes": 1 << 21}
    whole = list(itertools.islice(reader.batches(["x", "n"], **options), 40))
    for part in whole:
        assert part["x"].shape == (384, 512)
        np.testing.assert_array_equal(part["x"][:, 0], part["n"])
    order = np.concatenate([part["n"] for part in whole])
    for epoch in range(3):
        assert sorted(order[epoch * 5000 : (epoch + 1) * 5000]) == list(range(5000))
    assert (order[:5000] != order[5000:10000]).mean() > 0.99
    for start in (1, 4, 13, 14, 27, 39):
        part = next(store.open_store(chunked).batches(["x", "n"], start=start, **options))
        np.testing.assert_array_equal(part["x"], whole[start]["x"])
    other = next(reader.batches(["n"], batch=384, seed=4, pool_bytes=1 << 21))["n"]
    assert (other != whole[0]["n"]).mean() > 0.99


def test_a_batch_may_be_larger_than_a_pool(chunked):
    reader = store.open_store(chunked)
    parts = itertools.islice(reader.batches(["n"], batch=1700, seed=0, pool_bytes=1), 10)
    order = np.concatenate([part["n"] for part in parts])
    assert sorted(order[:5000]) == list(range(5000))


def test_processes_read_parts_of_their_own(chunked):
    reader, seen = store.open_store(chunked), []
    for share in range(3):
        rows = sum(reader._slabs[share::3, 2])
        parts = reader.batches(["n"], batch=100, seed=0, share=(share, 3))
        epoch = np.concatenate([next(parts)["n"] for _ in range(-(-rows // 100))])[:rows]
        assert len(set(epoch)) == rows
        seen.append(epoch)
    assert sorted(np.concatenate(seen)) == list(range(5000))


# Shuffling. Rows of 1 kB: 256 to a slab, 8 slabs to a chunk, 16 chunks; pools of 16 slabs.
ROWS, CHUNK, POOL, BATCH, DOCUMENT = 1 << 15, 1 << 21, 1 << 22, 512, 100


@pytest.fixture(scope="module")
def orders(tmp_path_factory):
    """The order of rows over ten epochs of a store that was written document by document."""
    url = tmp_path_factory.mktemp("mixed")
    writer = store.create(url, META, chunk_bytes=CHUNK)
    padding = np.zeros((ROWS, 255), np.int32)
    writer.append({"n": np.concatenate([np.arange(ROWS, dtype=np.int32)[:, None], padding], 1)})
    parts = store.open_store(url).batches(["n"], batch=BATCH, seed=0, pool_bytes=POOL)
    steps = 10 * ROWS // BATCH
    return np.concatenate([next(parts)["n"][:, 0] for _ in range(steps)]).reshape(10, ROWS)


def test_batches_are_as_well_mixed_as_a_shuffle_of_everything(orders, rng):
    """The same statistics of the store, of true shuffles, and of three ways to mix badly."""

    def scores(order):
        near = [distances(order, ROWS, lag=lag) for lag in (1, 30)]
        return np.array([places(order, ROWS), *near, mates(order, ROWS, BATCH, DOCUMENT)])

    truth = np.array([scores(rng.permutation(ROWS)) for _ in range(10)])
    assert np.abs(truth).max() < 5
    assert truth.sum(0).max() / np.sqrt(10) < 4
    ours = np.array([scores(order) for order in orders])
    assert ours.max() < 5
    assert ours.sum(0).max() / np.sqrt(10) < 4

    blocks = np.arange(ROWS).reshape(-1, 4096)
    slabs = rng.permutation(np.arange(ROWS).reshape(-1, 256)).reshape(-1, 4096)
    for name, order, seen_by in (
        ("as it was written", np.arange(ROWS), (0, 1, 2, 3)),
        ("shuffled within blocks", rng.permuted(blocks, axis=1).ravel(), (0, 1, 2, 3)),
        (
            "random slabs of one text, shuffled in pools",
            rng.permuted(slabs, axis=1).ravel(),
            (1, 2, 3),
        ),
    ):
        assert scores(order)[list(seen_by)].min() > 10, name


def test_a_slab_comes_out_anywhere_in_an_epoch_with_equal_chance():
    sizes = np.full(93, 10)
    first, together = np.zeros(7), 0
    for seed in range(700):
        dealt = shuffle.deal(sizes, 14, seed=seed, epoch=0)
        assert sorted(dealt.slabs) == list(range(93))
        assert dealt.rows[-1] == 930
        assert np.diff(dealt.bounds).max() <= 14
        pool = np.empty(93, int)
        pool[dealt.slabs] = np.repeat(np.arange(7), np.diff(dealt.bounds))
        first[pool[0]] += 1
        together += pool[0] == pool[50]
    assert ((first - 100) ** 2 / 100).sum() < 25
    assert abs(together - 100) < 40


# Processes. The child loads the store's modules without the package, whose import starts jax.
CHILD = f"""
import sys, types
package = types.ModuleType("jaxinterp.activations")
package.__path__ = [{str(Path(jaxinterp.__file__).parent / "activations")!r}]
sys.modules[package.__name__] = package
import numpy as np
from jaxinterp.activations import store
assert "jax" not in sys.modules
META = {META!r}
"""

APPEND_FOR_EVER = (
    CHILD
    + """
writer = store.create(sys.argv[1], META, chunk_bytes=600_000)
draw = np.random.default_rng(writer.rows)
while True:
    n = writer.rows + np.arange(draw.integers(1, 3000), dtype=np.int32)
    writer.append({"n": n, "x": n[:, None] * np.ones(256, np.float32)})
    print(writer.rows, flush=True)
"""
)


def start(program, *arguments):
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_a_writer_killed_eight_times_loses_and_repeats_nothing(tmp_path, rng):
    acknowledged = 0
    for kill in range(8):
        writer = start(APPEND_FOR_EVER, tmp_path)
        if kill % 5:  # in the middle of appending
            acknowledged = max(acknowledged, int(writer.stdout.readline()))
            time.sleep(rng.uniform(0, 0.03))
        else:  # at the start
            time.sleep(rng.uniform(0.05, 0.3))
        writer.send_signal(signal.SIGKILL)
        lines = writer.communicate()[0].split()
        acknowledged = max([acknowledged, *map(int, lines[-2:-1])])
        if acknowledged:
            reader = store.open_store(tmp_path)
            assert reader.rows >= acknowledged
            assert reader.read("n").tolist() == list(range(reader.rows))
    np.testing.assert_array_equal(reader.read("x")[:, 7], np.arange(reader.rows))
    assert store.create(tmp_path, META).rows == reader.rows > 2_000


def test_processes_write_at_once(tmp_path):
    program = (
        CHILD
        + """
writer = store.create(sys.argv[1], META, writer=sys.argv[2])
for i in range(20):
    writer.append({"n": np.arange(50) + 50 * i + 1000 * int(sys.argv[2])})
"""
    )
    writers = [start(program, tmp_path, i) for i in range(3)]
    for writer in writers:
        assert writer.communicate()[1] == b""
    assert store.open_store(tmp_path).read("n").tolist() == list(range(3000))


def test_two_writers_of_one_name_are_told(tmp_path):
    first, second = (store.create(tmp_path, META) for _ in range(2))
    first.append(numbered(0, 10))
    with pytest.raises(OSError, match="written by another process: give each its own writer name"):
        second.append(numbered(0, 20))
    assert store.open_store(tmp_path).read("n").tolist() == list(range(10))


FILL = (
    CHILD
    + """
writer = store.create(sys.argv[1], META)
try:
    for rows in (100, 100, 2000, 100):
        writer.append({"n": writer.rows + np.arange(rows), "x": np.ones((rows, 256))})
except OSError as error:
    print(writer.rows, error)
"""
)


def refused_and_safe(folder, printed, reason):
    assert reason in printed
    assert "can't be written" in printed
    assert printed.startswith("200 ")
    assert "the 200 rows before it are safe" in printed
    assert store.open_store(folder).read("n").tolist() == list(range(200))
    again = store.create(folder, META)
    assert again.rows == 200
    again.append({"n": np.arange(200, 250), "x": np.ones((50, 256))})
    assert store.open_store(folder).read("n").tolist() == list(range(250))


def test_a_quota_reached_in_the_middle_loses_nothing(tmp_path):
    limit = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 21, 1 << 21))
"""
    printed, errors = start(limit + FILL, tmp_path).communicate()
    assert errors == b""
    refused_and_safe(tmp_path, printed.decode(), "File too large")


def test_a_full_disk_loses_nothing(tmp_path):
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a file system can be mounted by root only")
    try:
        printed, errors = start(FILL, tmp_path).communicate()
        assert errors == b""
        refused_and_safe(tmp_path, printed.decode(), "No space left")
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.mark.parametrize("where", [0, 9, 40, 4000, 200_000, -3000, -1])
def test_a_changed_byte_is_detected_and_named(chunked, where):
    path = sorted(chunked.glob("chunks/b/*"))[2]
    data = bytearray(path.read_bytes())
    data[where] ^= 4
    path.write_bytes(data)
    found = rf"{path.name} is damaged .*put it back from a copy"
    with pytest.raises(ValueError, match=found):
        [store.open_store(chunked).read(name) for name in ("x", "n")]
    if where != -1:  # not in the order of the rows, which batches do not need
        with pytest.raises(ValueError, match=found):
            list(
                itertools.islice(
                    store.open_store(chunked).batches(["x", "n"], batch=500, seed=0), 10
                )
            )


def test_a_cut_or_missing_chunk_is_named(chunked):
    first, second = sorted(chunked.glob("chunks/b/*"))[1:3]
    data = second.read_bytes()
    for length in (0, 5, 100, len(data) // 2, len(data) - 1):
        second.write_bytes(data[:length])
        with pytest.raises(ValueError, match=f"{second.name} is damaged"):
            store.open_store(chunked).read("x")
    second.write_bytes(data)
    first.unlink()
    with pytest.raises(
        ValueError, match=rf"chunks/b/{first.name} is missing, .*{second.name} is there"
    ):
        store.open_store(chunked)


def test_a_store_of_something_else_is_refused(tmp_path):
    store.create(tmp_path, META).append(numbered(0, 3))
    with pytest.raises(ValueError, match=r"\(model: 'tiny' there, 'gpt2' here\): choose another"):
        store.create(tmp_path, META | {"model": "gpt2"})
    with pytest.raises(ValueError, match="data: .*'seed': 0.* there, .*'seed': 1.* here"):
        store.create(tmp_path, META | {"data": {"text": "docs", "seed": 1}})
    with pytest.raises(ValueError, match="dtype: None there, 'float32' here"):
        store.create(tmp_path, META | {"dtype": "float32"})
    with pytest.raises(ValueError, match="tokenizer: 'tiny' there, 'gpt2' here"):
        store.open_store(tmp_path, {"tokenizer": "gpt2", "model": "tiny"})
    with pytest.raises(ValueError, match="meta does not say data, normalisation"):
        store.create(tmp_path, {"model": 1, "sites": 2, "tokenizer": 3})
    with pytest.raises(ValueError, match="not made of JSON values"):
        store.create(tmp_path, META | {"data": {1, 2}})
    assert store.open_store(tmp_path, {"sites": ("L2.resid_post",)}).rows == 3
    (tmp_path / "store.json").write_text("{}")
    with pytest.raises(ValueError, match=r"store.json can't be read"):
        store.open_store(tmp_path)


def test_rows_that_do_not_fit_are_refused(tmp_path):
    writer = store.create(tmp_path, META)
    with pytest.raises(ValueError, match="has no rows: harvest some first"):
        store.open_store(tmp_path).read("x")
    writer.append(numbered(0, 3, width=8))
    for rows, told in (
        (numbered(0, 3, width=9), r"rows of x float32\[9\], n int32\[\] do not fit"),
        ({"x": np.ones((3, 8))}, r"float64\[8\] do not fit .* holds rows of x float32\[8\]"),
        ({"x": np.ones((3, 8)), "n": np.ones(2)}, "x 3, n 2"),
        ({"x": np.float32(3)}, "has shape"),
        ({"x": np.ones((3, 0))}, "nothing empty"),
        ({"x": np.array(["a"])}, "give numbers"),
        ({"x": np.ones(3, ">f4")}, "native byte order"),
        ({"(place)": np.ones(3)}, "is taken"),
        ({}, "at least one array"),
    ):
        with pytest.raises(ValueError, match=told):
            writer.append(rows)
    writer.append(numbered(3, 3, width=8))
    assert writer.rows == store.open_store(tmp_path).rows == 3
    for first, last in ((4, None), (0, -1), (2, 1), (0, 4)):
        with pytest.raises(ValueError, match=r"rows .* of .*, which has 3"):
            store.open_store(tmp_path).read("x", first, last)
    with pytest.raises(ValueError, match="row numbers are integers, not bool: np.flatnonzero"):
        store.open_store(tmp_path).take("x", np.ones(3, bool))
    with pytest.raises(ValueError, match=r"3 rows of .* for a batch of 4"):
        store.open_store(tmp_path).batches(["x"], batch=4, seed=0)


def test_places_that_are_no_stores_are_told(tmp_path):
    with pytest.raises(ValueError, match="no activation store at file://.*: harvest one first"):
        store.open_store(tmp_path / "nothing")
    with pytest.raises(ValueError, match="'nine://x'|nine://x is neither a folder nor a URL"):
        store.open_store("nine://x")
    for name in ("a/b", "", "..", "\u00e9conomie"):
        with pytest.raises(ValueError, match=f"writer name '{name}'"):
            store.create(tmp_path, META, writer=name)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="can't be written"):
        store.create(tmp_path / "file", META)


def test_what_a_stopped_write_leaves_is_no_data(chunked):
    last = sorted(chunked.glob("chunks/b/*"))[-1]
    (last.parent / "000000003000.__lock").write_bytes(last.read_bytes()[:1000])
    reader = store.open_store(chunked)
    assert reader.rows == 5000
    writer = store.create(chunked, META, writer="b")
    writer.append(numbered(5000, 6000, width=512))
    assert store.open_store(chunked).read("n").tolist() == list(range(6000))
    assert reader.fingerprint != store.open_store(chunked).fingerprint
    assert not [p for p in os.listdir(last.parent) if "lock" in p]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_reading_takes_memory_for_pools_only(tmp_path):
    writer = store.create(tmp_path, META)
    for _ in range(8):
        writer.append({"x": np.ones((16384, 256), np.float32)})
    program = (
        CHILD
        + """
import itertools, re
def peak():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
before = peak()
parts = store.open_store(sys.argv[1]).batches(["x"], batch=2048, seed=0, pool_bytes=1 << 22)
for part in itertools.islice(parts, 80):
    pass
print(peak() - before)
"""
    )
    printed, errors = start(program, tmp_path).communicate()
    assert errors == b""
    assert 1 << 22 < int(printed) < 1 << 26  # of 2**27 that are read; the slabs on the way: 2**24

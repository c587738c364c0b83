import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxinterp.dictionaries import formats
from jaxinterp.dictionaries.topk import topk


@pytest.fixture
def saved(tmp_path):
    x = jax.random.normal(jax.random.key(1), (20, 6))
    params = topk(24, 3).init(jax.random.key(0), x)
    folder = tmp_path / "dictionary"
    formats.save(folder, "topk", {"width": 24, "k": 3}, params, {"site": "L2.resid_post"})
    return folder, params, x


def test_round_trip_is_exact(saved):
    folder, params, x = saved
    dictionary, loaded, header = formats.load(folder)
    assert set(loaded) == set(params)
    for name in params:
        np.testing.assert_array_equal(loaded[name], params[name])
    assert header["source"] == {"site": "L2.resid_post"}
    codes, expected = dictionary.encode(loaded, x), topk(24, 3).encode(params, x)
    np.testing.assert_array_equal(codes.indices, expected.indices)


def test_file_needs_no_library_of_ours(saved):
    """The documented equation, in NumPy, from nothing but the two files."""
    folder, params, x = saved
    t = load_file(folder / "dictionary.safetensors")
    k = json.loads((folder / "dictionary.json").read_text())["options"]["k"]
    scores = (np.asarray(x) - t["b_dec"]) @ t["W_enc"] + t["b_enc"]
    kth = np.sort(scores, 1)[:, -k][:, None]
    x_hat = np.where(scores >= kth, np.maximum(scores, 0), 0) @ t["W_dec"] + t["b_dec"]
    ours = topk(24, 3)
    np.testing.assert_allclose(ours.decode(params, ours.encode(params, x)), x_hat, atol=1e-5)


def edit_header(folder, **changes):
    path = folder / "dictionary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "not a jaxinterp dictionary"),
        ({"version": 99}, "version 99"),
        ({"variant": "none"}, "unknown variant 'none'"),
    ],
)
def test_foreign_headers_are_refused(saved, changes, message):
    edit_header(saved[0], **changes)
    with pytest.raises(ValueError, match=message):
        formats.load(saved[0])


def test_damaged_files_are_refused(saved):
    folder = saved[0]
    path = folder / "dictionary.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="truncated"):
        formats.load(folder)
    path.write_bytes(whole)
    tensors = load_file(path)
    save_file({**tensors, "W_dec": np.ascontiguousarray(tensors["W_dec"].T)}, path)
    with pytest.raises(ValueError, match="W_dec has shape"):
        formats.load(folder)
    save_file({"W_dec": np.asarray(jnp.ones(3))}, path)
    with pytest.raises(ValueError, match="holds tensors"):
        formats.load(folder)
    (folder / "dictionary.json").unlink()
    with pytest.raises(ValueError, match="can't be read"):
        formats.load(folder)

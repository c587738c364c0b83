import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxinterp.dictionaries import base, formats, penalties, registry, scores
from jaxinterp.dictionaries.atoms import free
from jaxinterp.dictionaries.jumprelu import jumprelu
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


def test_a_folder_of_the_first_version_still_loads(saved):
    """Version 1 knew top-k only and wrote the same two files, options as plain numbers."""
    folder, params, x = saved
    header = {"format": "jaxinterp-dictionary", "version": 1, "variant": "topk"}
    options = {"width": 24, "k": 3, "aux_k": None, "aux_weight": 0.03125, "dead_after": 100000}
    (folder / "dictionary.json").write_text(json.dumps(header | {"options": options, "source": {}}))
    dictionary, loaded, _ = formats.load(folder)
    codes, expected = dictionary.encode(loaded, x), topk(24, 3).encode(params, x)
    np.testing.assert_array_equal(codes.values, expected.values)


OPTIONS = {
    "width": 24,
    "weight": 0.5,
    "penalty": partial(penalties.tanh, scale=2.0),
    "scores": partial(scores.mlp, hidden=12),
    "atoms": free,
    "reach_scores": True,
}


def test_parts_are_kept_by_name_and_come_back_as_functions(tmp_path):
    x = jax.random.normal(jax.random.key(1), (20, 6))
    dictionary = jumprelu(**OPTIONS)
    params = dictionary.init(jax.random.key(0), x)
    formats.save(tmp_path, "jumprelu", OPTIONS, params)
    written = json.loads((tmp_path / "dictionary.json").read_text())["options"]
    assert written["penalty"] == {"part": "tanh", "scale": 2.0}
    assert written["scores"] == {"part": "mlp", "hidden": 12}
    assert written["atoms"] == "free"
    loaded, params, _ = formats.load(tmp_path)
    stats, key = base.new_stats(24), jax.random.key(0)
    expected = dictionary.loss(params, stats, x, x, key)[0]
    assert loaded.loss(params, stats, x, x, key)[0] == expected
    assert jumprelu(width=24).loss is not loaded.loss


@pytest.mark.parametrize("wrapped", [False, True])
def test_gated_tensors_have_the_names_of_saelens(tmp_path, wrapped):
    variant, options = "gated", {"width": 24}
    if wrapped:
        variant, options = "matryoshka", {"recipe": "gated", "prefixes": [8, 24], "width": 24}
    x = jax.random.normal(jax.random.key(1), (20, 6))
    dictionary = registry.build(variant, options)
    params = dictionary.init(jax.random.key(0), x)
    params = params | {"log_magnitude": jnp.linspace(-1, 1, 24), "encoder_bias": jnp.ones(24) / 9}
    formats.save(tmp_path, variant, options, params)
    t = load_file(tmp_path / "dictionary.safetensors")
    assert set(t) == {"W_enc", "W_dec", "b_dec", "b_gate", "b_mag", "r_mag"}
    s = (np.asarray(x) - t["b_dec"]) @ t["W_enc"]
    z = (s + t["b_gate"] > 0) * np.maximum(np.exp(t["r_mag"]) * s + t["b_mag"], 0)
    np.testing.assert_allclose(dictionary.encode(params, x), z, atol=1e-5)


def test_options_that_a_file_cannot_hold_are_refused(tmp_path):
    schedule = {"width": 24, "weight": lambda step: 0.1 * step}
    with pytest.raises(ValueError, match="'weight'.*its last value"):
        formats.save(tmp_path / "new", "jumprelu", schedule, {})
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("variant", "options", "message"),
    [
        ("none", {}, "unknown variant 'none'; known"),
        ("relu", {"width": 8, "penalty": "l3"}, "unknown part 'l3'; known"),
        ("relu", {"width": 8, "k": 4}, "relu with options .*'k'"),
        ("relu", {}, "relu with options .*width"),
    ],
)
def test_unknown_words_in_options_are_refused(variant, options, message):
    with pytest.raises(ValueError, match=message):
        registry.build(variant, options)

import json
import os
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxinterp.activations.normalise import Affine, apply, invert, scaling
from jaxinterp.dictionaries import base, formats, penalties, registry, scores
from jaxinterp.dictionaries.atoms import free
from jaxinterp.dictionaries.fold import fold
from jaxinterp.dictionaries.formats import lazy, native
from jaxinterp.dictionaries.formats import stored as stored_module
from jaxinterp.dictionaries.jumprelu import jumprelu
from jaxinterp.dictionaries.topk import topk
from jaxinterp.parallel import make_mesh


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
        ({"version": None}, "version None"),
        ({"version": 0}, "version 0"),
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


@pytest.mark.parametrize("kind", [np.int32, np.bool_, np.complex64])
def test_tensors_of_other_types_are_refused(saved, kind):
    path = saved[0] / "dictionary.safetensors"
    tensors = load_file(path)
    save_file(tensors | {"b_enc": tensors["b_enc"].astype(kind)}, path)
    with pytest.raises(ValueError, match=r"b_enc has type|holds tensors"):
        formats.open_stored(saved[0])


def test_a_header_that_is_nested_without_end_is_refused(saved):
    (saved[0] / "dictionary.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="dictionary.json can't be read as JSON"):
        formats.open_stored(saved[0])


def test_both_files_are_written_or_neither(saved, monkeypatch):
    folder, params, _ = saved
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    options, changed = {"width": 24, "k": 5}, {n: v + 1 for n, v in params.items()}
    with pytest.raises(ValueError, match="dictionary.json can't hold what it should say: .*object"):
        formats.save(folder, "topk", options, changed, {"site": object()})

    def full(*_):
        raise OSError("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(native.files, "write_arrays", full)
        with pytest.raises(OSError, match="no space"):
            formats.save(folder, "topk", options, changed)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    with monkeypatch.context() as patched:  # stopped between the two
        replace = os.replace
        patched.setattr(
            os, "replace", lambda a, b: full() if b.name == native.HEADER else replace(a, b)
        )
        with pytest.raises(OSError, match="no space"):
            formats.save(folder, "topk", options, changed)
    with pytest.raises(ValueError, match="dictionary.json can't be read"):
        formats.load(folder)  # not the new weights with the old k
    formats.save(folder, "topk", options, changed)
    np.testing.assert_array_equal(formats.load(folder)[1]["encoder"], changed["encoder"])


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
    ("variant", "width", "without", "message"),
    [
        ("topkk", 24, (), "unknown variant 'topkk'"),
        ("topk", 32, (), r"decoder has shape \(24, 6\) as decoder; topk of these options has"),
        ("topk", 24, ("encoder",), "holds tensors .*; topk has .*encoder"),
        ("topk", 24, ("decoder",), "a decoder .* is needed"),
    ],
)
def test_what_could_not_be_read_again_is_not_written(
    saved, tmp_path, variant, width, without, message
):
    params = {name: value for name, value in saved[1].items() if name not in without}
    with pytest.raises(ValueError, match=message):
        formats.save(tmp_path / "new", variant, {"width": width, "k": 3}, params)
    assert not (tmp_path / "new").exists()


def test_a_dictionary_with_matched_scores_comes_back(tmp_path):
    options = {"width": 24, "k": 3, "scores": scores.matched}
    params = topk(**options).init(jax.random.key(0), jnp.eye(6))
    formats.save(tmp_path, "topk", options, params)
    _, loaded, header = formats.load(tmp_path)
    assert header["options"]["scores"] == "matched"
    np.testing.assert_array_equal(loaded["decoder"], params["decoder"])


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


def whole_tensors(stored):
    return {name: lazy.whole(tensor) for name, tensor in stored.tensors.items()}


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_is_kept_and_thresholds_are_not_rounded(tmp_path, dtype):
    x = jax.random.normal(jax.random.key(1), (20, 6))
    params = jumprelu(24).init(jax.random.key(0), x)
    params = {n: v.astype(dtype) for n, v in params.items()}
    params["threshold"] = jnp.linspace(0.1, 0.2, 24)  # float32
    formats.save(tmp_path, "jumprelu", {"width": 24}, params)
    _, loaded, _ = formats.load(tmp_path)
    for name, value in params.items():
        assert loaded[name].dtype == value.dtype
        np.testing.assert_array_equal(loaded[name], value)
    _, wide, _ = formats.load(tmp_path, dtype=jnp.float32)
    assert {v.dtype for v in wide.values()} == {np.dtype(np.float32)}
    _, narrow, _ = formats.load(tmp_path, dtype=jnp.bfloat16)
    assert narrow["encoder"].dtype == jnp.bfloat16
    assert narrow["threshold"].dtype == jnp.float32


def test_each_device_reads_its_own_latents(saved, monkeypatch):
    folder, params, _ = saved
    read, original = [], lazy.held

    def watched(name, array):
        tensor = original(name, array)

        def part(region):
            read.append((name, region))
            return tensor.read(region)

        return tensor._replace(read=part, fill=None)

    monkeypatch.setattr(lazy, "held", watched)
    mesh = make_mesh("data=2,model=4")
    _, loaded, _ = formats.load(folder, mesh=mesh)
    for name, value in params.items():
        np.testing.assert_array_equal(loaded[name], value)
    assert loaded["encoder"].addressable_shards[0].data.shape == (6, 6)
    assert loaded["decoder"].sharding.spec[0] == "model"
    asked = [region[0] for name, region in read if name == "W_dec"]
    # Each quarter once, though two devices hold it.
    assert sorted((s.start, s.stop) for s in asked) == [(0, 6), (6, 12), (12, 18), (18, 24)]


SPACES = Affine(np.arange(6.0), np.diag([2.0, 1, 1, 3, 1, 1])[:, ::-1], np.zeros((6, 6)))
SPACES = SPACES._replace(inverse=np.linalg.inv(SPACES.matrix))


@pytest.mark.parametrize("encoder", ["linear", "tied"])
def test_a_normalisation_is_kept_and_folded_when_it_is_loaded(tmp_path, encoder):
    """In the weights where they allow it, around them where they do not: the same codes."""
    options = {"width": 24, "k": 3, "scores": encoder}
    dictionary = registry.build("topk", options)
    x = jax.random.normal(jax.random.key(1), (20, 6))
    params = dictionary.init(jax.random.key(0), x)
    stored = formats.from_memory("topk", options, params)._replace(normalisation=SPACES)
    formats.save(tmp_path / "saved", "topk", options, params, normalisation=SPACES)
    native.write(tmp_path, stored)
    saved = (tmp_path / "saved" / native.TENSORS).read_bytes()
    assert saved == (tmp_path / native.TENSORS).read_bytes()
    again = formats.open_stored(tmp_path)
    for part, value in again.normalisation._asdict().items():
        np.testing.assert_array_equal(value, getattr(SPACES, part))
    for name, value in whole_tensors(again).items():
        np.testing.assert_array_equal(value, params[name])
    loaded, folded, _ = formats.load(tmp_path)
    codes = loaded.encode(folded, x)
    expected = dictionary.encode(params, apply(SPACES, x))
    np.testing.assert_allclose(codes.values, expected.values, atol=1e-4)
    x_hat = invert(SPACES, dictionary.decode(params, expected))
    np.testing.assert_allclose(loaded.decode(folded, codes), x_hat, atol=1e-4)
    assert (encoder == "linear") == bool(jnp.any(folded["decoder"] != params["decoder"]))


# What multiplies each coordinate by itself is folded without regard to rows.
STRETCH = scaling(np.arange(6.0), [2.0, 1 / 3, 1, 3, 1, 0.7])


@pytest.mark.parametrize("spaces", [SPACES, STRETCH], ids=["matrix", "stretch"])
@pytest.mark.parametrize("variant", ["relu", "gated", "jumprelu"])
@pytest.mark.parametrize("encoder", ["linear", "uncentred"])
def test_a_normalisation_is_folded_in_pieces(tmp_path, variant, encoder, spaces, monkeypatch):
    """As `fold` does at once, but a few rows at a time, and each device its own."""
    options = {"width": 24, "scores": encoder}
    dictionary = registry.build(variant, options)
    params = dictionary.init(jax.random.key(0), jnp.ones((9, 6)))
    noise = np.random.default_rng(0)
    params = {n: jnp.asarray(v + 0.3 * noise.normal(size=v.shape)) for n, v in params.items()}
    stored = formats.from_memory(variant, options, params)._replace(normalisation=spaces)
    native.write(tmp_path, stored)
    _, expected = fold(dictionary, params, spaces)
    monkeypatch.setattr(lazy, "_CHUNK_BYTES", 256)
    monkeypatch.setattr(stored_module, "_AT_ONCE", 5)
    for mesh in (None, make_mesh("data=2,model=4")):
        loaded, folded, _ = formats.load(tmp_path, mesh=mesh)
        assert loaded.width == 24
        for name, value in expected.items():
            np.testing.assert_array_equal(folded[name], value, err_msg=name)
    assert folded["encoder"].addressable_shards[0].data.shape == (6, 6)
    assert bool(jnp.any(folded["decoder"] != params["decoder"]))


def test_a_normalisation_for_each_site_and_one_of_the_target_are_kept(tmp_path):
    params = {"encoder": jnp.ones((4, 3)), "encoder_bias": jnp.ones(4)}
    params |= {"decoder": jnp.ones((4, 6)), "decoder_bias": jnp.ones(6)}
    small = Affine(np.ones(3), np.asarray(2.0), np.asarray(0.5))
    options = {"width": 4, "recipe": "relu"}
    stored = formats.from_memory("transcoder", options, params)
    native.write(tmp_path / "a", stored._replace(normalisation=small, target=SPACES))
    again = formats.open_stored(tmp_path / "a")
    np.testing.assert_array_equal(again.normalisation.matrix, 2.0)
    np.testing.assert_array_equal(again.target.inverse, SPACES.inverse)
    native.write(tmp_path / "b", stored._replace(normalisation=[small, small._replace(matrix=3.0)]))
    both = formats.open_stored(tmp_path / "b").normalisation
    assert [float(one.matrix) for one in both] == [2.0, 3.0]


@pytest.mark.parametrize("spaces", ["stretch to matrix", "matrix to stretch"])
def test_input_and_target_are_folded_each_by_its_own(tmp_path, spaces):
    options = {"width": 12, "recipe": "relu"}
    draw = np.random.default_rng(0).normal
    params = {"encoder": draw(size=(12, 6)), "encoder_bias": draw(size=12)}
    params |= {"decoder": draw(size=(12, 6)), "decoder_bias": draw(size=6)}
    params = {name: jnp.asarray(value, jnp.float32) for name, value in params.items()}
    both = (STRETCH, SPACES) if spaces == "stretch to matrix" else (SPACES, STRETCH)
    stored = formats.from_memory("transcoder", options, params)
    native.write(tmp_path, stored._replace(normalisation=both[0], target=both[1]))
    loaded, folded, _ = formats.load(tmp_path)
    _, expected = fold(loaded, params, both[0], target=both[1])
    for name, value in expected.items():
        np.testing.assert_array_equal(folded[name], value, err_msg=name)


def test_a_file_of_the_second_version_with_a_skip_path_still_loads(tmp_path):
    """It called W_skip `skip`."""
    params = {"encoder": jnp.ones((4, 3)), "encoder_bias": jnp.ones(4)}
    params |= {"decoder": jnp.ones((4, 2)), "decoder_bias": jnp.ones(2), "skip": jnp.ones((2, 3))}
    formats.save(tmp_path, "skip_transcoder", {"width": 4, "recipe": "relu"}, params)
    path = tmp_path / "dictionary.safetensors"
    tensors = load_file(path)
    save_file({"skip" if n == "W_skip" else n: v for n, v in tensors.items()}, path)
    edit_header(tmp_path, version=2)
    np.testing.assert_array_equal(formats.load(tmp_path)[1]["skip"], params["skip"])

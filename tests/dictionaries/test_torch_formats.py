import json
import pickle
import shutil
import zipfile
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxinterp import dictionaries
from jaxinterp.dictionaries import base, formats, registry
from jaxinterp.dictionaries.formats import lazy, torch_files, zipped
from jaxinterp.parallel import make_mesh

from .fixtures.make_torch_formats import CLASSES, files_of

FOLDER = Path(__file__).parent / "fixtures" / "torch_formats"
PATHS = files_of(FOLDER)
L3 = {"layer": 3}
WANTED = {
    "AutoEncoder": ("relu", {"width": 40, "atoms": "free"}),
    "AutoEncoderNew": ("relu", {"width": 40, "atoms": "free", "scores": "uncentred"}),
    "GatedAutoEncoder": ("gated", {"width": 40}),
    "AutoEncoderTopK": ("topk", {"width": 40, "k": 5}),
    "BatchTopKSAE": ("batch_topk", {"width": 40, "k": 5}),
    "JumpReluAutoEncoder": ("jumprelu", {"width": 40, "scores": "uncentred"}),
    "MatryoshkaBatchTopKSAE": (
        "matryoshka",
        {
            **{"width": 40, "k": 5, "recipe": "batch_topk", "prefixes": [10, 20, 40]},
            "weights": [0.2 / 3, 0.3 / 3, 0.5 / 3],
        },
    ),
    "res": ("jumprelu", {"width": 40, "scores": "uncentred"}),
    "att": ("jumprelu", {"width": 40, "scores": "uncentred"}),
    "embedding": ("jumprelu", {"width": 40, "scores": "uncentred"}),
    "transcoder": ("transcoder", {"width": 40, "recipe": "jumprelu"}),
    "second": ("jumprelu", {"width": 40, "scores": "uncentred"}),
    "affine": ("skip_transcoder", {"width": 40, "recipe": "jumprelu"}),
    "clt": ("skip_transcoder", {"width": 40, "recipe": "jumprelu"}),
    "llama": ("jumprelu", {"width": 40, "scores": "uncentred"}),
    "crosscoder": ("l1_crosscoder", {"width": 40}),
}
PLACES = {
    "res": {"model": "google/gemma-2-2b", "site": "L3.resid_post"} | L3,
    "att": {"model": "google/gemma-2-2b", "site": "L3.z", "reshape": "hook_z"} | L3,
    "embedding": {"model": "google/gemma-2-2b", "site": "embed"},
    "transcoder": {"model": "google/gemma-2-2b", "site": "L3.ln2", "into": "L3.mlp_out"} | L3,
    "second": {"model": "google/gemma-v3-1b-pt", "site": "L3.resid_post"} | L3,
    "affine": {"model": "google/gemma-v3-1b-pt", "site": "L3.ln2", "into": "L3.mlp_out"} | L3,
    "llama": {"site": "blocks.3.hook_resid_post"} | L3,
}


@cache
def expected():
    with np.load(FOLDER / "expected.npz") as held:
        return dict(held)


def rows_of(name):
    return expected()["crosscoder.x" if name == "crosscoder" else "x"]


def run(dictionary, params, x):
    codes = dictionary.encode(params, jnp.asarray(x))
    x_hat = dictionary.decode(params, codes)
    z = base.latents(codes)
    return np.asarray(base.densify(z, dictionary.width) if isinstance(z, base.Codes) else z), x_hat


def close(name, codes, x_hat):
    wanted, wanted_x = expected()[f"{name}.codes"], expected()[f"{name}.x_hat"]
    np.testing.assert_allclose(codes, wanted, atol=1e-5)
    np.testing.assert_allclose(x_hat, wanted_x, atol=1e-5)
    np.testing.assert_array_equal((codes != 0).sum(1), (wanted != 0).sum(1))
    assert 0 < (wanted != 0).mean() < 1


@pytest.mark.parametrize("name", PATHS)
def test_a_file_of_the_peer_gives_what_the_peer_gives(name):
    dictionary, params, header = formats.load(PATHS[name])
    close(name, *run(dictionary, params, rows_of(name)))
    assert (header["variant"], header["options"]) == WANTED[name]
    if name in PLACES:
        assert header["source"] == PLACES[name]
    if name in CLASSES:
        source = {"model": "EleutherAI/pythia-70m", "layer": 3, "site": "resid_post"}
        assert source.items() <= header["source"].items()


def test_atoms_of_length_one_as_dictionary_learning_opens_them():
    dictionary, params, header = formats.load(PATHS["AutoEncoder"])
    close("unit", *run(dictionary, dictionaries.unit_norms(dictionary, params), rows_of("unit")))
    assert "fold.unit_norms" in header["notes"][0]


@pytest.mark.parametrize("name", [*CLASSES, "crosscoder"])
def test_what_was_read_is_written_back_bit_for_bit(name, tmp_path):
    stored = formats.open_stored(PATHS[name])
    formats.FORMATS[stored.format].write(tmp_path, stored)
    for file in PATHS[name].iterdir():
        if file.suffix == ".json":
            first, second = (
                json.loads((f / file.name).read_text()) for f in (file.parent, tmp_path)
            )
            if name != "crosscoder":
                assert second["trainer"].pop("trainer_class")
            assert first.items() <= second.items() or first["trainer"] == second["trainer"]
            continue
        before, after = (torch_files.read_tensors(f / file.name) for f in (file.parent, tmp_path))
        assert set(before) == set(after)
        if name == "JumpReluAutoEncoder":  # zero is cut off first there, here at the larger
            before["threshold"] = np.maximum(before["threshold"], 0)
        for key, tensor in before.items():
            assert after[key].dtype == tensor.dtype
            np.testing.assert_array_equal(after[key], tensor, err_msg=key)
    torch = pytest.importorskip("torch")
    for file in tmp_path.glob("*.pt"):
        read = torch.load(file, weights_only=True)
        assert {key: tuple(t.shape) for key, t in read.items()} == {
            key: t.shape for key, t in before.items()
        }


def made(variant, options, d=12):
    """A dictionary of ours with no parameter at zero, whose encoder reads about what it writes."""
    dictionary = registry.build(variant, options)
    sample = jax.ShapeDtypeStruct((8, d), jnp.float32)
    sample = (sample, sample) if "transcoder" in variant else sample
    like = jax.eval_shape(dictionary.init, jax.random.key(0), sample)
    rng = np.random.default_rng(0)
    params = {key: jnp.asarray(0.3 * rng.normal(size=v.shape)) for key, v in like.items()}
    if params.get("encoder", params["decoder_bias"]).shape == params["decoder"].shape:
        params["encoder"] = params["decoder"] + 0.3 * params["encoder"]
    return dictionary, params


@pytest.mark.parametrize(
    ("variant", "options", "name", "note"),
    [
        (
            "relu",
            {"weight": 0.5},
            "AutoEncoder",
            "left out, as it matters in training only: weight",
        ),
        ("relu", {"scores": "tied"}, "AutoEncoder", "tied"),
        ("gated", {"scores": "uncentred"}, "GatedAutoEncoder", "bias was moved"),
        ("topk", {"k": 3, "scores": "uncentred"}, "AutoEncoderTopK", "bias was moved"),
        ("jumprelu", {"threshold": "logarithmic"}, "JumpReluAutoEncoder", "bias was moved"),
        ("batch_topk", {"k": 3, "scores": "uncentred"}, "BatchTopKSAE", "bias was moved"),
        ("matryoshka", {"recipe": "batch_topk", "k": 3, "prefixes": (8, 40)}, None, ""),
        ("matryoshka", {"recipe": "topk", "k": 3, "prefixes": (8, 40)}, "AutoEncoderTopK", ""),
        ("transcoder", {"recipe": "relu"}, "AutoEncoderNew", "input and target differ"),
        ("transcoder", {"recipe": "topk", "k": 3}, "AutoEncoderTopK", "input and target differ"),
    ],
)
def test_ours_keep_their_codes_as_dictionary_learning(variant, options, name, note, tmp_path):
    options, x = {"width": 40, **options}, rows_of("x")
    dictionary, params = made(variant, options)
    stored = formats.from_memory(variant, options, params, {"site": "L2.mlp_out"})
    notes = formats.FORMATS["dictionary_learning"].write(tmp_path, stored)
    assert note in " ".join(notes)
    assert "JumpReLU" not in " ".join(notes)
    nested = variant == "matryoshka" and name is not None
    assert ("left out" in " ".join(notes)) == ("weight" in options or nested)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["trainer"]["dict_class"] == (name or "MatryoshkaBatchTopKSAE")
    assert config["trainer"]["submodule_name"] == "L2.mlp_out"
    codes, x_hat = run(dictionary, params, x)
    other, others, _ = formats.load(tmp_path)
    again, x_again = run(other, others, x)
    np.testing.assert_allclose(again, codes, atol=1e-5)
    np.testing.assert_allclose(x_again, x_hat, atol=1e-5)


@pytest.mark.parametrize(
    ("variant", "options", "message"),
    [
        ("abs_topk", {"k": 3}, "no class for abs_topk"),
        ("batch_topk", {"k": 3.5}, "k=3.5: .*whole number"),
        ("skip_transcoder", {"recipe": "relu"}, "without a skip path"),
        ("relu", {"scores": {"part": "mlp", "hidden": 8}}, "'mlp'"),
    ],
)
def test_what_dictionary_learning_has_no_class_for_is_refused(variant, options, message, tmp_path):
    options = {"width": 40, **options}
    _, params = made(variant, options)
    stored = formats.from_memory(variant, options, params)
    with pytest.raises(ValueError, match=message):
        formats.FORMATS["dictionary_learning"].write(tmp_path / "new", stored)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["AutoEncoder", "llama", "second", "crosscoder"])
def test_settings_that_are_no_object_are_refused(name, tmp_path):
    folder = copied(name, tmp_path)
    (path,) = folder.glob("*.json")
    path.write_text("[]")
    with pytest.raises(ValueError, match=f"{path.name} holds a list; a JSON object is needed"):
        formats.open_stored(folder)


@pytest.mark.parametrize("sizes", [None, np.asarray([20.0, 20.0]), np.asarray([20, 19])])
def test_nested_groups_that_are_not_the_width_are_refused(sizes, tmp_path):
    folder = copied("MatryoshkaBatchTopKSAE", tmp_path)
    edit(folder, group_sizes=sizes)
    edit_config(folder, group_weights=None)
    with pytest.raises(ValueError, match=r"lacks group_sizes|must end at the width 40"):
        formats.open_stored(folder)


def test_crosscoders_as_their_training_saves_them_are_read(tmp_path):
    shutil.copy(PATHS["crosscoder"] / "cc_weights.pt", tmp_path / "3.pt")
    with pytest.raises(ValueError, match=r"holds 3.pt, no format of"):
        formats.open_stored(tmp_path / "3.pt")
    shutil.copy(PATHS["crosscoder"] / "cfg.json", tmp_path / "3_cfg.json")
    dictionary, params, header = formats.load(tmp_path / "3.pt")
    close("crosscoder", *run(dictionary, params, rows_of("crosscoder")))
    assert header["source"]["model"] == "gemma-2-2b"


def test_only_relu_crosscoders_are_written(tmp_path):
    stored = formats.open_stored(PATHS["crosscoder"])
    write = formats.FORMATS["crosscoder_pt"].write
    with pytest.raises(ValueError, match="only crosscoders with ReLU codes"):
        write(tmp_path / "new", formats.open_stored(PATHS["AutoEncoder"]))
    with pytest.raises(ValueError, match="no place for a normalisation"):
        write(tmp_path / "new", stored._replace(normalisation=[]))
    assert not (tmp_path / "new").exists()
    assert "mean norm of sqrt(d)" in stored.notes[0]


def copied(name, folder):
    shutil.copytree(PATHS[name], folder / name)
    return folder / name


def edit(folder, **changes):
    """Other tensors; None takes one away."""
    tensors = torch_files.read_tensors(folder / "ae.pt") | changes
    tensors = {key: np.array(t) for key, t in tensors.items() if t is not None}
    torch_files.write_tensors(folder / "ae.pt", tensors)


def edit_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    config["trainer"] |= changes
    (folder / "config.json").write_text(json.dumps(config))


def test_a_threshold_that_was_never_estimated_keeps_every_positive_score(tmp_path):
    folder = copied("BatchTopKSAE", tmp_path)
    edit(folder, threshold=np.asarray(-1.0, np.float32))
    dictionary, params, header = formats.load(folder)
    assert "never estimated" in header["notes"][0]
    t = torch_files.read_tensors(folder / "ae.pt")
    h = (rows_of("x") - t["b_dec"]) @ t["encoder.weight"].T + t["encoder.bias"]
    codes, _ = run(dictionary, params, rows_of("x"))
    np.testing.assert_allclose(codes, np.maximum(h, 0), atol=1e-5)


def test_checkpoints_and_lone_files_are_read(tmp_path):
    folder = copied("AutoEncoderTopK", tmp_path)
    (folder / "checkpoints").mkdir()
    shutil.copy(folder / "ae.pt", folder / "checkpoints" / "ae_100.pt")
    assert formats.open_stored(folder / "checkpoints" / "ae_100.pt").options["k"] == 5
    for name in CLASSES:
        lone = tmp_path / f"lone-{name}"
        lone.mkdir()
        shutil.copy(PATHS[name] / "ae.pt", lone / "ae.pt")
        if name in ("AutoEncoderTopK", "BatchTopKSAE"):  # the same tensors
            with pytest.raises(ValueError, match="do not tell which class"):
                formats.open_stored(lone)
        else:
            assert formats.open_stored(lone).variant == WANTED[name][0]


@pytest.mark.parametrize(
    ("tensors", "config", "message"),
    [
        ({"b_dec": None}, {}, r"ae.pt lacks b_dec; expected .*encoder.weight"),
        ({"scale": np.ones(3)}, {}, "holds scale, which are not known"),
        ({"encoder.bias": np.ones(3)}, {}, r"encoder.bias has shape \(3,\)"),
        ({"decoder.weight": np.ones(3)}, {}, r"decoder.weight has shape \(3,\)"),
        ({"decoder.weight": np.ones((40, 12))}, {}, "dict_size 12 by its tensors and 40"),
        ({"k": np.asarray(4)}, {}, r"k is \[4, 5\]"),
        ({"k": None}, {"k": None}, r"k is \[\]"),
        ({}, {"dict_class": "Other"}, "unknown class 'Other'; known: AutoEncoder"),
        ({}, {"dict_class": ["AutoEncoder"]}, "unknown class"),
        ({}, {"activation_dim": 13}, "activation_dim 12 by its tensors and 13"),
    ],
)
def test_files_that_contradict_themselves_are_refused(tensors, config, message, tmp_path):
    folder = copied("AutoEncoderTopK", tmp_path)
    edit(folder, **tensors)
    edit_config(folder, **config)
    with pytest.raises(ValueError, match=message):
        formats.open_stored(folder)


@pytest.mark.parametrize("turned", ["encoder.weight", "decoder.weight"])
def test_square_matrices_that_are_turned_round_are_refused(turned, tmp_path):
    _, params = made("topk", {"width": 32, "k": 3}, d=32)
    folder = tmp_path / "square"
    stored = formats.from_memory("topk", {"width": 32, "k": 3}, params)
    formats.FORMATS["dictionary_learning"].write(folder, stored)
    formats.open_stored(folder)
    edit(folder, **{turned: torch_files.read_tensors(folder / "ae.pt")[turned].T})
    with pytest.raises(ValueError, match=f"{turned}.* seems? to be transposed"):
        formats.open_stored(folder)


def test_half_precision_stays_and_thresholds_do_not(tmp_path):
    folder = copied("JumpReluAutoEncoder", tmp_path)
    before = torch_files.read_tensors(folder / "ae.pt")
    halves = {key: np.asarray(t).astype(ml_dtypes.bfloat16) for key, t in before.items()}
    edit(folder, **halves)
    dictionary, params, _ = formats.load(folder)
    assert {key: value.dtype.name for key, value in params.items()} == {
        **dict.fromkeys(("encoder", "encoder_bias", "decoder", "decoder_bias"), "bfloat16"),
        "threshold": "float32",
    }
    np.testing.assert_array_equal(params["encoder"], halves["W_enc"].T)
    wide = {key: t.astype(np.float32) for key, t in halves.items()}
    h = rows_of("x") @ wide["W_enc"] + wide["b_enc"]
    codes, _ = run(dictionary, params, rows_of("x"))
    np.testing.assert_allclose(codes, h * (h > np.maximum(wide["threshold"], 0)), atol=1e-5)


def npz_of(tmp_path, **changes):
    with np.load(PATHS["res"] / "params.npz") as held:
        arrays = {key: value for key, value in (dict(held) | changes).items() if value is not None}
    path = tmp_path / "params.npz"
    np.savez(path, **arrays)
    return path, arrays


class Opened:
    def __reduce__(self):
        return open, ("MARK", "w")


def test_npz_files_that_are_not_whole_or_not_plain_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cases = [
        ({"threshold": None}, "lacks threshold"),
        ({"other": np.ones(3)}, "holds other"),
        ({"w_enc": np.ones((12, 40))}, "has an array twice"),
        ({"scaling_factor": np.full(40, 2.0)}, "scales codes by scaling_factor"),
        ({"b_enc": np.asarray([Opened()] * 40)}, "holds Python objects"),
        ({"W_enc": np.ones((40, 12))}, r"w_enc has shape|threshold has shape|b_enc has shape"),
        ({"W_dec": np.float32(1)}, r"w_dec has shape \(\)"),
        (
            {"W_enc": np.ones((12, 40), int)},
            "w_enc has type int64; jumprelu has real numbers of 16",
        ),
        ({"W_enc": np.ones((12, 40), ">f4")}, "w_enc has type >f4"),
        ({"b_enc": np.full(40, "text")}, "b_enc has type <U4"),
        ({"W_enc": np.ones((0, 40)), "W_dec": np.ones((40, 0)), "b_dec": np.ones(0)}, "nothing in"),
    ]
    for changes, message in cases:
        path, _ = npz_of(tmp_path, **changes)
        with pytest.raises(ValueError, match=message):
            formats.open_stored(path)
    with open(tmp_path / "loaded.pkl", "wb") as file:
        pickle.dump(Opened(), file)
    assert not (tmp_path / "MARK").exists()
    path, _ = npz_of(tmp_path)
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(ValueError, match="truncated or not an npz"):
        formats.open_stored(path)


@pytest.mark.parametrize("told", ["'<f4', __import__('os').system('touch MARK')", "[('a'," * 99])
def test_npz_headers_are_literals(told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    header = f"{{'descr': {told}, 'fortran_order': False, 'shape': (40,), }}\n".encode()
    with zipfile.ZipFile(tmp_path / "params.npz", "w") as archive:
        start = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little")
        archive.writestr("b_enc.npy", start + header + bytes(160))
    with pytest.raises(ValueError, match=r"params.npz is truncated or not an npz of plain arrays"):
        formats.open_stored(tmp_path)
    assert not (tmp_path / "MARK").exists()


def test_npz_files_that_would_grow_are_refused(tmp_path, monkeypatch):
    """A megabyte of zip can be a gigabyte of zeros; weights hardly shrink."""
    monkeypatch.setattr(zipped, "_SMALL", 1 << 10)
    path, arrays = npz_of(tmp_path)
    np.savez_compressed(path, **arrays)
    formats.open_stored(path)
    np.savez_compressed(path, **arrays | {"W_enc": np.zeros((12, 4000), np.float32)})
    with pytest.raises(ValueError, match=r"W_enc.npy would grow from \d+ bytes to 192128"):
        formats.open_stored(path)


def test_arrays_by_columns_and_neutral_scales_are_read(tmp_path):
    with np.load(PATHS["res"] / "params.npz") as held:
        turned = np.asfortranarray(held["W_enc"])
    path, arrays = npz_of(tmp_path, W_enc=turned, scaling_factor=np.ones(40))
    _, params, header = formats.load(path)
    np.testing.assert_array_equal(params["encoder"], arrays["W_enc"].T)
    assert header["notes"] == ["the path tells neither the model nor the site"]


def test_second_generation_says_what_it_lacks(tmp_path):
    folder = copied("affine", tmp_path)
    tensors = load_file(folder / "params.safetensors")
    del tensors["affine_skip_connection"]
    save_file(tensors, folder / "params.safetensors")
    with pytest.raises(ValueError, match="lacks affine_skip_connection"):
        formats.open_stored(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architecture": "relu"}))
    with pytest.raises(ValueError, match="unknown architecture 'relu'"):
        formats.open_stored(folder)


def test_llama_scope_scales_input_and_output_each_by_its_own(tmp_path):
    folder = copied("llama", tmp_path)
    path = folder / "hyperparams.json"
    config = json.loads(path.read_text())
    config |= {"hook_point_out": "blocks.3.hook_mlp_out"}
    config["dataset_average_activation_norm"] = {"in": 2.5, "out": 0.5}
    path.write_text(json.dumps(config))
    dictionary, params, header = formats.load(folder)
    assert header["variant"] == "transcoder"
    t = load_file(folder / "checkpoints" / "final.safetensors")
    x, scale = rows_of("x"), 12**0.5 / 2.5
    h = scale * x @ t["encoder.weight"].T + t["encoder.bias"]
    z = h * (h > 0.4 * scale)
    codes, x_hat = run(dictionary, params, x)
    np.testing.assert_allclose(codes, z, atol=1e-5)
    wanted = (z @ t["decoder.weight"].T + t["decoder.bias"]) * 0.5 / 12**0.5
    np.testing.assert_allclose(x_hat, wanted, atol=1e-5)
    for changes, message in [
        ({"act_fn": "topk"}, "act_fn is 'topk'"),
        ({"d_sae": 41}, "40 latents of dimension 12.*d_sae 41"),
        ({"dataset_average_activation_norm": {"in": 2.5}}, "not of in and out"),
    ]:
        path.write_text(json.dumps(config | changes))
        with pytest.raises(ValueError, match=message):
            formats.open_stored(folder)
    path.write_text("{}")
    with pytest.raises(ValueError, match="lacks d_model, d_sae, jump_relu_threshold"):
        formats.open_stored(folder)


@pytest.mark.parametrize("name", ["AutoEncoder", "res", "second", "llama", "crosscoder"])
def test_each_device_gets_its_own_latents(name):
    mesh = make_mesh("data=2,model=4")
    _, params, _ = formats.load(PATHS[name], mesh=mesh)
    _, whole, _ = formats.load(PATHS[name])
    for key, value in params.items():
        np.testing.assert_array_equal(value, whole[key], err_msg=key)
    shards = params["encoder"].addressable_shards
    assert {shard.data.shape[0] for shard in shards} == {10}
    assert params["decoder_bias"].sharding.is_fully_replicated


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0), (2, 1, 0)])
def test_tensors_are_read_once_in_pieces_that_lie_together(order, monkeypatch):
    """In the order of the file, whatever the order of the axes and the type asked for."""
    monkeypatch.setattr(lazy, "_CHUNK_BYTES", 512)
    monkeypatch.setattr(lazy, "_TILE", 4)
    monkeypatch.setattr(lazy, "_LINE_BYTES", 12)
    array = np.arange(6 * 10 * 14, dtype=np.float32).reshape(6, 10, 14)
    starts, sizes = [], []

    def read(region):
        starts.append(array[region].flat[0])
        sizes.append(array[region].size)
        return array[region]

    tensor = lazy.held("a", array)._replace(read=read, fill=None)
    turned = lazy.transposed(tensor, order)
    placed = lazy.place(turned, np.float16)
    np.testing.assert_array_equal(placed, array.transpose(order).astype(np.float16))
    assert sum(sizes) == array.size
    assert max(sizes) <= 512 // 4
    assert starts == sorted(starts)
    assert len(sizes) > 6

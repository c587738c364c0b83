"""SAELens' files, as SAELens wrote them (`fixtures/make_saelens.py`), against what it computes."""

import json
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxinterp import convert
from jaxinterp.dictionaries import base, formats
from jaxinterp.dictionaries.formats import lazy, saelens
from tests.dictionaries.orientations import square

FIXTURES = Path(__file__).parent / "fixtures" / "saelens"
NAMES = sorted(p.name for p in FIXTURES.iterdir())
# Compiled loops.
LONG = {"temporal", "matching_pursuit_uncentred"}
# Read as another dictionary than it was written as, with the same codes.
CHANGED = {"batchtopk_checkpoint", "batchtopk_scaled", "matryoshka_checkpoint"}
# SAELens writes into these what belongs in the weights of the dictionary that it makes of them.
FOLDED = {
    *("topk_rescaled", "abstopk_rescaled", "jumprelu_scaled", "jumprelu_whitened"),
    *(
        "gated_whitened_uncentred",
        "old_standard",
        "old_log_threshold",
        "matching_pursuit_uncentred",
    ),
}


def dense(dictionary, codes):
    codes = base.latents(codes)
    return base.densify(codes, dictionary.width) if isinstance(codes, base.Codes) else codes


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n in LONG)) for n in NAMES]
)
def test_codes_and_reconstruction_are_those_of_saelens(name):
    expected = load_file(FIXTURES / name / "expected.safetensors")
    dictionary, params, header = formats.load(FIXTURES / name, dtype=jnp.float32)
    codes = dictionary.encode(params, jnp.asarray(expected["x"]))
    found = np.asarray(dense(dictionary, codes))
    np.testing.assert_allclose(found, expected["codes"], atol=1e-5)
    np.testing.assert_allclose(dictionary.decode(params, codes), expected["x_hat"], atol=1e-5)
    np.testing.assert_array_equal((found != 0).sum(-1), (expected["codes"] != 0).sum(-1))
    assert (found != 0).any(-1).mean() > 0.5
    assert header["format"] == "saelens"
    assert header["source"]["model"] == "tiny"
    assert header["source"]["site"].startswith("blocks.")


@pytest.mark.parametrize("name", sorted(set(NAMES) - CHANGED))
def test_what_is_written_is_read_back_bit_for_bit(name, tmp_path):
    stored = formats.open_stored(FIXTURES / name)
    saelens.write(tmp_path / "first", stored)
    once = formats.open_stored(tmp_path / "first")
    saelens.write(tmp_path / "second", once)
    for file in (saelens.CONFIG, saelens.WEIGHTS):
        first, second = ((tmp_path / n / file).read_bytes() for n in ("first", "second"))
        assert first == second, file
    assert once.variant == stored.variant
    if name not in FOLDED:
        for tensor, value in stored.tensors.items():
            np.testing.assert_array_equal(lazy.whole(once.tensors[tensor]), lazy.whole(value))


@pytest.mark.parametrize("name", sorted(set(NAMES) - CHANGED - FOLDED))
def test_what_is_written_is_what_saelens_wrote(name, tmp_path):
    """Tensor for tensor, and every setting that SAELens reads; it was run on these once too."""
    saelens.write(tmp_path, formats.open_stored(FIXTURES / name))
    theirs, ours = (load_file(at / saelens.WEIGHTS) for at in (FIXTURES / name, tmp_path))
    assert set(ours) == set(theirs)
    for tensor, value in theirs.items():
        np.testing.assert_array_equal(ours[tensor], value, err_msg=tensor)
    if not name.startswith("old_"):
        theirs, ours = (
            json.loads((at / saelens.CONFIG).read_text()) for at in (FIXTURES / name, tmp_path)
        )
        # Only the jump's threshold stays in float32.
        differing = {"dtype"} if name in ("float16", "bfloat16") else set()
        for setting in set(theirs) - {"metadata"} - differing:
            assert ours.get(setting) == theirs[setting] or theirs[setting] in (None, 1.0), setting
        for field, value in theirs["metadata"].items():
            assert ours["metadata"][field] == value


def test_pursuit_of_atoms_of_other_lengths_is_refused(tmp_path):
    stored = formats.open_stored(FIXTURES / "matching_pursuit_uncentred")
    saelens.write(tmp_path, stored)
    tensors = load_file(tmp_path / saelens.WEIGHTS)
    tensors["W_dec"] = np.array(tensors["W_dec"])
    tensors["W_dec"][3] *= 2
    save_file(tensors, tmp_path / saelens.WEIGHTS)
    with pytest.raises(ValueError, match="1 of .* atoms .* first is 3 of length 2"):
        formats.open_stored(tmp_path)


@pytest.mark.parametrize("name", ["jumprelu", "batchtopk_scaled", "skip_transcoder"])
def test_saelens_opens_what_is_written(name, tmp_path):
    sae_lens = pytest.importorskip("sae_lens")
    import torch

    expected = load_file(FIXTURES / name / "expected.safetensors")
    saelens.write(tmp_path, formats.open_stored(FIXTURES / name))
    sae = sae_lens.SAE.load_from_disk(tmp_path)
    with torch.no_grad():
        codes = sae.encode(torch.from_numpy(expected["x"]))
    np.testing.assert_allclose(codes.numpy(), expected["codes"], atol=1e-5)


@pytest.mark.parametrize("name", ["jumprelu_scaled", "gated_whitened_uncentred"])
def test_a_normalisation_is_folded_into_what_is_written(name, tmp_path):
    expected = load_file(FIXTURES / name / "expected.safetensors")
    notes = saelens.write(tmp_path, formats.open_stored(FIXTURES / name))
    assert any("folded" in note for note in notes)
    assert json.loads((tmp_path / saelens.CONFIG).read_text())["normalize_activations"] == "none"
    dictionary, params, _ = formats.load(tmp_path)
    codes = dictionary.encode(params, jnp.asarray(expected["x"]))
    np.testing.assert_allclose(codes, expected["codes"], atol=1e-5)
    np.testing.assert_allclose(dictionary.decode(params, codes), expected["x_hat"], atol=1e-5)


def test_a_dictionary_of_ours_is_told_in_saelens_words(tmp_path):
    params = {"decoder": np.eye(4, 3, dtype=np.float32), "encoder_bias": np.zeros(4, np.float32)}
    params["decoder_bias"] = np.zeros(3, np.float32)
    source = {"model": "tiny", "site": "L3.z", "head": 2, "seed": 7}
    options = {"width": 4, "k": 2, "scores": "tied", "aux_weight": 0.1}
    notes = saelens.write(tmp_path, formats.from_memory("topk", options, params, source))
    assert [n for n in notes if "tied" in n]
    assert [n for n in notes if "aux_weight" in n]
    config = json.loads((tmp_path / saelens.CONFIG).read_text())
    assert (config["architecture"], config["k"], config["d_in"]) == ("topk", 2, 3)
    about = config["metadata"]
    assert about["hook_name"] == "blocks.3.attn.hook_z"
    assert (about["hook_head_index"], about["seed"]) == (2, 7)
    assert about["sae_lens_version"].startswith("6.")
    again = formats.open_stored(tmp_path).source
    assert (again["model"], again["head"], again["layer"]) == ("tiny", 2, 3)


def test_batch_topk_becomes_the_jumprelu_that_saelens_makes_of_it(tmp_path):
    notes = saelens.write(tmp_path, formats.open_stored(FIXTURES / "batchtopk_checkpoint"))
    assert any("JumpReLU" in note for note in notes)
    written = load_file(tmp_path / saelens.WEIGHTS)
    np.testing.assert_array_equal(written["threshold"], np.full(20, 0.55, np.float32))
    assert json.loads((tmp_path / saelens.CONFIG).read_text())["architecture"] == "jumprelu"
    one, other = (formats.open_stored(at) for at in (FIXTURES / "batchtopk_checkpoint", tmp_path))
    convert.compare(one, other)


def copied(tmp_path, name, **changes):
    folder = tmp_path / name
    shutil.copytree(FIXTURES / name, folder)
    path = folder / saelens.CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("standard", {"architecture": "newest"}, "unknown architecture 'newest'; known: standard"),
        ("standard", {"metadata": {"sae_lens_version": "7.1.0"}}, "SAELens 7.1.0"),
        ("transcoder", {"normalize_activations": "layer_norm"}, "with 'layer_norm' is not read"),
        ("standard", {"normalize_activations": "new"}, "unknown normalize_activations 'new'"),
        ("standard", {"d_in": None}, r"d_in and d_sae are \[None, 20\]"),
        ("standard", {"d_in": 20, "d_sae": 8}, r"W_\w+ has.*\(its transpose would fit\)"),
        ("standard", {"d_sae": 21}, r"has shape .* asks for"),
        ("standard", {"architecture": "jumprelu"}, "lacks threshold, which architecture"),
        ("jumprelu", {"architecture": "standard"}, "holds threshold, not of 'standard'"),
        ("topk", {"k": None}, "k is None"),
        ("topk", {"k": 21}, "k=21"),
        ("transcoder", {"apply_b_dec_to_input": True}, "apply_b_dec_to_input is set"),
        ("temporal", {"tied_weights": False}, "temporal dictionaries are read where"),
        ("old_standard", {"activation_fn_str": "tanh-relu"}, "unknown activation .*'tanh-relu'"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(tmp_path, name, changes, message):
    with pytest.raises(ValueError, match=message):
        formats.open_stored(copied(tmp_path, name, **changes))


def test_damaged_weights_are_refused(tmp_path):
    folder = copied(tmp_path, "standard")
    path = folder / saelens.WEIGHTS
    content, tensors = path.read_bytes(), load_file(path)
    path.write_bytes(content[:-100])
    with pytest.raises(ValueError, match="truncated"):
        formats.open_stored(folder)
    save_file({**tensors, "W_dec": np.ascontiguousarray(tensors["W_dec"].T)}, path)
    with pytest.raises(ValueError, match=r"W_dec has shape \(8, 20\).*its transpose would fit"):
        formats.open_stored(folder)
    del tensors["b_enc"]
    save_file(tensors, path)
    with pytest.raises(ValueError, match="lacks b_enc"):
        formats.open_stored(folder)
    (folder / saelens.CONFIG).unlink()
    with pytest.raises(ValueError, match="can't be read as JSON"):
        formats.open_stored(folder)


@pytest.mark.parametrize("turned", [("W_enc",), ("W_dec",), ("W_enc", "W_dec")])
def test_a_square_dictionary_that_is_turned_round_is_refused(tmp_path, turned):
    """Shapes can't tell it: the atoms that the encoder reads do, or their common length."""
    encoder, decoder = square(unit=len(turned) == 2)
    tensors = {"W_enc": encoder.T, "W_dec": decoder, "b_enc": np.zeros(16), "b_dec": np.zeros(16)}
    right = {n: np.ascontiguousarray(v, np.float32) for n, v in tensors.items()}
    config = {"architecture": "standard", "d_in": 16, "d_sae": 16}
    config["metadata"] = {"sae_lens_version": "6.0.0"}
    (tmp_path / saelens.CONFIG).write_text(json.dumps(config))
    save_file(right, tmp_path / saelens.WEIGHTS)
    formats.open_stored(tmp_path)
    wrong = right | {n: np.ascontiguousarray(right[n].T) for n in turned}
    save_file(wrong, tmp_path / saelens.WEIGHTS)
    with pytest.raises(ValueError, match="either W_enc or W_dec" if len(turned) == 1 else "W_dec"):
        formats.open_stored(tmp_path)


def test_a_missing_scale_is_told_and_whitening_must_fit(tmp_path):
    folder = copied(tmp_path, "jumprelu_scaled")
    (folder / "activation_scaler.json").unlink()
    stored = formats.open_stored(folder)
    assert stored.normalisation is None
    assert any("expected_average_only_in" in note for note in stored.notes)
    folder = copied(tmp_path, "jumprelu_whitened")
    path = folder / "activation_whitening.safetensors"
    parts = load_file(path)
    save_file({"mean": parts["mean"]}, path)
    with pytest.raises(ValueError, match="lacks matrix, inverse_matrix"):
        formats.open_stored(folder)
    save_file(parts | {"mean": parts["mean"][:5]}, path)
    with pytest.raises(ValueError, match=r"mean \(5,\)"):
        formats.open_stored(folder)


def test_what_saelens_has_no_form_for_is_refused_before_anything_is_written(tmp_path):
    params = {"encoder": np.ones((4, 3)), "decoder": np.ones((4, 3))}
    params |= {"encoder_bias": np.ones(4), "decoder_bias": np.ones(3)}
    groups = formats.from_memory("group_max", {"width": 4, "k": 2}, params)
    with pytest.raises(ValueError, match="no architecture for .*group_max"):
        saelens.write(tmp_path / "groups", groups)
    mlp = {"width": 4, "scores": {"part": "mlp", "hidden": 2}}
    hidden = {"hidden": np.ones((2, 3)), "hidden_bias": np.ones(2), "encoder": np.ones((4, 2))}
    with pytest.raises(ValueError, match="encoder 'mlp' has no form"):
        saelens.write(tmp_path / "mlp", formats.from_memory("relu", mlp, params | hidden))
    negative = formats.from_memory(
        "jumprelu", {"width": 4}, params | {"threshold": np.array([1, -1, 0, 2], np.float32)}
    )
    with pytest.raises(ValueError, match="1 thresholds are negative, down to -1"):
        saelens.write(tmp_path / "negative", negative)
    assert not any(tmp_path.iterdir())

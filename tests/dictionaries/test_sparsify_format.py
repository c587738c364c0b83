"""sparsify's files, as sparsify wrote them (`fixtures/make_sparsify.py`)."""

import json
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxinterp.dictionaries import base, formats
from jaxinterp.dictionaries.formats import sparsify
from tests.dictionaries.orientations import square

FIXTURES = Path(__file__).parent / "fixtures" / "sparsify"
NAMES = sorted(p.name for p in FIXTURES.iterdir())
VARIANTS = {
    "bfloat16": "topk",
    "free": "topk",
    "groupmax": "group_max",
    "multi_topk": "multi_topk",
    "skip_transcoder": "skip_transcoder",
    "topk": "topk",
    "transcoder": "transcoder",
}


@pytest.mark.parametrize("name", NAMES)
def test_codes_and_reconstruction_are_those_of_sparsify(name):
    expected = load_file(FIXTURES / name / "expected.safetensors")
    dictionary, params, header = formats.load(FIXTURES / name, dtype=jnp.float32)
    codes = dictionary.encode(params, jnp.asarray(expected["x"]))
    found = np.asarray(base.densify(base.latents(codes), dictionary.width))
    np.testing.assert_allclose(found, expected["codes"], atol=1e-5)
    np.testing.assert_allclose(dictionary.decode(params, codes), expected["x_hat"], atol=1e-5)
    assert (header["format"], header["variant"]) == ("sparsify", VARIANTS[name])


@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_is_what_sparsify_wrote(name, tmp_path):
    """Tensor for tensor and setting for setting; sparsify was run on these once too."""
    sparsify.write(tmp_path, formats.open_stored(FIXTURES / name))
    theirs, ours = (load_file(at / sparsify.WEIGHTS) for at in (FIXTURES / name, tmp_path))
    assert set(ours) == set(theirs)
    for tensor, value in theirs.items():
        assert ours[tensor].dtype == value.dtype
        np.testing.assert_array_equal(ours[tensor], value, err_msg=tensor)
    theirs, ours = (
        json.loads((at / sparsify.CONFIG).read_text()) for at in (FIXTURES / name, tmp_path)
    )
    # How the number of latents was told, and what holds for autoencoders only.
    loose = {"expansion_factor", "num_latents"}
    loose |= {"normalize_decoder"} if theirs["transcode"] else set()
    assert set(ours) == set(theirs)
    assert {n: ours[n] for n in set(ours) - loose} == {n: theirs[n] for n in set(ours) - loose}
    again = formats.open_stored(tmp_path)
    assert again.options == formats.open_stored(FIXTURES / name).options


def copied(tmp_path, name, **changes):
    folder = tmp_path / name
    shutil.copytree(FIXTURES / name, folder)
    path = folder / sparsify.CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("topk", {"activation": "relu"}, "unknown activation 'relu'; known: topk, groupmax"),
        ("topk", {"num_latents": 24}, "encoder.weight has shape .* asks for"),
        ("topk", {"num_latents": 8, "d_in": 20}, r"encoder.weight.*\(its transpose would fit\)"),
        ("topk", {"k": 40}, "k=40"),
        ("topk", {"skip_connection": True}, "lacks W_skip"),
        ("skip_transcoder", {"skip_connection": False}, "holds W_skip, which cfg.json"),
        ("skip_transcoder", {"transcode": False}, "skip_connection without transcode"),
        ("groupmax", {"k": 3}, "not a multiple of the k=3 groups"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(tmp_path, name, changes, message):
    with pytest.raises(ValueError, match=message):
        formats.open_stored(copied(tmp_path, name, **changes))


def test_signed_dictionaries_of_old_files_keep_the_largest_magnitudes(tmp_path):
    stored = formats.open_stored(copied(tmp_path, "topk", signed=True))
    assert stored.variant == "abs_topk"


@pytest.mark.parametrize("turned", ["encoder.weight", "W_dec"])
def test_a_square_dictionary_that_is_turned_round_is_refused(tmp_path, turned):
    encoder, decoder = square()
    tensors = {"encoder.weight": encoder, "W_dec": decoder}
    tensors |= {"encoder.bias": np.zeros(16), "b_dec": np.zeros(16)}
    right = {n: np.ascontiguousarray(v, np.float32) for n, v in tensors.items()}
    config = {"d_in": 16, "num_latents": 16, "k": 2, "normalize_decoder": False}
    (tmp_path / sparsify.CONFIG).write_text(json.dumps(config))
    save_file(right, tmp_path / sparsify.WEIGHTS)
    formats.open_stored(tmp_path)
    wrong = right | {turned: np.ascontiguousarray(right[turned].T)}
    save_file(wrong, tmp_path / sparsify.WEIGHTS)
    with pytest.raises(ValueError, match="either encoder.weight or W_dec"):
        formats.open_stored(tmp_path)


def test_what_sparsify_has_no_form_for_is_refused_before_anything_is_written(tmp_path):
    saelens = FIXTURES.parent / "saelens"
    cases = {"jumprelu": "not jumprelu", "standard": "not relu", "abstopk": "not abs_topk"}
    for name, message in cases.items():
        with pytest.raises(ValueError, match=message):
            sparsify.write(tmp_path / name, formats.open_stored(saelens / name))
    stored = formats.open_stored(FIXTURES / "topk")
    uncentred = stored._replace(options=stored.options | {"scores": "uncentred"})
    with pytest.raises(ValueError, match="takes the decoder's bias away"):
        sparsify.write(tmp_path / "uncentred", uncentred)
    assert not any(tmp_path.iterdir())

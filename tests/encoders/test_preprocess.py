import json

import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp.encoders import bidirectional, images
from jaxinterp.encoders.preprocess import load_preprocess

transformers = pytest.importorskip("transformers", reason="the oracle is transformers")
rng = np.random.default_rng(0)
PICTURES = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((50, 70), (64, 41))]

CASES = {
    "clip": dict(size={"shortest_edge": 32}, crop_size={"height": 28, "width": 28}),
    "vit": dict(size={"height": 24, "width": 36}),
    "siglip": dict(size={"height": 24, "width": 24}),
    "clip-padded": dict(size={"shortest_edge": 20}, crop_size={"height": 25, "width": 31}),
}


@pytest.mark.parametrize("name", CASES)
def test_pixels_equal_transformers(name, tmp_path):
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    classes = dict(
        clip=CLIPImageProcessorPil, vit=ViTImageProcessorPil, siglip=SiglipImageProcessorPil
    )
    processor = classes[name.partition("-")[0]](**CASES[name])
    processor.save_pretrained(tmp_path)
    expected = processor(PICTURES, return_tensors="np")["pixel_values"].transpose(0, 2, 3, 1)
    prepare = load_preprocess(tmp_path)
    np.testing.assert_allclose(prepare(PICTURES), expected, atol=1e-5)


def write(folder, **options):
    raw = dict(image_mean=[0.5] * 3, image_std=[0.5] * 3, do_center_crop=True, resample=3)
    (folder / "preprocessor_config.json").write_text(json.dumps(raw | options))
    return load_preprocess(folder)


def test_older_spelling(tmp_path):
    old = write(tmp_path, size=32, crop_size=28)(PICTURES)
    new = write(tmp_path, size={"shortest_edge": 32}, crop_size={"height": 28, "width": 28})(
        PICTURES
    )
    np.testing.assert_array_equal(old, new)
    assert old.shape == (2, 28, 28, 3)
    assert abs(old).max() <= 1


def test_grey_and_transparent_pictures(tmp_path):
    prepare = write(tmp_path, size=32, crop_size=28)
    grey = PICTURES[0][..., 0]
    alpha = np.concatenate([PICTURES[0], PICTURES[0][..., :1]], axis=-1)
    assert prepare([grey, alpha]).shape == (2, 28, 28, 3)


def test_bad_pictures_and_settings(tmp_path):
    prepare = write(tmp_path, size=32, crop_size=28)
    with pytest.raises(ValueError, match="type float32: uint8 pixels"):
        prepare([PICTURES[0].astype(np.float32)])
    with pytest.raises(ValueError, match=r"shape \(3, 50, 70\)"):
        prepare([PICTURES[0].transpose(2, 0, 1)])
    with pytest.raises(ValueError, match="images have the sizes"):
        write(tmp_path, size={"shortest_edge": 32}, do_center_crop=False)(PICTURES)
    with pytest.raises(ValueError, match="do_pad is not implemented"):
        write(tmp_path, size=32, crop_size=28, do_pad=True)
    with pytest.raises(ValueError, match="is not implemented"):
        write(tmp_path, size={"longest_edge": 3}, crop_size=28)
    assert load_preprocess(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 16, 16), "3 channels needed: put the channels last"),
        ((1, 16, 16, 4), r"3 channels needed$"),
        ((1, 20, 16, 3), "20 x 16 pixels can't be cut into patches of 8 x 8"),
    ],
)
def test_images_of_the_wrong_shape(shape, message):
    with pytest.raises(ValueError, match=message):
        images.check_images(jnp.zeros(shape), (8, 8), 3)


def test_images_of_the_wrong_range_or_type():
    with pytest.raises(ValueError, match="pixels reach 255: scale and normalise"):
        images.check_images(jnp.full((1, 8, 8, 3), 255.0), (8, 8), 3)
    with pytest.raises(ValueError, match="pixels reach nan"):
        images.check_images(jnp.full((1, 8, 8, 3), jnp.nan), (8, 8), 3)
    config = bidirectional.BidirectionalConfig(
        n_layers=1,
        d_model=8,
        n_heads=2,
        n_kv_heads=2,
        d_head=4,
        d_mlp=8,
        activation="gelu",
        image_size=(8, 8),
        patch_size=(8, 8),
    )
    with pytest.raises(ValueError, match="type int32: normalised"):
        bidirectional.embed({"embed": {}}, config, jnp.zeros((1, 8, 8, 3), int))


def test_positions_on_their_own_grid_are_untouched():
    table = jnp.asarray(rng.normal(size=(12, 5)), jnp.float32)
    same = images.resize_positions(table, (3, 4), (3, 4), antialias=True)
    np.testing.assert_array_equal(same, table)
    for antialias in (True, False):
        flat = images.resize_positions(jnp.ones((12, 2)), (3, 4), (7, 2), antialias=antialias)
        np.testing.assert_allclose(flat, 1, atol=1e-6)

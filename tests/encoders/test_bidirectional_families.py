"""BERT, RoBERTa, ViT, DINOv2, CLIP and SigLIP against transformers."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

from jaxinterp import harvesting
from jaxinterp.activations import open_store
from jaxinterp.activations.harvest import check_sites
from jaxinterp.config import HarvestConfig
from jaxinterp.data import Images
from jaxinterp.encoders import dual, hf
from jaxinterp.encoders.dual import DualInputs
from jaxinterp.encoders.families import FAMILIES

from . import oracle
from .models import QUICK
from .oracle import torch
from .oracle import transformers as hft

LAYERS = dict(num_hidden_layers=3, num_attention_heads=4, intermediate_size=72)
TEXT = LAYERS | dict(vocab_size=97, hidden_size=44, max_position_embeddings=40)
IMAGE = LAYERS | dict(hidden_size=44, image_size=24, patch_size=8)
DINO = dict(
    num_hidden_layers=3, num_attention_heads=4, hidden_size=44, image_size=56, patch_size=14
)

rng = np.random.default_rng(0)
SEQ = 20
MASK = np.arange(SEQ)[None, :] < np.asarray([20, 13, 6])[:, None]
TOKENS = np.where(MASK, rng.integers(2, 97, (3, SEQ)), 1)
TYPES = (np.arange(SEQ)[None, :] > 5).astype(int) * np.ones((3, 1), int)

TEXT_CASES = {
    "bert-masked": (hft.BertForMaskedLM, hft.BertConfig, TEXT),
    "bert-base": (hft.BertModel, hft.BertConfig, TEXT),
    "bert-classifier": (hft.BertForSequenceClassification, hft.BertConfig, TEXT),
    "roberta-masked": (hft.RobertaForMaskedLM, hft.RobertaConfig, TEXT),
    "roberta-classifier": (hft.RobertaForSequenceClassification, hft.RobertaConfig, TEXT),
}
IMAGE_CASES = {
    "vit": (hft.ViTModel, hft.ViTConfig, IMAGE, {}),
    "vit-larger": (hft.ViTModel, hft.ViTConfig, IMAGE, dict(size=(32, 48))),
    "vit-classifier": (
        hft.ViTForImageClassification,
        hft.ViTConfig,
        IMAGE | dict(qkv_bias=False, num_labels=5),
        {},
    ),
    "dinov2": (hft.Dinov2Model, hft.Dinov2Config, DINO, {}),
    "dinov2-larger": (hft.Dinov2Model, hft.Dinov2Config, DINO, dict(size=(70, 84))),
    "dinov2-swiglu-smaller": (
        hft.Dinov2Model,
        hft.Dinov2Config,
        DINO | dict(use_swiglu_ffn=True),
        dict(size=(28, 42)),
    ),
    "dinov2-classifier": (
        hft.Dinov2ForImageClassification,
        hft.Dinov2Config,
        DINO | dict(num_labels=5),
        {},
    ),
    "dinov2-registers": (hft.Dinov2WithRegistersModel, hft.Dinov2WithRegistersConfig, DINO, {}),
    "dinov2-registers-larger": (
        hft.Dinov2WithRegistersModel,
        hft.Dinov2WithRegistersConfig,
        DINO | dict(num_register_tokens=2),
        dict(size=(70, 98)),
    ),
    "dinov2-registers-smaller": (
        hft.Dinov2WithRegistersModel,
        hft.Dinov2WithRegistersConfig,
        DINO,
        dict(size=(28, 42)),
    ),
    "clip-image": (hft.CLIPVisionModel, hft.CLIPVisionConfig, IMAGE, dict(size=(32, 40))),
    "siglip-image-cut": (
        hft.SiglipVisionModel,
        hft.SiglipVisionConfig,
        IMAGE | dict(image_size=30, patch_size=14),
        {},
    ),
    "siglip-image": (hft.SiglipVisionModel, hft.SiglipVisionConfig, IMAGE, dict(size=(16, 24))),
}
DUAL_CASES = {
    "clip": (
        hft.CLIPModel,
        lambda: hft.CLIPConfig(
            text_config=TEXT | dict(bos_token_id=0, eos_token_id=96),
            vision_config=IMAGE | dict(hidden_size=36),
            projection_dim=24,
        ),
    ),
    "clip-legacy-end": (
        hft.CLIPModel,
        lambda: hft.CLIPConfig(
            text_config=TEXT | dict(bos_token_id=0, eos_token_id=2, hidden_act="gelu"),
            vision_config=IMAGE | dict(hidden_act="gelu"),
            projection_dim=24,
        ),
    ),
    "siglip": (
        hft.SiglipModel,
        lambda: hft.SiglipConfig(
            text_config=TEXT | dict(projection_size=36, bos_token_id=0, eos_token_id=2),
            vision_config=IMAGE | dict(hidden_size=36),
        ),
    ),
}


def pixels(size, count=2):
    return np.random.default_rng(1).normal(size=(count, *size, 3)).astype(np.float32)


def run_ours(encoder, inputs, **options):
    run = jax.jit(
        encoder.forward, static_argnums=1, static_argnames="capture", compiler_options=QUICK
    )
    return run(encoder.params, encoder.config, inputs, **options)


def close(ours, theirs, where=slice(None), atol=1e-4):
    np.testing.assert_allclose(np.asarray(ours)[where], theirs.numpy()[where], atol=atol)


def largest(ours, theirs, where=slice(None)):
    return float(np.abs(np.asarray(ours)[where] - theirs.numpy()[where]).max())


@pytest.mark.parametrize("name", TEXT_CASES)
def test_text(name, tmp_path):
    model_class, config_class, options = TEXT_CASES[name]
    oracle.save_random(tmp_path, model_class, config_class(**options))
    given = dict(input_ids=TOKENS, attention_mask=MASK.astype(int))
    types = None if "roberta" in name else TYPES
    if types is not None:
        given["token_type_ids"] = types
    out = oracle.run(tmp_path, model_class, **given)
    encoder = hf.load(tmp_path)
    output, captured = run_ours(
        encoder,
        jnp.asarray(TOKENS),
        mask=jnp.asarray(MASK),
        token_types=types,
        capture=("resid_pre", "ln2", "pattern"),
    )
    for layer in range(3):
        close(captured["resid_pre"][layer], out.hidden_states[layer], MASK)
        close(captured["ln2"][layer], out.hidden_states[layer + 1], MASK)
    if "logits" in out:
        where = MASK if out.logits.ndim == 3 else slice(None)
        close(output.logits, out.logits, where)
        print(f"{name}: logits {largest(output.logits, out.logits, where):.1e}")
    else:
        close(output.tokens, out.last_hidden_state, MASK)
        close(output.pooled, out.pooler_output)
        print(f"{name}: tokens {largest(output.tokens, out.last_hidden_state, MASK):.1e}")


@pytest.mark.parametrize("name", IMAGE_CASES)
def test_images(name, tmp_path):
    model_class, config_class, options, extra = IMAGE_CASES[name]
    oracle.save_random(tmp_path, model_class, config_class(**options))
    side = options["image_size"]
    images = pixels(extra.get("size", (side, side)))
    given = dict(pixel_values=np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    if "size" in extra and "dinov2" not in name:
        given["interpolate_pos_encoding"] = True
    out = oracle.run(tmp_path, model_class, **given)
    encoder = hf.load(tmp_path)
    output, captured = run_ours(encoder, images, capture=("resid_pre", "L2.resid_post"))
    for layer in range(3):
        close(captured["resid_pre"][layer], out.hidden_states[layer])
    close(captured["L2.resid_post"], out.hidden_states[3])
    if "logits" in out:
        close(output.logits, out.logits)
        print(f"{name}: logits {largest(output.logits, out.logits):.1e}")
    else:
        normed = "clip-image" != name  # there transformers norms the pooled token only
        if normed:
            close(output.tokens, out.last_hidden_state)
        close(output.pooled, out.pooler_output)
        print(f"{name}: pooled {largest(output.pooled, out.pooler_output):.1e}")


@pytest.fixture(scope="module", params=list(DUAL_CASES))
def towers(request, tmp_path_factory):
    model_class, make = DUAL_CASES[request.param]
    folder = oracle.save_random(tmp_path_factory.mktemp(request.param), model_class, make())
    return request.param, model_class, folder


def test_both_towers(towers):
    name, model_class, folder = towers
    tokens = TOKENS.copy()
    tokens[np.arange(3), MASK.sum(1) - 1] = 96
    images = pixels((24, 24))
    mask = None if name == "siglip" else MASK
    given = dict(input_ids=tokens, pixel_values=images.transpose(0, 3, 1, 2).copy())
    if mask is not None:
        given["attention_mask"] = mask.astype(int)
    with oracle.quiet(), torch.no_grad():
        model = model_class.from_pretrained(folder, attn_implementation="eager").eval()
        given = {k: torch.as_tensor(v) for k, v in given.items()}
        out = model(**given)
        text_inputs = {k: v for k, v in given.items() if k != "pixel_values"}
        text = model.text_model(**text_inputs, output_hidden_states=True)
        image = model.vision_model(given["pixel_values"], output_hidden_states=True)
    encoder = hf.load(folder)
    output, captured = run_ours(
        encoder,
        DualInputs(jnp.asarray(tokens), jnp.asarray(images)),
        mask=None if mask is None else jnp.asarray(mask),
        capture=("text/resid_pre", "image/resid_pre", "text/pooled", "image/L2.resid_post"),
    )
    close(output.logits, out.logits_per_image)
    words = MASK if mask is not None else slice(None)
    for layer in range(3):
        close(captured["text/resid_pre"][layer], text.hidden_states[layer], words)
        close(captured["image/resid_pre"][layer], image.hidden_states[layer])
    close(captured["image/L2.resid_post"], image.hidden_states[3])
    close(output.text.tokens, text.last_hidden_state, words)
    for ours, theirs in ((output.text, out.text_embeds), (output.image, out.image_embeds)):
        unit = ours.pooled / jnp.linalg.norm(ours.pooled, axis=-1, keepdims=True)
        close(unit, theirs, atol=1e-5)
    print(f"{name}: logits {largest(output.logits, out.logits_per_image):.1e}")


def test_one_tower_alone(towers):
    name, _, folder = towers
    encoder = hf.load(folder)
    images = jnp.asarray(pixels((24, 24)))
    output, captured = encoder.forward(
        encoder.params, encoder.config, DualInputs(images=images), capture=("image/pooled",)
    )
    assert output.text is None
    assert output.logits is None
    assert captured["image/pooled"].shape[0] == 2
    with pytest.raises(ValueError, match="no input was given to the text tower"):
        encoder.forward(
            encoder.params, encoder.config, DualInputs(images=images), capture=("text/L0.z",)
        )
    with pytest.raises(ValueError, match="put the tower in front"):
        encoder.forward(
            encoder.params, encoder.config, DualInputs(images=images), capture=("L0.z",)
        )


def test_a_tower_is_an_encoder(towers, tmp_path):
    name, _, folder = towers
    encoder = hf.load(folder)
    images = jnp.asarray(pixels((24, 24)))
    tower = dual.tower(encoder, "image")
    output, captured = run_ours(tower, images, capture=("L1.resid_post",))
    pair, expected = run_ours(encoder, DualInputs(None, images), capture=("image/L1.resid_post",))
    np.testing.assert_array_equal(output.pooled, pair.image.pooled)
    np.testing.assert_array_equal(captured["L1.resid_post"], expected["image/L1.resid_post"])
    for wrong in ((encoder, "sound"), (tower, "image")):
        with pytest.raises(ValueError, match="is no "):
            dual.tower(*wrong)

    item = Images(np.asarray(images), np.arange(2, dtype=np.int32))
    with pytest.raises(ValueError, match="a tower for text and one for pictures"):
        check_sites(encoder, ("image/L1.resid_post",), item)
    if name != "clip":
        return
    settings = dict(image_mean=[0.5] * 3, image_std=[0.5] * 3, size={"height": 24, "width": 24})
    (folder / "preprocessor_config.json").write_text(json.dumps(settings | {"resample": 3}))
    for i in range(3):
        drawn = np.random.default_rng(i).integers(0, 256, (30, 26, 3), dtype=np.uint8)
        PIL.Image.fromarray(drawn).save(tmp_path / f"{i}.png")
    config = HarvestConfig(
        store=str(tmp_path / "store"),
        model=str(folder),
        images=str(tmp_path),
        sites=("image/L1.resid_post",),
        batch=2,
    )
    harvesting.write_store(config)
    found = open_store(config.store).read("L1.resid_post")
    pictures = [PIL.Image.open(tmp_path / f"{i}.png") for i in range(3)]
    inputs = jnp.asarray(hf.load(folder).preprocess(pictures))
    rows = run_ours(tower, inputs, capture=("L1.resid_post",))[1]["L1.resid_post"]
    at = open_store(config.store)
    document, place = at.read("document"), at.read("index")
    assert len(found) == rows.shape[0] * rows.shape[1]
    np.testing.assert_allclose(found, np.asarray(rows)[document, place], atol=1e-2)
    with pytest.raises(ValueError, match="pictures are read by the image tower"):
        harvesting.write_store(dataclasses.replace(config, sites=("text/L1.resid_post",)))


def test_settings_of_older_clip_files(towers):
    """transformers lets `text_config_dict`, its defaults included, overrule `text_config`."""
    name, _, folder = towers
    if name != "clip":
        pytest.skip("CLIP alone has them")
    raw = json.loads((folder / "config.json").read_text())
    told = {**raw["text_config"], "layer_norm_eps": 1e-3}
    del told["hidden_act"]
    raw |= {"text_config_dict": told, "text_config": raw["text_config"] | {"hidden_act": "gelu"}}
    config = FAMILIES["clip"].config(raw, set())
    assert (config.text.norm_eps, config.text.activation) == (1e-3, "quick_gelu")
    theirs = hft.CLIPConfig.from_dict(raw).text_config
    assert (theirs.layer_norm_eps, theirs.hidden_act) == (1e-3, "quick_gelu")


@pytest.mark.parametrize(
    ("model_class", "make"),
    [
        (
            hft.CLIPTextModelWithProjection,
            lambda: hft.CLIPTextConfig(**TEXT, projection_dim=12, bos_token_id=0, eos_token_id=96),
        ),
        (hft.SiglipTextModel, lambda: hft.SiglipTextConfig(**TEXT, projection_size=16)),
        (
            hft.CLIPVisionModelWithProjection,
            lambda: hft.CLIPVisionConfig(**IMAGE, projection_dim=12),
        ),
    ],
    ids=["clip-text", "siglip-text", "clip-image-projection"],
)
def test_a_tower_saved_alone(model_class, make, tmp_path):
    oracle.save_random(tmp_path, model_class, make())
    is_text = "Text" in model_class.__name__
    images = pixels((24, 24))
    tokens = TOKENS.copy()
    tokens[:, -1] = 96
    given = (
        dict(input_ids=tokens)
        if is_text
        else dict(pixel_values=images.transpose(0, 3, 1, 2).copy())
    )
    out = oracle.run(tmp_path, model_class, **given)
    encoder = hf.load(tmp_path)
    output, _ = run_ours(encoder, tokens if is_text else images)
    found = [out.get(k) for k in ("text_embeds", "image_embeds", "pooler_output")]
    close(output.pooled, next(x for x in found if x is not None))

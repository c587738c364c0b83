"""Checkpoints as people have them: spellings, shards, dtypes; and every broken one."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from safetensors import safe_open
from safetensors.numpy import save_file

from jaxinterp.encoders import causal, hf
from jaxinterp.encoders.families import FAMILIES
from jaxinterp.encoders.layouts import Tensor, read_slices, shape_of, write

from . import oracle
from .checkpoints import FILE, INDEX, LLAMA, make, rewrite
from .oracle import torch
from .oracle import transformers as hft

TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 97, (2, 10)))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Pristine checkpoints by family; copy before changing."""
    made = {}

    def get(name):
        if name not in made:
            made[name] = make(tmp_path_factory.mktemp(name), name)
        return made[name]

    return get


@pytest.fixture
def copy(saved, tmp_path):
    def get(name):
        for path in saved(name).iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes())
        return tmp_path

    return get


def same(one, two):
    jax.tree.map(np.testing.assert_array_equal, one.params, two.params)
    assert one.config == two.config


def renamed(pattern, replacement):
    return lambda tensors: {k.replace(pattern, replacement): v for k, v in tensors.items()}


# Spellings


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("gpt2", renamed("transformer.", "")),
        ("llama", renamed("lm_head", "lm_head")),
        ("neox", renamed("embed_out", "lm_head")),
        ("vit", renamed("embeddings", "vit.embeddings")),
    ],
)
def test_prefixes_may_be_missing(name, change, copy, saved):
    folder = copy(name)
    if name == "vit":
        rewrite(folder, lambda t: {f"vit.{k}": v for k, v in t.items()})
    else:
        rewrite(folder, change)
    same(hf.load(folder), hf.load(saved(name)))


def test_names_of_modules_in_memory(copy, saved):
    folder = copy("vit")
    with oracle.quiet():
        state = hft.ViTModel.from_pretrained(folder).state_dict()
    save_file({k: v.numpy() for k, v in state.items()}, folder / FILE)
    with safe_open(folder / FILE, "np") as file:
        assert any(".q_proj." in k for k in file.keys())  # noqa: SIM118
    same(hf.load(folder), hf.load(saved("vit")))


def test_stale_buffers_and_tied_copies_are_skipped(copy, saved):
    folder = copy("gpt2")
    extra = {
        "transformer.h.0.attn.bias": np.ones((1, 1, 64, 64), bool),
        "transformer.h.1.attn.masked_bias": np.float32([-1e4]),
    }
    rewrite(folder, lambda t: t | extra | {"lm_head.weight": t["transformer.wte.weight"]})
    same(hf.load(folder), hf.load(saved("gpt2")))


@pytest.mark.parametrize(
    ("name", "model_class", "head"),
    [
        ("llama", hft.LlamaForCausalLM, "lm_head.weight"),
        ("gpt2", hft.GPT2LMHeadModel, "lm_head.weight"),
    ],
)
def test_a_head_of_its_own_is_read_whatever_the_config_says(name, model_class, head, copy):
    """transformers 5 believes the files too."""
    folder, rng = copy(name), np.random.default_rng(0)
    rewrite(folder, lambda t: t | {head: rng.normal(size=(97, 48)).astype(np.float32)})
    oracle.edit_config(folder, lambda raw: raw.update(tie_word_embeddings=True))
    tokens = rng.integers(0, 97, (2, 9))
    encoder = hf.load(folder)
    ours, _ = encoder.forward(encoder.params, encoder.config, jnp.asarray(tokens))
    theirs = oracle.run(folder, model_class, input_ids=tokens).logits.numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    rewrite(folder, lambda t: t | {head: np.zeros((96, 48), np.float32)})
    with pytest.raises(ValueError, match=r"\(96, 48\): unembed.kernel would be"):
        hf.load(folder)


def test_one_file_comes_before_an_index(copy, saved):
    folder = copy("llama")
    (folder / INDEX).write_text(json.dumps({"weight_map": {"x": "other.safetensors"}}))
    same(hf.load(folder), hf.load(saved("llama")))


def test_a_window_that_is_not_given_is_mistrals_own():
    raw = hft.MistralConfig(**LLAMA).to_dict()
    del raw["sliding_window"]
    config = FAMILIES["mistral"].config
    assert config(raw, set()).windows == (4096, 4096)
    assert config(raw | {"sliding_window": None}, set()).windows == ()


@pytest.mark.parametrize("name", ["llama", "neox", "gemma3"])
def test_older_spelling_of_rope(name, copy, saved):
    folder = copy(name)

    def older(raw):
        given = raw.pop("rope_parameters")
        if name == "llama":
            raw |= {"rope_theta": given["rope_theta"], "rope_scaling": None}
        elif name == "neox":
            raw |= {"rotary_emb_base": 10000, "rotary_pct": given["partial_rotary_factor"]}
        else:
            raw |= {"rope_theta": 1000000, "rope_local_base_freq": 10000.0}
            raw |= {"sliding_window_pattern": 6}
            del raw["layer_types"], raw["_sliding_window_pattern"]

    oracle.edit_config(folder, older)
    same(hf.load(folder), hf.load(saved(name)))


def test_the_text_half_of_an_image_and_text_model(copy, saved):
    folder = copy("gemma3")
    rewrite(
        folder,
        lambda t: (
            {f"language_model.{k}": v for k, v in t.items()}
            | {"vision_tower.x": np.zeros(1), "multi_modal_projector.y": np.zeros(1)}
        ),
    )
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps({"model_type": "gemma3", "text_config": raw | {"model_type": "gemma3_text"}})
    )
    same(hf.load(folder), hf.load(saved("gemma3")))


def test_a_sharded_checkpoint(saved, tmp_path):
    with oracle.quiet():
        model = hft.LlamaForCausalLM.from_pretrained(saved("llama"))
        model.save_pretrained(tmp_path, max_shard_size="60KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    same(hf.load(tmp_path), hf.load(saved("llama")))


def test_dtypes(saved, copy):
    half = hf.load(saved("llama"), dtype=jnp.bfloat16)
    full = hf.load(saved("llama"))
    for a, b in zip(jax.tree.leaves(half.params), jax.tree.leaves(full.params), strict=True):
        assert a.dtype == jnp.bfloat16
        np.testing.assert_array_equal(a, b.astype(jnp.bfloat16))
    folder = copy("llama")
    with oracle.quiet():
        hft.LlamaForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(folder)
    same(hf.load(folder, dtype=jnp.bfloat16), half)


def test_what_is_saved_can_be_loaded_by_both(tmp_path):
    config = causal.CausalConfig(
        vocab_size=61,
        n_layers=2,
        d_model=32,
        n_heads=4,
        n_kv_heads=4,
        d_head=8,
        d_mlp=48,
        context=32,
    )
    params = causal.init(jax.random.key(0), config)
    vocabulary = tmp_path / "source.json"
    vocabulary.write_text(
        json.dumps(
            {
                "version": "1.0",
                "model": {
                    "type": "WordLevel",
                    "vocab": {"<bos>": 0, "<pad>": 1},
                    "unk_token": "<pad>",
                },
            }
        )
    )
    hf.save(tmp_path / "m", params, config, vocabulary)
    encoder = hf.load(tmp_path / "m")
    assert encoder.config == config
    assert (encoder.tokenizer.bos, encoder.tokenizer.pad) == (0, 1)
    tokens = jnp.asarray([[3, 7, 9]])
    logits, _ = encoder.forward(encoder.params, config, tokens)
    out = oracle.run(tmp_path / "m", hft.LlamaForCausalLM, input_ids=np.asarray(tokens))
    np.testing.assert_allclose(logits, out.logits.numpy(), atol=1e-5)
    other = causal.CausalConfig(**(vars(config) | {"gated": False}))
    with pytest.raises(ValueError, match="only plain Llama models can be saved"):
        hf.save(tmp_path / "n", params, other, vocabulary)


# Several devices


@pytest.fixture(scope="module")
def mesh():
    return jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Auto,) * 2)


@pytest.mark.parametrize("name", ["llama", "gpt2", "neox"])
def test_eight_devices_equal_one(name, saved, mesh):
    one, many = hf.load(saved(name)), hf.load(saved(name), mesh=mesh)
    jax.tree.map(np.testing.assert_array_equal, one.params, many.params)
    q = many.params["layers"]["attn"]["q"]["kernel"]
    assert q.sharding.shard_shape(q.shape) == (2, 48, 1, 12)
    k = many.params["layers"]["attn"]["k"]["kernel"]
    heads = 2 if name == "llama" else 1  # two key heads can't be split over four devices
    assert k.sharding.shard_shape(k.shape) == (2, 48, heads, 12)
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    tokens = jax.device_put(TOKENS, rows)
    capture = ("resid_post", "pattern", "post", "L1.z")
    forward = jax.jit(one.forward, static_argnums=1, static_argnames="capture")
    logits, got = forward(many.params, many.config, tokens, capture=capture)
    expected, clean = forward(one.params, one.config, TOKENS, capture=capture)
    assert logits.sharding.shard_shape(logits.shape)[0] == 1
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), got, clean)


def test_large_stacks_go_layer_by_layer(saved, mesh, monkeypatch):
    expected = hf.load(saved("llama"))
    monkeypatch.setattr("jaxinterp.encoders.weights._STACK_BYTES", 100)
    monkeypatch.setattr("jaxinterp.encoders.weights._CHUNK_BYTES", 1000)
    same(hf.load(saved("llama")), expected)
    same(hf.load(saved("llama"), mesh=mesh), expected)


def test_each_device_reads_only_its_part(saved, mesh, monkeypatch):
    from jaxinterp.encoders import weights

    sizes = {}
    read = weights.WeightFiles.read

    def counting(self, name, region):
        part = read(self, name, region)
        sizes.setdefault(name, []).append(part.size)
        return part

    monkeypatch.setattr(weights.WeightFiles, "read", counting)
    hf.load(saved("llama"), mesh=mesh)
    assert sizes["model.layers.0.self_attn.q_proj.weight"] == [48 * 48 // 4] * 4
    assert sizes["model.layers.1.mlp.down_proj.weight"] == [48 * 80 // 4] * 4
    sizes.clear()
    hf.load(saved("gpt2"), mesh=mesh)
    assert sum(sizes["transformer.h.0.attn.c_attn.weight"]) == 3 * 48 * 48


@pytest.mark.parametrize(
    ("pattern", "pick", "shape"),
    [
        ("o i -> i o", None, (6, 5)),
        ("(n h) d -> d n h", None, (12, 5)),
        ("d (n h) -> n h d", None, (5, 12)),
        ("(n t h) d -> d n h", (1, 3), (36, 5)),
        ("d (t n h) -> d n h", (2, 3), (5, 36)),
        ("o c y x -> y x c o", None, (4, 3, 2, 2)),
        ("a b d -> d", None, (1, 1, 7)),
        ("", None, (4, 3)),
    ],
)
def test_slices_of_a_layout(pattern, pick, shape):
    array = np.arange(np.prod(shape)).reshape(shape)
    tensor = Tensor("p", "t", pattern, pick, 0, 4)

    def read(want):
        return read_slices(tensor, shape, lambda region: array[region], want)

    ours = shape_of(tensor, shape)
    whole = read([slice(None)] * len(ours))
    assert whole.shape == ours
    part = [slice(n // 3, n // 3 + max(1, n // 2)) for n in ours]
    np.testing.assert_array_equal(read(part), whole[tuple(part)])
    if pick is None and "a b" not in pattern:
        np.testing.assert_array_equal(write(tensor, whole), array)

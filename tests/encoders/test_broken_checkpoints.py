"""Every checkpoint that can't be right is refused with one sentence that says why."""

import json

import pytest

from jaxinterp.encoders import hf

from . import oracle
from .checkpoints import FILE, INDEX, make, rewrite


@pytest.fixture
def copy(tmp_path):
    """A checkpoint to break."""
    return lambda name: make(tmp_path, name)


def drop(name):
    return lambda tensors: {k: v for k, v in tensors.items() if k != name}


Q = "model.layers.1.self_attn.q_proj.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop(Q), rf"missing: {Q}"),
        (
            lambda t: t | {"model.extra": t[Q], "model.more": t[Q]},
            "unused: model.extra, model.more",
        ),
        (
            lambda t: t | {Q: t[Q][:, :40]},
            rf"{Q} has the shape \(48, 40\): .* config.json asks for \(48, 4, 12\)",
        ),
        (lambda t: t | {Q: t[Q][:47]}, rf"{Q}: an axis of 47 can't be split"),
        (lambda t: t | {Q: t[Q][0]}, r"shape \(48,\) is not of the form"),
        (drop("lm_head.weight"), "have no lm_head.weight: this is a base model without its head"),
    ],
    ids=["missing", "extra", "misshapen", "heads", "rank", "headless"],
)
def test_tensors_that_do_not_fit(change, message, copy):
    folder = copy("llama")
    rewrite(folder, change)
    with pytest.raises(ValueError, match=message):
        hf.load(folder)


def test_all_problems_are_named_at_once(copy):
    folder = copy("llama")
    rewrite(folder, lambda t: drop("model.norm.weight")(t) | {"x": t[Q], Q: t[Q][:, :40]})
    with pytest.raises(
        ValueError, match=r"missing: model.norm.weight; unused: model.x; .*\(48, 40\)"
    ):
        hf.load(folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model_type": "mamba"}, "unknown model_type 'mamba'; known: gpt2"),
        ({"hidden_act": "mish"}, "activation 'mish' is not known"),
        (
            {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}},
            "rope_type 'yarn' is not implemented",
        ),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor=0.5"),
    ],
)
def test_options_that_are_not_implemented(options, message, copy):
    folder = copy("llama")
    oracle.edit_config(folder, lambda raw: raw.update(options))
    with pytest.raises(ValueError, match=message):
        hf.load(folder)


def test_a_config_without_a_needed_field(copy):
    folder = copy("llama")
    oracle.edit_config(folder, lambda raw: raw.pop("num_attention_heads"))
    with pytest.raises(ValueError, match="config.json lacks 'num_attention_heads'"):
        hf.load(folder)


def test_cross_attention_is_refused(copy):
    folder = copy("gpt2")
    oracle.edit_config(folder, lambda raw: raw.update(add_cross_attention=True))
    with pytest.raises(ValueError, match="add_cross_attention=True, which is not implemented"):
        hf.load(folder)


def test_files_that_are_not_there(copy, tmp_path):
    with pytest.raises(ValueError, match="no such model folder"):
        hf.load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"has no config.json"):
        hf.load(tmp_path)
    folder = copy("llama")
    content = (folder / FILE).read_bytes()
    (folder / FILE).write_bytes(content[:-100])
    with pytest.raises(ValueError, match="is truncated or not safetensors"):
        hf.load(folder)
    (folder / FILE).unlink()
    with pytest.raises(ValueError, match=f"has neither {FILE} nor {INDEX}"):
        hf.load(folder)
    (folder / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ValueError, match=r"has only .bin files, which are pickles"):
        hf.load(folder)
    (folder / INDEX).write_text(json.dumps({"weight_map": {"a": "one.safetensors"}}))
    with pytest.raises(ValueError, match=r"names missing files: one.safetensors"):
        hf.load(folder)
    (folder / "one.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="names tensors that are not there: a"):
        hf.load(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match="can't be read as JSON"):
        hf.load(folder)

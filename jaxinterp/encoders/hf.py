"""Models in the Hugging Face format: `config.json` + safetensors, read without torch."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from safetensors.numpy import save_file

from jaxinterp.encoders import assets
from jaxinterp.encoders.causal import CausalConfig, Params
from jaxinterp.encoders.encoder import Encoder
from jaxinterp.encoders.families import FAMILIES
from jaxinterp.encoders.family import Family
from jaxinterp.encoders.layouts import TRANSPOSED, Tensor, shape_of, write
from jaxinterp.encoders.preprocess import load_preprocess
from jaxinterp.encoders.shapes import Shapes
from jaxinterp.encoders.vocabulary import find_tokenizer
from jaxinterp.encoders.weights import SINGLE, WeightFiles, read_array, read_json


def load(source: str | Path, *, dtype: Any = jnp.float32, mesh: Mesh | None = None) -> Encoder:
    """Loads a model from a folder or from the hub.

    Args:
        source: "tiny" (the model that ships; a folder of that name is "./tiny"), a folder with
            `config.json` and safetensors files, or a hub name (with the `hub` extra and a network).
        dtype: the dtype the parameters are kept in.
        mesh: devices to spread the parameters over, with axes `data` and `model` as in
            `sharding.RULES`; each device reads only its part. None: the default device.

    Returns:
        The encoder.

    Raises:
        ValueError: missing folder, unknown architecture or option, truncated or missing files, and
            missing, unused or misshapen tensors (all are named).
    """
    folder = _folder(source)
    raw = read_json(folder / "config.json")
    kind = raw.get("model_type")
    if kind not in FAMILIES:
        raise ValueError(f"{folder}: unknown model_type {kind!r}; known: {', '.join(FAMILIES)}")
    family = FAMILIES[kind]
    with WeightFiles(folder, family.rename) as files:
        try:
            config = family.config(raw, files.names)
            tensors = family.tensors(config, raw, files.names)
        except KeyError as error:
            raise ValueError(f"{folder / 'config.json'} lacks {error}") from error
        except ValueError as error:
            raise ValueError(f"{folder}: {error}") from error
        tensors += _own_head(family, files, tensors)
        shapes = family.model.shapes(config)
        _check(folder, family, tensors, files, shapes)
        params: dict[str, Any] = {}
        for tensor in tensors:
            value = read_array(files, tensor, shapes[tensor.path], dtype, mesh)
            _set(params, tensor.path, value)
    tokenizer, prepare = find_tokenizer(folder), load_preprocess(folder)
    return Encoder(
        str(source), family.model.forward, family.model.sites, config, params, tokenizer, prepare
    )


def _folder(source: str | Path) -> Path:
    if source == assets.EMBEDDED:
        return assets.folder()
    folder = Path(source).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ValueError(f"{folder} has no config.json: give a folder in Hugging Face format")
        return folder
    if str(source).startswith((".", "/", "~")) or str(source).count("/") > 1:
        raise ValueError(f"no such model folder: {source}")
    try:
        from huggingface_hub import snapshot_download

        patterns = ["*.json", "*.safetensors", "tokenizer*", "*.txt", "*.model"]
        return Path(snapshot_download(str(source), allow_patterns=patterns))
    except Exception as error:
        raise ValueError(
            f"{source!r} is neither a folder here nor a model that the hub gave: {error}"
        ) from error


def _own_head(family: Family, files: WeightFiles, tensors: list[Tensor]) -> list[Tensor]:
    """The output head of files in which it is not the embedding, though config.json ties them.

    transformers 5 believes the files too.
    """
    head, used = family.head, {t.name for t in tensors}
    embedding = next((t.name for t in tensors if t.path == "embed.tokens"), None)
    if head is None or embedding is None or head in used or not {head, embedding} <= files.names:
        return []
    return [] if files.same(head, embedding) else [Tensor("unembed.kernel", head, TRANSPOSED)]


def _check(
    folder: Path, family: Family, tensors: list[Tensor], files: WeightFiles, shapes: Shapes
) -> None:
    """Compares the names and shapes of all tensors with what the config asks for."""
    names = files.names
    needed = {name for t in tensors for name in t.names()}
    missing = sorted(needed - names)
    unused = sorted(n for n in names - needed if not re.search(family.skip, n))
    problems = [f"{w}: {', '.join(n)}" for w, n in (("missing", missing), ("unused", unused)) if n]
    for tensor in tensors:
        expected = shapes[tensor.path][1:] if tensor.layers else shapes[tensor.path]
        for name in names.intersection(tensor.names()):
            shape = files.shape(name)
            try:
                given = shape_of(tensor._replace(name=name), shape)
            except ValueError as error:
                problems.append(str(error))
                continue
            if given != expected:
                problems.append(
                    f"{name} has the shape {shape}: {tensor.path} would be {given}, "
                    f"config.json asks for {expected}"
                )
    if problems:
        raise ValueError(f"{folder}: the tensors do not fit config.json; " + "; ".join(problems))


def _get(tree: Mapping[str, Any], path: str) -> Any:
    for key in path.split("."):
        tree = tree[key]
    return tree


def _set(tree: dict[str, Any], path: str, value: Any) -> None:
    *parents, leaf = path.split(".")
    for key in parents:
        tree = tree.setdefault(key, {})
    tree[leaf] = value


def save(folder: str | Path, params: Params, config: CausalConfig, tokenizer: Path) -> None:
    """Writes a model trained here as a Llama checkpoint that transformers opens.

    Args:
        folder: where to write `config.json`, `model.safetensors` and the tokenizer.
        params: float32 parameters of a rotary, gated, root-mean-square-norm model, tied embedding.
        config: its config.
        tokenizer: a `tokenizer.json` with `<bos>` and `<pad>`.

    Raises:
        ValueError: a model that is not of the Llama family.
    """
    folder = Path(folder)
    rotary = config.rotary
    if rotary is None:
        raise ValueError("only models with rotary positions can be saved; this one has none")
    raw = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "intermediate_size": config.d_mlp,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.d_head,
        "hidden_act": config.activation,
        "max_position_embeddings": config.context,
        "rms_norm_eps": config.norm_eps,
        "rope_parameters": {"rope_theta": rotary.theta, "rope_type": "default"},
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 1,
        "dtype": "float32",
    }
    family = FAMILIES["llama"]
    if family.config(raw, set()) != config:
        raise ValueError(f"only plain Llama models can be saved; {config} is not one")
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for tensor in family.tensors(config, raw, set()):
        value = np.asarray(_get(params, tensor.path))
        for name, layer in zip(
            tensor.names(), value if tensor.layers else value[None], strict=True
        ):
            tensors[name] = np.ascontiguousarray(write(tensor, layer))
    partial = folder / f"{SINGLE}.partial"
    save_file(tensors, partial, metadata={"format": "pt"})
    os.replace(partial, folder / SINGLE)
    (folder / "config.json").write_text(json.dumps(raw, indent=2) + "\n")
    (folder / "tokenizer.json").write_bytes(Path(tokenizer).read_bytes())
    special = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<bos>",
        "eos_token": "<bos>",
        "pad_token": "<pad>",
        "model_max_length": config.context,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(special, indent=2) + "\n")

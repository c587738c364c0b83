"""Host memory while loading, in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

WIDTH, HIDDEN, VOCABULARY, LAYERS = 512, 2048, 40_000, 6

MEASURE = """
import sys, threading, time
import jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
from jaxinterp.encoders import load, weights
folder, dtype, spread = sys.argv[1], sys.argv[2], sys.argv[3] == "True"
weights._STACK_BYTES = 16 << 20  # so that this small model takes the way of a large one
axes = (jax.sharding.AxisType.Auto,) * 2
mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=axes) if spread else None
jax.block_until_ready(jax.numpy.zeros(8) + 1)

def anonymous():  # what the process holds itself; pages of mapped files can be dropped
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon"))

before, peak, done = anonymous(), 0, False

def watch():
    global peak
    while not done:
        peak = max(peak, anonymous())
        time.sleep(0.002)

thread = threading.Thread(target=watch)
thread.start()
encoder = load(folder, dtype=dtype, mesh=mesh)
jax.block_until_ready(encoder.params)
done = True
thread.join()
kept = sum(s.data.nbytes for x in jax.tree.leaves(encoder.params) for s in x.addressable_shards)
print(peak - before, kept)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    shapes = {"model.embed_tokens": (VOCABULARY, WIDTH), "model.norm": (WIDTH,)}
    for i in range(LAYERS):
        block = f"model.layers.{i}."
        for name in "qkvo":
            shapes[f"{block}self_attn.{name}_proj"] = (WIDTH, WIDTH)
        for name in ("gate", "up"):
            shapes[f"{block}mlp.{name}_proj"] = (HIDDEN, WIDTH)
        shapes[f"{block}mlp.down_proj"] = (WIDTH, HIDDEN)
        for name in ("input", "post_attention"):
            shapes[f"{block}{name}_layernorm"] = (WIDTH,)
    save_file(
        {f"{k}.weight": np.ones(v, np.float32) for k, v in shapes.items()},
        folder / "model.safetensors",
    )
    config = dict(
        model_type="llama",
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=8,
        tie_word_embeddings=True,
    )
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux' /proc")
@pytest.mark.parametrize("spread", [False, True], ids=["one", "mesh"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_loading_needs_little_more_than_what_is_kept(folder, dtype, spread):
    command = [sys.executable, "-c", MEASURE, str(folder), dtype, str(spread)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    peak, kept = map(int, done.stdout.split())
    largest = VOCABULARY * WIDTH * 4
    print(f"{dtype} {spread}: {(peak - kept) / largest:.2f} of the largest tensor beyond {kept:,}")
    assert peak - kept < 1.3 * largest

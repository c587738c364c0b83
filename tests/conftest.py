"""Every test runs on CPU with 8 virtual devices; rank promotion raises."""

import atexit
import gc
import os
import shutil
import tempfile
from pathlib import Path

import jax
import numpy as np
import pytest

os.environ["HF_UPDATE_DOWNLOAD_COUNTS"] = "0"  # `datasets` tells the hub of every local file read
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # Programs that several tests, workers and processes of this run compile: one compiles it. The
    # folder goes with the run, whose workers find its name in their environment.
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="jaxinterp-programs-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
    for name in ("compilation_cache_dir", "persistent_cache_min_compile_time_secs"):
        value = os.environ["JAX_" + name.upper()]
        jax.config.update("jax_" + name, value if name.endswith("dir") else float(value))
# Traces are many small objects that live: looking through them for garbage took an eighth of all.
gc.set_threshold(200_000, 50, 100)
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")

TEXT = """The {noun} module provides functions that work on {noun} objects. Each function returns
a new {noun} object and leaves its arguments as they were. If the {noun} is empty, a ValueError is
raised. The default value of the size argument is {number}; a negative size means no limit.

    >>> {noun}.make(size={number})
    {noun}(size={number})
"""


def pytest_collection_modifyitems(items):
    """The longest files go first, so that at the end no worker waits for another."""
    longest = ("test_distributed.py", "test_cli.py", "test_readme.py")
    items.sort(key=lambda item: item.path.name not in longest)


@pytest.fixture(scope="module", autouse=True)
def few_programs():
    """Drops compiled programs before their memory maps reach Linux' limit of 65,530 a process.

    Beyond it the compiler crashes, which a whole run of the tests in one process came to.
    """
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 35_000:
        jax.clear_caches()


@pytest.fixture(scope="session")
def shipped():
    """The embedded language model."""
    from jaxinterp.encoders import assets, hf

    return hf.load(assets.folder())


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory):
    """A folder of small hand-written text files."""
    folder = tmp_path_factory.mktemp("text")
    nouns = "queue buffer stream parser table socket thread archive path array".split()
    for i, noun in enumerate(nouns):
        pieces = [TEXT.format(noun=noun, number=i * 7 + j) for j in range(12)]
        (folder / f"{noun}.txt").write_text("\n\n".join(pieces))
    return folder


@pytest.fixture
def rng():
    return np.random.default_rng(0)

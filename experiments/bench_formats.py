"""How long does a very wide dictionary take to load, and how much memory? Against its bytes.

    python experiments/bench_formats.py

A random dictionary is written in each format, and loaded by `formats.load` in turns with three that
only read: `read`, all of the file into fresh memory at once; `bytes`, `Path.read_bytes`; and
`tensors`, safetensors' own reader where the file is its. Each in a process of its own that has
loaded a small dictionary before and sleeps while others run, another one first in each round: a
virtual machine pays for memory that the one before gave back. Cold means that the system has
forgotten the file. Ratios are of medians, of seconds that passed and of seconds of processor, the
fairer ones on a busy machine; memory is the peak above what the process held before.

Expected: memory at most 1.06 of the size; from a warm file 0.2 to 0.8 of the time of `bytes`, from
a cold one 0.7 to 1.0. Of `read`, which fills a NumPy array, a load takes 0.7 to 4.4 times from a
warm file and a third from a cold one.
"""

import os
import statistics
import sys
import tempfile
from pathlib import Path

import ml_dtypes  # noqa: F401  (NumPy learns bfloat16 by it)
import numpy as np
import tyro
from contestants import Contestant, Sample, answers, memory, serve
from safetensors.numpy import load_file

from configs.bench_formats import BenchFormats
from jaxinterp import files
from jaxinterp.dictionaries import formats

CONTESTANTS = ("read", "bytes", "tensors", "load")


def write(form: str, folder: Path, width: int, d: int, dtype: str) -> Path:
    """A random dictionary in a format; the file that holds its tensors."""
    rng = np.random.default_rng(0)

    def some(*shape: int) -> np.ndarray:
        array = np.empty(shape, dtype)
        for rows in np.array_split(array, max(1, array.size >> 24)):
            rows[...] = rng.standard_normal(rows.shape, np.float32)
        return array

    options, threshold = {"width": width, "k": 64}, np.zeros(width, np.float32)
    params = {"encoder": some(width, d), "encoder_bias": some(width)}
    params |= {"decoder": some(width, d), "decoder_bias": some(d)}
    folder.mkdir()
    if form == "gemma_scope":
        params = {"W_enc": params["encoder"].reshape(d, width), "b_enc": params["encoder_bias"]} | {
            "W_dec": params["decoder"],
            "b_dec": params["decoder_bias"],
            "threshold": threshold,
        }
        np.savez(folder / "params.npz", **params)
    elif form == "llama_scope":
        (folder / "checkpoints").mkdir()
        tensors = {
            "encoder.weight": params["encoder"],
            "encoder.bias": params["encoder_bias"],
            "decoder.weight": params["decoder"].reshape(d, width),
            "decoder.bias": params["decoder_bias"],
        }
        files.write_arrays(folder / "checkpoints" / "final.safetensors", tensors)
        norms = {"in": 3.0, "out": 3.0}
        config = {"d_model": d, "d_sae": width, "jump_relu_threshold": 0.4}
        config |= {"dataset_average_activation_norm": norms}
        files.write_json(folder / "hyperparams.json", config)
    else:
        formats.FORMATS[form].write(folder, formats.from_memory("topk", options, params))
    held = [path for path in folder.rglob("*") if path.is_file()]
    return max(held, key=lambda path: path.stat().st_size)


def worker(contestant: str, path: Path, folder: Path, small: Path) -> None:
    """Loads one file in every turn."""
    stream = answers()
    formats.load(small)
    libraries, size = memory(), path.stat().st_size

    def read() -> None:
        held, done = memoryview(files.aligned_empty([size], np.uint8)), 0
        with path.open("rb", buffering=0) as file:
            while done < size:
                done += file.readinto(held[done:])

    def load() -> None:
        for value in formats.load(folder)[1].values():
            value.block_until_ready()

    runs = {"read": read, "bytes": path.read_bytes, "tensors": lambda: load_file(path)}
    serve(stream, (runs | {"load": load})[contestant], libraries)


def forget(path: Path) -> None:
    """Makes the system read a file from its disk the next time."""
    file = os.open(path, os.O_RDONLY)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(file)


def measure(config: BenchFormats, form: str, folder: Path) -> None:
    small, wide = folder / "small", folder / "wide"
    write(form, small, 64, 16, config.dtype)
    path = write(form, wide, config.width, config.d, config.dtype)
    os.sync()
    names = [name for name in CONTESTANTS if name != "tensors" or path.suffix == ".safetensors"]
    turns = {
        name: Contestant(
            [sys.executable, __file__, "worker", name, str(path), str(wide), str(small)]
        )
        for name in names
    }
    found: dict[tuple[str, str], list[Sample]] = {}
    for i in range(config.rounds):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            forget(path)
            found.setdefault((name, "cold"), []).append(turns[name]())
            found.setdefault((name, "warm"), []).append(turns[name]())
    for turn in turns.values():
        turn.stop()
    size = path.stat().st_size
    for state in ("cold", "warm"):
        print(f"{form}, {size / 1e9:.2f} GB, {state}", flush=True)
        base = middle(found["read", state])
        for name in names:
            wall, cpu = middle(found[name, state])
            held = max(s.peak - s.libraries for s in found[name, state]) * 2**20 / size
            print(
                f"  {name:8}{wall:8.3f} s {wall / base[0]:6.2f} x read{cpu:8.3f} s of processor "
                f"{cpu / base[1]:6.2f} x read{held:7.3f} x size in memory",
                flush=True,
            )


def middle(samples: list[Sample]) -> tuple[float, float]:
    """Median seconds, and seconds of processor."""
    return statistics.median(s.wall for s in samples), statistics.median(s.cpu for s in samples)


def main(config: BenchFormats) -> None:
    for form in config.formats:
        with tempfile.TemporaryDirectory(dir=config.folder or None) as folder:
            measure(config, form, Path(folder))


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        worker(sys.argv[2], *map(Path, sys.argv[3:6]))
    else:
        main(tyro.cli(BenchFormats, description=__doc__))

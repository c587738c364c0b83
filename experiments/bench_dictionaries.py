"""How fast is a training step? Against SAELens, sparsify and plain torch.

    python experiments/bench_dictionaries.py --torch-python PYTHON
    python experiments/bench_dictionaries.py --torch-python PYTHON --width 16384 \
        --ours topk --peers sparsify/topk saelens/topk
    python experiments/bench_dictionaries.py --d 128 --width 1024 --ours sweep "one by one" --peers
    python experiments/bench_dictionaries.py --d 128 --width 1024 --steps 400 --rounds 3 \
        --ours "sweep run" "run by run" --peers
    python experiments/bench_dictionaries.py --torch-python PYTHON --dtype bfloat16 --batch 16384 \
        --width 65536 --ours topk --peers sparsify/topk torch/topk     # on a GPU
    python experiments/bench_dictionaries.py --torch-python PYTHON --steps 1 --rounds 3 \
        --ours matching_pursuit --peers saelens/matching_pursuit overcomplete/matching_pursuit
    python experiments/bench_dictionaries.py --torch-python PYTHON --k 8 --steps 1 \
        --ours orthogonal_pursuit --peers overcomplete/orthogonal_pursuit
    python experiments/bench_dictionaries.py --ours archetypal topk --peers
    python experiments/bench_dictionaries.py --ours itda --steps 49 --rounds 1 --peers

A step is forward, backward, clipping, Adam, decoder constraint and firing statistics, on both
sides. All contestants are warmed up, then take turns, each in a process of its own that sleeps
while others run; medians. `cpu` is processor time over the number of threads, the fairer column on
a busy machine. `own MiB` is peak memory less what the process held before it built anything. On an
accelerator, `useful` is the share of its peak that the products of a sparse step make up (one dense
product to encode, four that touch k latents a row), and memory is the device's.

Expected on 2 CPU cores, in both times: TopK at most 0.9 of sparsify and 0.35 of SAELens (width
16384: 0.8 of sparsify, half the memory of SAELens); ReLU 0.5, JumpReLU 0.4, BatchTopK and
Matryoshka 0.45 of SAELens; a sweep of 8 members 0.75 of eight runs, if these are compiled one by
one (0.71 at 400 steps; a step alone takes 1.14, as a step of one member keeps both cores busy for
84 % of its time and its arrays stay in the cache). Measured on
an idle machine, in both times: matching pursuit of 32 steps 0.11 of SAELens and 0.02 of
overcomplete; orthogonal pursuit of 8 steps (non-negative on both sides) 0.17 to 0.20 of
overcomplete; an archetypal step with as many candidates as dimensions 1.04 of a TopK step in wall
and 1.14 in processor time (every step makes its atoms anew and takes their gradient back: 4 d x
width x candidates more operations, at 4,096 candidates four times those of the encoder); ITDA 0.2
s for 2,048 rows with a dictionary of 4,096 places, which is 10 s for 100,000.
"""

import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
import tyro
from contestants import Contestant, Sample

from configs.bench_dictionaries import BenchDictionaries
from jaxinterp.activations import synthetic

HERE = Path(__file__).parent
BATCHES = 4
PEAK_TFLOPS = {"H200": 989, "H100": 989, "A100": 312}


def write_activations(config: BenchDictionaries, path: Path) -> None:
    """The same rows for all: twice as many features as dimensions, at unit mean square."""
    world = synthetic.invent(jax.random.key(0), 2 * config.d, config.d, active=24, noise=0.02)
    draw = jax.jit(lambda key: synthetic.draw(world, key, config.batch).x)
    x = np.concatenate([draw(jax.random.key(1 + i)) for i in range(BATCHES)])
    np.save(path, x / np.sqrt(np.square(x).mean()))


def start(config: BenchDictionaries, data: Path) -> dict[str, Contestant]:
    size = json.dumps(dataclasses.asdict(config))
    contestants = {}
    for name in config.ours:
        command = [sys.executable, str(HERE / "bench_dictionaries_jax.py"), name]
        contestants[f"jaxinterp/{name}"] = Contestant([*command, str(data), size])
    for name in config.peers if config.torch_python else ():
        command = [config.torch_python, str(HERE / "bench_dictionaries_torch.py"), name]
        contestants[name] = Contestant([*command, str(data), size])
    return contestants


def accelerator() -> str:
    """The GPU's name, asked outside of this process, which must not take its memory; or ""."""
    try:
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def main(config: BenchDictionaries) -> None:
    jax.config.update("jax_platforms", "cpu")  # the workers need the accelerator
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "activations.npy"
        write_activations(config, data)
        contestants = start(config, data)
        samples: dict[str, list[Sample]] = {name: [] for name in contestants}
        for _ in range(config.rounds):
            for name, turn in contestants.items():
                samples[name].append(turn())
        for contestant in contestants.values():
            contestant.stop()

    device = accelerator()
    peak = config.peak_tflops or next((t for n, t in PEAK_TFLOPS.items() if n in device), 0)
    # Two multiply-adds for a product; the sparse backward needs four products of k latents a row.
    work = 2 * config.batch * config.d * (config.width + 4 * config.k)
    print(
        f"{device or 'CPU'}, jax {jax.__version__}, {config.dtype}, d {config.d}, width "
        f"{config.width}, k {config.k}, batch {config.batch}; a step, medians of {config.rounds}"
    )
    print(
        f"{'':26}{'wall ms':>9}{'cpu ms':>9}{'tokens/s':>11}{'peak MiB':>10}{'own MiB':>9}", end=""
    )
    print(f"{'useful':>8}" if peak else "")
    middle = {}
    for name, turns in samples.items():
        wall, cpu = (
            statistics.median(t) / config.steps for t in list(zip(*turns, strict=True))[:2]
        )
        last = turns[-1]
        middle[name] = wall, cpu, last.peak - last.libraries
        line = f"{name:26}{1e3 * wall:9.1f}{1e3 * cpu / config.threads:9.1f}"
        line += f"{config.batch / wall:11,.0f}{last.peak:10.0f}{last.peak - last.libraries:9.0f}"
        print(line + (f"{work / wall / peak / 1e12:8.1%}" if peak else ""))
    print(f"\n{'ratio':44}{'wall':>9}{'cpu':>9}{'own MiB':>9}")
    for ours, peer in pairs(list(middle)):
        ratios = [a / b for a, b in zip(middle[ours], middle[peer], strict=True)]
        print(f"{ours:22}{peer:22}" + "".join(f"{r:9.2f}" for r in ratios))


def pairs(names: list[str]) -> list[tuple[str, str]]:
    """Who is to be compared: ours with the peers' same variant, and some of ours with others."""
    ours = [n for n in names if n.startswith("jaxinterp/")]
    found = [
        (n, p) for n in ours for p in names if p not in ours and p.split("/")[1] == n.split("/")[1]
    ]
    own = [("sweep", "one by one"), ("sweep run", "run by run"), ("archetypal", "topk")]
    own = [(f"jaxinterp/{a}", f"jaxinterp/{b}") for a, b in own]
    return found + [pair for pair in own if set(pair) <= set(names)]


if __name__ == "__main__":
    main(tyro.cli(BenchDictionaries, description=__doc__))

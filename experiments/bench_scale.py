"""How fast is a training step on one accelerator, as a share of its peak, and what limits it?

    python experiments/bench_scale.py                                           # on a GPU or TPU
    python experiments/bench_scale.py --d 64 --widths 1024 --k 8 --aux-k 8 --batch 512 \
        --dtype float32                                                         # on a CPU

Whole training steps (forward, backward, Adam, constraint, firing statistics), the state donated.
`useful` is the share of the peak that the operations on paper make up, whatever the program did to
get there; `limit` is what takes longest at the stated peaks by the compiler's count of operations
and bytes of the program that ran (a search whose length the data decide counts as one turn, and the
products that a GPU's library does count as on paper), and `at best` the time that it would take
then. The peaks are those of `jaxinterp/chips.py`; a device that is not there gets no shares.
A variant that does not fit the device's memory says so, and the next one runs.

Outcome on one H100 (jax 0.11.2, 2026-11-27, the first command at width 65,536): JumpReLU 46 ms,
176,000 tokens a second, 57 % of the peak; TopK 160 ms, 51,000 and 2.8 %; BatchTopK 177 ms, 46,000
and 15 %. The steps were not profiled. XLA's top-k alone took 75 ms for 16,384 rows of that width,
since it sorts them whole, and the search of BatchTopK went through bits that bfloat16 lacks. Rows
are chosen by groups and the search is shorter since, which was not measured again.
"""

import statistics
import time
from collections.abc import Callable

import jax
import tyro

from configs.bench_scale import BenchScale
from jaxinterp import cost_model
from jaxinterp import dictionaries as dl
from jaxinterp.chips import CHIPS, Chip, chip, times
from jaxinterp.cost_model import Mesh, Size


def recipes(config: BenchScale, width: int) -> dict[str, Callable[[], dl.Dictionary]]:
    return {
        "topk": lambda: dl.topk(width, config.k, aux_k=config.aux_k),
        "jumprelu": lambda: dl.jumprelu(width),
        "batch_topk": lambda: dl.batch_topk(width, config.k, aux_k=config.aux_k),
    }


def peaks(config: BenchScale) -> Chip | None:
    device = jax.devices()[0]
    if not config.chip and device.platform == "cpu":
        return None
    try:
        return chip(config.chip or device.device_kind)
    except ValueError as error:
        print(f"{error}: no shares of the peak")
        return None


def measure(config: BenchScale, variant: str, width: int, chip: Chip | None) -> str:
    dictionary = recipes(config, width)[variant]()
    if config.dtype == "bfloat16":
        dictionary = dl.in_bfloat16(dictionary)
    learner = dl.learner(dictionary, dl.optimizer("adam", 1e-4))
    x = jax.random.normal(jax.random.key(0), (config.batch, config.d))
    state = jax.jit(learner.init)(jax.random.key(1), x)
    step = jax.jit(learner.step, donate_argnums=0).lower(state, x).compile()
    rounds = []
    for turn in range(1 + config.rounds):  # the first warms up
        start = time.perf_counter()
        for _ in range(config.steps):
            state, _ = step(state, x)
        jax.block_until_ready(state)
        if turn:
            rounds.append((time.perf_counter() - start) / config.steps)
    seconds = statistics.median(rounds)
    memory = step.memory_analysis()
    held = (memory.argument_size_in_bytes + memory.temp_size_in_bytes) / 1e9
    line = f"{1e3 * seconds:10.2f}{config.batch / seconds:13,.0f}{held:8.2f}"
    if chip is None:
        return line
    product = 2 if config.dtype == "bfloat16" else 4
    size = Size(config.d, width, config.batch, config.k, product=product)
    paper = cost_model.fixed_k_step if variant == "topk" else cost_model.dense_step
    work = paper(size, Mesh(1, 1)).flops
    useful = work / chip.flops / seconds
    cost = step.cost_analysis()
    # On a GPU the compiler hands products to a library, and counts none of their operations.
    best = times(chip, max(cost["flops"], work), cost["bytes accessed"])
    return line + f"{useful:9.1%}{1e3 * best.overlapped:10.2f}  {best.limit}"


def main(config: BenchScale) -> None:
    device, found = jax.devices()[0], peaks(config)
    unknown = set(config.variants) - set(recipes(config, 1))
    if unknown:
        raise ValueError(f"variants {sorted(unknown)}: known are {', '.join(recipes(config, 1))}")
    name = next((name for name, known in CHIPS.items() if known is found), "not known")
    print(
        f"{device.device_kind}, peaks {name}, jax {jax.__version__}; d {config.d}, k {config.k}, "
        f"batch {config.batch}, {config.dtype}; a step, median of {config.rounds}"
    )
    print(f"{'':12}{'width':>9}{'ms':>10}{'tokens/s':>13}{'GB':>8}", end="")
    print(f"{'useful':>9}{'at best':>10}  limit" if found else "")
    for width in config.widths:
        for variant in config.variants:
            print(f"{variant:12}{width:9}", end="", flush=True)
            try:
                print(measure(config, variant, width, found))
            except jax.errors.JaxRuntimeError as error:
                if "RESOURCE_EXHAUSTED" not in str(error):
                    raise
                print("  does not fit the device's memory")


if __name__ == "__main__":
    main(tyro.cli(BenchScale, description=__doc__))

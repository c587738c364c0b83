"""The command line: `jaxinterp demo`, `train`, `harvest`, `plan` and more; see `jaxinterp --help`.

Exit codes are those of `running`.
"""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from jaxinterp.config import (
    ConvertConfig,
    HarvestConfig,
    InspectConfig,
    PlanConfig,
    Processes,
    ReportConfig,
    RunConfig,
)
from jaxinterp.running import run

if TYPE_CHECKING:  # JAX is imported by the command that needs it, so that --help is quick
    from jaxinterp.distributed import MustStop
    from jaxinterp.inputs import Inputs


def _harvested(config: RunConfig, must_stop: "MustStop", *, trains: bool) -> tuple["Inputs", Path]:
    """The beginning of every job: its folder, its inputs, what will be where, the activations."""
    from jaxinterp import distributed, inputs, logging, pipeline, run_folder

    with distributed.together():
        folder = run_folder.open_run(config)
        for tracker in config.trackers if trains and distributed.is_writer() else ():
            logging.check_installed(tracker)
        found = inputs.load_inputs(config)
        report = pipeline.startup_report(config, found) if trains else None
    run_folder.begin(config, folder, inputs.check_inputs(found))
    if report and distributed.is_writer():
        print(report, file=sys.stderr)
    pipeline.harvest_stage(config, found, folder, must_stop)
    return found, folder


def demo(config: RunConfig, must_stop: "MustStop") -> None:
    """The whole job: harvest, train a dictionary, measure it, read every layer's dimension, report.

    Stopped with Ctrl-C, the same command goes on where it was.

    For example:

        jaxinterp demo
        jaxinterp demo --name wide --width 4096 --k 16
        jaxinterp demo --name mine --model path/to/llama --text notes.txt --site L4.resid_post
        jaxinterp demo --mesh data=4,model=2
        jaxinterp demo --distributed --out /shared/runs
    """
    from jaxinterp import distributed, measuring, pipeline
    from jaxinterp.present import present
    from jaxinterp.report.terminal import print_metrics

    inputs, folder = _harvested(config, must_stop, trains=True)
    pipeline.train_stage(config, inputs, folder, must_stop)
    measuring.evaluate_stage(config, inputs, folder, must_stop)
    measuring.geometry_stage(config, inputs, folder, must_stop)
    with distributed.together():
        if distributed.is_writer():
            print_metrics(present(config, inputs, folder).metrics)
            print(f"report: {folder / 'report.html'}")


def harvest(config: HarvestConfig, must_stop: "MustStop") -> None:
    """Write the activations of any sites of a model to a store, to train on or to look at.

    Of every row the store also holds the token id, the document's number and the token's index in
    it. Stopped at any moment, the same command goes on where it was; with more --tokens it goes on
    from the end. A store that was made with other settings is refused.

    For example:

        jaxinterp harvest --store runs/layers --sites resid_post --tokens 1000000
        jaxinterp harvest --store runs/middle --sites L4.resid_post L4.mlp_out --model path/to/llama
        jaxinterp harvest --store gs://bucket/web --text owner/corpus:part --streaming
        jaxinterp harvest --store runs/vit --model path/to/vit --images photos --skip-positions 0
        jaxinterp harvest --store gs://bucket/layers --distributed

    In Python:

        reader = jaxinterp.activations.open_store("runs/layers")
        feed = jaxinterp.activations.from_store(reader, "L2.resid_post", batch=2048, seed=0)
    """
    import jax

    from jaxinterp import distributed, harvesting

    process = (jax.process_index(), jax.process_count())
    writer = harvesting.write_store(config, process=process, must_stop=must_stop)
    rows = sum(distributed.gathered(writer.rows))
    if distributed.is_writer():
        fields = ", ".join(f"{n} {f.dtype}{list(f.shape)}" for n, f in writer.fields.items())
        print(f"store: {config.store}: {rows:,} rows of {fields}")


def train(config: RunConfig, must_stop: "MustStop") -> None:
    """Harvest activations, train a dictionary on one site and measure it on held-out text.

    For example:

        jaxinterp train --name layer4 --site L4.resid_post
        jaxinterp train --name long --tokens 2000000 --steps 20000
        jaxinterp train --name jump --variant jumprelu --target-l0 32
        jaxinterp train --name tanh --variant relu --options penalty=tanh weight=0.5
        jaxinterp train --name muon --optimizer muon --average 0.999 --trackers tensorboard
        jaxinterp train --name wide --width 65536 --mesh data=2,model=4
        jaxinterp train --name pod --out /shared/runs --distributed
    """
    from jaxinterp import distributed, measuring, pipeline

    inputs, folder = _harvested(config, must_stop, trains=True)
    pipeline.train_stage(config, inputs, folder, must_stop)
    measuring.evaluate_stage(config, inputs, folder, must_stop)
    if distributed.is_writer():
        print((folder / "evaluation.json").read_text(), end="")
        print(f"dictionary: {folder / 'dictionary'}")


def geometry(config: RunConfig, must_stop: "MustStop") -> None:
    """Harvest activations and estimate the intrinsic dimension of every layer.

    For example:

        jaxinterp geometry --name dimension
        jaxinterp geometry --name dimension-of-mine --text notes.txt --points 2000
    """
    from jaxinterp import distributed, files, measuring
    from jaxinterp.present import draw_geometry

    inputs, folder = _harvested(config, must_stop, trains=False)
    measuring.geometry_stage(config, inputs, folder, must_stop)
    if not distributed.is_writer():
        return
    row = "{:<16} {:>8} {:>8} {:>16} {:>8} {:>12} {:>8} {:>8}"
    heads = ("TwoNN", "+-", "Levina-Bickel", "+-", "recommended", "+-", "points")
    print(row.format("layer", *heads))
    for layer in files.read_json(folder / "geometry.json")["layers"]:
        numbers = [layer[n] for n in ("two_nn", "two_nn_error", "mle", "mle_error")]
        best = layer.get("recommended", {})
        numbers += [best.get("value"), best.get("error")]
        shown = ["n/a" if n is None else f"{n:.2f}" for n in numbers]
        print(row.format(layer["layer_name"], *shown, layer["points"]))
    draw_geometry(folder)
    print(f"written: {folder / 'geometry.json'}, {folder / 'figures' / 'scales.png'}")


def report(config: ReportConfig) -> None:
    """Write the figures and the page of a run again, from the results that are there.

    For example:

        jaxinterp report --name quickstart
        jaxinterp report --name quickstart --features 200 --contexts 20
    """
    from jaxinterp import inputs, run_folder
    from jaxinterp.present import present
    from jaxinterp.report.terminal import print_metrics

    folder = Path(config.out).expanduser() / config.name
    needed = ("config.json", "evaluation.json", "geometry.json", "training.jsonl")
    missing = [name for name in needed if not (folder / name).exists()]
    if missing:
        raise ValueError(
            f"{folder} is no finished run (it lacks {', '.join(missing)}): "
            f"run `jaxinterp demo --name {config.name}` first"
        )
    shown = {"features": config.features, "contexts": config.contexts}
    shown = {name: number for name, number in shown.items() if number is not None}
    stored = dataclasses.replace(run_folder.read_config(folder), **shown)
    stored.check()
    print_metrics(present(stored, inputs.load_inputs(stored), folder).metrics)
    print(f"report: {folder / 'report.html'}")


def inspect(config: InspectConfig) -> None:
    """Say what a dictionary is, of whatever library it is: variant, size, normalisation, source.

    For example:

        jaxinterp inspect path/to/sae
        jaxinterp inspect owner/name/folder/in/it
    """
    from jaxinterp import convert as converting

    print(converting.inspect(config.path))


def convert(config: ConvertConfig) -> None:
    """Write a dictionary in another library's format, and check the copy on random input.

    For example:

        jaxinterp convert path/to/sae mine --to jaxinterp
        jaxinterp convert runs/quickstart/dictionary for_saelens --to saelens
    """
    from jaxinterp import convert as converting

    print(converting.convert(config.source, config.destination, config.to))


def plan(config: PlanConfig) -> None:
    """Compile a training step for devices that need not be there: what it needs, sends and takes.

    Operations, bytes, memory and collectives of each device, and the time at the stated peaks of a
    chip with the term that limits it.

    For example:

        jaxinterp plan --mesh data=2,model=4 --width 262144 --chip h100
        jaxinterp plan --variant jumprelu --topology v5e:4x4 --mesh data=-1,model=4
    """
    from jaxinterp import plan as planning

    planning.start_devices(config.devices)
    print(planning.describe(planning.plan(config)))


# Those that take a `must_stop` run in any number of processes.
COMMANDS: dict[str, Callable[..., None]] = {
    "demo": demo,
    "harvest": harvest,
    "train": train,
    "geometry": geometry,
    "report": report,
    "inspect": inspect,
    "convert": convert,
    "plan": plan,
}


def parse(default: RunConfig, description: str | None = None) -> tuple[RunConfig, Processes]:
    """Reads the settings from the command line over those of `default`."""
    alone = Processes()

    def settings(
        config: Annotated[RunConfig, tyro.conf.OmitArgPrefixes] = default,
        processes: Annotated[Processes, tyro.conf.OmitArgPrefixes] = alone,
    ) -> tuple[RunConfig, Processes]:
        return config, processes

    return tyro.cli(settings, description=description)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the `jaxinterp` command."""
    chosen: list[Callable[..., None]] = []

    def bind(command: Callable[..., None]) -> Callable[..., tuple[Any, Processes]]:
        def in_processes(config: Any, processes: Processes) -> tuple[Any, Processes]:
            chosen.append(command)
            return config, processes

        def alone(config: Any) -> tuple[Any, Processes]:
            chosen.append(lambda config, must_stop: command(config))
            return config, Processes()

        read = in_processes if "must_stop" in command.__annotations__ else alone
        for name in set(read.__annotations__) - {"return"}:
            kind: Any = command.__annotations__["config"] if name == "config" else Processes
            read.__annotations__[name] = Annotated[kind, tyro.conf.OmitArgPrefixes]
        read.__doc__ = command.__doc__
        return read

    settings: Any = tyro.extras.subcommand_cli_from_dict(
        {name: bind(command) for name, command in COMMANDS.items()},
        args=arguments,
        prog="jaxinterp",
        description="From a model to interpretable features and their geometry.",
    )
    sys.exit(run(chosen[0], lambda: settings))

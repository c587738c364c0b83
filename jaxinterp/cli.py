"""The command line: `jaxinterp demo | train | geometry | report`."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from jaxinterp.config import RunConfig

if TYPE_CHECKING:  # JAX is imported by the command that needs it, so that --help is quick
    from jaxinterp.pipeline import Inputs


def _harvested(config: RunConfig) -> tuple["Inputs", Path]:
    """The beginning of every job: its folder, its inputs, the activations."""
    from jaxinterp import pipeline

    folder = pipeline.open_run(config)
    inputs = pipeline.load_inputs(config)
    pipeline.begin(config, folder)
    pipeline.harvest_stage(config, inputs, folder)
    return inputs, folder


def demo(config: RunConfig) -> None:
    """The whole job: harvest, train a dictionary, measure it, read every layer's dimension, report.

    Stopped with Ctrl-C, the same command goes on where it was.

    For example:

        jaxinterp demo
        jaxinterp demo --name wide --width 4096 --k 16
        jaxinterp demo --name mine --model path/to/llama --text notes.txt --site L4.resid_post
    """
    from jaxinterp import pipeline
    from jaxinterp.present import present
    from jaxinterp.report.terminal import print_metrics

    inputs, folder = _harvested(config)
    pipeline.train_stage(config, inputs, folder)
    pipeline.evaluate_stage(config, inputs, folder)
    pipeline.geometry_stage(config, inputs, folder)
    print_metrics(present(config, inputs, folder).metrics)
    print(f"report: {folder / 'report.html'}")


def train(config: RunConfig) -> None:
    """Harvest activations, train a dictionary on one site and measure it on held-out text.

    For example:

        jaxinterp train --name layer4 --site L4.resid_post
        jaxinterp train --name long --tokens 2000000 --steps 20000
    """
    from jaxinterp import pipeline

    inputs, folder = _harvested(config)
    pipeline.train_stage(config, inputs, folder)
    pipeline.evaluate_stage(config, inputs, folder)
    print((folder / "evaluation.json").read_text(), end="")
    print(f"dictionary: {folder / 'dictionary'}")


def geometry(config: RunConfig) -> None:
    """Harvest activations and estimate the intrinsic dimension of every layer.

    For example:

        jaxinterp geometry --name dimension
        jaxinterp geometry --name dimension-of-mine --text notes.txt --points 2000
    """
    from jaxinterp import files, pipeline
    from jaxinterp.present import draw_geometry

    inputs, folder = _harvested(config)
    pipeline.geometry_stage(config, inputs, folder)
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


def report(config: RunConfig) -> None:
    """Write the figures and the page of a run again, from the results that are there.

    For example:

        jaxinterp report --name quickstart
    """
    from jaxinterp import pipeline
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
    stored = pipeline.read_config(folder)
    print_metrics(present(stored, pipeline.load_inputs(stored), folder).metrics)
    print(f"report: {folder / 'report.html'}")


COMMANDS: dict[str, Callable[[RunConfig], None]] = {
    "demo": demo,
    "train": train,
    "geometry": geometry,
    "report": report,
}


def parse(default: RunConfig, description: str | None = None) -> RunConfig:
    """Reads the settings from the command line over those of `default`."""
    return tyro.cli(RunConfig, default=default, description=description)


def run(command: Callable[[RunConfig], None], settings: Callable[[], RunConfig]) -> int:
    """Runs a command; bad input becomes one message and exit code 2, not a traceback.

    `JAXINTERP_TRACEBACK=1` in the environment shows where an error came from.
    """
    try:
        command(settings())
    except KeyboardInterrupt:
        print(
            "\nstopped: what is finished is kept, the same command goes on from there",
            file=sys.stderr,
        )
        return 130
    except (ValueError, OSError) as error:
        if os.environ.get("JAXINTERP_TRACEBACK"):
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the `jaxinterp` command."""
    chosen: list[Callable[[RunConfig], None]] = []

    def bind(command: Callable[[RunConfig], None]) -> Callable[[RunConfig], RunConfig]:
        def subcommand(config: tyro.conf.OmitArgPrefixes[RunConfig]) -> RunConfig:
            chosen.append(command)
            return config

        subcommand.__doc__ = command.__doc__
        return subcommand

    def settings() -> RunConfig:
        return tyro.extras.subcommand_cli_from_dict(
            {name: bind(command) for name, command in COMMANDS.items()},
            args=arguments,
            prog="jaxinterp",
            description="From a model to interpretable features and their geometry.",
        )

    sys.exit(run(lambda config: chosen[0](config), settings))

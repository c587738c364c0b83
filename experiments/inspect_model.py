"""A model's sites and shapes as a table; its attention patterns and logit lens as figures.

    python experiments/inspect_model.py                              # the shipped model
    python experiments/inspect_model.py --model FOLDER --text "..."  # any that can be loaded

Expected for the shipped model: 25 sites, attribution error below 1e-4 (the self-check that
components sum to the logits), `attention.png` and `logit_lens.png` in `runs/inspect_model`.
A model of images or of both kinds gets the table only.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from configs.inspect_model import InspectModel
from jaxinterp import encoders
from jaxinterp.config import Processes
from jaxinterp.encoders.sites import BLOCK_SITES, OUTER_SITES
from jaxinterp.report import save_figure
from jaxinterp.running import run


def example(encoder: encoders.Encoder, text: str):
    """Inputs that the encoder takes, and whether they are a real text."""
    config = encoder.config
    if isinstance(config, encoders.CausalConfig) and encoder.tokenizer is not None:
        ids = [encoder.tokenizer.bos, *encoder.tokenizer.encode_batch([text])[0]]
        return jnp.asarray([ids[: config.context]])
    if isinstance(config, encoders.DualConfig):
        return encoders.DualInputs(blank(config.text), blank(config.image))
    return blank(config)


def blank(config):
    """Inputs of the right shape that say nothing."""
    if config.vocab_size:
        return jnp.zeros((1, 8), int)
    return jnp.zeros((1, *config.image_size, config.channels))


def site_table(encoder: encoders.Encoder, inputs) -> Table:
    """Every site: its short and long name, its shape at one layer."""
    every = encoder.sites(encoder.config)

    def forward(params, inputs):
        return encoder.forward(params, encoder.config, inputs, capture=every)

    _, captured = jax.eval_shape(forward, encoder.params, inputs)
    table = Table("site", "TransformerLens name", "shape", title=encoder.name)
    for site in every:
        tower, _, word = site.rpartition("/")
        shape, name = captured[site].shape, OUTER_SITES.get(word)
        if name is None:
            layers, shape = shape[0], shape[1:]
            site = f"{tower}/" * bool(tower) + f"L0-{layers - 1}.{word}"
            name = f"blocks.<i>.{BLOCK_SITES[word]}"
        table.add_row(site, name, " x ".join(map(str, shape)))
    return table


def show(pieces: list[str]) -> list[str]:
    """Tokens as labels: spaces and line breaks made visible."""
    shown = [p.replace(" ", "·").replace("\n", "↵").replace("$", r"\$") for p in pieces]
    return [p if len(p) < 12 else p[:11] + "…" for p in shown]


def attention_figure(pattern: np.ndarray, layers: list[int], labels: list[str]) -> Figure:
    """One row per layer, one small square per head: row reads column."""
    heads, seq = pattern.shape[1], pattern.shape[-1]
    size = (1.5 * heads + 0.8, 1.6 * len(layers) + 0.6)
    figure = Figure(figsize=size, dpi=144, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(layers), heads, squeeze=False)
    for row, layer in zip(axes, layers, strict=True):
        for head, ax in enumerate(row):
            ax.imshow(pattern[layer, head], cmap="Blues", vmin=0, vmax=1)
            ax.set_title(f"L{layer} head {head}", fontsize=7)
            ax.set_xticks([])
            few = seq <= 24 and head == 0
            ax.set_yticks(range(seq) if few else [], labels if few else [], fontsize=3.5)
    return figure


def lens_figure(best: np.ndarray, chance: np.ndarray, labels: list[str], say) -> Figure:
    """What the model would say after every layer, shaded by how sure it would be."""
    layers, seq = best.shape
    size = (0.62 * seq + 1, 0.32 * layers + 1)
    figure = Figure(figsize=size, dpi=144, layout="constrained")
    FigureCanvasAgg(figure)
    ax = figure.subplots()
    image = ax.imshow(chance, cmap="Blues", vmin=0, vmax=1, aspect="auto", origin="lower")
    for layer in range(layers):
        for position, piece in enumerate(show(say(best[layer]))):
            color = "white" if chance[layer, position] > 0.6 else "black"
            ax.text(position, layer, piece, ha="center", va="center", fontsize=5, color=color)
    ax.set_xticks(range(seq), labels, fontsize=5, rotation=60, ha="right")
    ax.set_yticks(range(layers), [f"L{i}" for i in range(layers)], fontsize=6)
    ax.set_xlabel("read so far, up to")
    figure.colorbar(image, label="probability of that token", shrink=0.8)
    return figure


def main(config: InspectModel) -> None:
    encoder = encoders.load(config.model)
    inputs = example(encoder, config.text)
    console = Console()
    console.print(site_table(encoder, inputs))
    if not isinstance(encoder.config, encoders.CausalConfig) or encoder.tokenizer is None:
        return
    model, tokenizer = encoder.config, encoder.tokenizer

    @jax.jit
    def read(params, tokens):
        _, got = encoder.forward(params, model, tokens, capture=("pattern", "resid_post"))

        def top(logits):
            return jnp.argmax(logits, -1)[0], jax.nn.softmax(logits, axis=-1).max(-1)[0]

        lens = encoders.logit_lens(params, model, got["resid_post"], reduce=top)
        return got["pattern"][:, 0], lens, encoders.attribution_error(params, model, tokens)

    pattern, (best, chance), error = jax.device_get(read(encoder.params, inputs))
    console.print(f"attribution error {error:.1e}: components sum to the logits")
    labels = show(tokenizer.pieces(np.asarray(inputs[0])))
    count = min(config.layers, model.n_layers)
    layers = [round(i) for i in np.linspace(0, model.n_layers - 1, count)]
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    save_figure(attention_figure(pattern, layers, labels), out / "attention.png")
    save_figure(lens_figure(best, chance, labels, tokenizer.pieces), out / "logit_lens.png")
    console.print(f"figures in {out}")


if __name__ == "__main__":
    settings = tyro.cli(InspectModel, description=__doc__), Processes()
    sys.exit(run(lambda config, must_stop: main(config), lambda: settings))

"""Turns the results of a run into its report: what a person looks at in the end."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxinterp import files, run_folder
from jaxinterp.config import RunConfig
from jaxinterp.dictionaries import formats
from jaxinterp.dictionaries.metrics import frequency_histogram
from jaxinterp.evaluation.features import (
    direct_logits,
    histograms,
    row_activations,
    top_rows,
)
from jaxinterp.inputs import Inputs, digests
from jaxinterp.logging import read_jsonl
from jaxinterp.measuring import pieces, read_held_out
from jaxinterp.report import figures
from jaxinterp.report.content import (
    Context,
    Curve,
    Feature,
    Histogram,
    LayerDimension,
    Metric,
    Report,
)
from jaxinterp.report.page import write_page

_AROUND = 24  # tokens shown on each side of the strongest one
_BINS = 24
_NEEDED = ("l0", "held_in_tokens", "held_out_tokens", "cross_entropy")  # in evaluation.json
# Field of evaluation.json -> how it is shown.
_METRICS = {
    "variance_explained": Metric(
        "variance explained",
        None,
        "share of the variance of held-out activations around their mean that the "
        "reconstruction explains",
        target=0.80,
    ),
    "cross_entropy_recovered": Metric(
        "cross-entropy recovered",
        None,
        "of the loss that zeroing the site costs, the share that the reconstruction gives back",
        target=0.90,
    ),
    "cross_entropy_recovered_over_mean": Metric(
        "recovered over mean ablation",
        None,
        "the same against replacing the site by its mean, a harder baseline",
    ),
    "divergence_recovered": Metric(
        "divergence recovered",
        None,
        "one minus the KL divergence from the model's own predictions, over that of zeroing the "
        "site",
    ),
    "shrinkage": Metric(
        "shrinkage",
        None,
        "how much too short reconstructions are around the mean; 0 is unbiased",
        format=".1%",
    ),
    "encoder_decoder_cosine": Metric(
        "encoder-decoder cosine",
        None,
        "mean over the latents that fire of the cosine between what each reads and writes",
    ),
    "l0": Metric("active latents per token (L0)", None, "mean over held-out tokens", format=".1f"),
    "dense": Metric(
        "dense latents",
        None,
        "share of the latents that more than a tenth of the held-out tokens activate",
        format=".1%",
    ),
    "dead": Metric(
        "dead latents",
        None,
        "share of the latents that no held-out token activates",
        format=".1%",
        target=0.10,
        lower_is_better=True,
    ),
}


def present(config: RunConfig, inputs: Inputs, folder: Path) -> Report:
    """Writes `metrics.json`, figures and `report.html` of a run whose other stages are done.

    Returns:
        What the page shows.

    Raises:
        ValueError: the text is no longer that of the run, or its results are damaged.
    """
    run_folder.check_text(config, folder, digests(inputs))
    evaluation = _read(folder / "evaluation.json", _NEEDED)
    geometry = files.read_json(folder / "geometry.json")
    profile = draw_geometry(folder)
    curve = _curve(folder)
    features = _features(config, inputs, folder)
    fired = files.read_arrays(folder / "latents.safetensors")["fired"]
    report = Report(
        title=f"{config.name}: {inputs.site} of {config.model}",
        subtitle=(
            f"{inputs.plan.variant} dictionary of {len(fired):,} latents, {evaluation['l0']:.1f} "
            f"active per token, trained on {evaluation['held_in_tokens']:,} tokens"
        ),
        facts=(
            ("model", config.model),
            ("text", config.text),
            ("site", inputs.site),
            ("held-in tokens", f"{evaluation['held_in_tokens']:,}"),
            ("held-out tokens", f"{evaluation['held_out_tokens']:,}"),
            (
                "model loss on held-out text",
                f"{evaluation['cross_entropy']['clean']:.3f} nats/token",
            ),
            ("seed", str(config.seed)),
        ),
        metrics=tuple(dataclasses.replace(m, value=evaluation.get(n)) for n, m in _METRICS.items()),
        profile=profile,
        curve=curve,
        features=features,
        notes=(),
    )
    figures.save_figure(figures.training_curves(curve), folder / "figures" / "training.png")
    fired = files.read_arrays(folder / "latents.safetensors")["fired"]
    counts, edges, never = frequency_histogram(fired / evaluation["held_out_tokens"])
    drawn = figures.firing_frequencies(counts.tolist(), edges.tolist(), never=never)
    figures.save_figure(drawn, folder / "figures" / "firing_frequencies.png")
    write_page(folder / "report.html", report)
    files.write_json(folder / "metrics.json", evaluation | {"geometry": geometry})
    return report


def draw_geometry(folder: Path) -> tuple[LayerDimension, ...]:
    """Draws the dimensions of the layers, and of every layer over scales, from `geometry.json`.

    Returns:
        The layers' dimensions.
    """
    layers = _read(folder / "geometry.json", ("layers",))["layers"]
    fields = [field.name for field in dataclasses.fields(LayerDimension)]
    profile = tuple(LayerDimension(**{name: layer[name] for name in fields}) for layer in layers)
    target = folder / "figures"
    target.mkdir(exist_ok=True)
    figures.save_figure(figures.layer_profile(profile), target / "layer_profile.png")
    scans = [(layer["layer_name"], layer["scan"]) for layer in layers if "scan" in layer]
    curves = [
        figures.Band(name, scan["neighbors"], scan["values"], scan["errors"])
        for name, scan in scans
    ]
    drawn = figures.bands(
        curves,
        x_label="neighbours (GRIDE, ranks n and 2n)",
        y_label="intrinsic dimension",
        logarithmic=True,
    )
    figures.save_figure(drawn, target / "scales.png")
    return profile


def _read(path: Path, needed: Sequence[str]) -> dict[str, Any]:
    found = files.read_json(path)
    for name in needed:
        if name not in found:
            raise ValueError(f"{path} lacks {name!r}: delete it and run demo again")
    return found


def _curve(folder: Path) -> Curve:
    lines = read_jsonl(folder / "training.jsonl")
    shown = {"variance explained": "variance_explained", "dead latents (share)": "dead"}
    return Curve(
        step=tuple(line["step"] for line in lines),
        series={words: tuple(line[name] for line in lines) for words, name in shown.items()},
    )


def _features(config: RunConfig, inputs: Inputs, folder: Path) -> tuple[Feature, ...]:
    """The latents that carry the most energy over the held-out text, with their contexts."""
    dictionary, params, _ = formats.load(folder / "dictionary")
    sums = files.read_arrays(folder / "latents.safetensors")
    tokens = int(inputs.held_out.mask[:, 1:].sum())
    strongest = np.argsort(-sums["energy"], kind="stable")[: config.features]
    strongest = strongest[sums["fired"][strongest] > 0]
    rows = read_held_out(folder)
    triples = zip(*(pieces(rows[n]) for n in ("activations", "row", "position")), strict=True)
    best = top_rows(dictionary, params, triples, config.contexts)
    counts = histograms(dictionary, params, pieces(rows["activations"]), sums["peak"], bins=_BINS)
    latent, rank = np.nonzero(best.values[strongest] > 0)
    which = best.rows[strongest][latent, rank]
    along = row_activations(
        inputs.encoder, dictionary, params, inputs.held_out, inputs.site, strongest[latent], which
    )
    atoms = jnp.asarray(np.asarray(params["decoder"])[strongest])
    up, up_ids, down, down_ids = (np.asarray(a) for a in direct_logits(inputs.encoder, atoms))
    shown = []
    for i, index in enumerate(strongest):
        pairs = np.flatnonzero(latent == i)
        positions = best.positions[index][rank[pairs]]
        shown.append(
            Feature(
                index=int(index),
                frequency=float(sums["fired"][index] / tokens),
                peak=float(sums["peak"][index]),
                mean_active=float(sums["mass"][index] / sums["fired"][index]),
                histogram=Histogram(
                    edges=tuple(np.linspace(0, sums["peak"][index], _BINS + 1).tolist()),
                    counts=tuple(counts[index].astype(int).tolist()),
                ),
                promoted=_named(inputs, up_ids[i], up[i]),
                suppressed=_named(inputs, down_ids[i], down[i]),
                contexts=tuple(
                    _context(inputs, int(which[p]), int(at), along[p])
                    for p, at in zip(pairs, positions, strict=True)
                ),
            )
        )
    return tuple(shown)


def _named(inputs: Inputs, ids: np.ndarray, logits: np.ndarray) -> tuple[tuple[str, float], ...]:
    names = inputs.tokenizer.pieces(ids)
    return tuple((name, round(float(x), 4)) for name, x in zip(names, logits, strict=True))


def _context(inputs: Inputs, row: int, focus: int, along: np.ndarray) -> Context:
    rows = inputs.held_out
    last = int(rows.mask[row].sum())
    start, stop = max(1, focus - _AROUND), min(last, focus + _AROUND + 1)
    return Context(
        tokens=tuple(inputs.tokenizer.pieces(rows.tokens[row, start:stop])),
        activations=tuple(round(float(a), 4) for a in along[start:stop]),
        focus=focus - start,
        document=inputs.documents[int(rows.document[row, 0])].name,
    )

"""Settings of `experiments/compare_dictionaries.py`, and the recipes that it compares.

Command: `python experiments/compare_dictionaries.py`. Expected: see there.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple


@dataclass(frozen=True)
class CompareDictionaries:
    """Which dictionaries, how sparse, how long, and on what they are trained.

    Attributes:
        model: a folder in Hugging Face format, a hub name, or "tiny" for the shipped model.
        text: "installed", a file, a folder, or a hub data set.
        site: where the dictionaries read and are spliced in.
        context: tokens in a row of text.
        rows: rows of held-in text; a fifth as many of held-out text are measured on.
        spliced_rows: held-out rows on which cross-entropy is measured.
        variants: names in the table; empty for all.
        k: active latents per token: k, or what the penalty's weight is steered to.
        width: latents.
        seeds: dictionaries of each variant.
        steps: training steps.
        batch: tokens in a step.
        learning_rate: peak rate of Adam.
        itda_error: share of the mean square length from which ITDA makes an atom of an activation.
        group_lasso: by how much each block of a predictive atom gets shorter in a step.
        seed: of rows, batches and dictionaries.
        out: folder of the table and of one file a row.
        document: where to write the table with what it means; None for nowhere else.
    """

    model: str = "tiny"
    text: str = "installed"
    site: str = "L2.resid_post"
    context: int = 256
    rows: int = 200
    spliced_rows: int = 16
    variants: tuple[str, ...] = ()
    k: int = 16
    width: int = 512
    seeds: int = 5
    steps: int = 600
    batch: int = 256
    learning_rate: float = 2e-3
    itda_error: float = 0.3
    group_lasso: float = 1e-4
    seed: int = 0
    out: str = "runs/compare_dictionaries"
    document: Path | None = None


class Recipe(NamedTuple):
    """How a row of the table is made.

    Attributes:
        variant: its name in the registry.
        options: as a file would hold them.
        learned: by plain descent; with the weight of the penalty steered to an L0; by descent with
            a group lasso on the atoms; or grown from activations.
    """

    variant: str
    options: dict[str, Any]
    learned: Literal["plainly", "to an L0", "in groups", "by growing"] = "plainly"


def recipes(config: CompareDictionaries, d: int) -> dict[str, Recipe]:
    """The rows of the table by name, for activations of dimension d."""
    k, width, steps = config.k, config.width, config.steps
    common = {"width": width, "dead_after": 50 * config.batch}

    def counted(variant: str, **options: Any) -> Recipe:
        return Recipe(variant, common | {"k": k} | options)

    def penalised(variant: str, **options: Any) -> Recipe:
        return Recipe(variant, common | options, "to an L0")

    def few(variant: str, **options: Any) -> Recipe:
        return Recipe(variant, common | {"width": max(width // 16, 4)} | options)

    anneal = {"anneal_from": steps // 4, "anneal_until": steps * 3 // 4}
    archetypal = {"part": "archetypal", "candidates": 2 * width}
    prefixes, ranks = [width // 8, width // 4, width // 2, width], [min(width, d), d // 4, d // 4]
    parts = [d // 4] * 4
    return {
        "relu": penalised("relu"),
        "p_anneal": penalised("p_anneal", **anneal),
        "gated": penalised("gated"),
        "jumprelu": penalised("jumprelu", bandwidth=0.2),
        "topk": counted("topk"),
        "abs_topk": counted("abs_topk"),
        "multi_topk": counted("multi_topk"),
        "decaying_topk": counted("decaying_topk", first_k=4 * k, decay_steps=steps // 2),
        "group_max": counted("group_max"),
        "batch_topk": counted("batch_topk"),
        "matryoshka": counted("matryoshka", recipe="batch_topk", prefixes=prefixes),
        "row_normalised": counted("row_normalised", recipe="topk"),
        "mutual_choice": counted("mutual_choice"),
        "feature_choice": counted("feature_choice", choose_from=steps // 2),
        "archetypal topk": counted("topk", atoms=archetypal),
        "polynomial": counted("polynomial", recipe="topk", ranks=ranks),
        "structured": penalised("structured", **anneal),
        "variational": counted("variational"),
        "variational_mean": counted("variational_mean"),
        "matching_pursuit": counted("matching_pursuit"),
        "orthogonal_pursuit": counted("orthogonal_pursuit"),
        "itda": Recipe("itda", {"width": width, "k": k}, "by growing"),
        "vector_quantised": Recipe("vector_quantised", common | {"books": k}),
        "binary": few("binary"),
        "latent_quantised": few("latent_quantised"),
        "finite_scalar": few("finite_scalar"),
        "predictive": few("predictive", groups=parts)._replace(learned="in groups"),
        "dependency_sparse": few("dependency_sparse", hidden=d),
    }

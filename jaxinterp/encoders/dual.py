"""Two towers, text and images, that meet in one space: CLIP and SigLIP.

Sites are those of the towers with the tower in front: `text/L3.resid_post`, `image/pooled`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxinterp.encoders import bidirectional
from jaxinterp.encoders.bidirectional import BidirectionalConfig, Output
from jaxinterp.encoders.encoder import Encoder
from jaxinterp.encoders.shapes import Shapes
from jaxinterp.encoders.sites import Capture, Edit
from jaxinterp.encoders.stack import Params

TOWERS = ("text", "image")


@dataclass(frozen=True)
class DualConfig:
    """The towers, each with a projection or a pooling head into the shared space."""

    text: BidirectionalConfig
    image: BidirectionalConfig


class DualInputs(NamedTuple):
    """A batch of texts and a batch of images (of another size if you like); None to leave one out.

    Attributes:
        tokens: token ids.
        images: normalised images, channels last.
    """

    tokens: Int[Array, "batch seq"] | None = None
    images: Float[Array, "images height width channels"] | None = None


class DualOutput(NamedTuple):
    """What both towers say.

    Attributes:
        text: output of the text tower; `pooled` is the embedding, not normalised.
        image: output of the image tower.
        logits: `(images, texts)` scaled cosine similarities; None unless both were given.
    """

    text: Output | None
    image: Output | None
    logits: Array | None


def sites(config: DualConfig) -> tuple[str, ...]:
    """The sites of both towers."""
    return tuple(
        f"{tower}/{site}"
        for tower in TOWERS
        for site in bidirectional.sites(getattr(config, tower))
    )


def shapes(config: DualConfig) -> Shapes:
    """The shape of every parameter, by path."""
    found: Shapes = {"logit_scale": (), "logit_bias": ()}
    for tower in TOWERS:
        inner = bidirectional.shapes(getattr(config, tower))
        found |= {f"{tower}.{path}": shape for path, shape in inner.items()}
    return found


def forward(
    params: Params,
    config: DualConfig,
    inputs: DualInputs,
    *,
    mask: Bool[Array, "batch seq"] | None = None,
    capture: Sequence[Capture] = (),
    edits: Mapping[str, Edit] | None = None,
    return_logits: bool = True,
) -> tuple[DualOutput | None, dict[str, Any]]:
    """Runs the towers, editing and capturing at named sites.

    Args:
        params: `text`, `image`, `logit_scale` and, for SigLIP, `logit_bias`.
        config: the config (static).
        inputs: texts, images, or both.
        mask: False at padding of the texts.
        capture: sites with the tower in front, or `(site, reducer)` pairs; static.
        edits: site with the tower in front -> pure `(value, layer) -> value`.
        return_logits: if False, only the layers that a capture needs are run, and None is
            returned in place of the output.

    Returns:
        The output, and a dict from each captured site, as named by the caller, to its value.

    Raises:
        ValueError: as the towers; a site without a tower, or one of a tower that gets no input.
    """
    given = {"text": inputs.tokens, "image": inputs.images}
    outputs: dict[str, Output | None] = {"text": None, "image": None}
    captured: dict[str, Any] = {}
    captures = _by_tower([(c, None) if isinstance(c, str) else c for c in capture], given)
    changes = _by_tower(list((edits or {}).items()), given)
    for tower, value in given.items():
        if value is None:
            continue
        outputs[tower], found = bidirectional.forward(
            params[tower],
            getattr(config, tower),
            value,
            mask=mask if tower == "text" else None,
            capture=captures[tower],
            edits=dict(changes[tower]),
            return_logits=return_logits,
        )
        captured |= {f"{tower}/{name}": x for name, x in found.items()}
    if not return_logits:
        return None, captured
    logits = None
    text, image = outputs["text"], outputs["image"]
    if text is not None and image is not None:
        logits = similarity(params, text.pooled, image.pooled)
    return DualOutput(text, image, logits), captured


def tower(encoder: Encoder, name: str) -> Encoder:
    """One of the towers as an encoder of its own: of text, or of images.

    Its inputs are token ids or images, its sites have no tower in front, and its output is
    `bidirectional.Output`. The parameters are shared, not copied.

    Args:
        encoder: CLIP or SigLIP.
        name: "text" or "image".

    Raises:
        ValueError: another name, or an encoder that has no towers.
    """
    if not isinstance(encoder.config, DualConfig):
        raise ValueError(f"{encoder.name} is no pair of towers: use it as it is")
    if name not in TOWERS:
        raise ValueError(f"{name!r} is no tower: {' or '.join(TOWERS)}")
    return encoder._replace(
        forward=bidirectional.forward,
        sites=bidirectional.sites,
        config=getattr(encoder.config, name),
        params=encoder.params[name],
        tokenizer=encoder.tokenizer if name == "text" else None,
        preprocess=encoder.preprocess if name == "image" else None,
    )


def similarity(
    params: Params, text: Float[Array, "texts d"], image: Float[Array, "images d"]
) -> Float[Array, "images texts"]:
    """Cosines times `exp(logit_scale)`, plus `logit_bias` where there is one."""

    def unit(x: Array) -> Array:
        wide = x.astype(jnp.float32)
        return wide / jnp.linalg.norm(wide, axis=-1, keepdims=True)

    cosines = unit(image) @ unit(text).T
    logits = cosines * jnp.exp(params["logit_scale"].astype(jnp.float32))
    return logits + params["logit_bias"] if "logit_bias" in params else logits


def _by_tower(
    requests: Sequence[tuple[str, Any]], given: Mapping[str, Any]
) -> dict[str, tuple[tuple[str, Any], ...]]:
    found: dict[str, list[tuple[str, Any]]] = {tower: [] for tower in TOWERS}
    for name, value in requests:
        tower, slash, site = name.partition("/")
        if not slash or tower not in found:
            raise ValueError(f"{name!r}: put the tower in front, text/{name} or image/{name}")
        if given[tower] is None:
            raise ValueError(f"{name!r}: no input was given to the {tower} tower")
        found[tower].append((site, value))
    return {tower: tuple(pairs) for tower, pairs in found.items()}

"""Images as a checkpoint wants them: resize, crop, scale, normalise, by its own settings."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from jaxinterp.encoders.weights import read_json

_FILES = ("preprocessor_config.json", "processor_config.json")


class Preprocess(NamedTuple):
    """Settings of a checkpoint's image processor.

    Attributes:
        shortest: resize so that the shorter side has this many pixels; None not to.
        size: resize to this height and width; None not to.
        crop: then cut this height and width from the middle; None not to.
        resample: Pillow's number of the filter (2 bilinear, 3 bicubic).
        factor: multiplies the pixels, which come as 0..255.
        mean: subtracted per channel after that.
        std: divides per channel after that.
    """

    shortest: int | None
    size: tuple[int, int] | None
    crop: tuple[int, int] | None
    resample: int
    factor: float
    mean: tuple[float, ...]
    std: tuple[float, ...]


def load_preprocess(folder: str | Path):
    """The function `images -> model inputs` of a model folder; None where it has no settings.

    Returns:
        A partial `preprocess`, or None.

    Raises:
        ValueError: a setting that is not implemented.
    """
    path = next((p for p in (Path(folder) / f for f in _FILES) if p.is_file()), None)
    if path is None:
        return None
    raw = read_json(path)
    raw = raw.get("image_processor", raw)
    return partial(preprocess, _settings(raw, path)) if "image_mean" in raw else None


def _settings(raw: dict[str, Any], path: Path) -> Preprocess:
    if raw.get("do_pad"):
        raise ValueError(f"{path}: do_pad is not implemented")
    crop = None
    if raw.get("do_center_crop", False):
        given = raw["crop_size"]
        crop = (given, given) if isinstance(given, int) else (given["height"], given["width"])
    shortest = size = None
    if raw.get("do_resize", True):
        given = raw["size"]
        if isinstance(given, int):  # old files: the shorter side if a crop follows, else a square
            shortest, size = (given, None) if crop else (None, (given, given))
        elif set(given) == {"shortest_edge"}:
            shortest = given["shortest_edge"]
        elif set(given) == {"height", "width"}:
            size = (given["height"], given["width"])
        else:
            raise ValueError(f"{path}: size {given} is not implemented")
    channels = len(raw["image_mean"])
    normalise = raw.get("do_normalize", True)
    return Preprocess(
        shortest=shortest,
        size=size,
        crop=crop,
        resample=raw.get("resample", 3 if crop else 2),
        factor=float(raw.get("rescale_factor", 1 / 255)) if raw.get("do_rescale", True) else 1.0,
        mean=tuple(raw["image_mean"]) if normalise else (0.0,) * channels,
        std=tuple(raw["image_std"]) if normalise else (1.0,) * channels,
    )


def preprocess(
    settings: Preprocess, images: Sequence[Any]
) -> Float[np.ndarray, "batch height width channels"]:
    """Makes model inputs of pictures.

    Args:
        settings: the checkpoint's.
        images: pictures of any size: Pillow images, or uint8 arrays `(height, width)`,
            `(height, width, 3)` or with an alpha channel.

    Returns:
        Normalised float32 pixels.

    Raises:
        ValueError: an array that is not uint8 or not shaped like a picture, or sizes that differ
            after resizing.
    """
    done = [_prepare(settings, image) for image in images]
    shapes = {x.shape for x in done}
    if len(shapes) != 1:
        raise ValueError(f"{len(done)} images have the sizes {sorted(shapes)} after resizing")
    return np.stack(done)


def _prepare(settings: Preprocess, image: Any) -> np.ndarray:
    from PIL import Image

    if not isinstance(image, Image.Image):
        array = np.asarray(image)
        picture = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
        if array.dtype != np.uint8 or not picture:
            raise ValueError(
                f"an image of shape {array.shape} and type {array.dtype}: uint8 pixels in 0..255, "
                "(height, width) or (height, width, 3), needed"
            )
        image = Image.fromarray(array)
    image = image.convert("RGB")
    size = settings.size
    if settings.shortest is not None:
        short, long = sorted(image.size)
        longer = int(settings.shortest * long / short)
        wide = image.size[0] > image.size[1]
        size = (settings.shortest, longer) if wide else (longer, settings.shortest)
    if size is not None:
        image = image.resize((size[1], size[0]), settings.resample)
    pixels = np.asarray(image)
    if settings.crop is not None:
        pixels = _crop(pixels, settings.crop)
    scaled = pixels.astype(np.float32) * np.float32(settings.factor)
    mean, std = (np.asarray(x, np.float32) for x in (settings.mean, settings.std))
    return (scaled - mean) / std


def _crop(pixels: np.ndarray, crop: tuple[int, int]) -> np.ndarray:
    """The middle; a picture smaller than the crop gets black borders."""
    short = [max(c - n, 0) for c, n in zip(crop, pixels.shape, strict=False)]
    if any(short):
        before = [(s + 1) // 2 for s in short]
        widths = [(b, s - b) for b, s in zip(before, short, strict=True)]
        pixels = np.pad(pixels, [*widths, (0, 0)])
    top, left = ((n - c) // 2 for n, c in zip(pixels.shape, crop, strict=False))
    return pixels[top : top + crop[0], left : left + crop[1]]

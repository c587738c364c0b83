"""A model whose activations are read: a pure forward, its config, its parameters."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jaxinterp.tokenize import Tokenizer


class Encoder(NamedTuple):
    """What loading a model gives.

    Attributes:
        name: folder or hub name it came from.
        forward: `forward(params, config, inputs, *, mask, capture, edits) -> (output, captured)`.
        sites: `sites(config) -> names` of the places that can be captured and edited.
        config: frozen dataclass; static under jit.
        params: nested dict of arrays, blocks stacked on the leading axis.
        tokenizer: text to ids, for language models that brought one.
        preprocess: pictures to inputs, for encoders of images that brought their settings.
    """

    name: str
    forward: Callable[..., tuple[Any, dict[str, Any]]]
    sites: Callable[[Any], tuple[str, ...]]
    config: Any
    params: Any
    tokenizer: Tokenizer | None = None
    preprocess: Callable[[Sequence[Any]], Any] | None = None

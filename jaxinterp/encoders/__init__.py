"""Models whose activations are read, as pure forwards."""

from jaxinterp.encoders.adapters import from_function, from_linen, from_nnx
from jaxinterp.encoders.bidirectional import BidirectionalConfig, Output
from jaxinterp.encoders.causal import CausalConfig, Rotary
from jaxinterp.encoders.dual import DualConfig, DualInputs, DualOutput
from jaxinterp.encoders.encoder import Encoder
from jaxinterp.encoders.families import FAMILIES
from jaxinterp.encoders.hf import load, save
from jaxinterp.encoders.lens import Contributions, attribute, attribution_error, logit_lens
from jaxinterp.encoders.sites import BLOCK_SITES, OUTER_SITES, Capture, Edit, at_layer

__all__ = [
    "BLOCK_SITES",
    "FAMILIES",
    "OUTER_SITES",
    "BidirectionalConfig",
    "Capture",
    "CausalConfig",
    "Contributions",
    "DualConfig",
    "DualInputs",
    "DualOutput",
    "Edit",
    "Encoder",
    "Output",
    "Rotary",
    "at_layer",
    "attribute",
    "attribution_error",
    "from_function",
    "from_linen",
    "from_nnx",
    "load",
    "logit_lens",
    "save",
]

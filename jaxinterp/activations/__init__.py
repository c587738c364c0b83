"""From rows of tokens to rows of activations, in memory and on disk."""

from jaxinterp.activations.harvest import Harvest as Harvest
from jaxinterp.activations.harvest import capture_function as capture_function
from jaxinterp.activations.harvest import harvest as harvest

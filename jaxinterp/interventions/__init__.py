"""Changes to what a model computes, and what follows from them."""

from jaxinterp.interventions.latents import Effect as Effect
from jaxinterp.interventions.latents import effect as effect
from jaxinterp.interventions.latents import set_latents as set_latents

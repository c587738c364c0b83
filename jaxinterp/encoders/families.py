"""The families that can be loaded, by the `model_type` of their `config.json`.

Adding one is adding a reading of its config and a map of its names to a `families_*` module.
"""

from jaxinterp.encoders import (
    families_causal,
    families_dual,
    families_text,
    families_vision,
)
from jaxinterp.encoders.family import Family

FAMILIES: dict[str, Family] = {
    **families_causal.FAMILIES,
    **families_text.FAMILIES,
    **families_vision.FAMILIES,
    **families_dual.FAMILIES,
}

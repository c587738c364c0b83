"""Dictionaries on disk: our own format (`native`).

The variants by name are in `registry`.
"""

from jaxinterp.dictionaries.formats.native import load as load
from jaxinterp.dictionaries.formats.native import save as save

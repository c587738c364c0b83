"""Dictionaries on disk, ours and other libraries', none of them with torch.

    dictionary, params, header = formats.load("folder, file or hub name")   # whatever format
    formats.upload("folder", "owner/name")

Reading order: `lazy` (tensors read in parts), `stored` (what every reader gives and every writer
takes), `orientation` (square ones), `recognise` (which format a path holds), `plain` (what writers
share), `describe`, `hub`; then the formats: `native` (ours), `saelens` with its `_config` and
`_variants`, `sparsify`; `dictionary_learning`, `crosscoder_pt` by way of `torch_files`, `pickles`
and `zipped`; `gemma_scope`, `llama_scope`. The variants by name are in `registry`.
"""

from jaxinterp.dictionaries.formats.hub import download as download
from jaxinterp.dictionaries.formats.hub import upload as upload
from jaxinterp.dictionaries.formats.native import save as save
from jaxinterp.dictionaries.formats.recognise import FORMATS as FORMATS
from jaxinterp.dictionaries.formats.recognise import load as load
from jaxinterp.dictionaries.formats.recognise import open_stored as open_stored
from jaxinterp.dictionaries.formats.stored import Stored as Stored
from jaxinterp.dictionaries.formats.stored import from_memory as from_memory

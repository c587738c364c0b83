"""Learned dictionaries: sparse codes of activations, one variant a file."""

from jaxinterp.dictionaries.base import Codes as Codes
from jaxinterp.dictionaries.base import Dictionary as Dictionary
from jaxinterp.dictionaries.base import LossInfo as LossInfo
from jaxinterp.dictionaries.base import Stats as Stats
from jaxinterp.dictionaries.base import densify as densify
from jaxinterp.dictionaries.base import geometric_median as geometric_median
from jaxinterp.dictionaries.base import tangent_rows as tangent_rows
from jaxinterp.dictionaries.base import unit_rows as unit_rows
from jaxinterp.dictionaries.formats import load as load
from jaxinterp.dictionaries.formats import save as save
from jaxinterp.dictionaries.sparsify import decode_sparse as decode_sparse
from jaxinterp.dictionaries.sparsify import largest as largest
from jaxinterp.dictionaries.sparsify import selected_scores as selected_scores
from jaxinterp.dictionaries.sparsify import top_k_scores as top_k_scores
from jaxinterp.dictionaries.topk import topk as topk
from jaxinterp.dictionaries.train import Learner as Learner
from jaxinterp.dictionaries.train import TrainState as TrainState
from jaxinterp.dictionaries.train import fit as fit
from jaxinterp.dictionaries.train import learner as learner

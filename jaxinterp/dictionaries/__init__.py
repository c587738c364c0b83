"""Learned dictionaries: sparse codes of activations, one variant a file.

Reading order. What a dictionary is: `base`. Its parts: `scores`, `atoms`, `decode`, `errors`,
`penalties`; which latents are active: `sparsify`, `batch_selection`, `kernels`, `thresholds`;
`revival`, `metrics`. Variants that compose them: `relu`, `p_anneal`, `gated`, `jumprelu`, `topk`,
`abs_topk`, `multi_topk`, `decaying_topk`, `group_max`, `batch_topk`, `matryoshka`,
`row_normalised`; greedy: `pursuit`, `matching`, `nonnegative`, `refitting`, `matching_pursuit`,
`orthogonal_pursuit`, `itda`; with other atoms, decoders, budgets or priors: `archetypal`,
`polynomial`, `structured`, `feature_choice`, `variational`, `predictive`, `dependency_sparse`;
between sites: `transcoder`, `crosscoder`, `cross_layer_*`; in time: `temporal`, `contrastive`;
through the model: `end_to_end`; of discrete codes: `quantise`, `vector_quantised`, `codebook`,
`scalar_quantised`, `binary`, `bit_diffusion`, `hyperdimensional`. Training: `learner`, `train`,
`run`, `optimizers`, `averaging`, `control`, `resample`, `precision`, `sweep`, `padding`, `sites`.
On several devices: `shards`, `sharding`. By name: `registry`. Kept and changed: `formats`,
`fold`.
"""

from jaxinterp.dictionaries import hyperdimensional as hyperdimensional
from jaxinterp.dictionaries.abs_topk import abs_topk as abs_topk
from jaxinterp.dictionaries.archetypal import archetypal as archetypal
from jaxinterp.dictionaries.averaging import average_weights as average_weights
from jaxinterp.dictionaries.averaging import evaluation_params as evaluation_params
from jaxinterp.dictionaries.base import Codes as Codes
from jaxinterp.dictionaries.base import Dictionary as Dictionary
from jaxinterp.dictionaries.base import LossInfo as LossInfo
from jaxinterp.dictionaries.base import Stats as Stats
from jaxinterp.dictionaries.base import densify as densify
from jaxinterp.dictionaries.base import geometric_median as geometric_median
from jaxinterp.dictionaries.base import tangent_rows as tangent_rows
from jaxinterp.dictionaries.base import unit_rows as unit_rows
from jaxinterp.dictionaries.batch_selection import batch_top_k as batch_top_k
from jaxinterp.dictionaries.batch_topk import batch_topk as batch_topk
from jaxinterp.dictionaries.binary import binary as binary
from jaxinterp.dictionaries.codebook import moving_average as moving_average
from jaxinterp.dictionaries.contrastive import contrastive as contrastive
from jaxinterp.dictionaries.control import target_l0 as target_l0
from jaxinterp.dictionaries.cross_layer_batch_topk import (
    cross_layer_batch_topk as cross_layer_batch_topk,
)
from jaxinterp.dictionaries.cross_layer_jumprelu import cross_layer_jumprelu as cross_layer_jumprelu
from jaxinterp.dictionaries.cross_layer_topk import cross_layer_topk as cross_layer_topk
from jaxinterp.dictionaries.crosscoder import batch_topk_crosscoder as batch_topk_crosscoder
from jaxinterp.dictionaries.crosscoder import crosscoder as crosscoder
from jaxinterp.dictionaries.crosscoder import l1_crosscoder as l1_crosscoder
from jaxinterp.dictionaries.decaying_topk import decaying_topk as decaying_topk
from jaxinterp.dictionaries.dependency_sparse import dependency_sparse as dependency_sparse
from jaxinterp.dictionaries.end_to_end import end_to_end as end_to_end
from jaxinterp.dictionaries.feature_choice import aux_zipf_loss as aux_zipf_loss
from jaxinterp.dictionaries.feature_choice import feature_choice as feature_choice
from jaxinterp.dictionaries.feature_choice import mutual_choice as mutual_choice
from jaxinterp.dictionaries.fixed_k import fixed_k as fixed_k
from jaxinterp.dictionaries.fold import fold as fold
from jaxinterp.dictionaries.fold import normalised as normalised
from jaxinterp.dictionaries.fold import unit_norms as unit_norms
from jaxinterp.dictionaries.formats import load as load
from jaxinterp.dictionaries.formats import save as save
from jaxinterp.dictionaries.gated import gated as gated
from jaxinterp.dictionaries.group_max import group_max as group_max
from jaxinterp.dictionaries.itda import grow as grow
from jaxinterp.dictionaries.itda import itda as itda
from jaxinterp.dictionaries.itda import until_full as until_full
from jaxinterp.dictionaries.jumprelu import jumprelu as jumprelu
from jaxinterp.dictionaries.learner import Learner as Learner
from jaxinterp.dictionaries.learner import TrainState as TrainState
from jaxinterp.dictionaries.learner import learner as learner
from jaxinterp.dictionaries.matching import matching_codes as matching_codes
from jaxinterp.dictionaries.matching_pursuit import matching_pursuit as matching_pursuit
from jaxinterp.dictionaries.matryoshka import matryoshka as matryoshka
from jaxinterp.dictionaries.multi_topk import multi_topk as multi_topk
from jaxinterp.dictionaries.optimizers import clip_by_norm as clip_by_norm
from jaxinterp.dictionaries.optimizers import learning_rate as learning_rate
from jaxinterp.dictionaries.optimizers import optimizer as optimizer
from jaxinterp.dictionaries.optimizers import scale_by_name as scale_by_name
from jaxinterp.dictionaries.orthogonal_pursuit import orthogonal_pursuit as orthogonal_pursuit
from jaxinterp.dictionaries.p_anneal import p_anneal as p_anneal
from jaxinterp.dictionaries.padding import narrowed as narrowed
from jaxinterp.dictionaries.padding import topk_of as topk_of
from jaxinterp.dictionaries.polynomial import pair_interaction as pair_interaction
from jaxinterp.dictionaries.polynomial import polynomial as polynomial
from jaxinterp.dictionaries.polynomial import strongest_pairs as strongest_pairs
from jaxinterp.dictionaries.polynomial import strongest_triples as strongest_triples
from jaxinterp.dictionaries.polynomial import triple_interaction as triple_interaction
from jaxinterp.dictionaries.precision import in_bfloat16 as in_bfloat16
from jaxinterp.dictionaries.predictive import predictive as predictive
from jaxinterp.dictionaries.predictive import shrinking as shrinking
from jaxinterp.dictionaries.refitting import gradient_codes as gradient_codes
from jaxinterp.dictionaries.refitting import nonnegative_codes as nonnegative_codes
from jaxinterp.dictionaries.refitting import orthogonal_codes as orthogonal_codes
from jaxinterp.dictionaries.registry import build as build
from jaxinterp.dictionaries.relu import relu as relu
from jaxinterp.dictionaries.resample import resampled as resampled
from jaxinterp.dictionaries.revival import auxiliary_error as auxiliary_error
from jaxinterp.dictionaries.row_normalised import row_normalised as row_normalised
from jaxinterp.dictionaries.run import run as run
from jaxinterp.dictionaries.scalar_quantised import finite_scalar as finite_scalar
from jaxinterp.dictionaries.scalar_quantised import latent_quantised as latent_quantised
from jaxinterp.dictionaries.sharding import sharded as sharded
from jaxinterp.dictionaries.sites import between as between
from jaxinterp.dictionaries.sites import learn_from as learn_from
from jaxinterp.dictionaries.sites import stacked as stacked
from jaxinterp.dictionaries.sites import stacked_between as stacked_between
from jaxinterp.dictionaries.sparsify import decode_sparse as decode_sparse
from jaxinterp.dictionaries.sparsify import largest as largest
from jaxinterp.dictionaries.sparsify import selected_scores as selected_scores
from jaxinterp.dictionaries.sparsify import top_k_scores as top_k_scores
from jaxinterp.dictionaries.structured import structured as structured
from jaxinterp.dictionaries.sweep import by_site as by_site
from jaxinterp.dictionaries.sweep import member as member
from jaxinterp.dictionaries.sweep import sweep as sweep
from jaxinterp.dictionaries.temporal import temporal as temporal
from jaxinterp.dictionaries.topk import topk as topk
from jaxinterp.dictionaries.train import Stopped as Stopped
from jaxinterp.dictionaries.train import fit as fit
from jaxinterp.dictionaries.train import fit_feed as fit_feed
from jaxinterp.dictionaries.transcoder import skip_transcoder as skip_transcoder
from jaxinterp.dictionaries.transcoder import transcoder as transcoder
from jaxinterp.dictionaries.variational import variational as variational
from jaxinterp.dictionaries.variational import variational_mean as variational_mean
from jaxinterp.dictionaries.vector_quantised import vector_quantised as vector_quantised

"""How good a dictionary is: reconstruction, behaviour of the model, what its latents show.

Known features and concepts: `recovery`, `concepts`, `log_posteriors`, `hyperdimensional_probe`,
`disentanglement`; parts of a model: `circuit_heads`; between models: `layer_matching`,
`model_diff`, `blindspots`; between seeds: `stability`; worlds: `transition_map`. Scores:
`detection`, `ranking`.
"""

from jaxinterp.evaluation.behaviour import CrossEntropy as CrossEntropy
from jaxinterp.evaluation.behaviour import cross_entropy as cross_entropy
from jaxinterp.evaluation.blindspots import blindspots as blindspots
from jaxinterp.evaluation.circuit_heads import head_codes as head_codes
from jaxinterp.evaluation.circuit_heads import novel_codes as novel_codes
from jaxinterp.evaluation.circuit_heads import novel_pairs as novel_pairs
from jaxinterp.evaluation.concepts import name_latents as name_latents
from jaxinterp.evaluation.detection import precision_recall as precision_recall
from jaxinterp.evaluation.detection import roc_auc as roc_auc
from jaxinterp.evaluation.disentanglement import info_mec as info_mec
from jaxinterp.evaluation.features import TopRows as TopRows
from jaxinterp.evaluation.features import direct_logits as direct_logits
from jaxinterp.evaluation.features import histograms as histograms
from jaxinterp.evaluation.features import row_activations as row_activations
from jaxinterp.evaluation.features import top_rows as top_rows
from jaxinterp.evaluation.layer_matching import jaccard as jaccard
from jaxinterp.evaluation.layer_matching import matching_accuracy as matching_accuracy
from jaxinterp.evaluation.log_posteriors import fit_probes as fit_probes
from jaxinterp.evaluation.log_posteriors import follow as follow
from jaxinterp.evaluation.log_posteriors import log_odds as log_odds
from jaxinterp.evaluation.model_diff import atom_cosines as atom_cosines
from jaxinterp.evaluation.model_diff import latent_scaling as latent_scaling
from jaxinterp.evaluation.model_diff import relative_norms as relative_norms
from jaxinterp.evaluation.ranking import mean_rank as mean_rank
from jaxinterp.evaluation.ranking import spearman as spearman
from jaxinterp.evaluation.reconstruction import Reconstruction as Reconstruction
from jaxinterp.evaluation.reconstruction import measure as measure
from jaxinterp.evaluation.recovery import match_atoms as match_atoms
from jaxinterp.evaluation.transition_map import count_transitions as count_transitions
from jaxinterp.evaluation.transition_map import shortest_way as shortest_way

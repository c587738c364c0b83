"""Estimators of intrinsic dimension, one family a file; they read distances or neighbourhoods."""

from jaxinterp.geometry.dimension.adaptive import AdaptiveEstimate as AdaptiveEstimate
from jaxinterp.geometry.dimension.adaptive import adaptive_dimension as adaptive_dimension
from jaxinterp.geometry.dimension.adaptive import constant_density_sizes as constant_density_sizes
from jaxinterp.geometry.dimension.angles import angle_based as angle_based
from jaxinterp.geometry.dimension.angles import tight_locality as tight_locality
from jaxinterp.geometry.dimension.binomial import binomial as binomial
from jaxinterp.geometry.dimension.bits import BitsDimension as BitsDimension
from jaxinterp.geometry.dimension.bits import bits_dimension as bits_dimension
from jaxinterp.geometry.dimension.bits import hamming_histograms as hamming_histograms
from jaxinterp.geometry.dimension.correlation import correlation_integral as correlation_integral
from jaxinterp.geometry.dimension.danco import ball_statistics as ball_statistics
from jaxinterp.geometry.dimension.danco import danco as danco
from jaxinterp.geometry.dimension.estimate import DimensionEstimate as DimensionEstimate
from jaxinterp.geometry.dimension.estimate import ScaleScan as ScaleScan
from jaxinterp.geometry.dimension.extrapolated import (
    extrapolated_likelihood as extrapolated_likelihood,
)
from jaxinterp.geometry.dimension.fisher_separability import (
    fisher_separability as fisher_separability,
)
from jaxinterp.geometry.dimension.gride import gride as gride
from jaxinterp.geometry.dimension.gride import gride_ladder as gride_ladder
from jaxinterp.geometry.dimension.heterogeneous import (
    heterogeneous_dimension as heterogeneous_dimension,
)
from jaxinterp.geometry.dimension.knn_graph import knn_graph_dimension as knn_graph_dimension
from jaxinterp.geometry.dimension.lattice import lattice_dimension as lattice_dimension
from jaxinterp.geometry.dimension.levina_bickel import levina_bickel as levina_bickel
from jaxinterp.geometry.dimension.magnitude import magnitude_dimension as magnitude_dimension
from jaxinterp.geometry.dimension.mind import mind as mind
from jaxinterp.geometry.dimension.moments import mada as mada
from jaxinterp.geometry.dimension.moments import method_of_moments as method_of_moments
from jaxinterp.geometry.dimension.persistent_homology import (
    persistent_homology_dimension as persistent_homology_dimension,
)
from jaxinterp.geometry.dimension.signal_rank import gavish_donoho_rank as gavish_donoho_rank
from jaxinterp.geometry.dimension.signal_rank import (
    kritchman_nadler_rank as kritchman_nadler_rank,
)
from jaxinterp.geometry.dimension.signal_rank import marchenko_pastur_rank as marchenko_pastur_rank
from jaxinterp.geometry.dimension.signal_rank import minka_rank as minka_rank
from jaxinterp.geometry.dimension.signal_rank import parallel_analysis as parallel_analysis
from jaxinterp.geometry.dimension.skewness import (
    expected_simplex_skewness as expected_simplex_skewness,
)
from jaxinterp.geometry.dimension.soft import soft_dimension as soft_dimension
from jaxinterp.geometry.dimension.spectral_rules import broken_stick as broken_stick
from jaxinterp.geometry.dimension.spectral_rules import covariance_spectrum as covariance_spectrum
from jaxinterp.geometry.dimension.spectral_rules import fan as fan
from jaxinterp.geometry.dimension.spectral_rules import fukunaga_olsen as fukunaga_olsen
from jaxinterp.geometry.dimension.spectral_rules import kaiser as kaiser
from jaxinterp.geometry.dimension.spectral_rules import largest_gap as largest_gap
from jaxinterp.geometry.dimension.spectral_rules import local_spectra as local_spectra
from jaxinterp.geometry.dimension.spectral_rules import participation_ratio as participation_ratio
from jaxinterp.geometry.dimension.spectral_rules import variance_ratio as variance_ratio
from jaxinterp.geometry.dimension.two_nn import two_nn as two_nn

"""Pure functions on point clouds and on the distances within them."""

from jaxinterp.geometry.dimension import AdaptiveEstimate as AdaptiveEstimate
from jaxinterp.geometry.dimension import BitsDimension as BitsDimension
from jaxinterp.geometry.dimension import DimensionEstimate as DimensionEstimate
from jaxinterp.geometry.dimension import ScaleScan as ScaleScan
from jaxinterp.geometry.dimension import adaptive_dimension as adaptive_dimension
from jaxinterp.geometry.dimension import angle_based as angle_based
from jaxinterp.geometry.dimension import ball_statistics as ball_statistics
from jaxinterp.geometry.dimension import binomial as binomial
from jaxinterp.geometry.dimension import bits_dimension as bits_dimension
from jaxinterp.geometry.dimension import broken_stick as broken_stick
from jaxinterp.geometry.dimension import constant_density_sizes as constant_density_sizes
from jaxinterp.geometry.dimension import correlation_integral as correlation_integral
from jaxinterp.geometry.dimension import covariance_spectrum as covariance_spectrum
from jaxinterp.geometry.dimension import danco as danco
from jaxinterp.geometry.dimension import (
    expected_simplex_skewness as expected_simplex_skewness,
)
from jaxinterp.geometry.dimension import (
    extrapolated_likelihood as extrapolated_likelihood,
)
from jaxinterp.geometry.dimension import fan as fan
from jaxinterp.geometry.dimension import (
    fisher_separability as fisher_separability,
)
from jaxinterp.geometry.dimension import fukunaga_olsen as fukunaga_olsen
from jaxinterp.geometry.dimension import gavish_donoho_rank as gavish_donoho_rank
from jaxinterp.geometry.dimension import gride as gride
from jaxinterp.geometry.dimension import gride_ladder as gride_ladder
from jaxinterp.geometry.dimension import hamming_histograms as hamming_histograms
from jaxinterp.geometry.dimension import (
    heterogeneous_dimension as heterogeneous_dimension,
)
from jaxinterp.geometry.dimension import kaiser as kaiser
from jaxinterp.geometry.dimension import knn_graph_dimension as knn_graph_dimension
from jaxinterp.geometry.dimension import kritchman_nadler_rank as kritchman_nadler_rank
from jaxinterp.geometry.dimension import largest_gap as largest_gap
from jaxinterp.geometry.dimension import lattice_dimension as lattice_dimension
from jaxinterp.geometry.dimension import levina_bickel as levina_bickel
from jaxinterp.geometry.dimension import local_spectra as local_spectra
from jaxinterp.geometry.dimension import mada as mada
from jaxinterp.geometry.dimension import magnitude_dimension as magnitude_dimension
from jaxinterp.geometry.dimension import marchenko_pastur_rank as marchenko_pastur_rank
from jaxinterp.geometry.dimension import method_of_moments as method_of_moments
from jaxinterp.geometry.dimension import mind as mind
from jaxinterp.geometry.dimension import minka_rank as minka_rank
from jaxinterp.geometry.dimension import parallel_analysis as parallel_analysis
from jaxinterp.geometry.dimension import participation_ratio as participation_ratio
from jaxinterp.geometry.dimension import (
    persistent_homology_dimension as persistent_homology_dimension,
)
from jaxinterp.geometry.dimension import soft_dimension as soft_dimension
from jaxinterp.geometry.dimension import tight_locality as tight_locality
from jaxinterp.geometry.dimension import two_nn as two_nn
from jaxinterp.geometry.dimension import variance_ratio as variance_ratio
from jaxinterp.geometry.duplicates import first_occurrences as first_occurrences
from jaxinterp.geometry.intrinsic_dimension import IntrinsicDimension as IntrinsicDimension
from jaxinterp.geometry.intrinsic_dimension import bias_corrected as bias_corrected
from jaxinterp.geometry.intrinsic_dimension import (
    dimension_from_neighbors as dimension_from_neighbors,
)
from jaxinterp.geometry.intrinsic_dimension import explain as explain
from jaxinterp.geometry.intrinsic_dimension import intrinsic_dimension as intrinsic_dimension
from jaxinterp.geometry.neighbors import Neighbors as Neighbors
from jaxinterp.geometry.neighbors import distance_matrix as distance_matrix
from jaxinterp.geometry.neighbors import k_nearest as k_nearest
from jaxinterp.geometry.neighbors import neighbor_counts as neighbor_counts
from jaxinterp.geometry.neighbors import pair_distances as pair_distances
from jaxinterp.geometry.profiles import decimation as decimation
from jaxinterp.geometry.profiles import half_sample_error as half_sample_error
from jaxinterp.geometry.profiles import local_estimates as local_estimates
from jaxinterp.geometry.profiles import neighbor_scan as neighbor_scan
from jaxinterp.geometry.profiles import profile as profile
from jaxinterp.geometry.sharded_neighbors import k_nearest_sharded as k_nearest_sharded
from jaxinterp.geometry.similarity import linear_cka as linear_cka
from jaxinterp.geometry.similarity import relative_agreement as relative_agreement
from jaxinterp.geometry.similarity import relative_representation as relative_representation
from jaxinterp.geometry.similarity import svcca as svcca
from jaxinterp.geometry.spanning_tree import SpanningTree as SpanningTree
from jaxinterp.geometry.spanning_tree import minimum_spanning_tree as minimum_spanning_tree

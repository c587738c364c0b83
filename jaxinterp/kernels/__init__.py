"""Kernels for accelerators, each equal to a function of `dictionaries` that stays the default.

None was timed on hardware, so nothing calls them. Where a measurement favours one, the call site
chooses by platform, `jax.lax.platform_dependent(..., tpu=kernel, default=reference)`, and the
reference goes on serving every other device and stating the gradient.

Reading order: `encode_topk`, of `sparsify.largest(x @ encoder.T + bias)`; `sparse_decode`, of
`sparse_products.gather_sum`.
"""

from jaxinterp.kernels.encode_topk import encode_topk as encode_topk
from jaxinterp.kernels.sparse_decode import sparse_decode as sparse_decode

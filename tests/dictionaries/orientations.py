"""A square dictionary such as training makes, for tests of which way round its matrices are."""

import numpy as np


def square(d=16, *, unit=False):
    """(encoder, decoder), one row a latent: the encoder reads about what the decoder writes."""
    generator = np.random.default_rng(0)
    decoder = generator.standard_normal((d, d))
    lengths = 1.0 if unit else generator.uniform(0.5, 2, (d, 1))
    decoder *= lengths / np.linalg.norm(decoder, axis=1, keepdims=True)
    return decoder + 0.1 * generator.standard_normal((d, d)), decoder

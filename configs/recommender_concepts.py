"""Sizes for `experiments/recommender_concepts.py`.

Command: `python experiments/recommender_concepts.py`. Expected: see there.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class RecommenderConcepts:
    """Which shop, which recommender, which dictionary.

    Attributes:
        categories: of items.
        items: of each category.
        liked: categories that a user likes.
        loyalty: probability that the next item is of a liked category.
        length: items of a user's history.
        recent: last items that a concept is about.
        users: sequences to train both models on; half as many are held out to name latents, and as
            many again to judge the names.
        dimension: of item embeddings and of the recommender's state.
        steps: training steps of the recommender.
        batch: users in one.
        rate: of its Adam.
        width: latents.
        k: latents kept for a user.
        dictionary_steps: training steps of the dictionary.
        dictionary_rate: of its Adam.
        seed: of everything.
    """

    categories: int = 20
    items: int = 20
    liked: int = 3
    loyalty: float = 0.9
    length: int = 16
    recent: int = 16
    users: int = 8000
    dimension: int = 32
    steps: int = 800
    batch: int = 256
    rate: float = 5e-3
    width: int = 32
    k: int = 3
    dictionary_steps: int = 1500
    dictionary_rate: float = 2e-3
    seed: int = 0

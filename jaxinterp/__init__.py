"""From a model to interpretable features and their geometry, as composable pure functions."""

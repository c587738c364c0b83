import numpy as np
import pytest

from jaxinterp.evaluation import transition_map


def test_a_map_of_codes_plans_shortest_ways_through_an_aliased_room():
    """6 x 6 cells, two codes of each, 1 % of codes wrong, a walk of 8000 steps."""
    rng, side = np.random.default_rng(0), 6
    moves = np.asarray([[0, 1], [1, 0], [0, -1], [-1, 0]])
    cells, actions = np.zeros((8001, 2), int), rng.integers(0, 4, 8000)
    for t, action in enumerate(actions):
        cells[t + 1] = np.clip(cells[t] + moves[action], 0, side - 1)
    cell = cells[:, 0] * side + cells[:, 1]
    codes = 2 * cell + rng.integers(0, 2, 8001)
    codes = np.where(rng.random(8001) < 0.01, rng.integers(0, 72, 8001), codes)
    counts = transition_map.count_transitions(codes, actions, 72, 4)
    halves = [
        transition_map.count_transitions(codes[a : b + 1], actions[a:b], 72, 4)
        for a, b in ((0, 3000), (3000, 8000))
    ]
    np.testing.assert_array_equal(sum(halves), counts)
    reached = best = 0
    for start, goal in rng.integers(0, 36, (200, 2)):
        way = transition_map.shortest_way(counts >= 8, int(2 * start), np.arange(72) // 2 == goal)
        place = np.asarray(divmod(start, side))
        for action in way or ():
            place = np.clip(place + moves[action], 0, side - 1)
        there = way is not None and place[0] * side + place[1] == goal
        apart = np.abs(np.asarray(divmod(start, side)) - np.asarray(divmod(goal, side))).sum()
        reached, best = reached + there, best + (there and len(way) == apart)
    assert reached >= 190
    assert best >= 190
    assert transition_map.shortest_way(counts >= 10**6, 0, np.arange(72) == 5) is None
    with pytest.raises(ValueError, match="need one code more"):
        transition_map.count_transitions(codes, actions[:-1], 72, 4)
    with pytest.raises(ValueError, match=r"need 0 \.\. 35"):
        transition_map.count_transitions(codes, actions, 36, 4)

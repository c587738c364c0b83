"""A map of the world out of discrete codes: which code follows which, after which action.

A model of sequences whose state is one of a few codes (a discrete bottleneck) has a map in it:
count its transitions, forget the rare ones, and the graph that is left can be searched for ways.
"""

from collections import deque

import numpy as np
from jaxtyping import Array, Bool, Int


def count_transitions(
    codes: Int[Array | np.ndarray, " steps_and_one"],
    actions: Int[Array | np.ndarray, " steps"],
    size: int,
    n_actions: int,
) -> Int[np.ndarray, "size n_actions size"]:
    """How often each code was followed by each other one after each action.

    Counts of several walks add up.

    Args:
        codes: of a walk, before the first action and after each.
        actions: of the walk.
        size: number of codes.
        n_actions: number of actions.

    Raises:
        ValueError: not one code more than actions, or one outside its range.
    """
    codes, actions = np.asarray(codes), np.asarray(actions)
    if len(codes) != len(actions) + 1:
        raise ValueError(f"{len(codes)} codes and {len(actions)} actions: need one code more")
    for name, found, limit in (("codes", codes, size), ("actions", actions, n_actions)):
        if len(found) and not 0 <= found.min() <= found.max() < limit:
            raise ValueError(f"{name} from {found.min()} to {found.max()}: need 0 .. {limit - 1}")
    counts = np.zeros((size, n_actions, size), np.int64)
    np.add.at(counts, (codes[:-1], actions, codes[1:]), 1)
    return counts


def shortest_way(
    edges: Bool[np.ndarray, "size n_actions size"],
    start: int,
    goals: Bool[np.ndarray, " size"],
) -> list[int] | None:
    """The fewest actions that lead from a code to one of the goals, by breadth-first search.

    Args:
        edges: transitions to trust, such as `counts >= least`.
        start: code to begin at.
        goals: codes to end at.

    Returns:
        The actions; empty where the start is a goal, None where no way leads to one.

    Reference:
        Dedieu et al. (2024), "Learning cognitive maps from transformer representations for
        efficient planning in partially observed environments", arXiv 2401.05946 (the map; its
        transformer was not available in source and is not part of this).
    """
    came_from: dict[int, tuple[int, int]] = {}
    seen, queue = {start}, deque([start])
    while queue:
        code = queue.popleft()
        if goals[code]:
            way = []
            while code != start:
                code, action = came_from[code]
                way.append(action)
            return way[::-1]
        for action, after in zip(*np.nonzero(edges[code]), strict=True):
            if int(after) not in seen:
                seen.add(int(after))
                came_from[int(after)] = code, int(action)
                queue.append(int(after))
    return None

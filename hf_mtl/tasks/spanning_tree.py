"""The best dependency tree: a maximum spanning arborescence in which one word alone hangs on the root.

Chu and Liu (1965), Edmonds (1967), in the manner of Tarjan (1977). That the root has one child is had by lowering all
its arcs alike, by more than any tree can gain: Stanojević and Cohen (EMNLP 2021), "A Root of a Problem".
"""

import numpy as np

__all__ = ["are_trees", "best_tree", "without_circles"]


def best_tree(scores: np.ndarray) -> np.ndarray:
    """The heads of the tree with the greatest sum of scores, of all trees with one word on the root.

    Args:
        scores: `[words, words + 1]`, of each word as the dependent of the root (0) and of each word (from 1). -inf
            forbids an arc: such are taken only where there is no tree without, and then as few as can be. A word's
            score as its own head is not looked at.

    Returns:
        `[words]` integers: the number of each word's head, 0 for the root.

    Raises:
        ValueError: the array has another shape, or holds NaN or +inf.
    """
    scores = np.asarray(scores, dtype=np.float64)
    words = len(scores)
    if scores.shape != (words, words + 1):
        raise ValueError(f"scores must be [words, words + 1], got {list(scores.shape)}.")
    if not words:
        return np.zeros(0, dtype=np.int64)
    weights = np.zeros((words + 1, words + 1))
    weights[1:], penalty = _finite(scores)
    np.fill_diagonal(weights, -np.inf)
    # The best tree of all has one word on the root most often, and is found with far fewer cycles.
    heads = _arborescence(weights)[1:]
    if (heads == 0).sum() > 1:
        weights[1:, 0] -= penalty
        heads = _arborescence(weights)[1:]
    return heads


def are_trees(heads: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Which of many sentences' heads make a tree with one word on the root.

    Args:
        heads: `[words]` of all sentences, one after the other, each numbered from 1 in its own sentence; 0: the root.
        counts: `[sentences]` how many words each has.

    Returns:
        `[sentences]` booleans. A sentence without words is a tree.
    """
    sentence = np.repeat(np.arange(len(counts)), counts)
    roots = np.bincount(sentence[heads == 0], minlength=len(counts))
    return without_circles(heads, counts) & ((roots == 1) | (counts == 0))


def without_circles(heads: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """In which of many sentences every word hangs on the root in the end. Arguments and result as for `are_trees`."""
    if not len(heads):
        return np.ones(len(counts), dtype=bool)
    sentence = np.repeat(np.arange(len(counts)), counts)
    # Each sentence's root and then its words, all sentences in one row of nodes.
    root = np.cumsum(counts + 1) - (counts + 1)
    above = np.repeat(root, counts + 1)
    above[np.arange(len(heads)) + sentence + 1] += heads
    for _ in range(int(counts.max()).bit_length()):
        above = above[above]
    lost = np.bincount(np.repeat(np.arange(len(counts)), counts + 1), weights=above != np.repeat(root, counts + 1))
    return lost == 0


def _finite(scores: np.ndarray) -> tuple[np.ndarray, float]:
    """Scores from 0 downwards, forbidden arcs below what any tree without one can fall to; and more than all that."""
    words = len(scores)
    looked_at = np.arange(words)[:, None] + 1 != np.arange(words + 1)
    used = scores[looked_at]
    if np.isnan(used).any() or (used == np.inf).any():
        raise ValueError("scores must hold numbers or -inf, and they hold NaN or +inf.")
    known = used[used > -np.inf]
    high, low = (known.max(), known.min()) if len(known) else (0.0, 0.0)
    forbidden = -(words + 1) * (high - low) - 1.0
    return np.where(scores > -np.inf, scores - high, forbidden), -(words + 1) * forbidden


def _arborescence(weights: np.ndarray) -> np.ndarray:
    """`weights [nodes, nodes]` of dependents and heads, node 0 the root -> the head of each node, the root's 0.

    Tarjan (1977) for dense graphs: walk from head to head, and where the walk bites its tail make the cycle one
    node, in the place of one of its own. Each walk ends at the root, or at a node that has a way there. O(nodes ** 2).
    """
    size = len(weights)
    weights = weights.copy()
    arcs = np.arange(size * size).reshape(size, size)  # which arc of the graph each of the weights is now of
    number = list(range(size))  # of the node, simple or made of a cycle, that has this row and column
    inside: list[int] = [-1] * size  # the node that each node went into
    taken = [0] * size  # the arc by which each node is reached
    gain = np.zeros(size)
    state = [_NEW] * size
    state[0] = _DONE
    for start in range(1, size):
        path = [] if state[start] else [start]
        while path:
            last = path[-1]
            state[last] = _ON_PATH
            head = int(weights[last].argmax())
            taken[number[last]] = int(arcs[last, head])
            gain[last] = weights[last, head]
            if state[head] == _DONE:
                for node in path:
                    state[node] = _DONE
                path = []
            elif state[head] == _NEW:
                path.append(head)
            else:
                place = path.index(head)
                cycle = path[place:]
                path = path[: place + 1]
                _contract(weights, arcs, gain, np.array(cycle))
                for node in cycle:
                    inside[number[node]] = len(inside)
                    state[node] = _DONE
                number[head] = len(inside)
                inside.append(-1)
                taken.append(0)
    return _expand(taken, inside, size)


_NEW, _ON_PATH, _DONE = 0, 1, 2


def _contract(weights: np.ndarray, arcs: np.ndarray, gain: np.ndarray, cycle: np.ndarray) -> None:
    """Makes a cycle one node, in the row and column of its first; nothing leads to those of the others any more."""
    first = cycle[0]
    # Into the cycle: the arc there takes the place of one of the cycle's own.
    block = weights[cycle] - gain[cycle, None]
    best = block.argmax(0)
    arcs[first] = arcs[cycle[best], np.arange(len(weights))]
    weights[first] = block.max(0)
    # Out of the cycle, from any of its nodes.
    best = cycle[weights[:, cycle].argmax(1)]
    every = np.arange(len(weights))
    arcs[:, first] = arcs[every, best]
    weights[:, first] = weights[every, best]
    weights[:, cycle[1:]] = -np.inf
    weights[first, first] = -np.inf


def _expand(taken: list[int], inside: list[int], size: int) -> np.ndarray:
    """The heads of simple nodes: an arc into a cycle gives one of its nodes its head, and the others keep theirs."""
    heads = np.zeros(size, dtype=np.int64)
    reached = [False] * len(inside)
    for node in range(len(inside) - 1, 0, -1):  # a cycle's node comes before the nodes that it is made of
        if not reached[node]:
            dependent, head = divmod(taken[node], size)
            heads[dependent] = head
            while dependent != node:
                reached[dependent] = True
                dependent = inside[dependent]
    return heads

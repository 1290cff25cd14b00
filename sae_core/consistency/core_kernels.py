"""The numba kernel behind the curve of the stable core: part of *consistency*."""

# ``no_type_check``: a run-time type checker must not wrap functions that numba compiles.
from typing import no_type_check

import numba
import numpy as np


@numba.njit(cache=True, error_model="numpy")
@no_type_check
def _root(parent, node):
    while parent[node] != node:
        parent[node] = parent[parent[node]]
        node = parent[node]
    return node


@numba.njit(cache=True, error_model="numpy")
@no_type_check
def core_sizes(left, right, n_edges, run_of, selected):
    """Number of components with exactly one node in each selected run, as edges are added in order.

    A union-find that knows of each component its size, its runs as bits, and whether a run is in it twice, so that
    all thresholds take one pass.

    left, right (edges): nodes, the strongest edge first. n_edges (levels): edges at each level, ascending. run_of
    (nodes): run of each node. selected (runs): which runs take part; edges of others are passed over.
    """
    n_nodes, n_words = len(run_of), (len(selected) + 63) // 64
    parent, size, twice = np.arange(n_nodes), np.ones(n_nodes, np.int64), np.zeros(n_nodes, np.bool_)
    runs = np.zeros((n_nodes, n_words), np.uint64)
    for node in range(n_nodes):
        runs[node, run_of[node] // 64] = np.uint64(1) << np.uint64(run_of[node] % 64)
    n_selected = selected.sum()
    sizes, n_core, done = np.zeros(len(n_edges), np.int64), 0, 0
    for level in range(len(n_edges)):
        for edge in range(done, n_edges[level]):
            if not (selected[run_of[left[edge]]] and selected[run_of[right[edge]]]):
                continue
            a, b = _root(parent, left[edge]), _root(parent, right[edge])
            if a == b:
                continue
            if size[a] < size[b]:
                a, b = b, a
            n_core -= (not twice[a]) and size[a] == n_selected
            n_core -= (not twice[b]) and size[b] == n_selected
            twice[a] |= twice[b]
            for word in range(n_words):
                twice[a] |= (runs[a, word] & runs[b, word]) != 0
                runs[a, word] |= runs[b, word]
            parent[b] = a
            size[a] += size[b]
            n_core += (not twice[a]) and size[a] == n_selected
        done = n_edges[level]
        sizes[level] = n_core
    return sizes

"""The baselines' equations in float64 NumPy, dense and literal, written from the papers, not from the code under test.

``x`` (users, items) is a dense 0/1 matrix.
"""

from itertools import product

import numpy as np


def edlae(x, l2, dropout):
    """Each column of B by itself: ridge regression of item j on the other items, a penalty for each of them."""
    gram = x.T @ x
    penalty = l2 + dropout / (1 - dropout) * np.diag(gram)
    items = x.shape[1]
    b = np.zeros((items, items))
    for j in range(items):
        others = np.array([i for i in range(items) if i != j])
        system = gram[np.ix_(others, others)] + np.diag(penalty[others])
        b[others, j] = np.linalg.solve(system, gram[others, j])
    return b


def denoising(x, l2, dropout):
    """The same by its meaning: the least squares of the dropped entries, over every way to drop entries.

    min over b of E[(1 - d_uj) (x_uj - sum_i d_ui x_ui b_ij)^2] / p + l2 |q b|^2, d_ui = 0 with probability p and 1 with
    q = 1 - p; ranking sees all clicks, so it needs q b.
    """
    items = x.shape[1]
    kept = 1 - dropout
    b = np.zeros((items, items))
    for j in range(items):
        system = l2 * kept**2 * np.eye(items)
        target = np.zeros(items)
        for d in product((0.0, 1.0), repeat=items):
            if d[j]:
                continue  # only what is dropped counts
            probability = np.prod([kept if one else dropout for one in d]) / dropout
            z = x * np.array(d)
            system += probability * z.T @ z
            target += probability * z.T @ x[:, j]
        b[:, j] = kept * np.linalg.solve(system, target)
    return b


def item_knn(x, neighbours, shrinkage, asymmetry, activity):
    """S (items, items): s_ij where i is among the nearest of j, else 0; and the neighbours of each j, best first."""
    users, items = x.shape
    n = x.sum(1)
    w = np.array([n[u] ** -activity if n[u] else 0.0 for u in range(users)])
    w *= n.sum() / (w * n).sum()
    c = x.T @ (w[:, None] * x)
    s = np.zeros((items, items))
    lists = []
    for j in range(items):
        alike = {}
        for i in range(items):
            if i != j and c[i, j] > 0:
                norms = c[i, i] ** asymmetry * c[j, j] ** (1 - asymmetry)
                alike[i] = np.float32(c[i, j] / (norms + shrinkage))
        nearest = sorted(alike, key=lambda i: -alike[i])[:neighbours]  # a stable sort: the lower item first
        s[nearest, j] = [alike[i] for i in nearest]
        lists.append(nearest)
    return s, lists

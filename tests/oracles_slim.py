"""ImplicitSLIM in float64 NumPy, from its definition: Shenbin and Nikolenko 2024 (arXiv 2406.00198).

Dense and literal: X'X and the items x items inverses are made. X (users, I) clicks, W (K, I) embeddings as in the
paper; an item is rare with fewer than ``threshold`` clicks.
"""

import numpy as np


def without_rare(w, x, threshold):
    """A: W with the columns of rare items set to zero."""
    return w * ((x > 0).sum(0) >= threshold)


def residual_operator(x, l2):
    """I - B of SLIM's closed form: G^-1 D^-1 with G = X'X + l2 I, and D = diag(1 / diag G) for the diagonal of G^-1."""
    gram = x.T @ x + l2 * np.eye(x.shape[1])
    return np.linalg.inv(gram) * gram.diagonal()


def objective(v, w, x, l2, alpha, threshold):
    """|V - V B|^2 + alpha |(V - W) A'|^2."""
    a = without_rare(w, x, threshold)
    return ((v @ residual_operator(x, l2)) ** 2).sum() + alpha * (((v - w) @ a.T) ** 2).sum()


def minimiser(w, x, l2, alpha, threshold):
    """Where the objective's gradient vanishes: V ((I - B)(I - B)' + alpha A'A) = alpha W A'A."""
    a, r = without_rare(w, x, threshold), residual_operator(x, l2)
    return np.linalg.solve(r @ r.T + alpha * a.T @ a, alpha * a.T @ a @ w.T).T


def closed_form(w, x, l2, alpha, threshold):
    """The paper's last formula, as it is printed: alpha W A' [C - P (I / alpha + P)^-1 C]."""
    a, gram = without_rare(w, x, threshold), x.T @ x
    d = np.diag(1 / (gram.diagonal() + l2))
    m = (l2 * a + a @ gram) @ d @ d
    c = l2 * m + m @ gram
    p = c @ a.T
    return alpha * w @ a.T @ (c - p @ np.linalg.inv(np.eye(len(p)) / alpha + p) @ c)

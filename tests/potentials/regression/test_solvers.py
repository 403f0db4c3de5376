from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from halberd.potentials.errors import ConfigurationError, DataError
from halberd.potentials.regression.compressed_rows import CompressedRows
from halberd.potentials.regression.dual import Kernel, dual_ridge, factored
from halberd.potentials.regression.linear_system import LinearSystem
from halberd.potentials.regression.solvers import solve


def problem(n_rows=400, n_columns=30, noise=0.1, prior_scale=1.0, seed=0):
    """Rows, targets and the coefficients they were made with; columns of very different size."""
    generator = np.random.default_rng(seed)
    prior = 1.0 + np.arange(n_columns) ** 1.5
    truth = generator.normal(scale=prior_scale, size=n_columns) / prior
    rows = generator.normal(size=(n_rows, n_columns)) @ np.diag(generator.uniform(0.5, 2.0, n_columns) * prior)
    return rows, rows @ truth + generator.normal(scale=noise, size=n_rows), truth, prior


def compressed(rows, target, prior, pieces=1):
    folded = CompressedRows(rows.shape[1] + 1)
    for part in np.array_split(np.column_stack([rows, target]), pieces):
        folded.add(part)
    factor = folded.factor()
    return LinearSystem(factor[:, :-1], factor[:, -1], folded.n_rows, prior)


def folded_in_place(monkeypatch):
    """As of thousands of functions, in blocks that fit nowhere."""
    monkeypatch.setattr("halberd.potentials.regression.compressed_rows._IN_PLACE", 0)
    monkeypatch.setattr("halberd.potentials.regression.compressed_rows.BLOCK", 7)


@pytest.mark.parametrize("n_rows", [5, 12, 300])
def test_folding_in_place_leaves_what_was_handed_out(n_rows, monkeypatch):
    folded_in_place(monkeypatch)
    generator = np.random.default_rng(3)
    rows, more, below = (generator.normal(size=(n, 13)) for n in (n_rows, 40, 4))
    folded = CompressedRows(13, buffer_mb=1e-4)
    for part in np.array_split(rows, 4):
        folded.add(part)
    first, with_four = folded.factor(), folded.factor(below)
    copies = first.copy(), with_four.copy()
    folded.add(more)
    every = np.concatenate([rows, more])
    assert folded.n_rows == len(every)
    assert np.allclose(folded.factor().T @ folded.factor(), every.T @ every, rtol=1e-12)
    assert len(folded.factor()) == 13
    for now, then, expected in zip((first, with_four), copies, (rows, np.concatenate([rows, below])), strict=True):
        assert np.array_equal(now, then)
        assert np.allclose(now.T @ now, expected.T @ expected, rtol=1e-12)
        assert len(now) == min(len(expected), 13)


def test_compression_keeps_solutions_residuals_and_size():
    rows, target, _, prior = problem(3000, 40)
    system = compressed(rows, target, prior, pieces=17)
    assert len(system.matrix) <= 41
    assert system.n_rows == 3000
    exact = np.linalg.lstsq(rows, target, rcond=None)[0]
    ours = solve(system, "ridge", ridge=0.0)
    assert np.abs(ours.mean - exact).max() < 1e-12 * np.abs(exact).max() * 1e2
    assert system.residual(exact) == pytest.approx(((rows @ exact - target) ** 2).sum(), rel=1e-12)
    assert np.abs(np.linalg.svd(system.matrix, compute_uv=False) - np.linalg.svd(rows, compute_uv=False)).max() < 1e-9


@pytest.mark.parametrize("in_place", [False, True])
def test_rows_added_later_equal_rows_added_at_once(in_place, monkeypatch):
    if in_place:
        folded_in_place(monkeypatch)
    rows, target, _, prior = problem(900, 20)
    everything = compressed(rows, target, prior)
    first = CompressedRows(21)
    first.add(np.column_stack([rows[:500], target[:500]]))
    later = CompressedRows.from_factor(first.factor(), first.n_rows)
    later.add(np.column_stack([rows[500:], target[500:]]))
    assert later.n_rows == 900
    factor = later.factor()
    assert np.abs(factor.T @ factor - np.column_stack([rows, target]).T @ np.column_stack([rows, target])).max() < 1e-6
    assert np.abs(np.abs(factor[:, :-1]) - np.abs(everything.matrix)).max() < 1e-8


@pytest.mark.parametrize("n_rows", [15, 31, 200])
def test_bayesian_ridge_is_scikit_learns_on_all_rows(n_rows):
    from sklearn.linear_model import BayesianRidge

    rows, target, _, prior = problem(n_rows)
    ours = solve(compressed(rows, target, prior), "blr")
    reference = BayesianRidge(fit_intercept=False, max_iter=1000, tol=1e-6).fit(rows / prior, target)
    assert np.abs(ours.mean * prior - reference.coef_).max() < 1e-4 * np.abs(reference.coef_).max()
    assert ours.noise == pytest.approx(reference.alpha_**-0.5, rel=1e-3)
    covariance = ours.factor @ ours.factor.T
    expected = reference.sigma_ / np.outer(prior, prior)
    assert np.abs(covariance - expected).max() < 2e-3 * np.abs(expected).max()


@pytest.mark.parametrize(("noise", "around"), [(0.1, 2.5), (0.1, 0.01), (1e-4, 2.5)])
def test_some_rows_say_where_to_look_and_all_decide(noise, around, monkeypatch):
    generator = np.random.default_rng(5)
    rows = generator.normal(size=(60, 90)) * np.exp(-np.arange(90) / 5)  # of which rows tell a few directions
    target = rows @ generator.normal(size=90) + generator.normal(scale=noise, size=60)
    system = LinearSystem(rows, target, 60, np.ones(90))
    monkeypatch.setattr("halberd.potentials.regression.dual._TRIES", 60)
    monkeypatch.setattr("halberd.potentials.regression.dual._EXACTNESS", 1e-6)
    expected = dual_ridge(system)
    monkeypatch.setattr("halberd.potentials.regression.dual.MANY", 50)
    monkeypatch.setattr("halberd.potentials.regression.dual._AROUND", around)
    found = dual_ridge(system)
    assert found.log_evidence == pytest.approx(expected.log_evidence, abs=1e-6)
    assert found.noise == pytest.approx(expected.noise, rel=1e-3)
    assert np.allclose(found.mean, expected.mean, rtol=1e-3, atol=1e-6 * np.abs(expected.mean).max())


@pytest.mark.parametrize("n", [1, 7, 8, 30])
def test_factors_are_made_in_place_a_block_at_a_time(n, monkeypatch):
    monkeypatch.setattr("halberd.potentials.regression.dual.BLOCK", 7)
    rows = np.random.default_rng(n).normal(size=(n, n + 2))
    square = rows @ rows.T
    held = np.asfortranarray(np.tril(square) + np.triu(np.full((n, n), 5.0), 1))
    assert factored(held)
    assert np.allclose(np.tril(held), np.linalg.cholesky(square), rtol=1e-10, atol=1e-10)
    assert (held[np.triu_indices(n, 1)] == 5.0).all()  # where the kernel is kept
    square[n - 1, n - 1] = -1.0
    assert not factored(np.asfortranarray(square))


@pytest.mark.parametrize(("n_rows", "pieces"), [(29, 1), (200, 1), (200, 7)])
def test_many_functions_have_the_posterior_of_few(n_rows, pieces, monkeypatch):
    """The kernel's way against the formulas: evidence, mean, covariance of rows, and draws."""
    rows, target, _, prior = problem(n_rows)
    expected = solve(compressed(rows, target, prior, pieces), "blr")
    monkeypatch.setattr("halberd.potentials.regression.bayesian_ridge.DIRECT", 0)
    monkeypatch.setattr("halberd.potentials.regression.dual.BLOCK", 7)
    monkeypatch.setattr("halberd.potentials.regression.dual._TRIES", 60)
    monkeypatch.setattr("halberd.potentials.regression.dual._EXACTNESS", 1e-7)
    found = solve(compressed(rows, target, prior, pieces), "blr")
    noise, scale = found.details["noise"], found.details["prior_scale"]
    scaled = rows / prior
    of_targets = noise**2 * np.eye(n_rows) + scale**2 * scaled @ scaled.T
    exact = scipy.stats.multivariate_normal(np.zeros(n_rows), of_targets).logpdf(target)
    assert found.log_evidence == pytest.approx(exact, rel=1e-8)
    # The largest there is; of fewer rows than functions it is flat, and iterations end a little short of it.
    assert expected.log_evidence - 1e-6 < found.log_evidence < expected.log_evidence + (1e-3 if n_rows < 30 else 1e-6)
    covariance = np.linalg.inv(rows.T @ rows / noise**2 + np.diag(prior**2) / scale**2)
    mean = covariance @ rows.T @ target / noise**2
    assert np.abs(found.mean - mean).max() < 1e-8 * np.abs(mean).max()
    fresh = problem(9, seed=5)[0]
    for posterior in (found.tempered(4.0), found):
        wanted = fresh @ covariance @ fresh.T * posterior.temperature
        seen = posterior.seen(fresh)
        assert np.abs(seen @ seen.T - wanted).max() < 1e-8 * np.abs(wanted).max()
        members = posterior.draw(4000, seed=1)
        assert np.abs(members.mean(axis=1) - found.mean).max() < 1e-9 * np.abs(found.mean).max()
        assert np.abs(np.cov(fresh @ members) - wanted).max() < 0.1 * np.abs(wanted).max()
    assert np.array_equal(found.draw(5, seed=3), found.draw(5, seed=3))
    with pytest.raises(ConfigurationError, match="has no spread"):
        found.draw(1, seed=0)


def test_squares_in_the_kernel_cost_no_digits(monkeypatch):
    """Singular values from a million to one: the factor alone has lost what the refined solution has."""
    generator = np.random.default_rng(0)
    u, v = (np.linalg.qr(generator.normal(size=(40, 40)))[0] for _ in range(2))
    matrix = u @ np.diag(np.logspace(6, 0, 40)) @ v
    kernel = Kernel(LinearSystem(matrix, np.zeros(40), 40, np.ones(40)))
    kernel.factorise(0.1)
    right = u[:, -5:] @ generator.normal(size=(5, 3))  # along the smallest
    exact = u @ ((u.T @ right) / (np.logspace(6, 0, 40) ** 2 + 0.01)[:, None])
    assert np.abs(kernel.solve(right) - exact).max() < 1e-9
    monkeypatch.setattr("halberd.potentials.regression.dual._REFINEMENTS", 0)
    assert np.abs(kernel.solve(right) - exact).max() > 1e-7


def test_a_ratio_that_rounding_swallows_is_raised():
    matrix = 1e6 * np.ones((30, 5)) + np.random.default_rng(1).normal(size=(30, 5))
    kernel = Kernel(LinearSystem(matrix, np.zeros(30), 30, np.ones(5)))
    kernel.factorise(1e-9)
    assert 1e-9 < kernel.ratio < 10.0
    right = np.ones((30, 1))
    found = kernel.solve(right)
    left = right - matrix @ (matrix.T @ found) - kernel.ratio**2 * found
    assert np.abs(left).max() < 1e-3


@pytest.mark.parametrize("n_rows", [20, 300])
def test_evidence_is_the_density_of_the_targets(n_rows):
    rows, target, _, prior = problem(n_rows)
    posterior = solve(compressed(rows, target, prior), "blr")
    noise, scale = posterior.details["noise"], posterior.details["prior_scale"]
    scaled = rows / prior
    covariance = noise**2 * np.eye(n_rows) + scale**2 * scaled @ scaled.T
    exact = scipy.stats.multivariate_normal(np.zeros(n_rows), covariance, allow_singular=False).logpdf(target)
    assert posterior.log_evidence == pytest.approx(exact, rel=1e-8)


def test_hyperparameters_are_found():
    rows, target, _, prior = problem(4000, 200, noise=0.3, prior_scale=2.0)
    posterior = solve(compressed(rows, target, prior), "blr")
    assert posterior.noise == pytest.approx(0.3, rel=0.05)
    assert posterior.details["prior_scale"] == pytest.approx(2.0, rel=0.15)


@pytest.mark.parametrize("n_rows", [60, 240])
def test_posterior_is_calibrated(n_rows):
    """Over many synthetic problems, the truth lies where the posterior says."""
    scores = []
    for seed in range(60):
        rows, target, truth, prior = problem(n_rows, 30, noise=0.2, seed=seed)
        posterior = solve(compressed(rows, target, prior), "blr")
        spread = np.sqrt((posterior.factor**2).sum(axis=1))
        scores.append((posterior.mean - truth) / spread)
    scores = np.concatenate(scores)
    # 1800 numbers, not independent within a problem.
    assert np.mean(scores**2) == pytest.approx(1.0, abs=0.25)
    assert np.mean(np.abs(scores) < 1.0) == pytest.approx(0.683, abs=0.05)


def test_committee_has_the_mean_and_the_spread_of_the_posterior():
    rows, target, _, prior = problem(60, 30)
    posterior = solve(compressed(rows, target, prior), "blr")
    members = posterior.draw(8, seed=3)
    assert np.abs(members.mean(axis=1) - posterior.mean).max() < 1e-12
    assert np.array_equal(members, posterior.draw(8, seed=3))
    assert not np.array_equal(members, posterior.draw(8, seed=4))
    variance = np.mean([posterior.draw(8, seed=s).var(axis=1) for s in range(400)], axis=0)
    assert np.abs(variance / (posterior.factor**2).sum(axis=1) - 1.0).max() < 0.2


def test_every_solver_recovers_a_known_model():
    rows, _, truth, prior = problem(500, 20)
    system = compressed(rows, rows @ truth, prior)
    for solver, options in [
        ("ridge", {"ridge": 0.0}),
        ("ridge", {"ridge": 1e-8}),
        ("svd", {}),
        ("blr", {}),
        ("ard", {}),
    ]:
        found = solve(system, solver, **options).mean
        assert np.abs(found - truth).max() < 1e-6 * np.abs(truth).max(), solver


def test_relevance_removes_what_does_not_matter():
    generator = np.random.default_rng(2)
    rows = generator.normal(size=(600, 40))
    truth = np.zeros(40)
    truth[[3, 17, 29]] = [1.0, -2.0, 0.5]
    system = compressed(rows, rows @ truth + generator.normal(scale=0.05, size=600), np.ones(40))
    posterior = solve(system, "ard", threshold=1e4)
    assert set(np.flatnonzero(posterior.mean)) >= {3, 17, 29}
    assert posterior.n_effective < 15
    assert np.abs(posterior.mean - truth).max() < 0.02
    dropped = posterior.draw(4, 0)[posterior.mean == 0]
    assert np.abs(dropped).max() == 0.0
    # scikit-learn on all rows, same threshold, finds the same noise.
    assert posterior.noise == pytest.approx(0.05, rel=0.1)


def test_truncated_svd_drops_directions_that_data_do_not_see():
    rows, target, _, _prior = problem(200, 10)
    doubled = np.column_stack([rows, rows[:, :3]])
    posterior = solve(compressed(doubled, target, np.ones(13)), "svd", rtol=1e-9)
    assert posterior.details["rank"] == 10
    exact = np.linalg.lstsq(doubled, target, rcond=None)[0]
    assert np.abs(posterior.mean - exact).max() < 1e-8


def test_refusals():
    rows, target, _, prior = problem(10, 30)
    system = compressed(rows, target, prior)
    with pytest.raises(DataError, match="30 unknowns but only 10 rows"):
        solve(system, "ridge", ridge=0.0)
    rows, target, _, _ = problem(100, 5)
    singular = compressed(np.column_stack([rows, rows[:, :1]]), target, np.ones(6))
    with pytest.raises(DataError, match="singular: 1 of 6"):
        solve(singular, "ridge", ridge=0.0)
    with pytest.raises(ConfigurationError, match="Did you mean 'ridge'"):
        solve(singular, "rigde")
    with pytest.raises(ConfigurationError, match="no option 'rtol'"):
        solve(singular, "ridge", rtol=1.0)
    with pytest.raises(ConfigurationError, match="0 or positive"):
        solve(singular, "ridge", ridge=-1.0)
    with pytest.raises(ConfigurationError, match="2 members or more"):
        solve(singular, "blr").draw(1, 0)
    with pytest.raises(DataError, match="not finite"):
        solve(LinearSystem(np.array([[np.nan]]), np.array([1.0]), 1, np.ones(1)), "blr")
    with pytest.raises(DataError, match="Enlarge the cutoff"):
        solve(LinearSystem(np.zeros((2, 2)), np.ones(2), 2, np.ones(2)), "svd")

"""Standard errors, intervals and paired tests: by hand, against slow versions, and by how often they are right."""

import math

import numpy as np
import oracles_metrics as oracle
import pytest
from scipy import stats

from eval import Metric, bootstrap_interval, compare, resampled_means, summarize
from eval import significance as module
from recvae.errors import ConfigError, InputError


def test_mean_and_standard_error_by_hand():
    # Deviations -1.5, -.5, .5, 1.5: variance 5/3 with ddof = 1.
    metric = summarize([1.0, math.nan, 2.0, 3.0, 4.0])
    assert metric.mean == 2.5
    assert metric.se == pytest.approx(math.sqrt(5 / 3 / 4), rel=1e-14)
    assert metric.users == 4


def test_mean_and_standard_error_equal_the_oracle():
    values = np.random.default_rng(0).random(101)
    values[::7] = np.nan
    metric = summarize(values)
    np.testing.assert_allclose((metric.mean, metric.se), oracle.mean_and_se(values.tolist()), rtol=1e-13)


def test_too_few_users_have_no_standard_error():
    assert summarize([0.25]).users == 1
    assert math.isnan(summarize([0.25]).se)
    nothing = summarize([math.nan])
    assert nothing.to_dict() == {"mean": None, "se": None, "users": 0}
    assert Metric(0.5, 0.1, 3).to_dict() == {"mean": 0.5, "se": 0.1, "users": 3}
    low, high = bootstrap_interval([0.25])
    assert math.isnan(low)
    assert math.isnan(high)


def test_the_interval_is_seeded_and_does_not_move_with_the_block(monkeypatch):
    values = np.random.default_rng(1).random(300)
    first = bootstrap_interval(values, seed=5)
    assert first == bootstrap_interval(values, seed=5)
    assert first != bootstrap_interval(values, seed=6)
    low, high = first
    assert low < values.mean() < high
    narrow = bootstrap_interval(values, seed=5, level=0.5)
    assert low < narrow[0] < narrow[1] < high
    monkeypatch.setattr(module, "_BLOCK", 7)  # one draw at a time
    np.testing.assert_allclose(bootstrap_interval(values, seed=5), first, rtol=1e-12)


def test_resampled_means_give_the_intervals_of_one_mean_and_of_a_ratio_of_two():
    rng = np.random.default_rng(3)
    clusters = rng.integers(0, 40, 120)
    above, below = rng.random(120), 1 + rng.random(120)
    above[::5] = np.nan
    means = resampled_means([above, below, np.where(np.isnan(above), np.nan, 1.0)], clusters=clusters, seed=4)
    assert means.shape == (2000, 3)
    np.testing.assert_array_equal(means[:, 2], 1.0)
    expected = bootstrap_interval(below, clusters=clusters, seed=4)
    np.testing.assert_allclose(np.quantile(means[:, 1], [0.025, 0.975]), expected, rtol=1e-12)
    slow = []  # the same draws, one at a time
    generator = np.random.default_rng(4)
    people = [np.flatnonzero(clusters == cluster) for cluster in np.unique(clusters)]
    for _ in range(50):
        rows = np.concatenate([people[p] for p in generator.integers(0, len(people), len(people), dtype=np.uint32)])
        slow.append(np.nanmean(above[rows]) / below[rows].mean())
    np.testing.assert_allclose((means[:, 0] / means[:, 1])[:50], slow, rtol=1e-12)
    everyone = [math.nan, math.nan], [1.0, 2.0]
    assert np.isnan(resampled_means(everyone, draws=100)[:, 0]).all()
    assert np.isnan(resampled_means([[math.nan]], draws=100)).all()
    with pytest.raises(InputError, match="same length"):
        resampled_means([[1.0], [1.0, 2.0]])
    with pytest.raises(InputError, match="clusters must name a user"):
        resampled_means([[1.0, 2.0]], clusters=["a"])
    with pytest.raises(ConfigError, match="draws"):
        resampled_means([[1.0, 2.0]], draws=3)


def test_the_interval_equals_a_slow_bootstrap_with_clusters():
    rng = np.random.default_rng(2)
    clusters = rng.integers(0, 40, 120)
    values = rng.random(120) + 0.5 * rng.random(40)[clusters]
    means = oracle.bootstrap_means(values.tolist(), clusters.tolist(), 4000, seed=0)
    # Two bootstraps of 4,000 draws: each end has a Monte Carlo error of about .05 standard errors; .3 is six of them.
    expected = np.quantile(means, [0.025, 0.975])
    found = bootstrap_interval(values, draws=4000, clusters=clusters)
    np.testing.assert_allclose(found, expected, atol=0.3 * np.std(means))


def test_clusters_of_one_change_nothing():
    values = np.random.default_rng(3).random(50)
    names = np.array([f"user {i}" for i in range(50)])
    plain, clustered = summarize(values), summarize(values, clusters=names)
    assert clustered.mean == pytest.approx(plain.mean, rel=1e-14)
    assert clustered.se == pytest.approx(plain.se, rel=1e-12)


def test_repeating_every_user_does_not_make_the_result_surer():
    rng = np.random.default_rng(4)
    a, b = rng.random(80), rng.random(80)
    once = compare(a, b)
    thrice = compare(np.tile(a, 3), np.tile(b, 3), clusters=np.tile(np.arange(80), 3))
    assert thrice.se == pytest.approx(once.se, rel=1e-12)
    assert thrice.p == pytest.approx(once.p, rel=1e-9)
    assert (thrice.users, once.users) == (240, 80)
    assert compare(np.tile(a, 3), np.tile(b, 3)).se < 0.6 * once.se


def test_the_paired_test_is_the_paired_t_test():
    rng = np.random.default_rng(5)
    a = rng.random(60)
    b = a + rng.normal(0.01, 0.05, 60)
    a[3] = b[3] = np.nan
    result = compare(a, b)
    present = ~np.isnan(a)
    assert result.p == pytest.approx(stats.ttest_rel(a[present], b[present]).pvalue, rel=1e-10)
    assert result.difference == pytest.approx(np.nanmean(a) - np.nanmean(b), rel=1e-12)
    assert result.low < result.difference < result.high
    assert result.users == 59
    turned = compare(b, a)
    assert (turned.difference, turned.p) == (-result.difference, result.p)
    assert set(result.to_dict()) == {"difference", "se", "low", "high", "p", "users", "level"}


def test_equal_and_constant_differences():
    a = np.array([0.5, 0.25, 1.0])
    same = compare(a, a)
    assert (same.difference, same.se, same.low, same.high, same.p) == (0, 0, 0, 0, 1)
    assert compare(a + 0.5, a).p == 0
    single = compare([0.5], [0.25])
    assert single.difference == 0.25
    assert math.isnan(single.p)
    assert single.to_dict()["p"] is None


def test_intervals_cover_the_truth_as_often_as_they_say():
    # A percentile interval at n = 80 covers a little less than its 95 %: about .94. Of 400 intervals, the number that
    # cover is then Binomial(400, .94): below .895 or above .98 has a chance of about 2e-4 for a new seed, none for
    # this one.
    rng = np.random.default_rng(6)
    covered = 0
    for trial in range(400):
        low, high = bootstrap_interval(rng.beta(2, 3, 80), draws=400, seed=trial)
        covered += low <= 0.4 <= high
    assert 0.895 <= covered / 400 <= 0.98


def test_the_paired_test_is_wrong_as_often_as_it_says_and_sees_what_is_there():
    # Under the null p < .05 is Binomial(1000, .05): outside 22 .. 84 has a chance below 1e-5 for a new seed. A shift
    # of half a standard deviation of the differences at n = 50 is found with power .93; below 850 of 1000 has a
    # chance below 1e-12.
    rng = np.random.default_rng(7)
    null = found = 0
    for _ in range(1000):
        user = rng.random(50)
        noise = rng.normal(0, 0.1, 50)
        null += compare(user + noise, user, draws=100).p < 0.05
        found += compare(user + noise + 0.05, user, draws=100).p < 0.05
    assert 22 <= null <= 84
    assert found >= 850


def test_a_user_measured_on_one_side_only_is_an_error():
    with pytest.raises(InputError, match="1 of 3 have a value on one side only"):
        compare([1.0, math.nan, 0.0], [1.0, 0.0, 0.0])
    with pytest.raises(InputError, match="3 values and 2"):
        compare([1.0, 1.0, 0.0], [1.0, 0.0])
    with pytest.raises(InputError, match="no user has held-out items"):
        compare([math.nan], [math.nan])


def test_wrong_values_and_options_are_refused():
    with pytest.raises(InputError, match="one value per user"):
        summarize([[1.0]])
    with pytest.raises(InputError, match="infinite"):
        summarize([math.inf])
    with pytest.raises(InputError, match="clusters"):
        summarize([1.0, 2.0], clusters=[1])
    with pytest.raises(ConfigError) as caught:
        bootstrap_interval([1.0, 2.0], level=95, draws=3)
    assert "level" in str(caught.value)
    assert "draws" in str(caught.value)

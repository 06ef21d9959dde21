"""The tests of paired differences against other ways to compute them."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from lab import significance

STRATA = {'one task': [7], 'many ties': [6], 'two tasks': [5, 3], 'three tasks': [2, 4, 1]}


def make(name, shift=0.0):
    """Made-up differences of so many pairs in each task."""
    random = np.random.default_rng(len(name))
    strata = [random.normal(0.6, 1, count) for count in STRATA[name]]
    return [np.round(stratum) if name == 'many ties' else stratum - shift for stratum in strata]


def enumerate_p(strata):
    """The p value by the definition: the share of all assignments of signs with a mean of means as far from 0."""
    def mean(signs):
        signs = iter(signs)
        return sum(sum(next(signs) * value for value in stratum) / len(stratum) for stratum in strata) / len(strata)
    count = sum(map(len, strata))
    means = [abs(mean(signs)) for signs in itertools.product((1, -1), repeat=count)]
    return sum(value >= means[0] - 1e-9 for value in means) / len(means)


@pytest.mark.parametrize('name', STRATA)
def test_the_permutation_test_counts_all_assignments_of_signs(name):
    assert significance.permutation_p(make(name)) == pytest.approx(enumerate_p(make(name)), abs=1e-12)


@pytest.mark.parametrize('name', ['one task', 'two tasks', 'three tasks'])
def test_the_interval_holds_what_the_test_does_not_reject(name):
    low, high = significance.permutation_interval(make(name))
    for edge, inside in ((low, 1), (high, -1)):
        assert significance.permutation_p(make(name, edge + inside * 1e-6)) > significance.LEVEL
        assert significance.permutation_p(make(name, edge - inside * 1e-6)) <= significance.LEVEL


def test_beyond_all_assignments_random_ones_come_close():
    strata = [np.random.default_rng(0).normal(0.5, 1, 20)]
    t = stats.ttest_1samp(strata[0], 0)
    assert significance.permutation_p(strata) == pytest.approx(t.pvalue, rel=0.25)
    assert significance.permutation_interval(strata) == pytest.approx(t.confidence_interval(), abs=0.1)


def test_five_pairs_cannot_be_significant():
    assert significance.permutation_p([np.ones(5)]) == 0.0625 == significance.smallest_p(5)
    assert significance.permutation_interval([np.arange(5.0)]) is None
    assert significance.permutation_p([np.zeros(8)]) == 1 == significance.permutation_p([np.ones(1)])


def test_student():
    stratum, = make('one task')
    expected = stats.ttest_1samp(stratum, 0)
    assert significance.t_interval([stratum]) == pytest.approx((*expected.confidence_interval(), expected.pvalue))
    # two tasks: Welch's test of "the mean of one is minus the mean of the other" is that of a mean of means of 0
    one, other = make('two tasks')
    welch = stats.ttest_ind(one, -other, equal_var=False)
    interval = np.array(welch.confidence_interval()) / 2
    assert significance.t_interval([one, other]) == pytest.approx((*interval, welch.pvalue))
    assert significance.t_interval([one, other[:1]]) is None
    assert significance.t_interval([np.ones(4)]) is None


def test_noticeable_is_what_four_of_five_comparisons_find():
    random = np.random.default_rng(0)
    differences = random.normal(size=8)
    size = significance.detectable_difference(differences) / np.std(differences, ddof=1)
    samples = random.normal(size, 1, (20000, 8))
    assert (stats.ttest_1samp(samples, 0, axis=1).pvalue < significance.LEVEL).mean() == pytest.approx(0.8, abs=0.01)
    assert significance.detectable_difference(np.ones(8)) is None
    assert significance.detectable_difference(np.arange(5)) is None        # nothing could be significant
    assert all(significance.detectable_difference(np.arange(count) % 2) > 0 for count in (6, 7, 500))


def test_mcnemar():
    by_hand = 2 * sum(math.comb(17, k) for k in range(6)) / 2**17
    assert significance.mcnemar(12, 5) == pytest.approx(by_hand)
    assert significance.mcnemar(0, 0) == 1

"""Is the difference between two sets of paired scores more than chance? From each set one score a seed.

Under the null hypothesis a pair's two scores could as well have come the other way round: the sign of each difference
is a toss of a coin. The exact test counts the assignments of signs whose mean is as far from 0 as the one that was seen
(Fisher 1935, The Design of Experiments, section 21; Dror et al. 2018, "The Hitchhiker's Guide to Testing Statistical
Significance in Natural Language Processing", section 3.2). Differences of several tasks are stratified: each task's
mean counts once, whatever its number of pairs.
"""

import numpy as np
from scipy import optimize, stats

LEVEL = 0.05            # of the tests; the intervals hold 1 - LEVEL
POWER = 0.8             # the share of comparisons in which a difference of the noticeable size would be found
EXACT = 16              # most pairs of which all assignments of signs are looked at; of more, so many at random
RESAMPLES = 2**16
SEED = 0                # of these


def weights_of(strata):
    """The weight of each difference in the mean of the strata's means, all strata one behind the other."""
    return np.concatenate([np.full(len(stratum), 1 / len(stratum) / len(strata)) for stratum in strata])


def mean_difference(strata):
    """strata: of each task the array of its differences. The mean of the tasks' means."""
    return float(np.mean([np.mean(stratum) for stratum in strata]))


def permutation_p(strata):
    """The two-sided p value of the paired permutation test, exact up to EXACT pairs."""
    differences, weights = np.concatenate(strata), weights_of(strata)
    if len(differences) == 1 or not differences.any():
        return 1.0

    def statistic(signed, axis=-1):
        return np.round(np.tensordot(signed, weights, (axis, 0)), 12)       # equal sums are equal in all orders

    result = stats.permutation_test((differences,), statistic, permutation_type='samples', vectorized=True,
                                    n_resamples=resamples(len(differences)), random_state=SEED)
    return float(result.pvalue)


def resamples(count):
    return np.inf if count <= EXACT else RESAMPLES - 1


def permutation_interval(strata):
    """(low, high): the differences that the permutation test would not reject; None where there are too few pairs.

    Of the means of all 2^n - 1 subsets of the differences the k-th from both ends, k = LEVEL/2 of 2^n rounded down
    (Hartigan 1969, "Using Subsample Values as Typical Values": the true value is equally likely to lie in each of the
    2^n gaps between them). Of several tasks it supposes the same difference in each; where they differ, it is wider
    than need be.
    """
    differences, weights = np.concatenate(strata), weights_of(strata)
    count = len(differences)
    if count <= EXACT:
        members = np.arange(1, 2**count)[:, None] >> np.arange(count) & 1
    else:
        members = np.random.default_rng(SEED).integers(0, 2, (RESAMPLES - 1, count))    # none is empty: 2^-17 at most
    means = np.sort(members @ (weights * differences) / (members @ weights))
    k = int(LEVEL / 2 * (len(means) + 1))
    return (float(means[k - 1]), float(means[-k])) if k else None


def t_interval(strata):
    """(low, high, p) of Student's t for the mean of the tasks' means, with Welch's and Satterthwaite's degrees of
    freedom where there are several tasks; None where a task has one pair, or all its differences are the same."""
    if min(map(len, strata)) < 2:
        return None
    variances = np.array([np.var(stratum, ddof=1) / len(stratum) for stratum in strata]) / len(strata)**2
    error = np.sqrt(variances.sum())
    if error == 0:
        return None
    freedom = variances.sum()**2 / sum(v**2 / (len(stratum) - 1) for v, stratum in zip(variances, strata, strict=True))
    mean = mean_difference(strata)
    low, high = stats.t.interval(1 - LEVEL, freedom, mean, error)
    return float(low), float(high), float(2 * stats.t.sf(abs(mean) / error, freedom))


def detectable_difference(differences):
    """The smallest true difference that comparisons of so many pairs, with this spread, would find significant in POWER
    of all cases, by the power of the t test (Cohen 1988, section 2.2), to which the permutation test comes close from
    seven pairs on; None where there is no spread, or where no difference could be significant."""
    count = len(differences)
    if smallest_p(count) > LEVEL or np.std(differences) == 0:
        return None
    critical = stats.t.ppf(1 - LEVEL / 2, count - 1)
    # In standard errors. The other tail adds nothing where the power is this high.
    effect = optimize.brentq(lambda effect: stats.nct.sf(critical, count - 1, effect) - POWER, 0, 3 * critical)
    return float(effect * np.std(differences, ddof=1) / np.sqrt(count))


def smallest_p(count):
    """The smallest p value that the exact test of so many pairs can give: all signs the same, one way or the other."""
    return 2 / 2**count


def mcnemar(mended, broken):
    """The p value of McNemar's exact test: whether of mended + broken examples half would be mended (McNemar 1947)."""
    return float(stats.binomtest(mended, mended + broken).pvalue) if mended + broken else 1.0

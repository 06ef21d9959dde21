"""How often does the comparison see a difference where there is none?

    uv run -m checks.false_alarms small --runs-dir runs         # RUN words as tools.compare takes them

Runs of one script and the same code, which differ in their seeds alone, are drawn at random and put into two sets of 8
and of 16 pairs. At a level of 5 % about 5 % of the comparisons may come out significant: 4.7 % is the most that 8 pairs
can give, as their p values are multiples of 2/256; ties give less. As the draw makes the signs random, the permutation
test cannot do otherwise unless its code is wrong; what Student's t does on such scores is open.
"""

import argparse
import json
import math
import sys

import numpy as np

import config
from engine.arguments import number_in_range
from engine.console import markdown_table
from engine.files import UserError, exit_status
from engine.runs import records
from lab import significance

PAIRS = (8, 16)


def false_alarms(scores, pairs, draws, random):
    """Of so many comparisons of scores that are drawn from `scores`, (runs,), the shares with p <= LEVEL by the
    permutation test, and by Student's t."""
    alarms = np.zeros(2)
    for _ in range(draws):
        baseline, idea = random.choice(scores, (2, pairs), replace=False)
        strata = [idea - baseline]
        student = significance.t_interval(strata)
        alarms += [significance.permutation_p(strata) <= significance.LEVEL,
                   student is not None and student[2] <= significance.LEVEL]
    return alarms / draws


def check(words, runs_dir, model, draws):
    """Print the table. Raises UserError."""
    runs, _ = records.find_runs(words, runs_dir, model)
    scores_of_kind = {}
    for run in runs:
        if math.isnan(run.best['score']):
            print(f'{run}: its score is not defined: left out.')
            continue
        options = {name: value for name, value in run.knobs.items() if name not in (*config.NOT_IN_RUN_IDENTITY, 'seed')}
        kind = (run.task, run.name, json.dumps([run.settings['source_sha256'], options], sort_keys=True))
        scores_of_kind.setdefault(kind, []).append(100 * run.best['score'])
    rows = []
    for (task, name, _), scores in scores_of_kind.items():
        for pairs in PAIRS:
            if len(scores) >= 2 * pairs:
                shares = false_alarms(np.array(scores), pairs, draws, np.random.default_rng(pairs))
                rows.append([task, name, len(scores), f'{np.std(scores, ddof=1):.2f}', pairs, draws,
                             *(f'{100 * share:.1f} %' for share in shares)])
    if not rows:
        raise UserError(f'no script has {2 * PAIRS[0]} runs of the same code and options, which {PAIRS[0]} pairs take.')
    print(markdown_table(['task', 'name', 'runs', 'std', 'pairs', 'draws', 'permutation test', "Student's t"], rows))


def main(argv=None):
    """The command line. Returns the exit status."""
    parser = argparse.ArgumentParser(prog='python -m checks.false_alarms', description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('runs', nargs='+', metavar='RUN', help=records.RUN_ARGUMENT_HELP)
    records.add_options(parser)
    parser.add_argument('--draws', type=number_in_range(int, 1, 10**6), default=1000, help='(%(default)s)')
    args = parser.parse_args(argv)
    return exit_status(check, args.runs, records.runs_dir(args), args.model, args.draws)


if __name__ == '__main__':
    sys.exit(main())

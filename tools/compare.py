"""Does an idea help? Two sets of finished runs, compared in pairs of the same script and seed.

    uv run -m tools.compare baseline r_drop                         # the runs without a --name, and those named r_drop
    uv run -m tools.compare baseline r_drop --model minilm --runs-dir /data/runs
    uv run -m tools.compare 'runs/RTE/*-seed?' runs2/RTE            # patterns of folders (in quotes), or folders

For every task, and for all together (each task counts once): the mean difference of the score in points, best epoch and
last epoch; its 95 % interval and its p value by the exact paired permutation test, and Student's interval beside it
(lab/significance.py has the sources); by seed, how often the idea wins and loses; the smallest true difference that
so many pairs with this spread would have found in four of five cases; what the idea costs in time and memory; which
examples of dev it mends and breaks. And what all this cannot say.

Left in RUNS_DIR, or where --to says: compare-MODEL-BASELINE-IDEA.md, .json, and .tsv, the changed examples, worst
first. Exit status: 0, or 2 where the runs cannot be compared.
"""

import argparse
import math
import re
import statistics
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

import config
from engine.console import markdown_table
from engine.files import UserError, exit_status, write_file, write_json
from engine.runs import records
from engine.runs.layout import ANSWER_SEPARATOR
from lab import significance

EPOCHS = ('best', 'last')       # of each run, both compared
ENOUGH = 8                      # pairs of one task: the number that is recommended
DIGITS = 9                      # to which differences are rounded: 0.3 - 0.2 is a tie with 0.2 - 0.1


class Outcome(NamedTuple):
    """The comparison of one task, or of all, by one epoch of every run. Scores and differences are in points."""
    pairs: int
    baseline: float
    idea: float
    difference: float
    interval: tuple | None      # (low, high) by the permutation test; None with too few pairs
    p: float
    student: tuple | None       # (low, high, p)
    wins: int
    losses: int
    noticeable: float | None


class Changed(NamedTuple):
    """An example of dev that some pair of runs answers differently. The fields are the columns of the TSV."""
    task: str
    change: float       # of the mean error: 1 where the idea breaks it with all seeds, -1 where it mends it
    seeds_mended: int   # with which the idea's error is the smaller one
    seeds_broken: int
    label: str
    baseline: str       # the answers by seed
    idea: str
    file: str
    line: int
    text_a: str
    text_b: str


class TaskComparison(NamedTuple):
    """All about one task."""
    seeds: list
    metric: str
    outcomes: dict          # {'best': Outcome, 'last': Outcome}
    time_ratio: float       # of the idea's training to the baseline's, median of the pairs
    memory_ratio: float | None
    changed: list
    mended: int             # examples that more seeds answer right with the idea than without; scores: closer
    broken: int
    mcnemar_p: float | None


class Comparison(NamedTuple):
    names: tuple            # of the two sets
    models: list
    tasks: dict             # {script: TaskComparison}
    overall: dict | None    # {'best': Outcome, 'last': Outcome} where there are several tasks
    notes: list


# ---- Pairs -----------------------------------------------------------------------------------------------------------


def by_task_and_seed(runs, name):
    """{(task, seed): run}. Raises UserError where two runs of a set have the same."""
    found = {}
    for run in runs:
        other = found.setdefault((run.task, run.seed), run)
        if other is not run:
            raise UserError(f'{name} has two runs of {run.task} with seed {run.seed}: {other} and {run}. Take one '
                            'model with --model, or a narrower pattern.')
    return found


def make_pairs(baseline, idea, names):
    """{task: its pairs (baseline's run, idea's run) by seed}, and notes on runs that are left out. Raises UserError."""
    ones, others = by_task_and_seed(baseline, names[0]), by_task_and_seed(idea, names[1])
    if shared := {run.folder.resolve() for run in baseline} & {run.folder.resolve() for run in idea}:
        raise UserError(f'{sorted(shared)[0]} is in both sets.')
    if not set(ones) & set(others):
        raise UserError(f'{names[0]} and {names[1]} have no script and seed in common: {list_of(ones)}; '
                        f'{list_of(others)}.')
    notes = []
    for name, mine, theirs in ((names[0], ones, others), (names[1], others, ones)):
        if alone := set(mine) - set(theirs):
            notes.append(f'{name} alone has {list_of(alone)}: left out.')
    pairs = {}
    for task, seed in sorted(set(ones) & set(others)):
        pairs.setdefault(task, []).append((ones[task, seed], others[task, seed]))
    return pairs, notes


def list_of(runs):
    return ', '.join(f'{task} seed {seed}' for task, seed in sorted(runs))


# ---- Tests -----------------------------------------------------------------------------------------------------------


def outcome_of(strata):
    """The Outcome of {task: array of (baseline, idea) in points}, each task a stratum."""
    differences = [(scores[:, 1] - scores[:, 0]).round(DIGITS) for scores in strata.values()]
    everything = np.concatenate(differences)
    baseline, idea = np.mean([scores.mean(0) for scores in strata.values()], 0)
    return Outcome(
        len(everything), float(baseline), float(idea), significance.mean_difference(differences),
        significance.permutation_interval(differences), significance.permutation_p(differences),
        significance.t_interval(differences), int((everything > 0).sum()), int((everything < 0).sum()),
        significance.detectable_difference(differences[0]) if len(differences) == 1 else None)


def scores_of(pairs, epoch):
    """(pairs, 2): the scores of an epoch in points. One that is not defined counts as 0, as Matthews correlation does
    where all answers are the same."""
    scores = np.array([[100 * getattr(run, epoch)['score'] for run in pair] for pair in pairs])
    return np.nan_to_num(scores)


def ratio(pairs, cost):
    """The median over the pairs of the idea's cost to the baseline's; None where a run did not keep it."""
    costs = [[cost(run) for run in pair] for pair in pairs]
    if any(not value for values in costs for value in values):
        return None
    return statistics.median(idea / baseline for baseline, idea in costs)


def training_seconds(run):
    return sum(row['train_seconds'] for row in run.epochs)


def peak_memory(run):
    return max(row.get('peak_gib') or 0 for row in run.epochs)


# ---- Examples --------------------------------------------------------------------------------------------------------


def error_of(answer, is_score):
    """0 or 1, or how far a score is from the right one."""
    if is_score:
        return abs(float(answer.prediction) - float(answer.label))
    return float(answer.prediction not in answer.label.split(ANSWER_SEPARATOR))


def is_number(text):
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def changed_examples(task, pairs):
    """The Changed examples of a task, worst first. Raises UserError where two runs were not scored on the same dev."""
    answers = [[records.read_predictions(run) for run in pair] for pair in pairs]
    examples = answers[0][0]
    is_score = not pairs[0][0].knobs.get('labels') and all(
        is_number(text) for of_pair in answers for of_run in of_pair for answer in of_run
        for text in (answer.label, answer.prediction))
    questions = [example.question for example in examples]
    for pair, of_pair in zip(pairs, answers, strict=True):
        for run, of_run in zip(pair, of_pair, strict=True):
            if [answer.question for answer in of_run] != questions:
                raise UserError(f'{pairs[0][0]} and {run} were not scored on the same dev examples.')
    changed = []
    for row, example in enumerate(examples):
        said = [[of_run[row] for of_run in of_pair] for of_pair in answers]
        errors = np.array([[error_of(answer, is_score) for answer in pair] for pair in said])
        change = (errors[:, 1] - errors[:, 0]).round(DIGITS)
        if change.any():
            before, after = (' '.join(answer.prediction for answer in side) for side in zip(*said, strict=True))
            changed.append(Changed(task, round(float(change.mean()), 4), int((change < 0).sum()),
                                   int((change > 0).sum()), example.label, before, after, example.file, example.line,
                                   example.text_a, example.text_b))
    return sorted(changed, key=lambda example: (-example.change, -example.seeds_broken, example.file, example.line))


# ---- What differs, and what cannot be said ---------------------------------------------------------------------------


def option_notes(pairs, names):
    """What the two sets have different beside their names: options, code, versions, machines; and what the runs of one
    set have different from one another."""
    notes = []
    for task, task_pairs in pairs.items():
        before, after = zip(*task_pairs, strict=True)
        found = {name for run in before + after for name in run.settings.get('found', [])}      # not chosen
        knobs = sorted({name for run in before + after for name in run.knobs} - {*config.NOT_IN_RUN_IDENTITY, 'seed', *found})
        for name in knobs:
            values = [sorted({str(run.knobs.get(name)) or 'empty' for run in side}) for side in (before, after)]
            notes += differences(f'{task}: {name}', values, names)
        for name in ('versions', 'device', 'cores'):
            values = [sorted({str(run.settings.get(name)) for run in side}) for side in (before, after)]
            notes += differences(f'{task}: {name}', values, names)
        changed = files_between([before[0]], [after[0]])
        if changed:
            notes.append(f'{task}: code differs: {", ".join(changed)}.')
        for side, name in ((before, names[0]), (after, names[1])):
            if mixed := files_between(side[:1], side[1:]):
                notes.append(f'{task}: {name} mixes runs of different code: {", ".join(mixed)}.')
    if any(run.knobs.get('demo') for task_pairs in pairs.values() for pair in task_pairs for run in pair):
        notes.append('Demo: made-up data. These scores mean nothing.')
    return notes


def differences(what, values, names):
    """A note where a setting has not one value. values: those of each set, as text."""
    before, after = values
    if before == after and len(before) == 1:
        return []
    return [f'{what} differs: {" and ".join(before)} in {names[0]}, {" and ".join(after)} in {names[1]}.']


def files_between(runs, others):
    """The files of code that are not the same in all these runs."""
    hashes = [run.settings.get('source_sha256') or {} for run in (*runs, *others)]
    files = {file for of_run in hashes for file in of_run}
    return sorted(file for file in files if len({of_run.get(file) for of_run in hashes}) > 1)


def limits(tasks, pairs):
    """What the numbers cannot say."""
    notes = []
    for task, comparison in tasks.items():
        undefined = {run.seed for pair in pairs[task] for run in pair for epoch in EPOCHS
                     if math.isnan(getattr(run, epoch)['score'])}
        if undefined:
            notes.append(f'{list_of((task, seed) for seed in undefined)}: a score that is not defined, as where all '
                         'answers are the same, counts as 0.')
        count = comparison.outcomes['best'].pairs
        smallest = significance.smallest_p(count)
        if smallest > significance.LEVEL:
            notes.append(f'{task}: with {count} seeds p cannot come below {smallest:g}, whatever they show. Take '
                         f'{ENOUGH} seeds.')
    if len(tasks) > 1:
        chance = 100 * (1 - (1 - significance.LEVEL) ** len(tasks))
        notes.append(f'By chance alone, one or more of {len(tasks)} tests at 5 % come out significant in {chance:.0f} '
                     '% of all comparisons: go by the line "all". Its interval supposes the same difference in every '
                     'task; where they differ it is wider than need be.')
    return notes


# ---- The comparison --------------------------------------------------------------------------------------------------


def compare(baseline, idea, names=('baseline', 'idea')):
    """The Comparison of two lists of records. Raises UserError."""
    pairs, notes = make_pairs(baseline, idea, names)
    tasks = {task: compare_task(task, pairs[task]) for task in pairs}
    overall = None
    if len(tasks) > 1:
        overall = {epoch: outcome_of({task: scores_of(pairs[task], epoch) for task in pairs}) for epoch in EPOCHS}
    models = sorted({run.model for task_pairs in pairs.values() for pair in task_pairs for run in pair})
    return Comparison(names, models, tasks, overall, notes + option_notes(pairs, names) + limits(tasks, pairs))


def compare_task(task, pairs):
    changed = changed_examples(task, pairs)
    mended = sum(example.change < 0 for example in changed)
    broken = sum(example.change > 0 for example in changed)
    first = pairs[0][0]
    metric = first.metrics[0] if len(first.metrics) == 1 else f'mean of {", ".join(first.metrics)}'
    outcomes = {epoch: outcome_of({task: scores_of(pairs, epoch)}) for epoch in EPOCHS}
    mcnemar_p = significance.mcnemar(mended, broken) if first.knobs.get('labels') else None
    return TaskComparison([one.seed for one, _ in pairs], metric, outcomes, ratio(pairs, training_seconds),
                          ratio(pairs, peak_memory), changed, mended, broken, mcnemar_p)


# ---- In words --------------------------------------------------------------------------------------------------------


def points(value):
    return f'{round(value, 2) + 0.0:+.2f}'      # + 0.0: no minus before a zero


def p_value(p):
    return '< 0.001' if p < 0.001 else f'{p:.3f}'


def interval(bounds):
    return f'{points(bounds[0])} to {points(bounds[1])}' if bounds else 'too few pairs'


def cells(outcome):
    """Of an Outcome, from the number of pairs on."""
    student = interval(outcome.student[:2]) if outcome.student else ''
    noticeable = '' if outcome.noticeable is None else f'{outcome.noticeable:.2f}'
    return [outcome.pairs, f'{outcome.baseline:.2f}', f'{outcome.idea:.2f}', points(outcome.difference),
            interval(outcome.interval), p_value(outcome.p), student, f'{outcome.wins} / {outcome.losses}', noticeable]


def score_table(comparison):
    """(head, rows): two rows a task, two for all."""
    head = ['task', 'metric', 'epoch', 'pairs', *comparison.names, 'difference', '95 % interval', 'p',
            "Student's interval", 'wins / losses', 'noticeable']
    rows = []
    for task, of_task in comparison.tasks.items():
        rows += [[task, of_task.metric, epoch, *cells(of_task.outcomes[epoch])] for epoch in EPOCHS]
    if comparison.overall:
        rows += [['all', 'mean of the tasks', epoch, *cells(comparison.overall[epoch])] for epoch in EPOCHS]
    return head, rows


def cost_table(comparison):
    """(head, rows): a row a task."""
    head = ['task', 'training time', 'peak memory', 'examples mended / broken', "McNemar's exact p (second opinion)"]
    rows = []
    for task, of_task in comparison.tasks.items():
        mcnemar = '' if of_task.mcnemar_p is None else p_value(of_task.mcnemar_p)
        rows.append([task, times(of_task.time_ratio), times(of_task.memory_ratio),
                     f'{of_task.mended} / {of_task.broken}', mcnemar])
    return head, rows


def times(value):
    return 'not kept' if value is None else f'{value:.2f} times'


def conclusions(comparison):
    """Sentences for each task, and for all."""
    idea = comparison.names[1]
    said = [sentence(f'{task} ({of_task.metric}, dev)', idea, of_task.outcomes, of_task.time_ratio)
            for task, of_task in comparison.tasks.items()]
    if comparison.overall:
        said.append(sentence('All tasks (dev)', idea, comparison.overall))
    return said


def sentence(what, idea, outcomes, time_ratio=None):
    """What can be said of the Outcomes of the best and the last epoch, as for a paper."""
    best, last = outcomes['best'], outcomes['last']
    bounds = f', 95 % interval {interval(best.interval)}' if best.interval else ''
    cost = f', at {time_ratio:.1f} times the training time' if time_ratio else ''
    return f'{what}: {idea} {best.idea:.2f} against {best.baseline:.2f} at the best epoch, {points(best.difference)} ' \
           f'points{bounds} (paired permutation test, p {p_in_words(best.p)}, {best.pairs} pairs){cost}; at the last ' \
           f'epoch {points(last.difference)} (p {p_in_words(last.p)}). {verdict(best, last)}'


def p_in_words(p):
    return p_value(p) if p < 0.001 else f'= {p_value(p)}'


def verdict(best, last):
    significant = [outcome.p <= significance.LEVEL for outcome in (best, last)]
    if all(significant) and best.difference * last.difference > 0:
        return 'It helps.' if best.difference > 0 else 'It harms.'
    if any(significant):
        which = 'best' if significant[0] else 'last'
        return f'Significant at the {which} epoch only: the idea may change how much choosing the epoch gains.'
    if significance.smallest_p(best.pairs) > significance.LEVEL:
        return 'So few pairs can show no difference.'
    if best.noticeable is None:
        return 'No difference is shown.'
    return f'No difference is shown; one of less than {best.noticeable:.2f} points could well have been missed.'


def legend():
    """How the tables are to be read."""
    resamples, power = f'{significance.RESAMPLES:,}', f'{100 * significance.POWER:.0f}'
    return [
        f'Scores on dev, in points. 95 % interval and p: the paired permutation test, two-sided, exact up to '
        f'{significance.EXACT} pairs, beyond with {resamples} assignments of signs at random.',
        'The best epoch is chosen on dev in both sets. Times are rough where runs shared a machine.',
        f'Noticeable: a true difference of this size would come out significant in {power} % of such comparisons (by '
        'the t test; six pairs: 63 %).',
        'An example is mended where more seeds answer it right with the idea than without (a score: closer). '
        "McNemar's test, on these counts and for labels only, asks whether these very runs differ, not whether other "
        'seeds would: it does not replace the permutation test.']


def title(comparison):
    baseline, idea = comparison.names
    return f'{idea} against {baseline}, {" and ".join(comparison.models)}'


def markdown(comparison):
    """The comparison as text: tables, sentences, notes."""
    return '\n'.join([f'# {title(comparison)}', '', markdown_table(*score_table(comparison)),
                      markdown_table(*cost_table(comparison)), *(f'- {line}' for line in conclusions(comparison)), '',
                      *(f'- {line}' for line in comparison.notes + legend())]) + '\n'


def as_json(comparison):
    def as_dicts(outcomes):
        return {epoch: outcomes[epoch]._asdict() for epoch in EPOCHS}
    return {
        'names': comparison.names, 'models': comparison.models,
        'tasks': {task: of_task._asdict() | {'outcomes': as_dicts(of_task.outcomes), 'changed': len(of_task.changed)}
                  for task, of_task in comparison.tasks.items()},
        'overall': comparison.overall and as_dicts(comparison.overall),
        'notes': comparison.notes}


def tsv(comparison):
    changed = [example for of_task in comparison.tasks.values() for example in of_task.changed]
    return '\n'.join(['\t'.join(Changed._fields), *('\t'.join(map(str, example)) for example in changed)]) + '\n'


def write(comparison, path):
    """path: without an ending. Returns what was printed about it."""
    text = markdown(comparison)
    write_file(Path(f'{path}.tsv'), tsv(comparison))
    write_json(Path(f'{path}.json'), as_json(comparison))
    write_file(Path(f'{path}.md'), text)
    return f'{text}\n{path}.md, .json, and .tsv: the examples that change, worst first'


# ---- The command line ------------------------------------------------------------------------------------------------


def default_path(runs_dir, comparison):
    """RUNS_DIR/compare-MODEL-BASELINE-IDEA, without the model where there are several; words that are no names are made
    into such."""
    words = [re.sub(r'[^\w.-]+', '_', name).strip('_') for name in comparison.names]
    model = comparison.models if len(comparison.models) == 1 else []
    return Path(runs_dir) / '-'.join(['compare', *model, *words])


def compare_words(words, runs_dir, model, path):
    """Compare what two words mean, print it and write it. Raises UserError."""
    found = [records.find_runs([word], runs_dir, model) for word in words]
    comparison = compare(*(runs for runs, _ in found), tuple(words))
    comparison.notes.extend(f'{word} has unfinished runs, left out: {", ".join(map(str, unfinished))}.'
                            for word, (_, unfinished) in zip(words, found, strict=True) if unfinished)
    path = path.with_suffix('') if path and path.suffix in ('.md', '.json', '.tsv') else path
    path = path or default_path(runs_dir, comparison)
    path.parent.mkdir(parents=True, exist_ok=True)
    print(write(comparison, path))


def main(argv=None):
    """The command line. Returns the exit status."""
    parser = argparse.ArgumentParser(prog='python -m tools.compare', description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('baseline', help=f'runs: {records.RUN_ARGUMENT_HELP}')
    parser.add_argument('idea', help='runs to compare with them')
    records.add_options(parser)
    parser.add_argument('--to', type=Path, metavar='PATH', help='where the files go, without their endings')
    args = parser.parse_args(argv)
    return exit_status(compare_words, (args.baseline, args.idea), records.runs_dir(args), args.model, args.to)


if __name__ == '__main__':
    sys.exit(main())

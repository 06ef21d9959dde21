"""The mean of several finished runs: its scores on dev beside theirs, and its answers for the leaderboard.

    uv run -m tools.ensemble baseline                           # of each task, all runs in runs/ without a --name
    uv run -m tools.ensemble runs/CoLA runs/more/CoLA           # these folders' runs; models may differ
    uv run -m tools.ensemble 'runs/CoLA/*-seed[123]' --results-dir results/three
    uv run -m tools.ensemble baseline --demo                    # of runs/demo, to results/demo

A RUN is a folder of a run, a folder of runs, a pattern of such folders in quotes, the --name of runs in RUNS_DIR, or
'baseline': the runs there that have no name. Each task's runs make one ensemble, in which every run counts the same;
a task with one run only is left out. Neither data nor weights are read: what a run keeps is enough.

What is averaged is decided by each run's own record of its losses on dev, which its training took from the loss that
its script chose. Where they are the cross-entropy of the softmax of its outputs, these are logits, and probabilities
are averaged; where they are the squared errors of its outputs, these are scores, and averaged themselves. A run with
any other loss is refused. The task's score() and answers(), as they are in its script now, are given the mean scores,
or as logits the logarithms of the mean probabilities; of every single run they must give what the run itself says.

All is written, or nothing where one run does not fit the others; exit status 0, else 2.
"""

import argparse
import itertools
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.special import log_softmax, logsumexp

import config
import snippets
from engine.console import markdown_table
from engine.files import UserError, exit_status, read_lines, write_file
from engine.runs.folder import make_writable
from engine.runs.metrics import format_score
from engine.runs.records import (
    RUN_ARGUMENT_HELP,
    DevData,
    add_options,
    find_runs,
    read_outputs,
    read_predictions,
    runs_dir,
)
from lab.scripts import load_script
from tools.submission import HEADER

CLOSE = {'rtol': 1e-3, 'atol': 1e-3}        # dev_predictions.tsv has four decimals of the losses
SAME = {'rtol': 0, 'atol': 1e-6, 'equal_nan': True}
SHORT = 40      # characters of what is shown of a difference


class TestFile(NamedTuple):
    """A run's answers to a test file."""
    indexes: list
    answers: list
    outputs: np.ndarray
    texts: str          # their sha256


class Member(NamedTuple):
    """A run with what it has left for dev and for the test files."""
    folder: Path
    labels: tuple
    best: dict          # its scores
    answers: list       # for dev, records.Answer
    outputs: np.ndarray
    texts: str
    tests: dict         # {file for the leaderboard: TestFile}


class Ensemble(NamedTuple):
    task: str
    members: list
    kind: str           # what was averaged
    scores: dict        # of the mean, on dev
    contents: dict      # {file for the leaderboard: its text}


# ---- The runs --------------------------------------------------------------------------------------------------------


def read_member(record):
    """A Record's Member. Raises UserError."""
    labels = tuple(record.knobs.get('labels') or ())
    answers = read_predictions(record)
    outputs, texts = read_array(record, 'dev', len(answers))
    tests = {}
    for path in sorted(record.folder.glob('*.tsv')):
        if path.name != 'dev_predictions.tsv':
            tests[path.name] = read_test(record, path)
    best = {name: record.best[name] for name in record.metrics}
    return Member(record.folder, labels, best, answers, outputs, texts, tests)


def read_array(record, stem, rows):
    """(outputs, texts_sha256) in STEM_outputs.npz: an array with a row for each example. Raises UserError."""
    arrays = read_outputs(record, stem)
    texts = arrays.pop('texts_sha256')
    outputs = arrays.get('output_0')
    if set(arrays) != {'output_0'} or len(outputs) != rows:
        raise UserError(f'{record.folder / f"{stem}_outputs.npz"}: not one output for each of {rows} examples. Only '
                        'tasks whose examples get one label or one score can be averaged.')
    if not np.isfinite(outputs).all():
        raise UserError(f'{record.folder / f"{stem}_outputs.npz"}: some outputs are not finite. Leave this run out.')
    return outputs, texts


def read_test(record, path):
    """The TestFile of what a run wrote for the leaderboard, and of its outputs. Raises UserError."""
    header, *lines = read_lines(path)
    rows = [line.split('\t') for line in lines]
    if header != HEADER or any(len(row) != 2 or not row[0].isdecimal() for row in rows):
        raise UserError(f'{path}: not the file that the run wrote.')
    outputs, texts = read_array(record, path.stem, len(rows))
    return TestFile([index for index, _ in rows], [answer for _, answer in rows], outputs, texts)


def check_alike(first, other):
    """Raises UserError unless the mean of these two members has a meaning."""
    for (what, mine), (_, others) in zip(traits(first), traits(other), strict=False):
        if mine != others:
            mine, others = str(mine), str(others)
            shown = f' ({mine} and {others})' if max(len(mine), len(others)) <= SHORT else ''
            raise UserError(f'{first.folder} and {other.folder}: the {what} differ{shown}. The runs of an ensemble '
                            'answer the same texts with the same labels: leave one of these out.')


def traits(member):
    """(what, value) of all that the members of an ensemble must have in common."""
    yield 'labels', ', '.join(member.labels)
    yield 'dev texts', member.texts
    yield 'labels of the dev texts', [(answer.file, answer.label) for answer in member.answers]
    yield 'shapes of the dev outputs', member.outputs.shape
    yield 'test predictions that are there', ', '.join(member.tests)
    for name, test in member.tests.items():
        yield f'texts of {name}', test.texts
        yield f'indexes in {name}', test.indexes
        yield f'shapes of the outputs for {name}', test.outputs.shape


# ---- What their outputs mean -----------------------------------------------------------------------------------------


def dev_data(member):
    """The dev set of a member, as its script's score() and answers() use it. Raises UserError."""
    pair = any(answer.text_b for answer in member.answers)
    try:
        gold = [member.labels.index(answer.label) if member.labels else float(answer.label)
                for answer in member.answers]
    except ValueError as error:
        raise UserError(f'{member.folder / "dev_predictions.tsv"}: not one label or score for each example '
                        f'({error}).') from error
    examples = [snippets.Example(answer.file, answer.line, answer.row, answer.text_a, answer.text_b if pair else None,
                                 label) for answer, label in zip(member.answers, gold, strict=True)]
    return DevData(examples, member.labels, np.array(gold))


def test_data(test, name, labels):
    """A test set for answers(): its texts are not known here, and are empty."""
    examples = [snippets.Example(name, line, int(index), '', None, None) for line, index in enumerate(test.indexes, 2)]
    return DevData(examples, labels)


def kind_of(member, data):
    """'probabilities' or 'scores': what can be averaged, by the losses that the run has recorded. Raises UserError."""
    losses = np.array([answer.loss for answer in member.answers])
    outputs, rows = member.outputs.astype(np.float64), len(losses)
    if member.labels:
        kind, loss, shape = 'probabilities', 'the cross-entropy of the softmax', (rows, len(member.labels))
    else:
        kind, loss, shape = 'scores', 'the squared errors', (rows, 1)
    if outputs.shape == shape:
        expected = -log_softmax(outputs, -1)[range(rows), data.gold] if member.labels else \
            (outputs[:, 0] - data.gold)**2
        if np.allclose(losses, expected, **CLOSE):
            return kind
    raise UserError(f'{member.folder}: its losses in dev_predictions.tsv are not {loss} of its outputs: what a mean of '
                    'them would say is not known here. Leave this run out.')


def average(kind, arrays):
    """Of arrays of logits, (examples, labels) each, the logarithms of the mean of their probabilities: argmax and
    softmax of it are those of the mean. Of scores the mean."""
    stack = np.stack(arrays).astype(np.float64)
    if kind == 'probabilities':
        return logsumexp(log_softmax(stack, -1), axis=0) - np.log(len(arrays))
    return stack.mean(axis=0)


def check_script(script, member, data):
    """Raises UserError unless the script's score() and answers() say of a member's outputs what the run itself says of
    them: it may have been edited since, or its files were."""
    scores = script.score(member.outputs, data)
    if list(scores) != list(member.best) or not np.allclose(list(scores.values()), list(member.best.values()), **SAME):
        raise UserError(f'{member.folder}: {script.__file__} scores its dev outputs as {shown(scores)}, and the run '
                        f'says {shown(member.best)}. Was the script edited since? Leave this run out.')
    for name, test in member.tests.items():
        if list(script.answers(test.outputs, test_data(test, name, member.labels))) != test.answers:
            raise UserError(f'{member.folder / name}: not the answers that {script.__file__} gives to the outputs of '
                            'this run. Was the script edited since? Leave this run out.')


def shown(scores):
    return ', '.join(f'{name} {format_score(value)}' for name, value in scores.items())


# ---- Their mean ------------------------------------------------------------------------------------------------------


def make_ensemble(task, records):
    """The Ensemble of Records of one task. Raises UserError."""
    script = load_script(task)
    members = []
    for record in records:
        members.append(read_member(record))
        check_alike(members[0], members[-1])
    data = dev_data(members[0])
    kinds = [kind_of(member, data) for member in members]
    for member in members:
        check_script(script, member, data)
    scores = script.score(average(kinds[0], [member.outputs for member in members]), data)
    contents = {}
    for name, test in members[0].tests.items():
        outputs = average(kinds[0], [member.tests[name].outputs for member in members])
        answers = script.answers(outputs, test_data(test, name, members[0].labels))
        rows = [f'{index}\t{answer}' for index, answer in zip(test.indexes, answers, strict=True)]
        contents[name] = '\n'.join([HEADER, *rows]) + '\n'
    return Ensemble(task, members, kinds[0], scores, contents)


def table(ensemble):
    """The scores of the runs, their mean, those of the ensemble, and what it gains, in percent."""
    names = list(ensemble.scores)
    mean = {name: float(np.mean([member.best[name] for member in ensemble.members])) for name in names}
    gain = {name: ensemble.scores[name] - mean[name] for name in names}
    rows = [[member.folder, *(format_score(member.best[name]) for name in names)] for member in ensemble.members]
    rows.append([f'mean of the {len(rows)}', *(format_score(mean[name]) for name in names)])
    rows.append(['**ensemble**', *(f'**{format_score(ensemble.scores[name])}**' for name in names)])
    rows.append(['ensemble - mean', *(show_gain(gain[name]) for name in names)])
    return markdown_table([ensemble.task, *names], rows)


def show_gain(value):
    return format_score(value) if np.isnan(value) or value < 0 else f'+{format_score(value)}'


# ---- The command line ------------------------------------------------------------------------------------------------


def run(args):
    results_dir = Path(args.results_dir or (config.DEMO['results_dir'] if args.demo else config.Knobs.results_dir))
    records, unfinished = find_runs(args.runs, runs_dir(args), args.model)
    by_task = {task: list(group) for task, group in itertools.groupby(records, lambda record: record.task)}
    alone = [group[0] for group in by_task.values() if len(group) == 1]
    for folder in unfinished:
        print(f'Note: {folder} is not finished: left out.', file=sys.stderr)
    if len(alone) == len(by_task):
        raise UserError(f'{", ".join(map(str, alone))}: one run of {"the" if len(alone) == 1 else "each"} task. An '
                        'ensemble has two runs or more: train another --seed.')
    for record in alone:
        print(f'Note: {record}: the only run of {record.task}: left out.', file=sys.stderr)
    ensembles = [make_ensemble(task, group) for task, group in by_task.items() if len(group) > 1]
    make_writable(results_dir, '--results-dir')
    for ensemble in ensembles:
        print(f'{ensemble.task}: {len(ensemble.members)} runs, the mean of their {ensemble.kind}; dev, in percent\n\n'
              f'{table(ensemble)}')
        if not ensemble.contents:
            print('No file for the leaderboard: these runs have no test predictions (--no-predict).')
        for name, content in ensemble.contents.items():
            write_file(results_dir / name, content)
            rows = content.count('\n') - 1
            print(f'{rows} test predictions: {results_dir / name}')
        print()
    print("Each run's epoch was chosen on dev by its score there. That flatters the members more than the ensemble.")


def main(argv=None):
    """The command line. Returns 0 when all files are written, else 2."""
    parser = argparse.ArgumentParser(prog='python -m tools.ensemble', description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('runs', nargs='+', metavar='RUN', help=RUN_ARGUMENT_HELP)
    add_options(parser)
    parser.add_argument('--results-dir', help=f'of the files for the leaderboard ({config.Knobs.results_dir})')
    return exit_status(run, parser.parse_intermixed_args(argv))


if __name__ == '__main__':
    sys.exit(main())

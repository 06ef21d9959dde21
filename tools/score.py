"""Score a file of predictions against gold labels, with a task's own definition of its metrics.

    uv run -m tools.score CoLA CoLA.tsv                         # for dev in datasets/
    uv run -m tools.score RTE mine.tsv --data-dir /data/glue
    uv run -m tools.score RTE mine.tsv --gold other/labelled.tsv
    uv run -m tools.score MNLI MNLI-m.tsv MNLI-mm.tsv           # matched, then mismatched
    uv run -m tools.score CoLA runs/CoLA/bert-base-uncased-seed42/dev_predictions.tsv
    uv run -m tools.score WNUT17 datasets/WNUT17/emerging.test.annotated results/WNUT17.conll   # gold, then predictions
    uv run -m tools.score SQuAD dev-v2.0.json SQuAD.json --null-odds SQuAD_null_odds.json

TASK is a script, with or without its folder. PREDICTIONS are in the leaderboard's format, index<TAB>prediction with
this header: an answer for each gold row, in any order, for each gold file one. An index is the example's as the
script's load_data() gives it: for all dev files of GLUE the row's number from 0. Or it is one dev_predictions.tsv of a
run, for all gold files together.

Gold are the task's dev files; --gold names another labelled file with the same columns, once for each dev file of the
task (MNLI: matched, then mismatched). The scores are those of the script's score(), which gets labels as one-hot rows,
and scores as they are written, within 0 and 5. STSB.py writes three decimals and cuts what is outside: the scores of
its files differ a little from those of its outputs.

A script with files of another kind, whose score_files() knows them, gets two files, first the one with the right
answers: of tagging/ a word a line, with tabs or blanks between columns, the tag in the last one, and the same words in
both; of reading/ the official JSON. --null-odds, for SQuAD 2.0: {id: how sure it is that there is no answer} as JSON;
best_... are then the scores with the thresholds on these that fit best.

Exit status 0, or 2 where an answer is missing, doubled, of no row or not one of the task's.
"""

import argparse
import dataclasses
import inspect
import sys
import tempfile
from pathlib import Path

import numpy as np

import config
from engine.catalog.datasets import TASKS
from engine.cli import resolve_knobs
from engine.files import UserError, exit_status, read_lines
from engine.model.checkpoints import Checkpoint
from engine.runs.layout import tsv_cell
from engine.runs.metrics import format_score
from engine.runs.records import DevData
from lab.scripts import knobs_of_run, load_script, resolve_task
from tools.submission import HEADER, find_problem, shorten

# ---- Gold ------------------------------------------------------------------------------------------------------------


def load_gold(script, data_dir, files, folder):
    """The labelled examples to score against, as Data: the task's dev set in DATA_DIR, or that of `files`. Where
    `folder` is a run of the script, with its knobs, which may decide what dev is. Raises UserError."""
    if not all(hasattr(script, name) for name in ('load_data', 'score', 'answers')):
        raise UserError(f'{script.__file__}: without load_data(), score() and answers() no answers can be scored.')
    given, recipe = {}, None
    if (folder / 'config.json').is_file():
        run = Checkpoint(folder)
        if run.task == config.Knobs(script=script.__file__).task:
            given, recipe = knobs_of_run(run, script), run.recipe
    knobs = resolve_knobs(script.knobs, script.__file__, given | {'data_dir': str(data_dir)}, recipe)
    examples = load_files(script, knobs, files) if files else script.load_data(knobs, 'dev')
    kind = int if knobs.labels else float
    if not all(type(example.label) is kind for example in examples):
        raise UserError(f'{knobs.task}: its examples have not one label or one score each. Only tasks that have can be '
                        'scored from a file of predictions.')
    return DevData(examples, knobs.labels, np.array([example.label for example in examples]))


def load_files(script, knobs, files):
    """What the script's load_data() makes of `files` in place of its dev files. It finds them under the names of these,
    by which its score() may tell them apart. Raises UserError."""
    task = TASKS.get(knobs.task)
    if not task:
        raise UserError(f'--gold: only for the tasks of GLUE: {", ".join(TASKS)}. Lay the file where '
                        f'{knobs.task}.py looks for it, and name the folder with --data-dir.')
    names = [name for name in task.files if name.startswith('dev')]
    if len(files) != len(names):
        raise UserError(f'--gold: {len(files)} files instead of {len(names)}: {knobs.task} has {", ".join(names)}.')
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / task.folder
        folder.mkdir()
        for name, file in zip(names, files, strict=True):
            if not file.is_file():
                raise UserError(f'{file}: no such file.')
            (folder / name).symlink_to(file.resolve())
        try:
            return script.load_data(dataclasses.replace(knobs, data_dir=root), 'dev')
        except UserError as error:
            text = str(error)
            for name, file in zip(names, files, strict=True):
                text = text.replace(str(folder / name), str(file))
            raise UserError(text) from None


# ---- Predictions -----------------------------------------------------------------------------------------------------


def read_predictions(paths, data):
    """The answers, text, in the order of the examples. Raises UserError with file and line."""
    examples, rows = data.examples, range(len(data.examples))
    if 'row' in read_header(paths[0]):
        if len(paths) > 1:
            raise UserError(f'{paths[0]}: a run\'s dev_predictions.tsv is for all of dev, not one of {len(paths)} '
                            'files.')
        found = read_column(paths[0], 'row', {str(row): row for row in rows}, data)
        return [found[row] for row in rows]
    files = list(dict.fromkeys(example.file for example in examples))
    if len(paths) != len(files):
        raise UserError(f'{len(paths)} files of predictions instead of {len(files)}: one for each of '
                        f'{", ".join(Path(file).name for file in files)}, in this order; or one dev_predictions.tsv of '
                        'a run.')
    found = {}
    for path, file in zip(paths, files, strict=True):
        places = {str(examples[row].index): row for row in rows if examples[row].file == file}
        if len(places) < sum(example.file == file for example in examples):
            raise UserError(f'{file}: an index occurs twice.')
        found |= read_column(path, 'index', places, data)
    return [found[row] for row in rows]


def read_header(path):
    """The names of the columns of a file of predictions. Raises UserError."""
    header = read_lines(path)[0]
    names = header.split('\t')
    if header != HEADER and not {'row', 'prediction'} <= set(names):
        raise UserError(f'{path}, line 1: header {shorten(header)} instead of {HEADER!r}, or that of a run\'s '
                        'dev_predictions.tsv.')
    return names


def read_column(path, key, places, data):
    """{row of data: answer} of a file. key: the column that says for which example an answer is; places: {its text:
    row of data}. Raises UserError."""
    names, lines, found = read_header(path), {}, {}
    if key not in names:
        raise UserError(f'{path}, line 1: no column {key!r}.')
    for line, text in enumerate(read_lines(path)[1:], 2):
        cells = text.split('\t')
        if len(cells) != len(names):
            raise UserError(f'{path}, line {line}: {len(cells)} columns instead of {len(names)}.')
        values = dict(zip(names, cells, strict=True))
        row = places.get(values[key])
        if row is None:
            raise UserError(f'{path}, line {line}: {key} {shorten(values[key])} is none of the gold rows.')
        if row in found:
            raise UserError(f'{path}, line {line}: {key} {values[key]} was there before, in line {lines[row]}.')
        if problem := find_problem(values['prediction'], data.labels):
            raise UserError(f'{path}, line {line}: {problem}.')
        text_a = tsv_cell(data.examples[row].text_a)
        if values.get('text_a', text_a) != text_a:
            raise UserError(f'{path}, line {line}: another text than that of gold row {row}. Is it of other data?')
        lines[row], found[row] = line, values['prediction']
    if missing := [place for place, row in places.items() if row not in found]:
        raise UserError(f'{path}, line {len(found) + 2}: the file ends without {len(missing)} of {len(places)} gold '
                        f'rows; the first is {key} {missing[0]}.')
    return found


def outputs_of(answers, labels):
    """Answers as a model's outputs: one-hot rows, (examples, labels), or scores, (examples, 1)."""
    if labels:
        return np.eye(len(labels))[[labels.index(answer) for answer in answers]]
    return np.array([[float(answer)] for answer in answers])


# ---- The command line ------------------------------------------------------------------------------------------------


def score_two(script, args):
    """Print what the script's own score_files() says. Raises UserError."""
    if len(args.predictions) != 2 or args.gold:
        raise UserError(f'{args.task}: name two files, with the right answers and with the predictions.')
    more = {}
    if args.null_odds:
        if 'null_odds' not in inspect.signature(script.score_files).parameters:
            raise UserError(f'--null-odds: {args.task} has no questions without an answer.')
        more['null_odds'] = args.null_odds
    for name, value in script.score_files(*args.predictions, **more).items():
        print(f'{name} {value:.6g}' if name.endswith('threshold') else f'{name} {format_score(value)}')


def run(args):
    script = load_script(resolve_task(args.task))
    if hasattr(script, 'score_files'):
        score_two(script, args)
        return
    if args.null_odds:
        raise UserError(f'--null-odds: {args.task} has no questions without an answer.')
    for path in args.predictions:
        read_header(path)       # before the gold files, which may be long
    data = load_gold(script, args.data_dir, args.gold, args.predictions[0].parent)
    answers = read_predictions(args.predictions, data)
    scores = script.score(outputs_of(answers, data.labels), data)
    print(f'{args.task}: {len(answers)} rows')
    for name, value in scores.items():
        print(f'{name} {format_score(value)}')
    number = "GLUE's number" if args.task in TASKS else 'score'
    mean = f' (the mean of the {len(scores)})' if len(scores) > 1 else ''
    print(f'{number} {format_score(float(np.mean(list(scores.values()))))}{mean}')


def main(argv=None):
    """The command line. Returns 0 when the scores are printed, else 2."""
    parser = argparse.ArgumentParser(prog='python -m tools.score', description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('task', help=f'a script: {", ".join(TASKS)}')
    parser.add_argument('predictions', nargs='+', type=Path, metavar='PREDICTIONS.tsv',
                        help="in the leaderboard's format, one for each gold file; or a run's dev_predictions.tsv; of "
                             'tagging/ and reading/ GOLD PREDICTIONS')
    parser.add_argument('--gold', action='append', type=Path, metavar='FILE',
                        help="in place of the task's dev file; MNLI: twice, matched and mismatched")
    parser.add_argument('--null-odds', type=Path, metavar='FILE', help='SQuAD 2.0: {id: how sure of no answer} as JSON')
    parser.add_argument('--data-dir', default=config.Knobs.data_dir, help='GLUE (%(default)s)')
    return exit_status(run, parser.parse_intermixed_args(argv))


if __name__ == '__main__':
    sys.exit(main())

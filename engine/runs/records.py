"""What finished runs have left behind: scores, answers and outputs, read without building a model."""

import glob
import math
import sys
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

import config
from engine.files import UserError, first_line, read_json, read_lines
from engine.runs.layout import METRICS, metric_names

BASELINE = 'baseline'       # how the runs without a --name are called
PRETRAINING = 'pretraining/'        # begins what their runs call `task`
RUN_ARGUMENT_HELP = f'a folder of a run or of runs, a pattern of such folders in quotes, the --name of runs, or {BASELINE}: those ' \
       'without one'        # what a RUN is on the command line
# What NumPy and zipfile raise for a damaged .npz; TypeError and AttributeError: for a .npy, which is no container.
NPZ_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, OSError, TypeError, AttributeError)


class Record(NamedTuple):
    """A finished run."""
    folder: Path
    task: str
    model: str
    seed: int
    name: str           # its --name, or ''
    knobs: dict
    settings: dict      # config.json
    epochs: list        # of metrics.json, a row each; a metric that is not defined is nan
    best: dict          # one of them

    def __str__(self):
        return str(self.folder)

    @property
    def last(self):
        return self.epochs[-1]

    @property
    def metrics(self):
        return metric_names(self.best)


class Prediction(NamedTuple):
    """What a run says of an example of dev. All but row, line and loss are text."""
    row: int
    label: str
    prediction: str
    file: str
    line: int
    text_a: str
    text_b: str
    loss: float         # by the script's losses() or the function that its model was compiled with; 0 where neither is

    @property
    def question(self):
        """What was asked, without what the run says."""
        return self.row, self.label, self.file, self.line, self.text_a, self.text_b


class DevData(NamedTuple):
    """What score() and answers() of a script use of the data, where there are no tokens."""
    examples: list
    labels: tuple
    gold: np.ndarray = None     # (examples,) the labels' numbers, or the scores; None for test data


# ---- Which runs ------------------------------------------------------------------------------------------------------


def find_runs(words, runs_dir, model=''):
    """The finished runs that words mean, each once, in the order of (task, seed, folder), and the folders of those that
    are not finished. A word is a folder of a run, a folder of runs, a pattern of such folders, the --name of runs in
    RUNS_DIR, or 'baseline': the runs there that have no name. `model` leaves only this model's. Runs of pre-training,
    which answer no examples, are passed over, and that is said. Raises UserError."""
    records, unfinished, pretraining = {}, [], []
    for word in words:
        folders = folders_matching(word, Path(runs_dir))
        for folder in folders:
            if not model or folder.name.startswith(f'{Path(model).name}-seed'):
                record = read_run(folder)
                if not record:
                    unfinished.append(folder)
                elif record.task.startswith(PRETRAINING):
                    pretraining.append(folder)
                else:
                    records[folder.resolve()] = record
    if not records:
        named = ' '.join(map(str, words)) + (f' with --model {model}' if model else '')
        if pretraining:
            raise UserError(f'{named}: {len(pretraining)} of pre-training, whose runs answer no examples, and no other '
                            'finished run.')
        left = f': {len(unfinished)} unfinished ones' if unfinished else ''
        raise UserError(f'{named}: no finished run{left}.')
    if pretraining:
        print(f'Note: left out, pre-training: {", ".join(map(str, pretraining))}', file=sys.stderr)
    return sorted(records.values(), key=lambda run: (run.task, run.seed, str(run.folder))), unfinished


def add_options(parser):
    """The options of a command line that say where runs are."""
    parser.add_argument('--runs-dir', help=f'where named runs are ({config.Knobs.runs_dir})')
    parser.add_argument('--model', default='', help="only this model's runs")
    parser.add_argument('--demo', action='store_true', help=f'the runs of --demo, in {config.DEMO["runs_dir"]}')


def runs_dir(args):
    return args.runs_dir or (config.DEMO['runs_dir'] if args.demo else config.Knobs.runs_dir)


def folders_matching(word, runs_dir):
    """The folders of runs that a word means. Raises UserError where there is none."""
    named = [folder for folder in runs_below(runs_dir) if name_of(folder) == ('' if word == BASELINE else word)]
    if named:
        return named
    found = [folder for path in sorted(glob.glob(word)) for folder in runs_below(Path(path))]
    if found:
        return found
    names = sorted({name_of(folder) or BASELINE for folder in runs_below(runs_dir)})
    there = f'In {runs_dir} there are {", ".join(names)}' if names else f'In {runs_dir} there is no run'
    raise UserError(f'{word}: neither a folder of a run or of runs, nor a pattern of such folders in quotes, nor the '
                    f'--name of runs. {there} (--runs-dir?).')


def runs_below(root):
    """The folders of runs that `root` holds: itself, those of a script, or those of all scripts. Not the runs of a
    --runs-dir inside of it, as runs/demo is in runs."""
    if (root / 'config.json').is_file():
        return [root]
    folders = [path.parent for path in sorted(root.glob('**/config.json'))]
    return [folder for folder in folders if folder.parent in (root, root / task_of(folder))]


def task_of(folder):
    return str(read_json(folder / 'config.json').get('task', ''))


def name_of(folder):
    knobs = read_json(folder / 'config.json').get('knobs')
    return knobs.get('name', '') if isinstance(knobs, dict) else ''


# ---- What they hold --------------------------------------------------------------------------------------------------


def read_run(folder):
    """The Record of a run, None where it is not finished. Raises UserError."""
    settings, metrics = read_json(folder / 'config.json'), read_json(folder / METRICS)
    try:
        if not metrics['finished']:
            return None
        knobs = settings['knobs']
        record = Record(folder, settings['task'], Path(knobs['model']).resolve().name, knobs['seed'], knobs['name'],
                        knobs, settings, [with_floats(row) for row in metrics['epochs']], with_floats(metrics['best']))
        check(record)
    except (UserError, LookupError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f'{folder}: its config.json or {METRICS} is not what a run leaves behind ({error}). Run it '
                        'again with --fresh.') from error
    return record


def check(record):
    """Raises UserError where something is missing in what a run says of its epochs."""
    if not record.metrics or not record.epochs:
        raise UserError('no scores in it')
    for row in (*record.epochs, record.best):
        if not all(isinstance(row[name], float) for name in (*record.metrics, 'score')):
            raise UserError('an epoch without its scores')
        if not all(isinstance(row.get(name), int | float) for name in ('epoch', 'train_seconds', 'dev_seconds')):
            raise UserError('an epoch without its number or times')
    if record.best['epoch'] not in [row['epoch'] for row in record.epochs]:
        raise UserError('the best epoch is none of the epochs')


def with_floats(row):
    """A row of metrics.json, its scores as floats: nan where the file says null."""
    names = (*metric_names(row), 'score')
    return row | {name: math.nan if row[name] is None else float(row[name]) for name in names}


def read_predictions(record):
    """The Answers of a run for dev, in dev's order. Raises UserError."""
    path = record.folder / 'dev_predictions.tsv'
    header, *rows = [line.split('\t') for line in read_lines(path)]
    answers = []
    for row in rows:
        try:
            values = dict(zip(header, row, strict=True))
            answers.append(Prediction(int(values['row']), values['label'], values['prediction'], values['file'],
                                  int(values['line']), values['text_a'], values['text_b'], float(values['loss'])))
        except KeyError as error:
            raise UserError(f'{path}, line 1: no column {error}. The run is of an earlier version of this program, or '
                            'the file was edited: run it again with --fresh.') from error
        except ValueError as error:
            raise UserError(f'{path}, line {len(answers) + 2}: not what the run wrote ({error}).') from error
    answers.sort()
    if [answer.row for answer in answers] != list(range(len(answers))):
        raise UserError(f'{path}: rows are missing or doubled.')
    return answers


def read_outputs(record, stem='dev'):
    """The arrays in STEM_outputs.npz: output_0 and so on, lengths_0 and so on, texts_sha256. Raises UserError."""
    path = record.folder / f'{stem}_outputs.npz'
    try:
        with np.load(path) as file:
            arrays = dict(file)
        arrays['texts_sha256'] = str(arrays['texts_sha256'])
    except FileNotFoundError as error:
        raise UserError(f'{path}: no such file. The run keeps it unless it was deleted.') from error
    except KeyError as error:
        raise UserError(f'{path}: it does not say which texts it is for: the run is of an earlier version of this '
                        'program. Run it again with --fresh.') from error
    except NPZ_ERRORS as error:
        raise UserError(f'{path}: not read: {first_line(error)}. Run it again with --fresh.') from error
    return arrays

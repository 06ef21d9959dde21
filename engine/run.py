"""A run on the disk: its folder, its configuration, and whether it is new, unfinished or finished.

    config.json                                 what decides the outcome: knobs, model, code, versions
    metrics.json metrics.csv curve.png          every epoch (report.py); metrics.json says whether the run is finished
    model.safetensors vocab.txt                 the weights of the best epoch
    dev_predictions.tsv dev_outputs.npz         of the best epoch: dev, the worst mistakes first, and the outputs
    <TASK>.tsv <TASK>_outputs.npz               the same for the test set, in the leaderboard's or the task's format
    <TASK>_nbest.json <TASK>_null_odds.json     of questions: more than one answer each, and how sure it is of none
    state.safetensors earlier.safetensors       while it is unfinished: what it goes on from
"""

import ast
import enum
import hashlib
import importlib.metadata
import json
import os
import sys
from pathlib import Path

import filelock
import numpy as np

import config
from engine.backend import GPUS
from engine.checkpoints import model_of
from engine.devices import several_machines
from engine.files import (
    EARLIER,
    METRICS,
    STATE,
    WEIGHTS,
    UserError,
    drop_abandoned,
    flush,
    read_json,
    run_folder,
    show,
    show_value,
    whole,
    write_file,
    write_json,
)

PACKAGES = ('tensorflow', 'tf-keras', 'bert4keras', 'numpy', 'scikit-learn', 'tokenizers')


class Status(enum.Enum):
    NEW = 'it begins anew'
    UNFINISHED = 'it goes on from its state'
    FINISHED = 'it is there'


# ---- What it is -----------------------------------------------------------------------------------------------------


def configuration(knobs):
    """What decides the outcome: the knobs, the model, the code, the versions; not the content of the data."""
    model = model_of(knobs)
    return {
        'task': knobs.task, 'recipe': knobs.recipe,
        'knobs': {field.name: getattr(knobs, field.name) for field in config.options(knobs)},
        'found': list(knobs.found),
        'source_sha256': source_hashes(knobs.script),
        'versions': {'python': sys.version.split()[0]} | {name: importlib.metadata.version(name) for name in PACKAGES},
        'device': GPUS[0].name if GPUS else 'CPU', 'cores': os.cpu_count(),
        **model.config, 'model_type': model.family,
        'pooling': model.pooling if knobs.pooling == 'auto' else knobs.pooling,
    }


def source_hashes(script):
    """{file: sha256} of the code that makes a run of this script: the script, and the files of the project that it
    imports, and these import, in turn. What is hashed is the syntax tree, without comments and docstrings."""
    script, hashes = Path(script).resolve(), {}
    waiting = [script]
    while waiting:
        path = waiting.pop()
        name = path.relative_to(config.ROOT).as_posix() if path.is_relative_to(config.ROOT) else path.name
        if name not in hashes:
            tree = ast.parse(path.read_bytes())
            waiting += imported_files(tree, script.parent)
            code = ast.unparse(without_docstrings(tree))        # the same text on every version of Python
            hashes[name] = hashlib.sha256(code.encode()).hexdigest()
    return dict(sorted(hashes.items()))


def imported_files(tree, script_folder):
    """The project's own files among those that a syntax tree imports."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f'{node.module}.{alias.name}' for alias in node.names)}
    stems = [name.replace('.', '/') for name in names]
    candidates = [folder / f'{stem}{ending}' for folder in (config.ROOT, script_folder) for stem in stems
                  for ending in ('.py', '/__init__.py')]
    return [path for path in candidates if path.is_file()]


def without_docstrings(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node, clean=False):
            del node.body[0]
    return tree


# ---- Whether it is there --------------------------------------------------------------------------------------------


def status(knobs):
    """The Status of this very run. Raises UserError where another one would be overwritten, finished or not, and
    where a file of a finished one is missing."""
    folder = run_folder(knobs)
    if knobs.fresh:
        return Status.NEW
    has_weights, has_metrics = (folder / WEIGHTS).is_file(), (folder / METRICS).is_file()
    if has_weights and not has_metrics:
        raise UserError(f'{folder} holds the weights of a run whose {METRICS} is missing. Put it back, move the '
                        'folder, or overwrite it with --fresh.')
    if not (has_metrics or unfinished(knobs)):
        return Status.NEW
    now = json.loads(json.dumps(configuration(knobs)))
    try:
        finished = has_metrics and read_json(folder / METRICS)['finished']
        if not finished and not unfinished(knobs):
            return Status.NEW
        before = read_json(folder / 'config.json')
        changed = differences(before, now, finished)
    except (UserError, LookupError, TypeError, AttributeError) as error:
        raise not_a_run(folder, error) from error
    if changed:
        kind = 'a finished' if finished else 'an unfinished'
        raise UserError(f'{folder} holds {kind} run with other settings ({"; ".join(changed)}). Keep both: give this '
                        'one a --name, or another --seed. Or overwrite it with --fresh.')
    if finished and not has_weights:
        raise UserError(f'{folder}: this run is finished, but its {WEIGHTS} is missing. Put it back, or run it again '
                        'with --fresh.')
    return Status.FINISHED if finished else Status.UNFINISHED


def unfinished(knobs):
    """Whether there is a state from which the run goes on. (Whether it is of this very run, says status().)"""
    return not knobs.fresh and not several_machines() and (run_folder(knobs) / STATE).is_file()


def differences(before, now, finished):
    """In words, what two configurations have different that changes numbers; between two parts of an unfinished run the
    versions of libraries count, too. What the run has found out itself is no difference to a 0."""
    to_be_found = [name for name in before.get('found', []) if now['knobs'][name] == 0]
    changed = [f'{name}: {before["knobs"].get(name)} -> {value}' for name, value in now['knobs'].items()
               if name not in (*config.FREE, *to_be_found) and before['knobs'].get(name) != value]
    hashes = before['source_sha256']
    changed += [f'{name} was edited' for name, value in now['source_sha256'].items() if hashes.get(name) != value]
    if not finished:
        versions = before['versions']
        changed += [f'{name}: {versions.get(name)} -> {version}' for name, version in now['versions'].items()
                    if versions.get(name) != version]
    return changed


def not_a_run(folder, error):
    return UserError(f'{folder}: {METRICS} or config.json is not what a run leaves behind ({error}). Start over with '
                     '--fresh.')


def say_finished(knobs):
    """Say how a finished run ended, and write its files for the leaderboard again where they are gone."""
    folder = run_folder(knobs)
    try:
        metrics = read_json(folder / METRICS)
        best, test = metrics['best'], metrics.get('test', {})
        of_test = ''.join(f', test {name} {show_value(value)}' for name, value in test.items())
        print(f'This run is finished: dev {show(best)} (epoch {best["epoch"]}){of_test}, {folder}/. --fresh runs it '
              'again.')
        for path in result_files(folder):
            if not (Path(knobs.results_dir) / path.name).exists():
                write_result(knobs, path.name, path.read_bytes(), 'its')
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise not_a_run(folder, error) from error
    (folder / STATE).unlink(missing_ok=True)


LOCKS = []      # of this process's runs; they die with it


def lock(folder):
    """Keep other runs out of this folder until release(), or until this process ends in whatever way. Raises
    UserError."""
    file_lock = filelock.FileLock(folder.with_name(f'.{folder.name}.lock'))
    try:
        file_lock.acquire(timeout=0)
    except filelock.Timeout:
        raise UserError(f'{folder}: another run is at work in this folder. Wait for it, or give this one a --name or '
                        'another --seed.') from None
    LOCKS.append(file_lock)


def release():
    while LOCKS:
        LOCKS.pop().release()


# ---- Its beginning and its end --------------------------------------------------------------------------------------


def make_writable(folder, option):
    """Make a folder. Raises UserError where that fails or no files can be written into it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(f'{folder}: there is a file where a folder should be. Move it, or name another folder with '
                        f'{option}.') from error
    if not os.access(folder, os.W_OK):
        raise UserError(f'{folder}: no files can be written into this folder.')


def clean_up(folder):
    """Delete what a killed run left half-written: our files and the safetensors library's."""
    for pattern in ('.*.[0-9]*', '.tmp*'):
        drop_abandoned(folder, pattern, 0)


def enter(knobs, goes_on):
    """Make the folder this process's own. Raises UserError where the run that is there is not, or no more, the one that
    `goes_on` says."""
    folder = run_folder(knobs)
    make_writable(folder, '--runs-dir')        # now, not after an hour of training
    if knobs.predict:
        make_writable(Path(knobs.results_dir), '--results-dir')
    lock(folder)
    if status(knobs) != (Status.UNFINISHED if goes_on else Status.NEW):
        raise UserError(f'{folder}: another run was at work in this folder until now. Start again.')
    clean_up(folder)


def begin(knobs):
    """Empty the folder for a new run, and write its configuration. First goes what an earlier run would go on from;
    metrics.json is there all the time, so that a run without it is one whose file was deleted."""
    folder = run_folder(knobs)
    (folder / STATE).unlink(missing_ok=True)
    write_json(folder / METRICS, {'finished': False, 'best': None, 'last': None, 'epochs': []})
    for path in result_files(folder):
        path.unlink()
    for pattern in (WEIGHTS, EARLIER, 'metrics.csv', 'curve.png', 'dev_predictions.tsv', '*.npz', '*_nbest.json',
                    '*_null_odds.json'):
        for path in folder.glob(pattern):
            path.unlink()
    write_configuration(knobs)
    write_file(folder / 'vocab.txt', (model_of(knobs).folder / 'vocab.txt').read_bytes())


def write_configuration(knobs):
    """Write config.json; again, at the end of a run, where it has found a knob out."""
    write_json(run_folder(knobs) / 'config.json', configuration(knobs))


def write_outputs(path, outputs, examples):
    """Keep a model's outputs, so that runs can be compared and averaged: an .npz with output_0 and so on, an array
    each; for outputs by token the rows one behind the other, with their lengths in lengths_0 and so on; and what the
    outputs are for, texts_sha256."""
    texts = [[example.text_a, example.text_b] for example in examples]
    arrays = {'texts_sha256': np.array(hashlib.sha256(json.dumps(texts).encode()).hexdigest())}
    for i, output in enumerate(outputs if isinstance(outputs, tuple) else (outputs,)):
        if isinstance(output, list):
            arrays[f'lengths_{i}'] = np.array([len(row) for row in output])
            output = np.concatenate(output)
        arrays[f'output_{i}'] = output
    with whole(path) as beside, open(beside, 'wb') as file:
        np.savez(file, **arrays)


def write_predictions(knobs, name, examples, outputs, text, split='test'):
    """Keep a model's outputs for test examples, or those of another split, and what they say as the file `name`: in the
    run's folder, and in the results folder."""
    path = run_folder(knobs) / name
    write_outputs(path.with_name(f'{path.stem}_outputs.npz'), outputs, examples)
    write_file(path, text)
    flush(path)
    write_result(knobs, name, text, split)


def result_files(folder):
    """The files in a run's folder that are also in the results folder: those whose outputs lie beside them."""
    paths = []
    for outputs in folder.glob('*_outputs.npz'):
        stem = outputs.name.removesuffix('_outputs.npz')
        paths += folder.glob(f'{stem}.*')
    return sorted(paths)


def write_result(knobs, name, text, split='test'):
    """A file for the leaderboard in the results folder."""
    path = Path(knobs.results_dir) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, text)
    flush(path)
    print(f'{split} predictions: {path}')


def say_shared(name, examples, train):
    """Say how many texts of these examples are training texts, too."""
    texts, train_texts = ({(example.text_a, example.text_b) for example in some} for some in (examples, train))
    if shared := len(texts & train_texts):
        print(f'Note: {shared} of {len(texts):,} different {name} texts are training texts, too.')


def write_test_scores(knobs, data, metrics):
    """Say the scores on the test rows, {metric: value}, and keep them in the run's metrics.json."""
    path = run_folder(knobs) / METRICS
    write_json(path, read_json(path) | {'test': metrics})
    shown = ', '.join(f'{name} {show_value(value)}' for name, value in metrics.items())
    print(f'test, predicted once, by the best epoch on dev: {shown}')
    say_shared('test', data['test'].examples, data['train'].examples)


def finish(folder):
    """Mark the run as finished, when everything that is left of it is on the disk."""
    metrics = read_json(folder / METRICS)
    write_json(folder / METRICS, metrics | {'finished': True})
    for path in folder.iterdir():
        flush(path)
    (folder / STATE).unlink(missing_ok=True)

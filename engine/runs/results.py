"""The predictions of a run: what it keeps in its folder and what it writes for the leaderboard."""

import hashlib
import json
from pathlib import Path

import numpy as np

from engine.files import atomic_write, fsync, read_json, write_file, write_json
from engine.runs.layout import METRICS, run_folder
from engine.runs.metrics import format_score


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
    with atomic_write(path) as beside, open(beside, 'wb') as file:
        np.savez(file, **arrays)


def write_predictions(knobs, name, examples, outputs, text, split='test'):
    """Keep a model's outputs for test examples, or those of another split, and what they say as the file `name`: in the
    run's folder, and in the results folder."""
    path = run_folder(knobs) / name
    write_outputs(path.with_name(f'{path.stem}_outputs.npz'), outputs, examples)
    write_file(path, text)
    fsync(path)
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
    fsync(path)
    print(f'{split} predictions: {path}')


def report_overlap(name, examples, train):
    """Say how many texts of these examples are training texts, too."""
    texts, train_texts = ({(example.text_a, example.text_b) for example in some} for some in (examples, train))
    if shared := len(texts & train_texts):
        print(f'Note: {shared} of {len(texts):,} different {name} texts are training texts, too.')


def write_test_scores(knobs, data, metrics):
    """Say the scores on the test rows, {metric: value}, and keep them in the run's metrics.json."""
    path = run_folder(knobs) / METRICS
    write_json(path, read_json(path) | {'test': metrics})
    shown = ', '.join(f'{name} {format_score(value)}' for name, value in metrics.items())
    print(f'test, predicted once, by the best epoch on dev: {shown}')
    report_overlap('test', data['test'].examples, data['train'].examples)

"""What several test files use: models of random weights, runs of scripts in this process, runs that are stopped."""

import ast
import csv
import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

import config
import snippets
from engine.arguments import parse_args
from engine.catalog.datasets import TASKS
from engine.cli import resolve_knobs
from engine.training.loop import Training
from lab.reference.random_model import WORDS

SHARED = Path(__file__).resolve().parents[2] / 'shared'
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason='needs the real data beside the checkout')
SCRIPTS = list(TASKS)
SECTIONS = ['Knobs', 'Data', 'Model', 'Score and run']
CLASSIFIERS = [name for name in SCRIPTS if name != 'STSB']
STEP = Training, 'train'      # a training step, for stop_in()


def write_hugging_face(folder, variables, settings, family, words=WORDS, prefix=True):
    """BERT or ELECTRA in Hugging Face's layout: dots, weight and bias, dense matrices transposed."""
    import safetensors.numpy
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, value in variables.items():
        if name.startswith(('generator/', 'global_step', 'cls/')) or name.endswith('adam_m'):
            continue
        key = name.replace('/', '.').replace('.layer_', '.layer.')
        key = key.replace('LayerNorm.gamma', 'LayerNorm.weight').replace('LayerNorm.beta', 'LayerNorm.bias')
        if key.endswith('_embeddings'):
            key += '.weight'
        if key.endswith('.kernel'):
            key, value = key.removesuffix('kernel') + 'weight', value.T
        tensors[key if prefix else key.removeprefix(f'{family}.')] = np.ascontiguousarray(value)
    safetensors.numpy.save_file(tensors, folder / 'model.safetensors')
    (folder / 'config.json').write_text(json.dumps(settings | {'model_type': family}))
    (folder / 'vocab.txt').write_text('\n'.join(words) + '\n')
    return folder


def knobs_of(script, *options, **more):
    """Settled knobs of a script with command-line options."""
    given = parse_args(script.knobs, 'test', '', list(map(str, options)))
    return resolve_knobs(script.knobs, script.__file__, given | {'cache': False} | more)


def make_knobs(*options, task='CoLA', **own):
    """Settled knobs of a script-like set of own knobs and command-line options."""
    knobs = config.Knobs(**{'labels': ('0', '1'), 'maxlen': 32} | own)
    given = parse_args(knobs, 'test', '', list(map(str, options)))
    return resolve_knobs(knobs, config.ROOT / f'{task}.py', {'model': 'minilm', 'cache': False} | given)


def source(name):
    return (config.ROOT / f'{name}.py').read_text()


def function(name, which):
    tree = ast.parse(source(name))
    return next(ast.get_source_segment(source(name), node) for node in tree.body
                if isinstance(node, ast.FunctionDef) and node.name == which)


def rows_of(path):
    with open(path) as file:
        return list(csv.DictReader(file, delimiter='\t' if path.suffix == '.tsv' else ',', quoting=csv.QUOTE_NONE))


def options(tmp_path, model, *more):
    return ['--demo', f'--model={model}', '--limit=48', '--epochs=2', '--batch-size=16', f'--runs-dir={tmp_path}/runs',
            f'--results-dir={tmp_path}/results', f'--cache-dir={tmp_path}/cache', '--no-jit', *more]


def start(script, *args):
    """What script.py with these arguments prints, run in this process, which has TensorFlow loaded already."""
    sys.argv = [f'{script.__name__}.py', *map(str, args)]
    snippets.launch(script.main, script.knobs, script.__doc__)


class Killed(BaseException):
    """SIGKILL, to a run in this process."""


def stop_in(monkeypatch, where, number, signum):
    """Let the run get this signal before the call of this number of a function, (owner, name)."""
    owner, name = where
    method, calls = getattr(owner, name), []

    def stopped(self, *args):
        calls.append(args)
        if len(calls) == number:
            if signum == signal.SIGKILL:
                raise Killed
            os.kill(os.getpid(), signum)
        return method(self, *args)
    monkeypatch.setattr(owner, name, stopped)


def write(folder, name, content):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)

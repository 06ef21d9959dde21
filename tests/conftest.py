"""Random checkpoints and runs, made once for all tests, and knobs as a script has them."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

import config
from checks.random_model import SIZES, WORDS, random_variables, write_google
from checks.random_model import sizes_of as sizes_of  # for the tests

SHARED = Path(__file__).resolve().parents[2] / 'shared'
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason='needs the real data beside the checkout')


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


@pytest.fixture(scope='session')
def tiny_bert(tmp_path_factory):
    """A folder with a random two-layer BERT."""
    return write_google(tmp_path_factory.mktemp('models') / 'tiny-bert', random_variables('bert', SIZES), SIZES)


@pytest.fixture(scope='session')
def untrained():
    """A function from (task, model folder, folder) to the folder of a run without training, whose head is random so
    that its answers differ from text to text."""
    from test_scripts import options, start

    from engine.encoders import named_weights
    from engine.training import Training

    def train_leg(training):
        """As if it had trained."""
        kernel = named_weights(training.model)['classifier/kernel']
        kernel.assign(np.random.default_rng(0).normal(size=kernel.shape))
        training.progress.step = training.plan.leg_ends[len(training.progress.rows)]
        training.progress.train_seconds = 1.0

    def make(task, model, folder):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, 'argv', [])
            patch.setattr(Training, 'train_leg', train_leg)
            start(importlib.import_module(task), *options(folder, model))
        return folder / 'runs' / task / f'{model.name}-seed42'
    return make


@pytest.fixture(scope='session')
def runs(tmp_path_factory, tiny_bert, untrained):
    """{task: folder} of a run with one text, one with pairs and a regression."""
    folder = tmp_path_factory.mktemp('runs')
    return {task: untrained(task, tiny_bert, folder) for task in ('CoLA', 'RTE', 'STSB')}


def knobs_of(script, *options, **more):
    """Settled knobs of a script with command-line options."""
    from engine.launch import settle
    given = config.parse_args(script.knobs, 'test', '', list(map(str, options)))
    return settle(script.knobs, script.__file__, given | {'cache': False} | more)


def make_knobs(*options, task='CoLA', **own):
    """Settled knobs of a script-like set of own knobs and command-line options."""
    from engine.launch import settle
    knobs = config.Knobs(**{'labels': ('0', '1'), 'maxlen': 32} | own)
    given = config.parse_args(knobs, 'test', '', list(map(str, options)))
    return settle(knobs, config.ROOT / f'{task}.py', {'model': 'minilm', 'cache': False} | given)

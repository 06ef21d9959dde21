"""Random checkpoints and runs, made once for all tests, and knobs as a script has them."""

import importlib
import sys

import numpy as np
import pytest

from lab.reference.random_model import SIZES, random_variables, write_google
from lab.reference.random_model import sizes_of as sizes_of  # for the tests


@pytest.fixture(scope='session')
def tiny_bert(tmp_path_factory):
    """A folder with a random two-layer BERT."""
    return write_google(tmp_path_factory.mktemp('models') / 'tiny-bert', random_variables('bert', SIZES), SIZES)


@pytest.fixture(scope='session')
def untrained():
    """A function from (task, model folder, folder) to the folder of a run without training, whose head is random so
    that its answers differ from text to text."""
    from helpers import options, start

    from engine.model.encoders import named_weights
    from engine.training.loop import Training

    def train_interval(training):
        """As if it had trained."""
        kernel = named_weights(training.model)['classifier/kernel']
        kernel.assign(np.random.default_rng(0).normal(size=kernel.shape))
        training.progress.step = training.plan.interval_ends[len(training.progress.rows)]
        training.progress.train_seconds = 1.0

    def make(task, model, folder):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, 'argv', [])
            patch.setattr(Training, 'train_interval', train_interval)
            start(importlib.import_module(task), *options(folder, model))
        return folder / 'runs' / task / f'{model.name}-seed42'
    return make


@pytest.fixture(scope='session')
def runs(tmp_path_factory, tiny_bert, untrained):
    """{task: folder} of a run with one text, one with pairs and a regression."""
    folder = tmp_path_factory.mktemp('runs')
    return {task: untrained(task, tiny_bert, folder) for task in ('CoLA', 'RTE', 'STSB')}



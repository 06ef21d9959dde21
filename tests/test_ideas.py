"""The patches in ideas/ apply to every classification script, and what they make trains, says its loss and is kept."""

import importlib.util
import shutil
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy
from test_skeleton import CLASSIFIERS

import config
import snippets
from engine.encoders import named_weights
from engine.files import read_json
from snippets import keras, tf

PATCHES = sorted((config.ROOT / 'ideas').glob('*.patch'))


def apply(patch, name, folder):
    """A copy of the script with the patch, as the README says: sed s/CoLA/NAME/ ideas/X.patch | git apply."""
    shutil.copy(config.ROOT / f'{name}.py', folder)
    text = patch.read_text().replace('CoLA', name)
    done = subprocess.run(['git', 'apply', '-'], input=text, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / f'{name}.py'


@pytest.mark.parametrize('patch', PATCHES, ids=lambda path: path.stem)
def test_applies_to_every_classification_script_and_is_small(patch, tmp_path):
    lines = [line for line in patch.read_text().splitlines() if line[:1] in '+-' and line[:3] not in ('+++', '---')]
    assert len([line for line in lines if line]) <= 25
    for name in CLASSIFIERS:
        path = apply(patch, name, tmp_path)
        compile(path.read_text(), path, 'exec')
        assert path.read_text() != (config.ROOT / f'{name}.py').read_text()


class Recorder(keras.callbacks.Callback):
    """All weights, {name: array}: before the first step, after every step, and where training goes on after scoring."""

    def on_train_begin(self, logs=None):
        self.weights, self.after_scoring = [self.now()], []

    def on_train_batch_end(self, batch, logs=None):
        self.weights.append(self.now())

    def on_test_end(self, logs=None):
        self.after_scoring.append(self.now())

    def now(self):
        return {name: variable.numpy() for name, variable in named_weights(self.model).items()}


def run(path, options, monkeypatch):
    """Run a script. Returns its Recorder, the loss of every step, and the outputs on dev of the model it ends with."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    recorder, losses, outputs, plain_train = Recorder(), [], [], snippets.train

    def train(knobs, model, train_data, dev_data, score, answers, callbacks=()):
        container = type(model.compiled_loss)
        plain_call = container.__call__

        def call(self, *args, **options):
            loss = plain_call(self, *args, **options)
            tf.py_function(lambda value: losses.append(float(value)), [loss], [])
            return loss
        monkeypatch.setattr(container, '__call__', call)
        best = plain_train(knobs, model, train_data, dev_data, score, answers, [*callbacks, recorder])
        outputs.append(best.predict(dev_data))
        return best

    monkeypatch.setattr(snippets, 'train', train)
    monkeypatch.setattr(sys, 'argv', [str(path), *options])
    snippets.launch(module.main, module.knobs, module.__doc__)
    return recorder, losses, outputs[0]


@pytest.mark.parametrize('name', ['CoLA', 'MNLI'])
@pytest.mark.parametrize('patch', PATCHES, ids=lambda path: path.stem)
def test_the_patched_script_trains(patch, name, tmp_path, tiny_bert, monkeypatch):
    recorder, losses, outputs = run(apply(patch, name, tmp_path), [
        '--demo', f'--model={tiny_bert}', '--limit=64', '--batch-size=16', '--epochs=2', '--learning-rate=1e-3',
        '--no-jit', '--no-cache', '--no-predict', f'--runs-dir={tmp_path}', f'--results-dir={tmp_path}'], monkeypatch)
    weights = recorder.weights
    folder = tmp_path / name / 'tiny-bert-seed42'
    metrics, saved = read_json(folder / 'metrics.json'), safetensors.numpy.load_file(folder / 'model.safetensors')
    assert all((saved[key] != value).any() for key, value in weights[0].items()
               if 'pooler' not in key and 'key/bias' not in key)
    assert [row['loss'] for row in metrics['epochs']] == pytest.approx([np.mean(losses[:4]), np.mean(losses[4:])])
    assert len(losses) == 8
    # What was scored is what was saved, and what the run ends with.
    np.testing.assert_allclose(np.load(folder / 'dev_outputs.npz')['output_0'], outputs, atol=1e-5)
    if patch.stem == 'ema':
        for key, average in weights[0].items():
            for step in weights[1:metrics['best']['update'] + 1]:
                average = 0.99 * average + 0.01 * step[key].astype(np.float64)
            np.testing.assert_allclose(saved[key], average, atol=1e-6)
            for after, step in zip(recorder.after_scoring, (4, 8), strict=True):
                np.testing.assert_array_equal(after[key], weights[step][key])

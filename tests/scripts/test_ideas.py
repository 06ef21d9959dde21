"""The patches in ideas/ apply to every classification script, and where they fit to STSB; what they make trains, says
its loss and is kept, and is what the papers say."""

import importlib.util
import shutil
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy
from helpers import CLASSIFIERS, make_knobs
from scipy.special import log_softmax

import config
import snippets
from engine.files import read_json
from engine.model.encoders import named_weights
from snippets import keras, tf

PATCHES = sorted((config.ROOT / 'ideas').glob('*.patch'))
FIT_FOR_STSB = ['average_last', 'ema', 'last4', 'multi_dropout', 'reinit']
TRAINED = [(patch, name) for patch in PATCHES
           for name in ('CoLA', 'STSB' if patch.stem in FIT_FOR_STSB else 'MNLI')]


def apply(patch, name, folder):
    """A copy of the script with the patch, as the README says: sed s/CoLA/NAME/ ideas/X.patch | git apply."""
    shutil.copy(config.ROOT / f'{name}.py', folder)
    text = patch.read_text().replace('CoLA', name)
    done = subprocess.run(['git', 'apply', '-'], input=text, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / f'{name}.py'


@pytest.mark.parametrize('patch', PATCHES, ids=lambda path: path.stem)
def test_applies_to_every_script_that_it_fits_and_is_small(patch, tmp_path):
    lines = [line for line in patch.read_text().splitlines() if line[:1] in '+-' and line[:3] not in ('+++', '---')]
    assert len([line for line in lines if line]) <= 25
    for name in [*CLASSIFIERS, *(['STSB'] if patch.stem in FIT_FOR_STSB else [])]:
        path = apply(patch, name, tmp_path)
        compile(path.read_text(), path, 'exec')
        assert path.read_text() != (config.ROOT / f'{name}.py').read_text()


def load(path):
    """A script as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def patched(stem, folder):
    """CoLA.py with the patch, as a module."""
    return load(apply(config.ROOT / 'ideas' / f'{stem}.patch', 'CoLA', folder))


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
    module = load(path)
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


@pytest.mark.parametrize(('patch', 'name'), TRAINED, ids=[f'{patch.stem}-{name}' for patch, name in TRAINED])
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
    if patch.stem == 'average_last':
        for key, value in saved.items():
            ends = [end[key] for end in recorder.after_scoring[:metrics['best']['epoch']]]
            np.testing.assert_allclose(value, np.mean(ends, 0, np.float64), atol=1e-6)
    if patch.stem == 'ema':
        for key, average in weights[0].items():
            for step in weights[1:metrics['best']['update'] + 1]:
                average = 0.99 * average + 0.01 * step[key].astype(np.float64)
            np.testing.assert_allclose(saved[key], average, atol=1e-6)
    if patch.stem in ('average_last', 'ema'):
        for after, step in zip(recorder.after_scoring, (4, 8), strict=True):
            for key in after:
                if patch.stem == 'ema' or 'word_embeddings' not in key:     # whose other rows decay before scoring
                    np.testing.assert_array_equal(after[key], weights[step][key])


# ---- What they compute ----------------------------------------------------------------------------------------------


def test_average_last_is_the_mean_of_three_epochs_ends(tmp_path):
    """Also where scoring was stopped and begins again."""
    model = keras.Sequential([keras.layers.Dense(2, input_shape=(3,))])
    average = patched('average_last', tmp_path).AverageLast()
    average.set_model(model)
    average.on_train_begin()
    random, ends = np.random.default_rng(0), []
    for epoch in range(5):
        average.on_epoch_begin(epoch)
        ends.append([random.normal(size=weight.shape).astype(np.float32) for weight in model.get_weights()])
        model.set_weights(ends[-1])
        for _ in range(2):
            average.on_test_begin()
            for weight, *last in zip(model.get_weights(), *ends[-3:], strict=True):
                np.testing.assert_allclose(weight, np.mean(last, 0, np.float64), atol=1e-6)
            average.on_test_end()
            for weight, end in zip(model.get_weights(), ends[-1], strict=True):
                np.testing.assert_array_equal(weight, end)


def test_reinit_is_of_the_top_alone(tmp_path, tiny_bert):
    module, knobs = patched('reinit', tmp_path), make_knobs('--model', tiny_bert, '--pooling', 'pooler')
    before, after, again = ({name: variable.numpy() for name, variable in named_weights(script.build_model(
        knobs, 64)).items()} for script in (load(config.ROOT / 'CoLA.py'), module, module))
    kernels = []
    for name, value in after.items():
        np.testing.assert_array_equal(value, again[name])
        if not name.startswith(('bert/encoder/layer_1/', 'bert/pooler/')):
            np.testing.assert_array_equal(value, before[name])
        elif name.endswith('kernel'):
            assert 0.018 < value.std() < 0.022
            assert abs(value.mean()) < 0.002
            kernels.append(value)
        else:
            assert (value == name.endswith('gamma')).all()
    assert len(kernels) == 7
    assert len({kernel.tobytes() for kernel in kernels}) == 7


def cross_entropy(logits, labels):
    """Of every row, in float64."""
    return -log_softmax(logits.astype(np.float64), -1)[np.arange(len(labels)), labels]


def test_label_smoothing_is_the_formula_and_keras_own(tmp_path):
    random = np.random.default_rng(0)
    logits, labels = random.normal(size=(6, 3)).astype(np.float32) * 3, np.array([0, 1, 2, 2, 1, 0])
    weights = np.array([1.5, 1.5, 1.5, 1.5, 0, 0], np.float32)
    loss = patched('label_smoothing', tmp_path).Smoothed(from_logits=True)
    one_hot = np.eye(3)[labels]
    expected = -((0.9 * one_hot + 0.1 / 3) * log_softmax(logits.astype(np.float64), -1)).sum(-1)
    np.testing.assert_allclose(loss.call(tf.constant(labels), tf.constant(logits)), expected, rtol=1e-5)
    kerass = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
    assert float(loss(labels, logits, weights)) == pytest.approx(float(kerass(one_hot, logits, weights)), rel=1e-6)
    assert float(loss(labels, logits, weights)) == pytest.approx(expected[:4].mean(), rel=1e-5)
    assert isinstance(loss, keras.losses.SparseCategoricalCrossentropy)     # by which the tools know probabilities
    assert loss.get_config()['from_logits']


def test_multi_dropout_is_the_mean_loss_of_eight_masks(tmp_path, tiny_bert):
    module, knobs = patched('multi_dropout', tmp_path), make_knobs('--model', tiny_bert)
    model, plain = (script.build_model(knobs, 64) for script in (module, load(config.ROOT / 'CoLA.py')))
    assert named_weights(model).keys() == named_weights(plain).keys()
    random = np.random.default_rng(0)
    inputs = [random.integers(5, 40, (4, 6)), np.zeros((4, 6), int)]
    np.testing.assert_array_equal(model(inputs), plain(inputs))
    labels, weights = np.array([0, 1, 1, 0]), np.array([4 / 3, 4 / 3, 4 / 3, 0], np.float32)
    seen, compute_loss = [], model.compute_loss

    def record(x, targets, logits, weights):
        seen.append((targets.numpy(), logits.numpy()))
        return compute_loss(x, targets, logits, weights)

    model.compute_loss = record
    loss = model.train_step((inputs, tf.constant(labels), tf.constant(weights)))['loss']
    targets, logits = seen[0]
    np.testing.assert_array_equal(targets, np.concatenate([labels] * 8))
    samples = logits.reshape(8, 4, 2)
    assert len(np.unique(samples[:, 0, 0])) == 8
    expected = np.mean([cross_entropy(sample[:3], labels[:3]).mean() for sample in samples])
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_supcon_is_equation_3_without_the_fill_rows(tmp_path):
    random = np.random.default_rng(0)
    inputs, labels = random.normal(size=(8, 5)).astype(np.float32), np.array([0, 1, 0, 0, 1, 2, 2, 0])
    real = np.array([True] * 6 + [False] * 2)           # so that the 2 in front of them is alone
    weights = np.where(real, 8 / 6, 0).astype(np.float32)
    x = keras.Input((5,))
    vector = keras.layers.Dense(4)(x)
    logits = keras.layers.Dense(3)(vector)
    model = patched('supcon', tmp_path).SupCon(x, logits)
    parts = keras.Model(x, [keras.layers.UnitNormalization()(vector), logits])
    model.parts = parts
    z, logits = (value.numpy().astype(np.float64) for value in parts(inputs))
    total, rows = 0.0, np.flatnonzero(real)
    for i in rows:
        others = [k for k in rows if k != i]
        same = [k for k in others if labels[k] == labels[i]]
        share = sum(np.exp(z[i] @ z[k] / 0.3) for k in others)
        total -= sum(np.log(np.exp(z[i] @ z[j] / 0.3) / share) for j in same) / max(len(same), 1)
    scores = tf.constant(z, tf.float32), tf.constant(labels), tf.constant(weights)
    assert float(model.contrast(*scores)) == pytest.approx(total / 6, rel=1e-5)
    model.compile('sgd', keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    loss = model.train_on_batch(inputs, labels, weights)
    assert loss == pytest.approx(0.1 * cross_entropy(logits, labels)[real].mean() + 0.9 * total / 6, rel=1e-5)
    assert float(model.contrast(scores[0][:1], scores[1][:1], tf.ones(1))) == 0        # nothing to compare with

"""What a run is: its script and name, the code that takes part, when it is scored, callbacks; XLA's rule."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.numpy
from helpers import STEP, Killed, make_knobs, options, start, stop_in

import CoLA
import config
import snippets
from checks import kill
from engine.data.batches import choose_widths, epoch_batches, training_steps
from engine.runs.identity import source_hashes
from engine.runs.layout import run_folder
from engine.runs.mistakes import gold_text
from engine.training import compilation
from engine.training.compilation import use_xla
from engine.training.loop import Training
from engine.training.plan import Plan, Stage, make_plan
from engine.training.prediction import Predictor
from lab.reference.random_model import SIZES, random_variables
from lab.scripts import open_run
from snippets import keras


def test_a_run_is_named_by_its_script_and_its_name(tmp_path):
    for script, option, folder in (('CoLA', '--seed=42', 'CoLA/minilm-seed42'),
                                   ('chinese/LCQMC', '--seed=3', 'chinese/LCQMC/minilm-seed3'),
                                   ('CoLA', '--name=wide.2-b', 'CoLA/minilm-seed42-wide.2-b')):
        assert run_folder(make_knobs('--runs-dir', 'runs', option, task=script)) == Path('runs') / folder
    with pytest.raises(snippets.UserError, match='--name a/b: only letters'):
        make_knobs('--name=a/b')
    assert config.Knobs(script=str(tmp_path / 'Mine.py')).task == 'Mine'        # outside of the project


def test_the_hash_is_of_what_the_code_does(tmp_path):
    script = tmp_path / 'Mine.py'
    text = (config.ROOT / 'CoLA.py').read_text()
    script.write_text(text)
    before = source_hashes(script)
    assert {'Mine.py', 'config.py', 'snippets.py', 'engine/training/loop.py', 'engine/model/layers.py'} <= set(before)
    assert not [name for name in before if name.startswith(('tools', 'checks', 'tests'))]
    for changed in (text + '# a comment\n', text.replace('"""From the rows', '"""Otherwise: from the rows'),
                    text.replace('\n\n\n', '\n\n\n\n'), text.replace("'mcc'", '"mcc"')):
        assert changed != text
        script.write_text(changed)
        assert source_hashes(script) == before
    script.write_text('import family\n' + text.replace('maxlen=64', 'maxlen=65'))
    (tmp_path / 'family.py').write_text('x = 1\n')
    after = source_hashes(script)
    assert {name for name in after if after[name] != before.get(name)} == {'Mine.py', 'family.py'}


@pytest.mark.parametrize(('given', 'rows', 'expected'), [
    ({'epochs': 2}, 100, Plan(4, (4, 8))), ({'epochs': 1}, 96, Plan(3, (3,))),
    ({'updates': 10, 'score_every': 3}, 100, Plan(4, (3, 6, 9, 10))), ({'updates': 10}, 100, Plan(4, (4, 8, 10))),
    ({'updates': 2}, 100, Plan(4, (2,))), ({'epochs': 2, 'score_every': 3}, 100, Plan(4, (3, 6, 8))),
    ({'epochs': 2, 'grad_accumulation': 3}, 100, Plan(6, (6, 12)))])
def test_when_a_run_is_scored(given, rows, expected):
    defaults = {'epochs': 3, 'updates': 0, 'score_every': 0, 'batch_size': 32, 'grad_accumulation': 1}
    assert make_plan(SimpleNamespace(**defaults | given), rows) == expected


def test_what_comes_next():
    plan = Plan(4, (4, 8))
    stages = {(0, 0): Stage.START_INTERVAL, (3, 0): Stage.RESUME_INTERVAL, (4, 0): Stage.SCORING, (4, 1): Stage.START_INTERVAL,
              (8, 1): Stage.SCORING, (8, 2): Stage.DONE}
    assert {key: plan.stage(*key) for key in stages} == stages


def test_callbacks_are_restored_and_may_end_the_run(tmp_path, tiny_bert, monkeypatch, capsys):
    """EarlyStopping, whose count of epochs without gain is a plain value, in a run that is killed after each epoch."""
    train, stoppings = snippets.train, []

    def train_with(*args):
        # The loss of training always falls: it is a score to be maximised that never gets better.
        stoppings.append(keras.callbacks.EarlyStopping('loss', mode='max', patience=2))
        return train(*args, [stoppings[-1]])

    monkeypatch.setattr(snippets, 'train', train_with)
    args = ['--learning-rate=1e-3', '--epochs=6', '--save-every=0']
    start(CoLA, *options(tmp_path / 'undisturbed', tiny_bert, *args))
    legs = json.loads(next((tmp_path / 'undisturbed').rglob('metrics.json')).read_text())['epochs']
    assert len(legs) == stoppings[-1].stopped_epoch + 1 == 3
    for _ in range(2):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            stop_in(patch, STEP, 5, kill.signal.SIGKILL)
            start(CoLA, *options(tmp_path / 'killed', tiny_bert, *args), '--no-fresh')
    start(CoLA, *options(tmp_path / 'killed', tiny_bert, *args), '--no-fresh')
    assert kill.differences(tmp_path / 'undisturbed', tmp_path / 'killed') == []
    rows = json.loads(next((tmp_path / 'killed').rglob('metrics.json')).read_text())['epochs']
    assert min(row['examples_per_second'] for row in rows) > 1


def test_one_sigmoid_unit_is_a_classifier_if_the_script_says_so(tmp_path, tiny_bert):
    """Through training, the file of mistakes, the submission and tools.predict."""
    script = (config.ROOT / 'CoLA.py').read_text()
    for old, new in (("snippets.classifier(knobs, len(knobs.labels))(x)", "snippets.classifier(knobs, 1)(x)"),
                     ('keras.losses.SparseCategoricalCrossentropy(from_logits=True)',
                      'keras.losses.BinaryCrossentropy(from_logits=True)'),
                     ('outputs.argmax(-1))}', '(outputs[:, 0] > 0).astype(int))}'),
                     ('for i in outputs.argmax(-1)]', 'for i in (outputs[:, 0] > 0).astype(int)]')):
        assert old in script
        script = script.replace(old, new)
    folder = tmp_path / 'project'
    for name in ('engine', 'lab', 'tools'):
        shutil.copytree(config.ROOT / name, folder / name, ignore=shutil.ignore_patterns('__pycache__'))
    for name in ('config.py', 'snippets.py'):
        shutil.copy(config.ROOT / name, folder)
    (folder / 'family').mkdir()
    (folder / 'family' / 'Sigmoid.py').write_text(script)

    def python(*args):
        """From another folder than the script's, or the project's."""
        done = subprocess.run([sys.executable, *map(str, args)], cwd=tmp_path, capture_output=True, text=True,
                              env=os.environ | {'PYTHONPATH': str(folder)})
        assert done.returncode == 0, done.stderr
        return done.stdout

    given = options(tmp_path, tiny_bert, f'--data-dir={config.ROOT}/demo', '--learning-rate=1e-3')
    said = python(folder / 'family' / 'Sigmoid.py', *given)
    place = tmp_path / 'runs' / 'family' / 'Sigmoid' / 'tiny-bert-seed42'
    assert f'Everything else about this run: {place}/' in said
    rows = [line.split('\t') for line in (place / 'dev_predictions.tsv').read_text().splitlines()[1:]]
    assert {row[2] for row in rows} <= {'0', '1'}
    with np.load(place / 'dev_outputs.npz') as outputs:
        assert outputs['output_0'].shape == (len(rows), 1)
    losses = [float(row[0]) for row in rows]
    assert losses == sorted(losses, reverse=True)
    for loss, label, prediction, *_ in rows:            # the larger loss is the wrong answer's
        assert (float(loss) > np.log(2)) == (label != prediction)
    assert set(re.findall(r'\t(\d)\n', (tmp_path / 'results' / 'CoLA.tsv').read_text())) <= {'0', '1'}
    answer = python('-m', 'tools.predict', place, '--text', rows[0][6])
    assert answer == f'prediction\n{rows[0][2]}\n'


def test_a_run_of_a_script_in_a_folder_is_opened(tmp_path, tiny_bert, capsys):
    from lab.scripts import load_script
    script = load_script('tests/programs/tags')
    start(script, '--model', tiny_bert, '--no-cache', '--no-jit', '--epochs', 1, '--runs-dir', tmp_path / 'runs',
          '--results-dir', tmp_path / 'results')
    opened, knobs, model = open_run(tmp_path / 'runs' / 'tests' / 'programs' / 'tags' / 'tiny-bert-seed42')
    assert (knobs.task, opened.knobs.labels, model.output.shape[-1]) == ('tests/programs/tags', ('O', 'LONG'), 2)
    assert 'edited' not in capsys.readouterr().err


def test_the_widths_are_chosen_from_the_steps_that_are_trained(tiny_bert):
    """Not from whole batches where several steps make one, nor from a last one that is not filled up."""
    knobs = make_knobs('--model', tiny_bert, '--batch-size', 8, '--grad-accumulation', 2, '--no-jit')
    lengths = np.random.default_rng(0).geometric(0.1, 150).clip(1, 28)
    data = snippets.tokenize(knobs, [snippets.Example('x', i, i, 'a ' * n, None, i % 2) for i, n in enumerate(lengths)])
    model = CoLA.build_model(knobs, len(data))
    widths = Training(knobs, model, data, data, None, None, (), Predictor.predict).widths
    steps = [rows for rows, _ in training_steps(knobs, data, 0)]
    assert {len(rows) for rows in steps} == {8}
    assert widths == choose_widths(data.lengths, steps) != choose_widths(data.lengths, epoch_batches(knobs, data, 0))


def test_a_frozen_embedding(tmp_path, tiny_bert, monkeypatch):
    build_encoder = snippets.build_encoder

    def frozen(knobs):
        encoder = build_encoder(knobs)
        encoder.words.trainable = False
        return encoder

    monkeypatch.setattr(snippets, 'build_encoder', frozen)
    start(CoLA, *options(tmp_path, tiny_bert, '--no-predict'))
    weights = safetensors.numpy.load_file(next(tmp_path.rglob('model.safetensors')))
    before = random_variables('bert', SIZES)
    moved = [name for name in weights if name in before and (weights[name] != before[name]).any()]
    assert 'bert/embeddings/word_embeddings' not in moved
    assert 'bert/encoder/layer_0/output/dense/kernel' in moved


def test_labels_of_every_kind_as_text():
    data = SimpleNamespace(labels=('no', 'yes'))
    labels = {1: 'yes', 0.5: '0.5', (0, 1): 'no yes', 'as it is': 'as it is', None: ''}
    assert {label: gold_text(data, label) for label in labels} == labels


def test_xla_compiles_where_it_pays(monkeypatch, capsys):
    knobs, yes, no = make_knobs('--epochs', 3), make_knobs('--jit'), make_knobs('--no-jit')
    assert use_xla(knobs, 10**6) is False        # no GPU
    monkeypatch.setattr(compilation, 'GPUS', ['a GPU'])
    assert [use_xla(knobs, rows) for rows in (3668, 392702)] == [False, True]       # MRPC, MNLI
    said = capsys.readouterr().out
    assert 'XLA does not compile the training step: over 345 steps it would save about 3 s and take 100 s' in said
    assert [use_xla(by_hand, 1) for by_hand in (yes, no)] == [True, False]

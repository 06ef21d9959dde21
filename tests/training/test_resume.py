"""A run that was stopped is the run that it would have been; what stops a run is said, and nothing is lost."""

import json
import os
import resource
import signal

import filelock
import numpy as np
import pytest
import safetensors.numpy
from helpers import STEP, Killed, options, start, stop_in

import CoLA
import snippets
import STSB
from checks import fuzz, kill
from engine import console, files
from engine.runs.layout import STATE, WEIGHTS
from engine.runs.metrics import best_epoch
from engine.training import loop, optimizers
from engine.training.loop import Training
from engine.training.plan import Plan
from engine.training.state import read_state, restore_best_weights, save_state
from snippets import tf


def weights_of(folder):
    return safetensors.numpy.load_file(next(folder.rglob('model.safetensors')))


FILES, SCORES = (Training, 'keep'), (loop, 'print_final_scores')


@pytest.mark.parametrize(('script', 'stops', 'more'), [
    (CoLA, [(STEP, 2, signal.SIGKILL),      # after one step
            (STEP, 2, signal.SIGTERM),      # in the last step of the first epoch
            (FILES, 1, signal.SIGKILL),     # after its evaluation
            (FILES, 2, signal.SIGINT),      # while the files of the second are written
            (SCORES, 1, signal.SIGHUP)], ()),       # before the answers are written
    (STSB, [(STEP, 1, signal.SIGINT)],      # half an update
     ('--precision=bfloat16', '--grad-accumulation=2', '--batch-size=8', '--limit=12', '--epochs=1')),
])
def test_a_stopped_run_goes_on_to_the_same_end(script, stops, more, tmp_path, tiny_bert, monkeypatch, capsys):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)        # the tests may have been started by nohup
    start(script, *options(tmp_path / 'undisturbed', tiny_bert, '--quiet', *more))
    said = capsys.readouterr()
    assert [line.split(':')[0].split(' epoch')[0] for line in said.out.splitlines() if not line.startswith('Note')] == [
        'dev, best', 'dev, last', 'Everything else about this run']
    assert not said.err
    again = options(tmp_path / 'stopped', tiny_bert, '--save-every=0', *more)
    folder = tmp_path / 'stopped' / 'runs' / script.__name__ / 'tiny-bert-seed42'
    for i, (where, number, signum) in enumerate(stops):
        with monkeypatch.context() as patch, pytest.raises((SystemExit, Killed)) as end:
            stop_in(patch, where, number, signum)
            start(script, *again, *['--no-fresh'] * (i > 0))
        assert (folder / STATE).is_file()
        if signum == signal.SIGKILL:
            for name in ('.model.safetensors.99', '.tmpAbcdef'):        # the second by the safetensors library
                (folder / name).write_text('half')
        else:
            assert end.value.code == 128 + signum
            again_with = ' with --no-fresh behind it' * (i == 0)
            assert f'the same command{again_with} goes on' in capsys.readouterr().err
    if script == CoLA:          # another command does not go on from there
        with pytest.raises(SystemExit) as end:
            start(script, *again, '--no-fresh', '--learning-rate=1e-3')
        assert end.value.code == 2
        assert 'an unfinished run with other settings (learning_rate: ' in capsys.readouterr().err
    start(script, *again, '--no-fresh')
    assert 'goes on after ' in capsys.readouterr().out
    # Compared like this by a program that the README shows, too.
    assert kill.differences(tmp_path / 'undisturbed', tmp_path / 'stopped') == []


PLAN = Plan(3, (3, 6))


@pytest.mark.parametrize('spoil', [
    lambda about: about | {'step': 7}, lambda about: about | {'step': 2}, lambda about: about | {'rows': []},
    lambda about: about | {'step': '5'}, lambda about: [about], lambda about: {},
    lambda about: about | {'loss': None}, lambda about: about | {'rows': [row(3, 0.5), row(2, 0.5)], 'step': 6},
    lambda about: about | {'rows': [row(1, 0.5), row(2, 0.5), row(3, 0.5)], 'step': 6},
    lambda about: about | {'rows': [row(3, 0.5) | {'score': 'high'}]}, lambda about: about | {'stopped': 'no'},
])
def test_a_state_of_no_such_run(tmp_path, spoil):
    about = {'step': 5, 'rows': [row(3, 0.5)], 'loss': 0.7, 'train_seconds': 1.0, 'done': False, 'stopped': False,
             'data': 'x', 'callbacks': []}
    save_state(tmp_path / STATE, about, {})
    assert read_state(tmp_path / STATE, PLAN) == about
    save_state(tmp_path / STATE, spoil(about), {})
    with pytest.raises(files.UserError, match='safetensors: of an unfinished run, but not to be used'):
        read_state(tmp_path / STATE, PLAN)


def row(update, score):
    return {'epoch': update / 3, 'update': update, 'loss': 1.0, 'score': score, 'same_answer': ''}


@pytest.mark.parametrize(('left', 'kept'), [
    ({'model': 2}, 'model'), ({'model': 3, 'earlier': 2}, 'earlier'),
    ({'earlier': 2}, 'earlier'),                # killed before the new ones were written
    ({'model': 0, 'earlier': 2}, 'earlier'),    # a power cut left the new ones empty
    ({'model': 2, 'earlier': 1}, 'model'),      # killed before the earlier ones were deleted
    ({'model': 3}, None), ({}, None),
])
def test_the_best_weights_are_those_of_the_state(tmp_path, left, kept):
    for name, update in left.items():
        safetensors.numpy.save_file({name: np.ones(1)}, tmp_path / f'{name}.safetensors', {'update': str(update)})
        if not update:
            (tmp_path / f'{name}.safetensors').write_bytes(b'')
    best = best_epoch([row(1, np.nan), row(2, 0.6), row(3, 0.6)])['update']
    if kept is None:
        with pytest.raises(files.UserError, match='not the weights of the best epoch'):
            restore_best_weights(tmp_path, best)
        return
    restore_best_weights(tmp_path, best)
    assert list(safetensors.numpy.load_file(tmp_path / WEIGHTS)) == [kept]


def test_out_of_memory_names_the_batch(tmp_path, tiny_bert, monkeypatch, capsys):
    def make_train_function(*args, **options):
        def train(iterator):
            raise tf.errors.ResourceExhaustedError(None, None, 'OOM')
        return train
    monkeypatch.setattr(snippets.keras.Model, 'make_train_function', make_train_function)
    with pytest.raises(SystemExit) as end:
        start(CoLA, *options(tmp_path, tiny_bert))
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert 'epoch 1, step 1 of 3: out of memory with 16 examples of ' in error and '--grad-accumulation' in error


def test_progress_in_plain_lines(monkeypatch, capsys):
    now = iter([0.0, 10.0, 31.0, 45.0, 65.0])
    monkeypatch.setattr(console.time, 'monotonic', lambda: next(now))
    lines = console.progress_bar(1000, 'predict', 'steps', 200)
    for _ in range(4):
        lines.update(100)
    lines.close()
    assert capsys.readouterr().out.splitlines() == ['predict: 400 of 1,000 steps, 01:33 left',
                                                    'predict: 600 of 1,000 steps, 01:05 left']


class Recorder(snippets.keras.callbacks.Callback):
    """Keeps a list, a dictionary, an infinite variable, and a count that begins anew with every epoch."""

    def __init__(self):
        super().__init__()
        self.losses, self.at, self.steps = [], {}, 0

    def on_train_begin(self, logs=None):
        self.best = tf.Variable(np.inf)

    def on_epoch_begin(self, epoch, logs=None):
        self.steps = 0

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1
        self.losses.append(float(logs['loss']))
        self.at[str(len(self.losses))] = batch


def test_what_callbacks_hold_and_the_time_between_epochs(tmp_path, tiny_bert, monkeypatch, capsys):
    """Killed in the middle of the second epoch, and by SIGTERM between the two, when nothing can be lost."""
    train, recorders = snippets.train, []

    def train_with(*args):
        recorders.append(Recorder())
        return train(*args, [recorders[-1]])

    monkeypatch.setattr(snippets, 'train', train_with)
    start(CoLA, *options(tmp_path / 'undisturbed', tiny_bert))
    again = options(tmp_path / 'stopped', tiny_bert, '--save-every=1000', '--no-fresh')
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as end:
        stop_in(patch, (loop, 'apply_pending_decay'), 1, signal.SIGTERM)
        start(CoLA, *again)
    assert end.value.code == 143
    assert 'the same command goes on' in capsys.readouterr().err
    for call, signum in ((2, signal.SIGTERM), (1, signal.SIGTERM)):
        with monkeypatch.context() as patch, pytest.raises(SystemExit):
            stop_in(patch, STEP, call, signum)
            start(CoLA, *again)
    start(CoLA, *again)
    assert kill.differences(tmp_path / 'undisturbed', tmp_path / 'stopped') == []
    first, last = recorders[0], recorders[-1]
    assert (last.losses, last.at, last.steps) == (first.losses, first.at, 3)
    assert len(last.losses) == 6


def test_an_interrupted_run_goes_on_without_what_it_started_from(tmp_path, tiny_bert, monkeypatch, capsys):
    start(CoLA, *options(tmp_path / 'first', tiny_bert, '--epochs=1', '--no-predict'))
    folder = tmp_path / 'first' / 'runs' / 'CoLA' / 'tiny-bert-seed42'
    again = options(tmp_path / 'second', tiny_bert, f'--init={folder}', '--save-every=0', '--no-fresh')
    with monkeypatch.context() as patch, pytest.raises(Killed):
        stop_in(patch, STEP, 2, signal.SIGKILL)
        start(CoLA, *again)
    folder.rename(tmp_path / 'elsewhere')
    start(CoLA, *again)
    assert 'goes on after 1 of 6 steps' in capsys.readouterr().out


def test_two_runs_in_one_folder(tmp_path, tiny_bert, monkeypatch, capsys):
    (tmp_path / 'runs' / 'CoLA').mkdir(parents=True)
    with filelock.FileLock(tmp_path / 'runs' / 'CoLA' / '.tiny-bert-seed42.lock'), pytest.raises(SystemExit) as end:
        start(CoLA, *options(tmp_path, tiny_bert))
    assert end.value.code == 2
    assert 'another run is at work in this folder' in capsys.readouterr().err
    assert not list(tmp_path.glob('runs/CoLA/tiny*/*'))


def test_a_loss_that_is_not_finite_names_its_rows(tmp_path, tiny_bert, monkeypatch, capsys):
    load = STSB.load_data

    def spoilt(knobs, split):
        examples = load(knobs, split)
        return [x._replace(label=float('nan')) if split == 'train' and x.line == 17 else x for x in examples]

    monkeypatch.setattr(STSB, 'load_data', spoilt)
    with pytest.raises(SystemExit) as end:
        start(STSB, *options(tmp_path, tiny_bert, '--save-every=0', '--no-swap-pairs'))
    assert end.value.code == 3
    error = capsys.readouterr().err
    assert 'the loss is nan' in error and 'train.tsv, lines ' in error and 'learning rate ' in error
    lines = error.split('train.tsv, lines ')[1].split('.')[0].split(', ')
    assert '17' in lines and len(lines) <= 16
    assert not list(tmp_path.glob('results/*'))


def test_a_full_disk_leaves_the_earlier_state(tmp_path):
    variables = {'00000': tf.Variable(tf.ones((100, 100)))}
    about = {'step': 1, 'rows': [], 'loss': 0.7, 'train_seconds': 1.0, 'done': False, 'stopped': False, 'data': 'x',
             'callbacks': []}
    save_state(tmp_path / STATE, about, variables)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(files.UserError, match='state.safetensors: cannot be written'):
            save_state(tmp_path / STATE, about | {'step': 2}, variables)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert read_state(tmp_path / STATE, PLAN) == about
    assert [path.name for path in tmp_path.iterdir()] == [STATE]


def test_what_a_killed_program_left_goes_with_the_next_writing(tmp_path):
    old, new, other = (tmp_path / name for name in ('.x[1].tsv.7', '.x[1].tsv.8', '.x.tsv.7'))
    for path in (old, new, other):
        path.write_text('half')
    for path in (old, other):
        os.utime(path, (0, 0))
    files.write_file(tmp_path / 'x[1].tsv', 'whole')
    assert sorted(path.name for path in tmp_path.iterdir()) == [other.name, new.name, 'x[1].tsv']


def test_accumulated_gradients_make_the_update_of_the_large_batch(tmp_path, tiny_bert, monkeypatch):
    """48 examples in batches of 20: the last has 8, in one step of 10 and one of 10 that is padding in part."""
    monkeypatch.setattr(snippets.Dropout, 'call', lambda self, inputs, training=None: inputs)
    found = []
    for name, more in (('large', ['--batch-size=20']), ('small', ['--batch-size=10', '--grad-accumulation=2'])):
        start(CoLA, *options(tmp_path / name, tiny_bert, '--dropout=0', '--no-predict', '--learning-rate=1e-3', *more))
        found.append(weights_of(tmp_path / name))
    moved = {key: np.abs(found[0][key] - value).max() for key, value in found[1].items()}
    assert max(value for key, value in moved.items() if not key.endswith('key/bias')) < 1e-5
    rows = [json.loads(next((tmp_path / name).rglob('metrics.json')).read_text())['last']
            for name in ('large', 'small')]
    assert rows[0]['loss'] == pytest.approx(rows[1]['loss'], rel=1e-5)


def test_a_batch_with_a_step_that_overflows_is_left_out():
    """As LossScaleOptimizer leaves out the large batch."""
    small = [np.inf, 1, 2, 3, np.inf, np.inf, 4, np.inf, 5, 6, np.inf, np.inf, np.inf, 1, 7, 8]
    found = []
    for gradients, accumulation in ((small, 2), (np.mean(np.reshape(small, (-1, 2)), axis=1), 1)):
        weight = tf.Variable([1.0, 2.0])
        inner = optimizers.AdamW(optimizers.WarmupDecay(0.1, 10, 0.1, 'linear'), {weight.ref(): (1.0, 0.01)}, True,
                                 1e-6, 1.0, accumulation)
        optimizer = snippets.keras.mixed_precision.LossScaleOptimizer(inner)
        optimizer.build([weight])
        step = tf.function(lambda gradient, optimizer=optimizer, weight=weight: optimizer.apply_gradients(
            [(gradient, weight)]))
        for gradient in gradients:
            step(tf.constant([gradient, 1.0], tf.float32))
        found.append([*weight.numpy(), inner.iterations.numpy()])
    assert found[0] == found[1]
    assert found[0][2] == 8 and found[0][0] < 0.9


class Sent(list):
    send = list.append


@pytest.mark.parametrize('kind', fuzz.KINDS)
def test_damaged_files_are_refused(kind):
    sent = Sent()
    fuzz.try_kind(kind, 20, 7, sent)
    bad = [one for one in sent if one[1] not in ('begun', 'read', 'refused', 'end')]
    assert not bad, bad[0]
    assert len(sent) == 41

"""checks.bench: what it counts, what it chooses, what it writes. No test looks at a time."""

import json
import subprocess
import sys

import numpy as np
import pytest

import config
from checks import bench
from engine.model.families import encoder_shapes
from lab.bench import tasks
from lab.reference.random_model import SIZES, sizes_of

FIGURES = {figure: 1.0 for _, figure, _ in bench.TRAINING + bench.OTHER if isinstance(figure, str)} | {
    'peak_gib': 2.0, 'lengths': [16, 24]}


@pytest.mark.parametrize('family', ['bert', 'electra', 'albert', 'distilbert'])
def test_flop_is_that_of_all_matrix_products(family):
    settings, s = sizes_of(family), 10
    h, inner, embedding = settings['hidden_size'], settings['intermediate_size'], settings.get('embedding_size', 64)
    products = [(s, embedding, h)] * (embedding != h)
    for _ in range(settings['num_hidden_layers']):
        products += [(s, h, h)] * 3             # queries, keys, values
        products += [(s, h, s), (s, s, h)]      # scores and their sums, all heads
        products += [(s, h, h), (s, h, inner), (s, inner, h)]
    assert tasks.train_flop(settings, s) == 3 * sum(2 * m * k * n for m, k, n in products)
    assert tasks.row_flop(settings, 16, s) == tasks.train_flop(settings, s)
    assert tasks.row_flop(settings, s, 3 * s) == 3 * tasks.train_flop(settings, s)     # windows
    if family != 'albert':      # whose layers share their weights
        weights = sum(np.prod(shape) for name, shape in encoder_shapes(family, settings).items()
                      if name.endswith('/kernel') and '/pooler/' not in name)
        assert tasks.train_flop(settings, s) == 6 * s * weights + 12 * SIZES['num_hidden_layers'] * s * s * h


def test_made_up_texts_have_their_length():
    request = {'script': 'documents/IMDB', 'length': 600, 'steps': 2, 'evaluation_examples': 100, 'knobs': {
        'model': 'minilm', 'truncation': 'windows', 'maxlen': 128, 'batch_size': 3}}
    script, knobs = tasks.settle(request)
    examples = {split: tasks.examples_of(request, script, knobs, split) for split in ('train', 'dev')}
    assert {split: len(rows) for split, rows in examples.items()} == {'train': 18, 'dev': 166}
    data = tasks.tokenize(knobs, examples['train'])
    assert set(data.counts) == {5} and set(data.lengths) == {5 * 128}       # 598 tokens in windows of 126


@pytest.mark.parametrize('script, length, peer, message', [
    ('tagging/WNUT17', 64, False, 'a made-up text has one label, and tagging/WNUT17 wants one for each word'),
    ('reading/DRCD', 0, True, "transformers has nothing like ELECTRA's joint head")])
def test_what_words_and_questions_cannot(script, length, peer, message, tmp_path):
    request = {'work': [{'name': script, 'script': script, 'length': length}], 'random': '', 'peer': peer,
               'folder': str(tmp_path), 'steps': 1, 'knobs': {'demo': True, 'model': config.DEMO['model']}}
    if peer:
        request['knobs'] |= {'model': str(config.ROOT / 'demo' / 'chinese-reading'), 'head': 'joint'}
    with pytest.raises(bench.UserError, match=message):
        tasks.prepare(request)


def test_stratified_choice():
    lengths = np.sort(np.random.default_rng(0).gamma(2, 12, 5010).astype(int) + 5)
    batches = np.split(np.arange(5010), range(32, 5010, 32))
    chosen = tasks.stratified(batches, lengths, 30, seed=1)
    first = [rows[0] for rows in chosen]
    assert len(set(first)) == 30
    mean = np.mean([lengths[rows].mean() for rows in chosen])
    assert mean == pytest.approx(lengths.mean(), rel=0.02)
    assert [rows[0] for rows in tasks.stratified(batches, lengths, 30, seed=1)] == first != sorted(first)
    for steps in (0, len(batches), 999):        # the whole epoch
        assert sorted(rows[0] for rows in tasks.stratified(batches, lengths, steps)) == list(range(0, 5010, 32))


def test_a_measurement(tiny_bert, tmp_path, monkeypatch, capsys):
    """The real thing: a process that trains 3 steps after the warm-up. Only the preparation is done here."""
    def ours(request, folder):
        return tasks.prepare(request) if 'work' in request else child(request, folder)

    child = bench.ours
    monkeypatch.setattr(bench, 'ours', ours)
    assert bench.main(['RTE', '--model', str(tiny_bert), '--data-dir', str(config.ROOT / 'demo'), '--steps', '3',
                       '--repeats', '1', '--precision', 'float32', '--batch-size', '16', '--json',
                       str(tmp_path / 'out.json'), '--markdown', str(tmp_path / 'out.md')]) == 0
    written = json.loads((tmp_path / 'out.json').read_text())
    row, = written['measurements']
    assert (row['name'], row['who'], row['steps'], row['traces']) == ('RTE', 'ours', 3, 1)
    assert row['examples_per_second'] == pytest.approx(16 * row['steps_per_second'])
    assert 0 < row['padding'] < 0.2
    assert row['utilisation'] > 0
    assert 0 < row['first_step_of_fit'] < row['first_step']
    assert row['first_step_of_fit'] <= row['warm_up']
    assert written['versions']['tensorflow']
    assert written['command'].startswith('-m checks.bench RTE --model')
    assert (tmp_path / 'out.md').read_text().startswith('| task | precision | examples/s |')
    assert 0 <= row['others'] < 1
    assert 'RTE float32 1/1 ours: ' in capsys.readouterr().out


@pytest.fixture
def made_up(monkeypatch):
    """A function that sets what each measurement finds, and the order in which they were asked for."""
    order = []

    def set_speeds(ours, peer):
        def measure_ours(request, folder):
            if 'work' in request:
                return {'model': 'm', 'peer': {one['name']: 'file' for one in request['work']}}
            order.append(('ours', request['knobs']['precision'], request['steps']))
            return FIGURES | {'examples_per_second': ours.pop(0)}

        def measure_peer(python, request, folder):
            order.append((request['pad'], request['precision'], request['steps']))
            speed = peer[request['pad']].pop(0)
            return {'failed': 'exit status 1: boom'} if speed is None else FIGURES | {'examples_per_second': speed}

        monkeypatch.setattr(bench, 'ours', measure_ours)
        monkeypatch.setattr(bench, 'peer', measure_peer)
        monkeypatch.setattr(bench, 'check_peer', lambda python: None)
        return order
    return set_speeds


OPTIONS = ['CoLA', '--demo', '--precision', 'float32', '--peer', 'python', '--steps', '20']


def test_ratios_are_medians_within_each_alternation(made_up, capsys):
    order = made_up([100, 200, 90], {'longest': [50, 200, 60], 'max': [10, 10, 10]})        # 2, 1, 1.5; 10, 20, 9
    assert bench.main(OPTIONS) == 0
    assert order == [('ours', 'float32', 20), ('longest', 'float32', 20), ('max', 'float32', 5)] * 3
    own, _, both = capsys.readouterr().out.split('\n\n')[1:]
    assert own.splitlines()[2].startswith('| CoLA | float32 | 100 | 1 | 1 | 100.0 % | 100.0 % | 2 |')
    assert both.splitlines()[2] == '| CoLA | float32 | training examples/s | 100 | 60 | 1.5 | 10 | 10 |'
    assert both.splitlines()[-1] == '| CoLA | float32 | peak GiB | 2 | 2 | 1 | 2 | 1 |'


def test_busy_machines_are_named():
    rows = [FIGURES | {'name': 'CoLA', 'precision': 'float32', 'repeat': i, 'who': 'ours', 'first_step': 1.0,
                       'examples_per_second': 1.0, 'others': others} for i, others in enumerate((0.01, 0.4))]
    assert ['other programs' in bench.line(row, 2) for row in rows] == [False, True]
    assert 'Doubtful: other programs ran during 1 of 2 measurements and used up to 40.0 %' in bench.tables(rows)
    assert 'Doubtful' not in bench.tables(rows[:1])


def test_a_failed_measurement_costs_only_itself(made_up, capsys):
    made_up([100, 100, 100], {'longest': [50, None, 25], 'max': [None] * 3})
    assert bench.main(OPTIONS) == 1
    out = capsys.readouterr().out
    assert 'CoLA float32 2/3 peer longest: failed, exit status 1: boom' in out
    assert '| CoLA | float32 | training examples/s | 100 | 37.5 | 3 |  |  |' in out


def test_the_parent_does_without_tensorflow():
    code = 'import sys, checks.bench; print("tensorflow" in sys.modules, "numpy" in sys.modules)'
    assert subprocess.check_output([sys.executable, '-c', code], cwd=config.ROOT, text=True) == 'False False\n'


def test_what_a_process_says(tmp_path):
    def run(code):
        return bench.run_child([sys.executable, '-c', code], {}, tmp_path)

    assert run('import sys; open(sys.argv[2], "w").write("{\\"x\\": 1}")')['x'] == 1
    assert run('raise ValueError("five")')['failed'].endswith('ValueError: five')
    assert run('pass')['failed'].startswith('exit status 0')        # no answer
    with pytest.raises(bench.UserError, match='^no model$'):
        run('print("loading\\nerror: no model"); exit(2)')


@pytest.mark.parametrize('options, message', [
    (['COLA', '--demo'], 'COLA: none of the tasks CoLA, '),
    (['CoLA', '--data-dir', 'nowhere'], 'no such folder. Fetch the data with `uv run -m tools.download CoLA`'),
    (['CoLA', '--demo', '--precision', 'float64'], 'not some of float32, bfloat16, float16'),
    (['CoLA', '--demo', '--peer', 'no-such-python'], 'no such program'),
    (['CoLA', '--demo', '--peer', 'PYTHON'], 'it has no torch and no transformers'),
    (['--length', '32,x'], 'numbers from 8 to 512'),
    (['--length', '64', '--maxlen', '32'], 'numbers from 8 to 32'),
    (['documents/IMDB', '--truncation', 'windows', '--peer', 'PYTHON'], 'nothing like --truncation windows'),
    (['--demo', '--json', 'nowhere/x.json'], 'its folder does not exist')])
def test_bad_input(options, message, tmp_path, capsys):
    python = tmp_path / 'python'
    python.write_text('#!/bin/sh\necho torch transformers\n')
    python.chmod(0o755)
    assert bench.main([str(python) if option == 'PYTHON' else option for option in options]) == 2
    error = capsys.readouterr().err
    assert error.startswith('error: ')
    assert error.count('\n') == 1
    assert message in error


def test_unknown_options_are_refused(capsys):
    with pytest.raises(SystemExit) as stopped:
        bench.main(['CoLA', '--demo', '--repeat', '3'])
    assert stopped.value.code == 2
    assert 'unknown option --repeat; did you mean --repeats?' in capsys.readouterr().err

"""Every script as a user starts it, with a tiny model on the demo data; what a run leaves; what bad input gets."""

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.numpy
from helpers import SCRIPTS, options, rows_of, start

import CoLA
import config
import snippets
import WNLI
from engine import cli
from engine.arguments import parse_args
from engine.data import vocabulary
from engine.model.encoders import load_initial_weights, named_weights
from engine.model.layers import Dropout
from engine.runs.metrics import print_final_scores
from engine.runs.mistakes import constant_answer
from engine.training import prediction
from engine.training.loop import Training
from engine.training.prediction import Predictor
from lab.reference.random_model import SIZES, random_variables, write_google

FILES = {'SST2': ['SST-2.tsv'], 'STSB': ['STS-B.tsv'], 'MNLI': ['MNLI-m.tsv', 'MNLI-mm.tsv', 'AX.tsv']}


@pytest.mark.parametrize('name', SCRIPTS)
def test_a_whole_run(name, tmp_path, tiny_bert, capsys, monkeypatch):
    """One of them as a process of its own, which takes twice as long."""
    if name == 'STSB':
        done = subprocess.run([sys.executable, config.ROOT / f'{name}.py', *options(tmp_path, tiny_bert),
                               '--deterministic'], cwd=tmp_path, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, '')
        said = done.stdout
    else:
        monkeypatch.chdir(tmp_path)
        start(importlib.import_module(name), *options(tmp_path, tiny_bert))
        said = capsys.readouterr().out
    assert 'mean nothing on the leaderboard' in said
    assert 'seed 42' in said
    assert said.count('\nepoch ') == 2

    demo = config.ROOT / 'demo'
    for file in FILES.get(name, [f'{name}.tsv']):
        source = {'MNLI-m.tsv': 'MNLI/test_matched.tsv', 'MNLI-mm.tsv': 'MNLI/test_mismatched.tsv',
                  'AX.tsv': 'diagnostic/diagnostic.tsv'}.get(file, f'{file[:-4]}/test.tsv')
        text = (tmp_path / 'results' / file).read_bytes().decode()
        rows = [line.split('\t') for line in text.removesuffix('\n').split('\n')]
        assert rows[0] == ['index', 'prediction']
        count = len((demo / source).read_text().splitlines()) - 1
        assert [row[0] for row in rows[1:]] == [str(i) for i in range(count)]
        answers = {row[1] for row in rows[1:]}
        if name == 'STSB':
            assert all(0 <= float(answer) <= 5 and len(answer) == 5 for answer in answers)
        else:
            assert answers <= set(importlib.import_module(name).knobs.labels)

    folder = tmp_path / 'runs' / name / 'tiny-bert-seed42'
    metrics = json.loads((folder / 'metrics.json').read_text())
    assert metrics['finished']
    assert len(metrics['epochs']) == 2 == len(rows_of(folder / 'metrics.csv'))
    assert metrics['last'] == metrics['epochs'][1]
    assert metrics['best'] in metrics['epochs']
    settings = json.loads((folder / 'config.json').read_text())
    assert settings['knobs']['seed'] == 42
    assert settings['versions']['tensorflow']
    assert (folder / 'curve.png').read_bytes()[:4] == b'\x89PNG'
    predictions = rows_of(folder / 'dev_predictions.tsv')
    losses = [float(row['loss']) for row in predictions]
    assert losses == sorted(losses, reverse=True)
    with np.load(folder / 'dev_outputs.npz') as outputs:
        labels = settings['knobs']['labels']
        assert outputs['output_0'].shape == (len(predictions), len(labels) or 1)
        if labels:
            of_row = [labels[i] for i in outputs['output_0'].argmax(-1)]
            assert all(of_row[int(row['row'])] == row['prediction'] for row in predictions)
    assert metrics['best']['peak_gib'] > 0.1
    assert not list(folder.glob('.*'))
    assert not (folder / 'state.safetensors').exists()


def test_the_best_weights_are_kept_and_can_be_started_from(tmp_path, tiny_bert, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args = options(tmp_path, tiny_bert)
    start(WNLI, *args, '--learning-rate=1e-3')
    folder = tmp_path / 'runs' / 'WNLI' / 'tiny-bert-seed42'
    rows = rows_of(folder / 'dev_predictions.tsv')
    best = json.loads((folder / 'metrics.json').read_text())['best']
    assert best['accuracy'] == pytest.approx(np.mean([row['label'] == row['prediction'] for row in rows]))

    # the weights give the scores that the report gives them
    given = parse_args(WNLI.knobs, 'WNLI.py', '', [*args, f'--init={folder}'])
    knobs = cli.resolve_knobs(WNLI.knobs, WNLI.__file__, given)
    data = snippets.tokenize(knobs, WNLI.load_data(knobs, 'dev'))
    model = WNLI.build_model(knobs, 1)
    load_initial_weights(knobs, model)
    outputs = Predictor(knobs, model).predict(data)
    assert WNLI.score(outputs, data)['accuracy'] == best['accuracy']
    with np.load(folder / 'dev_outputs.npz') as kept:
        np.testing.assert_allclose(kept['output_0'], outputs, atol=1e-5)
    weights = safetensors.numpy.load_file(folder / 'model.safetensors')
    np.testing.assert_array_equal(weights['classifier/kernel'], named_weights(model)['classifier/kernel'])

    # another task gets the encoder and a new output layer, also where the labels have the same names
    start(CoLA, *args, f'--init={folder}', '--epochs=1')
    assert 'of its encoder alone' in capsys.readouterr().out
    # a run's folder is a model folder as well
    start(CoLA, *args, f'--model={folder}', '--epochs=1')
    assert (tmp_path / 'runs' / 'CoLA' / 'tiny-bert-seed42-seed42').is_dir()

    # a finished run is named, not run again, and not overwritten by another one
    capsys.readouterr()
    (tmp_path / 'results' / 'WNLI.tsv').unlink()
    start(WNLI, *args, '--learning-rate=1e-3', '--no-fresh')
    assert 'This run is finished: dev accuracy' in capsys.readouterr().out
    assert (tmp_path / 'results' / 'WNLI.tsv').read_bytes() == (folder / 'WNLI.tsv').read_bytes()
    with pytest.raises(SystemExit) as end:
        start(WNLI, *args, '--learning-rate=2e-3', '--no-fresh')
    assert end.value.code == 2
    assert 'learning_rate: 0.001 -> 0.002). Keep both: give this one a --name' in capsys.readouterr().err
    # under a name it lies beside
    start(WNLI, *args, '--learning-rate=2e-3', '--no-fresh', '--name=faster', '--epochs=1')
    assert (tmp_path / 'runs' / 'WNLI' / 'tiny-bert-seed42-faster' / 'metrics.json').is_file()
    # a finished run that has lost a file is not taken for finished, nor overwritten
    for name in ('metrics.json', 'model.safetensors'):
        (folder / name).rename(folder / 'elsewhere')
        with pytest.raises(SystemExit) as end:
            start(WNLI, *args, '--learning-rate=1e-3', '--no-fresh')
        assert end.value.code == 2
        assert f'{name} is missing. Put it back' in capsys.readouterr().err
        (folder / 'elsewhere').rename(folder / name)


def test_electra_brings_its_recipe_from_a_folder_without_json(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sizes = SIZES | {'embedding_size': 32, 'num_attention_heads': 1}
    model = write_google(tmp_path / 'tiny-electra', random_variables('electra', sizes), None)
    start(__import__('MRPC'), *options(tmp_path, model, '--epochs=1'))
    assert 'tiny-electra with the electra-small recipe' in capsys.readouterr().out
    settings = json.loads((tmp_path / 'runs' / 'MRPC' / 'tiny-electra-seed42' / 'config.json').read_text())
    assert (settings['pooling'], settings['embedding_size'], settings['recipe']) == ('cls', 32, 'electra-small')
    knobs = settings['knobs']
    assert (knobs['layer_decay'], knobs['swap_pairs'], knobs['schedule']) == (0.8, True, 'multiplied')


def test_the_same_seed_gives_the_same_run(tmp_path, tiny_bert, monkeypatch):
    monkeypatch.chdir(tmp_path)
    losses = []
    for seed in (1, 1, 2):
        start(CoLA, *options(tmp_path, tiny_bert, f'--seed={seed}', '--no-predict'))
        metrics = json.loads((tmp_path / 'runs' / 'CoLA' / f'tiny-bert-seed{seed}' / 'metrics.json').read_text())
        losses.append([epoch['loss'] for epoch in metrics['epochs']])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
    assert abs(losses[0][0] - losses[2][0]) > 1e-4


def test_nothing_is_tokenized_or_traced_twice(tmp_path, tiny_bert, monkeypatch):
    monkeypatch.chdir(tmp_path)
    script, trained, calls = importlib.import_module('MNLI'), [], []
    train, cut_texts = snippets.train, vocabulary.tokenize_texts
    monkeypatch.setattr(snippets, 'train', lambda *args: trained.append(train(*args)) or trained[-1])
    monkeypatch.setattr(vocabulary, 'tokenize_texts', lambda tokenizer, texts, offsets: calls.append(texts) or cut_texts(
        tokenizer, texts, offsets))
    for _ in range(2):
        start(script, *options(tmp_path, tiny_bert))
    assert len(calls) == len(list((tmp_path / 'cache').iterdir())) == 5         # train, dev, three test files
    assert all(len(texts) == len(set(texts)) for texts in calls)
    for predictor in trained:
        assert predictor.forward.experimental_get_tracing_count() == 1
        assert predictor.model.train_tf_function.experimental_get_tracing_count() == 1


def test_xla_and_several_steps_at_once_change_nothing(tmp_path, tiny_bert, monkeypatch, capsys):
    """But for rounding; the step is traced once, also where the number of steps is no multiple."""
    runs = []
    for name, args in (('plain', ['--no-jit']), ('fast', ['--jit', '--steps-per-execution=2'])):
        monkeypatch.setattr(sys, 'argv', [])
        monkeypatch.setattr(Dropout, 'call', lambda self, inputs, training=None: inputs)
        start(CoLA, *options(tmp_path / name, tiny_bert, '--dropout=0', '--no-predict', '--maxlen=12', '--epochs=1',
                             *args))
        assert 'traced' not in capsys.readouterr().out
        runs.append(safetensors.numpy.load_file(tmp_path / name / 'runs/CoLA/tiny-bert-seed42/model.safetensors'))
    for key, value in runs[0].items():
        if 'key/bias' not in key:
            np.testing.assert_allclose(runs[1][key], value, atol=1e-5, err_msg=key)


def test_a_run_at_the_majority_class_says_so_and_still_has_a_best_epoch(tmp_path, tiny_bert, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for script, metric in ((CoLA, 'mcc'), (__import__('STSB'), 'pearson')):
        start(script, *options(tmp_path, tiny_bert, '--learning-rate=1e-9', '--weight-decay=1'))
        folder = tmp_path / 'runs' / script.__name__ / 'tiny-bert-seed42'
        assert (folder / 'model.safetensors').is_file()
        assert metric in json.loads((folder / 'metrics.json').read_text())['best']
    examples = [snippets.Example('x', i, i, 'a', None, label) for i, label in enumerate([0, 1, 1, 1])]
    data = SimpleNamespace(examples=examples, labels=('0', '1'), targets=None)
    same = constant_answer(data, ['1'] * 4)
    assert same == '1 (the majority class, 75.0 % of dev)'
    assert 'not even the majority' in constant_answer(data, ['0'] * 4)
    assert constant_answer(SimpleNamespace(examples=examples, labels=(), targets=None), ['2.500'] * 4) == '2.500'
    of_words = SimpleNamespace(examples=[row._replace(label=(0, 0, 1)[:2 + row.index % 2]) for row in examples],
                               labels=('O', 'B-PER'), targets=snippets.PerToken([]))
    assert constant_answer(of_words, ['O O', 'O O O'] * 2) == 'O (the majority class, 80.0 % of dev)'
    assert constant_answer(of_words, ['O O', 'O O B-PER'] * 2) == ''
    assert constant_answer(data, ['0', '1', '1', '1']) == ''
    print_final_scores([{'epoch': 1, 'loss': 1.0, 'mcc': 0.0, 'score': 0.0, 'same_answer': same}])
    assert 'best epoch gives every dev example the same answer, 1 (the majority class, 75' in capsys.readouterr().out


@pytest.mark.parametrize(('spoil', 'args', 'message'), [
    (lambda data: shutil.rmtree(data / 'CoLA'), (), 'CoLA/train.tsv: no such file'),
    (lambda data: (data / 'CoLA/test.tsv').unlink(), (), 'CoLA/test.tsv: no such file'),
    (lambda data: (data / 'CoLA/test.tsv').write_text('index\tsentence\n0\ta\n1\n'), (),
     'test.tsv: 1 malformed of 2 rows'),
    (lambda data: (data / 'CoLA/test.tsv').write_text('index\tsentence\nx\ta\n'), (),
     "line 2: index 'x' is not a number"),
    (lambda data: shutil.copy(data / 'CoLA/test.tsv', data / 'CoLA/train.tsv'), (), r'(a test file?)'),
    (lambda data: (data / 'CoLA/dev.tsv').write_bytes(b'x\t1\t\t\xe9\n'), (),
     'dev.tsv, line 1: byte 0xe9 is not UTF-8'),
    (lambda data: None, ('--labels=yes,no',), "label '1' is none of yes, no"),
    (lambda data: None, ('--model=nowhere',), '--model nowhere: neither a folder'),
    (lambda data: None, ('--init=nowhere',), 'nowhere: no vocab.txt'),
    (lambda data: None, ('--init=runs/CoLA/tiny-bert-seed42',), 'this run would write there itself'),
    (lambda data: None, ('--grad-accumulation=4',), 'fewer steps of 16 examples hold all 48'),
])
def test_bad_input_gets_one_message_and_leaves_nothing(tmp_path, tiny_bert, capsys, monkeypatch, spoil, args, message):
    monkeypatch.chdir(tmp_path)
    data = shutil.copytree(config.ROOT / 'demo', tmp_path / 'data', ignore=shutil.ignore_patterns('MNLI', 'Q*'))
    spoil(data)
    with pytest.raises(SystemExit) as end:
        start(CoLA, *options(tmp_path, tiny_bert, f'--data-dir={data}', *args))
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith('error: ')
    assert message in error
    assert not (tmp_path / 'runs').exists()
    assert not (tmp_path / 'results').exists()


def test_an_interrupted_run_leaves_no_half_files(tmp_path, tiny_bert, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'results').mkdir()
    (tmp_path / 'results' / 'CoLA.tsv').write_text('earlier\n')

    def interrupt(*args):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)     # a second one does not wait for the step
    monkeypatch.setattr(Training, 'train', interrupt)
    with pytest.raises(SystemExit) as end:
        start(CoLA, *options(tmp_path, tiny_bert))
    assert end.value.code == 130
    assert (tmp_path / 'results' / 'CoLA.tsv').read_text() == 'earlier\n'


def test_a_diverged_training_stops_and_writes_no_predictions(tmp_path, tiny_bert, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(prediction, 'in_file_order', lambda data, *_: np.full((len(data), 2), np.nan))
    with pytest.raises(SystemExit) as end:
        start(CoLA, *options(tmp_path, tiny_bert))
    assert end.value.code == 3
    assert 'epoch 1: the outputs on dev are not finite' in capsys.readouterr().err
    assert not list(tmp_path.glob('results/*'))


def test_a_file_where_a_folder_should_be(tmp_path, tiny_bert, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'runs').write_text('a file')
    with pytest.raises(SystemExit) as end:
        start(CoLA, *options(tmp_path, tiny_bert))
    assert end.value.code == 2
    assert 'there is a file where a folder should be' in capsys.readouterr().err


def test_settings_that_the_model_cannot_hold(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sizes = SIZES | {'max_position_embeddings': 16}
    model = write_google(tmp_path / 'short', random_variables('bert', sizes), sizes)
    with pytest.raises(SystemExit) as end:
        start(CoLA, *options(tmp_path, model, '--maxlen=32'))
    assert end.value.code == 2
    assert '--maxlen 32: the model has 16 positions' in capsys.readouterr().err

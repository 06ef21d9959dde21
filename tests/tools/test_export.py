"""tools.predict and tools.export: a run, its SavedModel and its ONNX file give the script's own answers."""

import io
import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from helpers import rows_of

import config
import snippets
from engine.catalog.datasets import TASKS
from engine.data.tokens import build_rows
from engine.data.vocabulary import load_vocabulary
from tools import export, predict

DEMO = config.ROOT / 'demo'
COLUMNS = {'CoLA': '3', 'RTE': 'sentence1,sentence2', 'STSB': 'sentence1,sentence2'}
FOLDERS = {task: TASKS[task].folder for task in COLUMNS}


@pytest.fixture(scope='module')
def exports(runs):
    """{(task, format): folder}. A model of single texts has the same graph as one of pairs, so there is none."""
    for form in ('savedmodel', 'onnx'):
        assert export.main([str(runs['RTE']), '--format', form]) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, 'verify_afresh', export.verify)       # quicker than a fresh process
        assert export.main([str(runs['STSB']), '--format', 'savedmodel']) == 0
    return {(path.parent.parent.name, path.name): path for run in runs.values() for path in run.iterdir()
            if path.is_dir()}


OPENED = {}


@pytest.fixture
def opened(monkeypatch):
    """Every folder is opened once."""
    real = predict.open_folder

    def open_once(*args):
        if args not in OPENED:
            OPENED[args] = real(*args)
        return OPENED[args]
    monkeypatch.setattr(predict, 'open_folder', open_once)


def run_tool(capsys, tool, *args):
    """What it prints on standard output; it must succeed."""
    capsys.readouterr()
    assert tool.main([str(arg) for arg in args]) == 0
    out, err = capsys.readouterr()
    assert err == ''
    return out


def assert_same_answers(rows, others):
    """The same labels, and every probability as near as tools.export promises; another batch has other roundings."""
    for row, other in zip(rows, others, strict=True):
        assert list(row) == list(other)
        assert row['prediction'] == other['prediction']
        shares, others_shares = (np.array(list(one.values())[1:], float) for one in (row, other))
        np.testing.assert_allclose(shares, others_shares, rtol=0, atol=export.TOLERANCE)


def table(text):
    header, *rows = [line.split('\t') for line in text.removesuffix('\n').split('\n')]
    return [dict(zip(header, row, strict=True)) for row in rows]


@pytest.mark.parametrize('task', COLUMNS)
def test_the_answers_are_the_scripts_own(task, runs, opened, capsys):
    dev = table(run_tool(capsys, predict, runs[task], DEMO / FOLDERS[task] / 'dev.tsv', '--columns', COLUMNS[task]))
    golds = sorted(rows_of(runs[task] / 'dev_predictions.tsv'), key=lambda row: int(row['line']))
    assert [row['prediction'] for row in dev] == [row['prediction'] for row in golds]
    assert len({row['prediction'] for row in dev}) > 1
    columns = 'sentence' if task == 'CoLA' else COLUMNS[task]
    test = table(run_tool(capsys, predict, runs[task], DEMO / FOLDERS[task] / 'test.tsv', '--columns', columns))
    own = rows_of(runs[task] / f'{FOLDERS[task]}.tsv')
    assert [row['prediction'] for row in test] == [row['prediction'] for row in own]
    if task == 'STSB':
        assert [list(row) for row in test] == [['prediction']] * len(test)
        return
    labels = vars(sys.modules[task])['knobs'].labels
    for row, gold in zip(dev, golds, strict=True):
        assert list(row) == ['prediction', *labels]
        shares = [float(row[label]) for label in labels]
        assert sum(shares) == pytest.approx(1, abs=2e-6)
        assert row['prediction'] == labels[np.argmax(shares)]
        assert float(row[gold['label']]) == pytest.approx(np.exp(-float(gold['loss'])), abs=1e-4)


def test_an_export_gives_what_its_run_gives(runs, exports, opened):
    assert len(exports) == 3
    for (task, form), folder in exports.items():
        settings, _, predictor = predict.open_folder(runs[task], None)
        also, _, exported = predict.open_folder(folder, None)
        assert {name: also[name] for name in settings} == settings
        assert (also['format'], also['run'], also['outputs']) == (form, f'{task}/tiny-bert-seed42', ['logits'])
        examples = predict.read_examples(DEMO / FOLDERS[task] / 'dev.tsv', COLUMNS[task], settings['pair'])
        data = build_rows(load_vocabulary(folder, settings['vocab_size']), settings['maxlen'], examples)
        logits = predictor.predict(data)
        assert np.abs(exported.predict(data) - logits).max() <= 1e-5 * np.abs(logits).max()
        assert not [path for path in folder.parent.iterdir() if path.name.startswith('.')]


def test_every_form_of_input_and_output(runs, exports, opened, capsys, monkeypatch, tmp_path):
    texts = [('It rains.', 'a "quote'), ('', 'b'), ('It rains "now\u2028', 'c d e')]
    path = tmp_path / 'texts.tsv'
    path.write_text('\ufeff' + ''.join(f'{a}\t{b}\r\n' for a, b in texts) + '\n')
    for folder in (exports['RTE', 'savedmodel'], exports['RTE', 'onnx']):
        rows = table(run_tool(capsys, predict, folder, path))
        assert len(rows) == 3
        monkeypatch.setattr(sys, 'stdin', io.TextIOWrapper(io.BytesIO(path.read_bytes())))
        alone = table(run_tool(capsys, predict, folder, '--batch-size', '1'))       # without padding
        assert_same_answers(alone, rows)
        for row, (a, b) in zip(alone, texts, strict=True):
            assert table(run_tool(capsys, predict, folder, '--text', a, '--text-b', b)) == [row]
        (tmp_path / 'named.tsv').write_text('b\tid\ta\n' + ''.join(f'{b}\tx\t{a}\n' for a, b in texts))
        assert table(run_tool(capsys, predict, folder, tmp_path / 'named.tsv', '--columns', 'a,b')) == rows
        (tmp_path / 'bare.tsv').write_text(''.join(f'{b}\tx\t{a}\n' for a, b in texts))
        lines = run_tool(capsys, predict, folder, tmp_path / 'bare.tsv', '--columns', '2,0', '--format', 'json')
        assert [json.loads(line) for line in lines.splitlines()] == [
            {'prediction': row.pop('prediction'), 'probabilities': {name: float(row[name]) for name in row}}
            for row in rows]
    number = json.loads(run_tool(capsys, predict, runs['STSB'], '--text', 'a', '--text-b', 'b', '--format', 'json'))
    assert isinstance(number['prediction'], float)


@pytest.mark.parametrize(('task', 'content', 'args', 'message'), [
    ('RTE', b'a\tb\na\n', ('FILE',), 'texts.tsv, line 2: 1 columns instead of 2 (text_a<TAB>text_b'),
    ('CoLA', b'a\tb\n', (), 'standard input, line 1: 2 columns instead of 1'),
    ('CoLA', b'a\nb\xe9\n', (), 'standard input, line 2: byte 0xe9 is not UTF-8'),
    ('CoLA', b'\n\n', ('FILE',), 'texts.tsv: the file is empty'),
    ('CoLA', b'', (), 'standard input: the file is empty'),
    ('CoLA', b'', ('nowhere.tsv',), 'nowhere.tsv: No such file'),
    ('RTE', b'x\ty\na\tb\n', ('FILE', '--columns', 'x,z'), "texts.tsv, line 1: no column 'z' in the header: x, y"),
    ('RTE', b'x\ty\n', ('FILE', '--columns', 'x,y'), 'texts.tsv: it has a header and no rows'),
    ('RTE', b'x\ty\na\n', ('FILE', '--columns', 'x,y'), 'texts.tsv, line 2: 1 columns instead of 2'),
    ('RTE', b'a\tb\n', ('FILE', '--columns', '0,2'), 'texts.tsv, line 1: no column 2: it has 2, numbered from 0'),
    ('RTE', b'a\tb\n', ('FILE', '--columns', '0'), '--columns 0: this model takes two texts'),
    ('RTE', b'', ('--text', 'a'), '--text-b is missing'),
    ('CoLA', b'', ('--text', 'a', '--text-b', 'b'), '--text-b: this model takes one text only'),
    ('CoLA', b'', ('--text-b', 'b'), '--text-b: give the first text'),
    ('CoLA', b'', ('--text', 'a\udce9'), '--text: not UTF-8'),
    ('CoLA', b'', ('--text', 'a', 'FILE'), '--text: not together with FILE'),
    ('missing', b'', (), 'missing: no such folder'),
])
def test_bad_input_gets_one_line_and_no_answers(task, content, args, message, runs, opened, capsys, monkeypatch,
                                                tmp_path):
    path = tmp_path / 'texts.tsv'
    path.write_bytes(content)
    monkeypatch.setattr(sys, 'stdin', io.TextIOWrapper(io.BytesIO(content)))
    capsys.readouterr()
    assert predict.main([str(runs.get(task, tmp_path / task)), *(str(path) if arg == 'FILE' else arg for arg in args)
                         ]) == 2
    out, err = capsys.readouterr()
    assert out == ''
    assert err.startswith('error: ')
    assert message in err
    assert err.count('\n') == 1


@pytest.mark.parametrize('task', ['RTE', 'STSB'])
def test_a_rest_request(task, runs, exports, opened, capsys):
    """As TensorFlow Serving does it: the JSON lists become a tensor of the signature's type, and every output is cut
    into one value for each instance."""
    model = tf.saved_model.load(str(exports[task, 'savedmodel']))
    default, rest = model.signatures['serving_default'], model.signatures['rest']
    assert {name: (spec.dtype, spec.shape.as_list()) for name, spec in default.structured_input_signature[1].items()} \
        == {name: (tf.int32, [None, None]) for name in ('input_ids', 'token_type_ids')}
    settings, _, _ = predict.open_folder(runs[task], None)
    units = max(len(settings['labels']), 1)
    assert {name: (spec.dtype, spec.shape.as_list()) for name, spec in default.structured_outputs.items()} == {
        'logits': (tf.float32, [None, units])}
    (name, spec), = rest.structured_input_signature[1].items()
    assert (name, spec.dtype, spec.shape.as_list()) == ('input_ids', tf.int32, [None, None])
    assert {name: (spec.dtype, spec.shape.as_list()) for name, spec in rest.structured_outputs.items()} == (
        {'prediction': (tf.string, [None]), 'probabilities': (tf.float32, [None, units])} if settings['labels'] else
        {'prediction': (tf.float32, [None])})

    texts = [('it rains', 'now'), ('a', 'b c d e f'), ('quite a long one, compared with these', '')]
    examples = [snippets.Example('', 1, 0, *text, None) for text in texts]
    vocabulary = load_vocabulary(runs[task], settings['vocab_size'])
    ids, _ = build_rows(vocabulary, settings['maxlen'], examples).batch(np.arange(3))
    request = json.loads(json.dumps({'signature_name': 'rest', 'instances': ids.tolist()}))
    outputs = model.signatures[request['signature_name']](**{name: tf.constant(request['instances'], spec.dtype)})
    assert all(len(value) == 3 for value in outputs.values())
    for i, example in enumerate(examples):
        answer = json.loads(run_tool(capsys, predict, runs[task], '--text', example.text_a, '--text-b', example.text_b,
                                     '--format', 'json'))
        if not settings['labels']:
            score = np.clip(outputs['prediction'].numpy()[i], 0, 5)         # as STSB.py's answers() do
            assert score == pytest.approx(answer['prediction'], abs=6e-4)
            continue
        assert outputs['prediction'].numpy()[i].decode() == answer['prediction']
        assert outputs['probabilities'].numpy()[i] == pytest.approx(list(answer['probabilities'].values()), abs=1e-5)


def test_an_export_that_differs_is_not_written(runs, exports, capsys, monkeypatch):
    before = (exports['RTE', 'savedmodel'] / 'export.json').read_bytes()
    made = export.signatures
    monkeypatch.setattr(export, 'verify_afresh', export.verify)
    monkeypatch.setattr(export, 'signatures', lambda model, labels, sep: made(model, labels, sep + 1))
    assert export.main([str(runs['RTE']), '--format', 'savedmodel', '--fresh']) == 2
    assert 'differs from the run by' in capsys.readouterr().err
    assert (exports['RTE', 'savedmodel'] / 'export.json').read_bytes() == before
    assert not list(runs['RTE'].glob('.*'))


def test_a_fresh_process_that_fails_leaves_nothing(runs, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(export, 'write_onnx', lambda function, path: path.write_bytes(b'?'))
    assert export.main([str(runs['CoLA']), '--format', 'onnx', '--output', str(tmp_path / 'new' / '1')]) == 2
    assert 'does not work in a fresh process, so nothing was written' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_what_export_refuses(runs, exports, capsys, monkeypatch, tmp_path):
    (tmp_path / 'letters').mkdir()
    for folder, args, message in [
            (runs['RTE'], (), 'is there already. Write over it with --fresh'),
            (runs['CoLA'], ('--output', tmp_path / 'letters', '--fresh'), 'is no exported model'),
            (tmp_path / 'missing', (), 'no vocab.txt in this folder'),
            (exports['RTE', 'onnx'], (), 'holds exactly one of these')]:
        assert export.main(list(map(str, [folder, '--format', 'savedmodel', *args]))) == 2
        out, err = capsys.readouterr()
        assert (out, err[:7], err.count('\n')) == ('', 'error: ', 1)
        assert message in err
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)       # as if it were not installed
    for tool, folder, args in ((export, runs['RTE'], ('--format', 'onnx', '--fresh')),
                               (predict, exports['RTE', 'onnx'], ('--text', 'a', '--text-b', 'b'))):
        assert tool.main([str(folder), *args]) == 2
        assert 'ONNX needs onnxruntime: start this with `uv run --extra onnx' in capsys.readouterr().err


def test_what_verifies_an_export_has_no_code_of_ours():
    """Beyond tools.export itself, which imports TensorFlow or onnxruntime when it knows which."""
    code = 'import sys, tools.export; print({"tensorflow", "keras", "bert4keras", "checkpoints"} & set(sys.modules))'
    done = subprocess.run([sys.executable, '-c', code], cwd=config.ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, 'set()\n', '')

"""checks.bench_pretraining: what it counts, what its rows are, what the peer is asked, what it writes. No test looks at
a time."""

import json

import numpy as np
import pytest

from checks import bench_pretraining
from lab.bench import pretraining

TINY = ['--layers', '1', '--hidden-size', '16', '--batch-size', '4', '--no-jit']
BOTH_FIGURES = {'examples_per_second': 1.0, 'tokens_per_second': 1.0, 'steps_per_second': 1.0, 'first_step': 1.0,
                'peak_gib': 2.0}


def settle(script, *arguments, length=24):
    return pretraining.settle({'script': script, 'arguments': [*TINY, *arguments], 'length': length,
                                          'precision': 'float32'})


def encoder_products(s, embedding, h, layers):
    """(m, k, n) of each product of an encoder whose inner layers are 4 h wide, for s tokens."""
    products = [(s, embedding, h)] * (embedding != h)
    for _ in range(layers):
        products += [(s, h, h)] * 3             # queries, keys, values
        products += [(s, h, s), (s, s, h)]      # scores and their sums, all heads
        products += [(s, h, h), (s, h, 4 * h), (s, 4 * h, h)]
    return products


def test_flop_is_that_of_all_matrix_products():
    words, s, slots = 30522, 100, 15            # 0.155 * 100
    electra = [*encoder_products(s, 8, 24, 2), (slots, 24, 8), (slots, 8, words),       # the generator
               *encoder_products(s, 8, 32, 2), (s, 32, 32), (s, 32, 1)]
    mlm = [*encoder_products(s, 16, 16, 1), (slots, 16, 16), (slots, 16, words)]
    for script, arguments, products in (
            ('ELECTRA', ['--layers', '2', '--hidden-size', '32', '--embedding-size', '8', '--generator-size', '0.75'],
             electra), ('MLM', [], mlm)):
        found = pretraining.train_flop(*settle(script, *arguments, length=s), s)
        assert found == 3 * sum(2 * m * k * n for m, k, n in products)


@pytest.mark.parametrize('script', bench_pretraining.SCRIPTS)
def test_rows_have_no_padding(script):
    script, knobs = settle(script)
    data = pretraining.made_up_data(script, knobs, steps=3)['train']
    rows = np.arange(12)
    ids, segments = data.batch(rows)
    assert len(data) == 12 and ids.shape == (12, 24) and (data.lengths == 24).all() and not segments.any()
    assert (ids[:, 0] == data.vocabulary.cls).all() and (ids[:, -1] == data.vocabulary.sep).all()
    assert ids[:, 1:-1].min() > data.vocabulary.mask and len(np.unique(ids)) > 200
    hidden, *_ = data.targets.batch(ids, rows, (0, 0))
    assert ((hidden != ids).sum(1) <= knobs.slots).all() and (hidden == data.vocabulary.mask).any()


@pytest.fixture
def here(monkeypatch):
    """What is needed beforehand is found in this process, measurements in processes of their own."""
    child = bench_pretraining.ours

    def ours(request, folder):
        return pretraining.prepare(request) if request['what'] == 'prepare' else child(request, folder)

    monkeypatch.setattr(bench_pretraining, 'ours', ours)


def test_a_measurement_beside_a_peer(here, tmp_path, monkeypatch, capsys):
    """Ours is the real thing. Of the peer, which is asked for the same, it is looked at what it is asked."""
    asked = []

    def peer(python, request, folder):
        asked.append(request)
        return BOTH_FIGURES if request['mode'] == 'gathered' else {'failed': 'exit status 1: boom'}

    monkeypatch.setattr(bench_pretraining, 'peer', peer)
    monkeypatch.setattr(bench_pretraining.bench, 'check_peer', lambda python: None)
    status = bench_pretraining.main(['ELECTRA', '--lengths', '24', '--precision', 'float32', '--steps', '2',
                                     '--repeats', '1', '--peer', 'python', '--json', str(tmp_path / 'out.json'),
                                     '--markdown', str(tmp_path / 'out.md'), *TINY])
    said = capsys.readouterr().out
    assert status == 1 and 'ELECTRA, 24 tokens float32 1/1 peer as usual: failed, exit status 1: boom' in said
    written = json.loads((tmp_path / 'out.json').read_text())
    own = written['measurements'][0]
    assert (own['who'], own['steps'], own['traces'], own['padding'], own['lengths']) == ('ours', 2, 1, 0, [24])
    assert own['tokens_per_second'] == pytest.approx(4 * 24 * own['steps_per_second'])
    assert own['utilisation'] > 0 and own['making_batches'] > 0
    figures, both = (tmp_path / 'out.md').read_text().split('\n\n')[:2]
    assert figures.splitlines()[0].startswith('| task | precision | steps/s | tokens/s | utilisation | making batches')
    assert len(figures.splitlines()) == 3
    heading, _, tokens, *_ = both.splitlines()
    assert heading == '| task | precision |  | ours | peer, as usual | ratio | peer, gathered | ratio |'
    rate = bench_pretraining.bench.number(own['tokens_per_second'])
    assert tokens == f'| ELECTRA, 24 tokens | float32 | tokens/s | {rate} |  |  | 1 | {rate} |'

    usual, gathered = asked
    assert (usual.pop('mode'), gathered.pop('mode')) == bench_pretraining.MODES
    assert usual == gathered
    wanted = {'length': 24, 'batch_size': 4, 'steps': 2, 'masked': 0.85, 'random': 0.0, 'discriminator_weight': 50.0}
    assert {name: usual[name] for name in wanted} == wanted
    sizes = [(usual[which]['model_type'], *(usual[which][f'{name}_size'] for name in ('hidden', 'embedding', 'vocab')))
             for which in ('generator', 'model')]
    assert sizes == [('electra', 4, 128, 30522), ('electra', 16, 128, 30522)]


def test_a_bert_for_the_peer():
    asked = pretraining.prepare({'script': 'MLM', 'arguments': TINY, 'length': 24, 'precision': 'float32',
                                            'peer': True})
    assert (asked['model']['model_type'], asked['model']['hidden_size'], asked['generator']) == ('bert', 16, None)
    assert (asked['masked'], asked['random']) == (0.8, 0.1)


def test_a_text_is_cut_and_packed(tmp_path, monkeypatch, capsys):
    text = tmp_path / 'text.txt'
    text.write_text('A cat sat on a mat.\nIt slept.\n\n' * 200)
    monkeypatch.setattr(bench_pretraining, 'ours', lambda request, folder: pretraining.tokenize(request))
    assert bench_pretraining.main(['--tokenize', str(text), '--lengths', '16,64', '--repeats', '2', '--json',
                                   str(tmp_path / 'out.json')]) == 0
    for row in json.loads((tmp_path / 'out.json').read_text())['measurements']:
        assert row['tokens'] == 2000
        assert min(row['cutting_tokens_per_second'], row['packing_16_tokens_per_second'],
                   row['packing_64_tokens_per_second']) > 0
    head, _, values = capsys.readouterr().out.split('\n\n')[1].splitlines()
    assert head == '| text | tokens | cutting, tokens/s | packing into 16, tokens/s | packing into 64, tokens/s |'
    assert values.startswith(f'| {text} | 2,000 | ')


@pytest.mark.parametrize('options, message', [
    (['ELEKTRA'], 'ELEKTRA: none of the scripts ELECTRA, MLM. Did you mean ELECTRA?'),
    (['--lengths', '7'], '--lengths 7: numbers from 8 to 512'),
    (['--precision', 'float64'], '--precision float64: not some of float32, bfloat16, float16'),
    (['--peer', 'no-such-python'], 'no such program'),
    (['--peer', 'PYTHON'], 'it has no torch and no transformers'),
    (['--json', 'nowhere/x.json'], 'its folder does not exist'),
    (['--vocabulary', 'nowhere'], 'ELECTRA: --vocabulary nowhere: no vocab.txt there'),
    (['--grad-accumulation', '2'], 'ELECTRA: --grad-accumulation: ')])
def test_bad_input(options, message, here, tmp_path, capsys):
    python = tmp_path / 'python'
    python.write_text('#!/bin/sh\necho torch transformers\n')
    python.chmod(0o755)
    assert bench_pretraining.main([str(python) if option == 'PYTHON' else option for option in options]) == 2
    error = capsys.readouterr().err
    assert error.startswith('error: ')
    assert error.count('\n') == 1
    assert message in error


def test_an_option_of_no_script(capsys):
    assert bench_pretraining.main(['MLM', '--layer', '3']) == 2
    assert capsys.readouterr().err == 'error: MLM: unknown option --layer; did you mean --layers?\n'

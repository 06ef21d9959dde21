"""checks.rerun: what transformers is given, and how its outputs become scores."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import knobs_of, options, start

import config
from checks import rerun
from lab.scripts import load_script


@pytest.fixture
def peer(monkeypatch):
    """A peer that knows the dev labels in its second epoch, and nothing in the others. It keeps what it was given."""
    given = {}

    def run_child(command, request, folder):
        given.update(request)
        with np.load(request['rows']) as arrays:
            given['rows'] = dict(arrays)
        right = np.eye(request['labels'])[given['dev_gold']]        # of NONE, -1, that of the last label
        np.savez(request['outputs'], **{f'dev_{epoch}': right if epoch == 1 else 0 * right
                                        for epoch in range(request['epochs'])})
        return {}

    monkeypatch.setattr(rerun, 'check_peer', lambda python: None)
    monkeypatch.setattr(rerun, 'run_child', run_child)
    return given


def test_transformers_gets_the_runs_tokens_and_recipe(runs, peer, tmp_path, capsys):
    knobs = json.loads((runs['RTE'] / 'config.json').read_text())['knobs']
    script = load_script('RTE')
    settled = config.Knobs(data_dir=knobs['data_dir'], labels=script.knobs.labels, limit=knobs['limit'])
    examples = {split: script.load_data(settled, split) for split in ('train', 'dev')}
    peer['dev_gold'] = [example.label for example in examples['dev']]
    assert rerun.main(['python', str(runs['RTE']), '--json', str(tmp_path / 'out.json')]) == 0
    assert {name: peer[name] for name in rerun.RECIPE} == {name: knobs[name] for name in rerun.RECIPE}
    assert (Path(peer['model']).name, peer['labels'], peer['splits']) == ('converted', 2, ['dev'])
    assert peer['rows']['gold'].tolist() == [example.label for example in examples['train']]
    ids = peer['rows']['train_ids']
    assert ids.shape[0] == len(examples['train'])
    assert ids.shape[1] <= knobs['maxlen']
    assert set(peer['rows']['train_segments'][:, 0]) == {0}
    row, = json.loads((tmp_path / 'out.json').read_text())
    assert row[1] == 'dev, accuracy'
    assert row[2] == json.loads((runs['RTE'] / 'metrics.json').read_text())['best']['accuracy']
    assert row[3] == 1.0        # of the best epoch
    assert '| mean of 1 | dev, accuracy | ' in capsys.readouterr().out


def test_labels_of_words(tmp_path, tiny_bert, peer, capsys):
    """As run_ner.py's: -100 where there is none; the outputs of tokens become scores of entities."""
    script = load_script('tagging/WNUT17')
    start(script, *options(tmp_path, tiny_bert, '--no-predict'))
    folder = tmp_path / 'runs' / 'tagging' / 'WNUT17' / 'tiny-bert-seed42'
    knobs = knobs_of(script, '--demo', f'--model={tiny_bert}', '--limit=48')
    data = {split: script.prepare(knobs, script.load_data(knobs, split)) for split in ('train', 'dev')}
    width = data['dev'].lengths.max()
    peer['dev_gold'] = [np.pad(labels, (0, width - len(labels))) for labels in data['dev'].targets.values]
    assert rerun.main(['python', str(folder), '--json', str(tmp_path / 'out.json')]) == 0
    first = data['train'].targets.values[0]
    assert peer['rows']['gold'][0, :len(first)].tolist() == np.where(first < 0, -100, first).tolist()
    row, = json.loads((tmp_path / 'out.json').read_text())
    assert (row[1], row[3]) == ('dev, f1', 1.0)


def test_bad_input(runs, peer, tmp_path, capsys):
    for folder, message in ((tmp_path, 'no vocab.txt'), (runs['RTE'].parents[2] / 'nothing', 'nothing')):
        assert rerun.main(['python', str(folder)]) == 2
        assert message in capsys.readouterr().err

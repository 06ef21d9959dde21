"""What the engine offers beyond one label and one vector for a text, by three small programs in programs/: spans over
windows, a label for each token, masked language modelling by updates with a tied head and fresh values."""

import numpy as np
import pytest
from helpers import STEP, Killed, start, stop_in

from checks import kill
from engine.backend import keras
from engine.cli import resolve_knobs
from engine.runs.layout import STATE
from engine.training.prediction import Predictor
from lab.scripts import load_script

PROGRAMS = ['spans', 'tags', 'masked']


def options(folder, model):
    return ['--model', model, '--no-cache', '--no-jit', '--save-every', '0', '--runs-dir', folder / 'runs',
            '--results-dir', folder / 'results']


@pytest.mark.parametrize('name', PROGRAMS)
def test_it_trains_is_killed_and_goes_on(name, tmp_path, tiny_bert, monkeypatch, capsys):
    script = load_script(f'tests/programs/{name}')
    start(script, *options(tmp_path / 'undisturbed', tiny_bert))
    assert 'epoch' in capsys.readouterr().out
    folder = tmp_path / 'killed' / 'runs' / 'tests' / 'programs' / name / 'tiny-bert-seed42'
    for call in (2, 5):     # of the steps since it was started
        with monkeypatch.context() as patch, pytest.raises(Killed):
            stop_in(patch, STEP, call, kill.signal.SIGKILL)
            start(script, *options(tmp_path / 'killed', tiny_bert))
        assert (folder / STATE).is_file()
    start(script, *options(tmp_path / 'killed', tiny_bert))
    assert 'goes on after' in capsys.readouterr().out
    assert kill.differences(tmp_path / 'undisturbed', tmp_path / 'killed') == []


@pytest.mark.parametrize('name', PROGRAMS)
def test_its_predictions_are_in_file_order(name, tiny_bert):
    """In batches sorted by length as row by row."""
    script = load_script(f'tests/programs/{name}')
    outputs = []
    for batch_size in (1, 5):
        knobs = resolve_knobs(script.knobs, script.__file__, {'model': str(tiny_bert), 'cache': False, 'jit': False,
                                                       'eval_batch_size': batch_size})
        keras.utils.set_random_seed(1)      # of a head that is not seeded
        data = script.prepare(knobs, 'test')
        model = script.build_model(knobs, data if name == 'masked' else len(data))
        outputs.append(Predictor(knobs, model).predict(data))
    assert len(outputs[0]) == len(outputs[1]) == len(data)
    lengths = [len(row) for row in outputs[0]]
    assert lengths == (data.lengths.tolist() if name != 'masked' else [knobs.slots] * len(data))
    for one, several in zip(*outputs, strict=True):
        np.testing.assert_allclose(one, several, rtol=1e-4, atol=1e-4)

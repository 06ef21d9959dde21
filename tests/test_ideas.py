"""The patches in ideas/ apply to every classification script, and what they make runs."""

import importlib.util
import shutil
import subprocess

import numpy as np
import pytest
from conftest import make_knobs
from test_skeleton import CLASSIFIERS

import config
import snippets

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


@pytest.mark.parametrize('name', ['CoLA', 'MNLI'])
@pytest.mark.parametrize('patch', PATCHES, ids=lambda path: path.stem)
def test_the_patched_script_trains(patch, name, tmp_path, tiny_bert):
    path = apply(patch, name, tmp_path)
    spec = importlib.util.spec_from_file_location(f'{name}_{patch.stem}', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    knobs = make_knobs('--demo', '--model', tiny_bert, '--learning-rate', 1e-3, '--limit', 64, task=name,
                       labels=module.knobs.labels)
    data = snippets.tokenize(knobs, module.load_data(knobs, 'train'))
    model = module.build_model(knobs, len(data))
    before = {key: variable.numpy() for key, variable in snippets.named_weights(model).items()}
    history = model.fit(data.training_batches(knobs), steps_per_epoch=2, epochs=2, verbose=0)
    assert np.isfinite(history.history['loss']).all()
    after = snippets.named_weights(model)
    assert all((after[key].numpy() != value).any() for key, value in before.items()
               if 'pooler' not in key and 'key/bias' not in key)

"""Data-parallel training: two devices of one machine, and two machines, end where one device does; long texts, too."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy

import config
from lab.reference.random_model import SIZES, random_variables, write_google

TWO_DEVICES = """
import runpy, sys
from engine.backend import tf
cpu, = tf.config.list_physical_devices('CPU')
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
runpy.run_path(sys.argv.pop(1), run_name='__main__')
"""
WITHOUT_DROPOUT = {'hidden_dropout_prob': 0.0, 'attention_probs_dropout_prob': 0.0}


def free_ports(count):
    sockets = [socket.create_server(('127.0.0.1', 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


RTE = ['RTE.py', '--epochs', '1', '--limit', '70', '--learning-rate', '1e-3', '--no-jit']
IMDB = ['documents/IMDB.py', '--epochs', '1', '--limit', '36', '--learning-rate', '1e-3', '--maxlen', '32',
        '--truncation', 'windows', '--windows-at-once', '5', '--combine', 'attention']


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """{name: (folder of the run, what its process said)}: the same runs on one device, on two, on two machines."""
    folder = tmp_path_factory.mktemp('devices')
    model = write_google(folder / 'model', random_variables('bert', SIZES), SIZES | WITHOUT_DROPOUT)
    workers = {'worker': [f'127.0.0.1:{port}' for port in free_ports(2)]}
    configs = [json.dumps({'cluster': workers, 'task': {'type': 'worker', 'index': i}}) for i in range(2)]
    started = {}
    for name, options, code, tf_config in (
            ('one', RTE, [], '{}'), ('two', RTE, ['-c', TWO_DEVICES], '{}'), ('first', RTE, [], configs[0]),
            ('second', RTE, [], configs[1]), ('windows-one', IMDB, [], '{}'),
            ('windows-two', IMDB, ['-c', TWO_DEVICES], '{}')):
        script, *options = options
        started[name] = subprocess.Popen(
            [sys.executable, *code, config.ROOT / script, '--demo', '--model', model, '--dropout', '0', *options,
             '--no-cache', '--eval-batch-size', '16', '--runs-dir', folder / name, '--results-dir', folder / name,
             *([] if name.endswith('one') else ['--devices', 'all'])],
            env=os.environ | {'TF_CONFIG': tf_config, 'PYTHONPATH': str(config.ROOT), 'CUDA_VISIBLE_DEVICES': '-1'},
            cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    found = {}
    for name, process in started.items():
        out, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        task = 'documents/IMDB' if name.startswith('windows') else 'RTE'
        found[name] = folder / name / task / 'model-seed42', out
    return found


@pytest.mark.parametrize('alone, name, batch', [('one', 'two', 32), ('one', 'first', 32),
                                              ('windows-one', 'windows-two', 16)])
def test_the_result_is_that_of_one_device(runs, alone, name, batch):
    """70 examples in batches of 32: the last has 6, 3 on each device. 36 long texts in batches of 16: it has 4."""
    assert f'on 2 devices, {batch // 2} examples' in runs[name][1]
    folders = [runs[one][0] for one in (alone, name)]
    one, two = (safetensors.numpy.load_file(folder / 'model.safetensors') for folder in folders)
    start = random_variables('bert', SIZES)
    moved = {key: np.abs(one[key] - start[key]).max() for key in one if key in start}
    assert min(value for key, value in moved.items() if not key.endswith('key/bias')) > 1e-4
    for key, value in one.items():
        np.testing.assert_allclose(two[key], value, atol=1e-5 if 'key/bias' not in key else 3e-3, err_msg=key)
    rows = [json.loads((folder / 'metrics.json').read_text())['best'] for folder in folders]
    assert rows[0]['accuracy'] == rows[1]['accuracy']
    assert rows[0]['loss'] == pytest.approx(rows[1]['loss'], rel=1e-5)
    answers = 'IMDB.tsv' if alone == 'windows-one' else 'RTE.tsv'
    assert (folders[0] / answers).read_text() == (folders[1] / answers).read_text()


def test_one_machine_writes(runs):
    folder, said = runs['second']
    assert not folder.exists()
    assert not said

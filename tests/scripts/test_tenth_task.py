"""A tenth task is one script and one row in the table of tasks: everything else finds it there."""

import os
import shutil
import subprocess
import sys

import pytest

import config
from engine.catalog.datasets import FOLDERS, TASKS

ROW = """
    Task('Tenth', 'Ten-th', {
        'train.tsv': File(30, (*PAIR, 'label')),
        'dev.tsv': File(20, (*PAIR, 'label')),
        'test.tsv': File(10, PAIR),
    }, (
        Download(f'{GLUE_URL}/Tenth.zip'),
    ), {'Tenth.tsv': 'test.tsv'}, labels=('entailment', 'not_entailment'), majority='entailment',
        metrics=('accuracy',), million_tokens=0.01),
"""
END = ')}\n\n# The diagnostic set'


@pytest.fixture(scope='module')
def copy(tmp_path_factory):
    """The project with RTE.py once more, as Tenth.py, and with its row."""
    folder = tmp_path_factory.mktemp('tenth')
    for path in config.ROOT.glob('*.py'):
        shutil.copy(path, folder)
    for name in ('engine', 'lab', 'tools', 'checks', 'tests'):
        shutil.copytree(config.ROOT / name, folder / name, ignore=shutil.ignore_patterns('__pycache__'))
    script = (folder / 'RTE.py').read_text()
    (folder / 'Tenth.py').write_text(script.replace('RTE/', 'Ten-th/').replace('RTE', 'Tenth'))
    table = (folder / 'engine' / 'catalog' / 'datasets.py').read_text()
    assert table.count(END) == 1
    (folder / 'engine' / 'catalog' / 'datasets.py').write_text(table.replace(END, ROW + END))
    return folder


def run(copy, *command):
    """(exit status, standard output, standard error) of Python in the copy."""
    done = subprocess.run([sys.executable, *map(str, command)], cwd=copy, capture_output=True, text=True,
                          env=os.environ | {'PYTHONPATH': str(copy)})
    return done.returncode, done.stdout, done.stderr


def test_leaderboard_lists_it(copy):
    status, _, error = run(copy, '-m', 'tools.leaderboard', 'Eleventh')
    assert (status, error) == (2, f'error: no task Eleventh; there are {", ".join([*TASKS, "Tenth"])}.\n')
    figures = dict.fromkeys(('median', 'mean', 'max', 'std', 'last_median'), 50)
    summary = {'Tenth': {'seeds': [1], 'minutes': 2, 'metrics': {'accuracy': figures}}}
    code = 'from engine.catalog import published; from tools import leaderboard; ' \
        f'print(leaderboard.markdown({summary}, published.nearest("minilm")))'
    status, said, error = run(copy, '-c', code)
    assert (status, error) == (0, '')
    assert '| Tenth | accuracy | **50.0** | 50.0 | 50.0 | 50.0 | 50.0 | 1 | 2.0 |  |\n' in said


def test_submission_checks_its_file(copy):
    answers = copy / 'answers'
    answers.mkdir()
    rows = [f'{i}\tentailment\n' for i in range(10)]
    (answers / 'Tenth.tsv').write_text('index\tprediction\n' + ''.join(rows))
    status, said, _ = run(copy, '-m', 'tools.submission', answers, '--allow-missing')
    assert status == 0
    assert 'Tenth.tsv: ok, 10 rows\n' in said
    (answers / 'Tenth.tsv').write_text('index\tprediction\n' + ''.join(rows[:9]))
    status, said, error = run(copy, '-m', 'tools.submission', answers, '--allow-missing')
    assert status == 2
    assert 'Tenth.tsv: 9 rows instead of 10\n' in said
    assert '1 of 12 files are not right' in error


def test_download_knows_its_folder(copy):
    data = copy / 'data'
    for folder in (*FOLDERS, 'Ten-th'):
        (data / folder).mkdir(parents=True)
    for name in ('all', 'tenth', 'Ten-th'):
        status, said, _ = run(copy, '-m', 'tools.download', name, '--data-dir', data)
        assert status == 0
        assert f'{data / "Ten-th"} is there already and is left as it is.\n' in said


def test_bench_asks_for_its_data(copy):
    status, _, error = run(copy, '-m', 'checks.bench', 'Tenth', '--demo')
    assert status == 2
    assert f'{copy / "demo" / "Ten-th"}: no such folder.' in error


def test_the_skeleton_holds_for_it(copy):
    status, said, _ = run(copy, '-m', 'pytest', '-v', '-p', 'no:cacheprovider', '-p', 'no:xdist', '-c', os.devnull,
                          '--rootdir', copy, '-o', 'pythonpath=tests', 'tests/scripts/test_skeleton.py', '-k', 'Tenth')
    assert status == 0, said
    assert 'test_sections_and_names[Tenth]' in said
    assert 'test_the_same_model_and_the_same_run[Tenth]' in said

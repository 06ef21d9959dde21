"""Many runs at a time and their table, with a stub in place of the scripts."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

import config
from engine.catalog import published
from engine.catalog.datasets import TASKS
from lab import scheduler
from tools import leaderboard

# Does with its folder what the scripts do, says in the diary what it does, takes its scores from a file.
STUB = '''
import json, os, subprocess, sys, time
from pathlib import Path

given = dict(word[2:].split('=', 1) for word in sys.argv[1:] if '=' in word)
task, seed, here = Path(__file__).stem, given['seed'], Path.cwd()
model, name = Path(given.get('model', 'bert-base-uncased')).resolve().name, given.get('name', '')
folder = Path(given.get('runs-dir', 'runs'), task, f'{model}-seed{seed}' + f'-{name}' * bool(name))
gain = 0

def note(what):
    with open(here / 'diary', 'a') as diary:
        diary.write(f"{what} {task} {seed} {os.getpid()} {os.environ.get('CUDA_VISIBLE_DEVICES')} "
                    f"{os.environ.get('OMP_NUM_THREADS')}\\n")

def write(name, content):
    (folder / f'.{name}').write_text(json.dumps(content))
    (folder / f'.{name}').replace(folder / name)

if (folder / 'metrics.json').exists() and '--fresh' not in sys.argv:
    if json.loads((folder / 'config.json').read_text())['knobs']['learning-rate'] != given.get('learning-rate'):
        sys.exit(f'error: {folder} holds a finished run with other settings.')
    print('This run is finished')
    sys.exit()
note('start')
if (here / 'hang').exists():
    if task == 'RTE':
        import signal
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    note(f"child {subprocess.Popen(['sleep', '60']).pid}")
    time.sleep(60)
folder.mkdir(parents=True)
scores = json.loads((here / 'scores').read_text())[task][seed]
write('config.json', {'knobs': {'epochs': len(scores), 'learning-rate': given.get('learning-rate'), 'model': model,
                                'seed': int(seed), 'name': name, 'labels': ['0', '1'], 'init': given.get('init', '')},
                      'cores': 2, 'device': 'CPU', 'task': task, 'source_sha256': {'gain': gain}})
rows = []
for score in scores:
    time.sleep(0.05)
    if score == 'fail':
        print('Traceback:\\n\\nout of luck', file=sys.stderr)
        note('end')
        sys.exit(2)
    score += gain
    rows.append({'epoch': len(rows) + 1, 'loss': 1.0, 'mcc': score, 'score': score, 'train_seconds': 50.0,
                 'dev_seconds': 10.0})
    best = max(rows, key=lambda row: row['score'])
    write('metrics.json', {'finished': False, 'best': best, 'last': rows[-1], 'epochs': rows})
results = Path(given['results-dir'])
results.mkdir(parents=True)
time.sleep(0.05)
assert not list(results.iterdir())      # nobody else's
for path in (folder, results):
    (path / f'{task}.tsv').write_text(f'seed {seed}')
    (path / f'{task}_outputs.npz').touch()
(folder / 'dev_predictions.tsv').write_text(
    'loss\\tlabel\\tprediction\\trow\\tfile\\tline\\ttext_a\\ttext_b\\n'
    f'0\\t1\\t{int(gain > 0)}\\t0\\tdev.tsv\\t1\\tA\\t\\n')
write('metrics.json', {'finished': True, 'best': best, 'last': rows[-1], 'epochs': rows})
note('end')
'''


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with stubs, where the tool looks for the scripts and works quickly."""
    monkeypatch.setattr(config, 'ROOT', tmp_path)
    monkeypatch.setattr(scheduler, 'POLL', 0.01)
    monkeypatch.setattr(leaderboard, 'plot', lambda *args: b'png')     # slow; test_statistics() has the real one
    monkeypatch.chdir(tmp_path)
    for name in ('CUDA_VISIBLE_DEVICES', 'OMP_NUM_THREADS', 'TF_NUM_INTRAOP_THREADS'):
        monkeypatch.delenv(name, raising=False)
    for task in TASKS:
        (tmp_path / f'{task}.py').write_text(STUB)
    for package in ('engine', 'tools'):
        (tmp_path / package).mkdir()
    return tmp_path


def diary(here):
    """[what, task, seed, process, GPU, threads] of every line."""
    return [line.split() for line in (here / 'diary').read_text().splitlines()] if (here / 'diary').exists() else []


def make_run(task, seed, *scores, state='done'):
    """A finished run with one metric a column."""
    run = scheduler.Run(task, seed, Path('runs'), state=state)
    run.rows = [{'epoch': i, 'loss': 1.0, 'a': score, 'b': 0.5, 'score': score, 'train_seconds': 90.0,
                 'dev_seconds': 30.0} for i, score in enumerate(scores, 1)]
    run.best = max(run.rows, key=lambda row: -1 if row['score'] is None else row['score'], default=None)
    run.settings = {'knobs': {'epochs': 4}}
    return run


def test_statistics():
    scores = np.array([[0.50, 0.61], [0.70, 0.40], [0.64, 0.66], [0.55, 0.52]])
    one = leaderboard.summarize([make_run('CoLA', seed, *row) for seed, row in enumerate(scores.tolist(), 3)])
    best, last = 100 * scores.max(1), 100 * scores[:, 1]
    assert one['metrics']['a'].pop('values') == pytest.approx(best)
    assert one['metrics']['a'] == pytest.approx({
        'median': np.median(best), 'mean': best.mean(), 'max': 70, 'std': np.std(best, ddof=1),
        'last_median': np.median(last)})
    assert list(one['metrics']) == ['a', 'b']
    assert (one['seeds'], one['best_seed'], one['minutes']) == ([3, 4, 5, 6], 4, 4)

    alone = leaderboard.summarize([make_run('CoLA', 1, 0.5)])['metrics']
    assert (alone['a']['median'], alone['a']['std']) == (50, None)
    # a score that is not defined is the lowest: it is not left out
    some = leaderboard.summarize([make_run('STSB', 1, None), make_run('STSB', 2, 0.8), make_run('STSB', 3, 0.9)])
    assert some['metrics']['a'] == {'median': 80, 'mean': None, 'max': 90, 'std': None, 'values': [None, 80, 90],
                                    'last_median': 80}
    all_undefined = {'STSB': leaderboard.summarize([make_run('STSB', 1, None), make_run('STSB', 2, None)])}
    others = published.nearest('bert-base-uncased')
    assert '| STSB | a | **undefined** | undefined | undefined |  | undefined | 2 | 2.0 |' in \
        leaderboard.markdown(all_undefined, others)
    assert leaderboard.plot('', all_undefined, others)[:4] == b'\x89PNG'


def test_runs_at_a_time_and_what_they_leave(here, capsys):
    (here / 'scores').write_text(json.dumps({'CoLA': {'1': [0.2, 0.4, 0.3], '2': [0.1, 0.2], '3': [0.3, 0.35]},
                                             'RTE': {str(seed): [0.5] for seed in (1, 2, 3)}}))
    args = ['CoLA', 'RTE', '--model', 'some/electra_small', '--seeds', '3', '--jobs', '2', '--epochs', '9']
    assert leaderboard.main(args) == 0
    lines, said = diary(here), capsys.readouterr().out
    running = np.cumsum([1 if line[0] == 'start' else -1 for line in lines])
    assert running.max() == 2
    assert {line[1] for line in lines[:4]} == {'RTE'}       # the longer task first
    assert sum(line[0] == 'start' for line in lines) == 6
    assert {line[5] for line in lines} == {str(max(1, len(os.sched_getaffinity(0)) // 2))}
    assert 'CoLA seed 1: epoch 3/3, mcc 30.0\n' in said
    assert 'CoLA seed 1: done, epoch 2 is the best: mcc 40.0\n' in said

    # the seed of the higher score, not the last; without anything of the other seeds or of a run's other files
    results = {path.name: path.read_text() for path in (here / 'results').iterdir()}
    assert results == {'CoLA.tsv': 'seed 1', 'RTE.tsv': 'seed 1'}
    assert f'{Path("results/CoLA.tsv")}: of seed 1, on dev the best of 3: mcc 40.0\n' in said
    table = (here / 'runs' / 'leaderboard-electra_small.md').read_text()
    assert '| CoLA | mcc | **35.0** | 31.7 | 40.0 | 10.4 | 30.0 | 3 | 2.0 | 57.0 | 56.6 |\n' in table
    assert 'google-research/electra' in table
    assert table in said
    numbers = json.loads((here / 'runs' / 'leaderboard-electra_small.json').read_text())
    assert numbers['tasks']['CoLA']['metrics']['mcc']['values'] == [40, 20, 35]
    assert numbers['published']['ELECTRA-small, Google']['scores']['CoLA mcc'] == 57.0
    assert (here / 'runs' / 'leaderboard-electra_small.png').read_bytes() == b'png'

    # once more: nothing runs anew, the table is the same
    assert leaderboard.main(args) == 0
    assert diary(here) == lines
    assert (here / 'runs' / 'leaderboard-electra_small.md').read_text() == table
    # other settings are refused by the scripts, and shown
    assert leaderboard.main([*args, '--learning-rate=1e-3']) == 1
    captured = capsys.readouterr()
    assert captured.out.count('holds a finished run with other settings') == 6
    assert captured.err.count(': runs/') == 6


def test_failed_runs_are_shown_and_the_others_go_on(here, capsys):
    (here / 'scores').write_text(json.dumps({'CoLA': {'1': [0.2, 'fail'], '2': [0.3]}}))
    assert leaderboard.main(['CoLA', '--model', 'bert-base-uncased', '--seeds', '2', '--jobs', '1', '--demo',
                             '--runs-dir', 'r']) == 1
    captured = capsys.readouterr()
    assert 'CoLA seed 1 failed, exit status 2. r/CoLA/bert-base-uncased-seed1.log:\n  Traceback:\n  out of luck\n' \
        in captured.out
    assert captured.err == 'error: CoLA seed 1 failed: r/CoLA/bert-base-uncased-seed1.log\n'
    assert '| **30.0** | 30.0 | 30.0 |  | 30.0 | 1 |' in captured.out
    assert 'These scores mean nothing' in captured.out
    assert 'published' not in captured.out      # a comparison would say nothing either
    assert (here / 'results/demo/CoLA.tsv').read_text() == 'seed 2'     # never over the real ones
    (here / 'CoLA.py').write_text('import os, signal; os.kill(os.getpid(), signal.SIGKILL)')
    assert leaderboard.main(['CoLA', '--seeds=1', '--first-seed=7']) == 1
    assert 'CoLA seed 7 failed, killed by SIGKILL' in capsys.readouterr().out


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_no_process_behind(here, number):
    (here / 'hang').touch()
    code = f'import config, sys; sys.path.append({str(Path(leaderboard.__file__).parents[1])!r}); ' \
        f'from lab import scheduler; from tools import leaderboard; config.ROOT = config.Path({str(here)!r}); ' \
        'scheduler.POLL, scheduler.PATIENCE = 0.05, 0.3; sys.exit(leaderboard.main())'
    tool = subprocess.Popen([sys.executable, '-c', code, 'CoLA', 'RTE', '--seeds=2', '--jobs=3'], text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | {
                                'PYTHONPATH': str(Path(leaderboard.__file__).parents[1]), 'TMPDIR': str(here)},
                            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))    # not so in background
    while len(diary(here)) < 6 and tool.poll() is None:
        time.sleep(0.01)
    time.sleep(0.05)
    tool.send_signal(number)
    error = tool.communicate(timeout=10)[1]
    assert (tool.returncode, error) == (128 + number, 'Interrupted: 0 of 4 runs are done. To go on, start the same '
                                                      'command again.\n')
    lines = diary(here)
    assert len(lines) == 6      # the fourth run was not started; RTE's two do not heed SIGTERM
    for process in [line[1] if line[0] == 'child' else line[3] for line in lines]:
        with contextlib.suppress(FileNotFoundError):    # an orphan's orphan may wait for init to take note of its end
            assert Path(f'/proc/{process}/stat').read_text().split()[2] == 'Z'
    assert not list(here.glob('tmp*'))


PATCH = '''An idea.

--- a/CoLA.py
+++ b/CoLA.py
@@ -8,3 +8,3 @@
 folder = Path(given.get('runs-dir', 'runs'), task, f'{model}-seed{seed}' + f'-{name}' * bool(name))
-gain = 0
+gain = 0.1
\x20
'''


def test_an_idea_runs_beside_its_baseline(here, capsys):
    scores = {str(seed): [0.2 + seed / 100, 0.1] for seed in range(1, 9)}
    (here / 'scores').write_text(json.dumps({'CoLA': scores, 'RTE': scores}))
    (here / 'ideas').mkdir()
    (here / 'ideas' / 'gain.patch').write_text(PATCH)
    args = ['CoLA', 'RTE', '--model=m', '--seeds=8', '--idea=ideas/gain.patch', '--jobs=4']
    before = {path: path.read_text() for path in here.glob('*.py')}
    assert leaderboard.main(args) == 0
    said = capsys.readouterr().out
    assert '32 runs, 4 at a time' in said
    assert {path: path.read_text() for path in here.glob('*.py')} == before
    assert not (here / 'scratch').exists()
    table = (here / 'runs' / 'compare-m-baseline-gain.md').read_text()
    assert table in said
    assert '| CoLA | mcc | best | 8 | 24.50 | 34.50 | +10.00 | +10.00 to +10.00 | 0.008 |  | 8 / 0 |  |' in table
    assert '| all | mean of the tasks | last | 16 | 10.00 | 20.00 | +10.00 |' in table
    assert '- CoLA: code differs: gain.\n' in table
    assert (here / 'results' / 'RTE.tsv').read_text() == 'seed 8'
    assert (here / 'results' / 'gain' / 'RTE.tsv').read_text() == 'seed 8'
    assert '| CoLA | mcc | **34.5** |' in (here / 'runs' / 'leaderboard-m-gain.md').read_text()
    # again: all is there; options as an idea need the idea's runs alone
    lines = diary(here)
    assert leaderboard.main(args) == 0
    assert diary(here) == lines
    assert leaderboard.main(['RTE', '--model=m', '--seeds=2', '--options=--learning-rate 1e-3']) == 0
    assert [line[1:3] for line in diary(here)[len(lines):] if line[0] == 'start'] == [['RTE', '1'], ['RTE', '2']]
    assert (here / 'runs' / 'RTE' / 'm-seed2-learning-rate-1e-3').is_dir()
    assert 'with 2 seeds p cannot come below 0.5' in capsys.readouterr().out
    # the patch is kept with what it made, and another one of the same name is refused
    assert (here / 'runs' / 'gain.patch').read_text() == PATCH
    assert '- gain is ideas/gain.patch, kept as runs/gain.patch.\n' in table
    (here / 'ideas' / 'gain.patch').write_text(PATCH.replace('0.1', '0.3'))
    assert leaderboard.main(args) == 2
    assert 'were made by another patch' in capsys.readouterr().err
    # an edit of the scripts themselves: only the named runs can be run
    (here / 'RTE.py').write_text(before[here / 'RTE.py'].replace('gain = 0\n', 'gain = 0.2\n'))
    assert leaderboard.main(['RTE', '--model=m', '--seeds=9', '--name=mine']) == 1      # there are no scores of seed 9
    assert '| RTE | mcc | best | 8 | 24.50 | 44.50 | +20.00 |' in capsys.readouterr().out


def test_transfer_starts_from_the_best_mnli_run(here, capsys):
    scores = {str(seed): [0.2 + seed / 100] for seed in (1, 2)}
    (here / 'scores').write_text(json.dumps(dict.fromkeys(('CoLA', 'RTE', 'MRPC', 'MNLI'), scores)))
    assert leaderboard.main(['CoLA', 'RTE', 'MNLI', '--model=m', '--seeds=2', '--transfer']) == 0
    table = (here / 'runs' / 'compare-m-baseline-from-MNLI.md').read_text()
    assert '- RTE: init differs: empty in baseline, runs/MNLI/m-seed2 in from-MNLI.\n' in table
    assert 'RTE 70.4 -> 84.1' in table
    assert '| CoLA |' not in table
    starts = [line[1] for line in diary(here) if line[0] == 'start']
    assert starts == ['MNLI', 'MNLI', 'RTE', 'RTE', 'CoLA', 'CoLA', 'RTE', 'RTE']
    assert leaderboard.main(['MRPC', '--model=m2', '--seeds=2', '--transfer']) == 0     # one run of MNLI is enough
    assert [line[1] for line in diary(here) if line[0] == 'start'][8:] == ['MNLI', 'MRPC', 'MRPC', 'MRPC', 'MRPC']
    capsys.readouterr()


@pytest.mark.parametrize(('args', 'message'), [
    (['CoLA', '--idea=no.patch'], 'error: --idea no.patch: not read: '),
    (['STSB', '--idea=bad.patch'], 'error: --idea bad.patch does not fit STSB.py: error: '),
    (['CoLA', '--options=--seed 3'], '--seed is of both sides'),
    (['CoLA', '--options=--epoch=3'], 'unknown option --epoch=3; did you mean --epochs?'),
    (['MRPC', '--idea=cola.patch'], 'changes nothing that makes a run of MRPC.py'),
    (['CoLA', '--name=baseline'], '--name baseline: only letters'),
    (['CoLA', '--options= '], '--options: it is empty'),
    (['CoLA', '--transfer'], '--transfer is for RTE, MRPC, STSB'),
    (['RTE', '--transfer', '--options=--epochs=3'], 'not with --idea or --options'),
    (['CoLA', 'SST-2'], 'error: no task SST-2; there are CoLA, SST2, MRPC'),
    (['--seed=3'], 'error: not --seed, but --seeds'),
    (['--seeds=0'], '0 is not within 1 and 1000'),
    (['--epoch=3'], 'unknown option --epoch=3; did you mean --epochs?'),
])
def test_bad_usage_starts_nothing(here, capsys, args, message):
    (here / 'bad.patch').write_text(PATCH.replace('gain = 0\n', 'pain = 0\n'))
    (here / 'cola.patch').write_text(PATCH + PATCH.replace('CoLA', 'RTE'))
    try:
        status = leaderboard.main(args)
    except SystemExit as end:
        status = end.code
    assert status == 2
    assert message in capsys.readouterr().err
    assert not diary(here)
    assert not (here / 'runs').exists()


def test_scripts_of_two_default_models_want_one(capsys):
    assert leaderboard.main(['documents/TREC', 'chinese/BQ', '--seeds=1']) == 2
    assert 'different default models: choose one with --model' in capsys.readouterr().err


def test_every_run_gets_its_share_of_the_machine(here, monkeypatch, capsys):
    (here / 'scores').write_text(json.dumps({'WNLI': {'1': [0.5], '2': [0.5], '3': [0.5]}}))
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '3, 5')
    assert leaderboard.main(['WNLI', '--seeds=3', '--model=m']) == 0
    assert '3 runs, 2 at a time, on GPU 3, 5\n' in capsys.readouterr().out
    starts = [line[4] for line in diary(here) if line[0] == 'start']
    assert sorted(set(starts)) == ['3', '5']
    assert np.cumsum([1 if line[0] == 'start' else -1 for line in diary(here)]).max() <= 2
    assert scheduler.make_slots(3, 9, 'all') == [{}]
    assert scheduler.make_slots(3, 9) == [{'CUDA_VISIBLE_DEVICES': gpu} for gpu in '353']
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '-1')
    monkeypatch.setattr(os, 'sched_getaffinity', lambda process: range(16))
    monkeypatch.setattr(scheduler, 'free_memory', lambda: 13 * 2**30)
    threads = {'TF_NUM_INTRAOP_THREADS': '5', 'OMP_NUM_THREADS': '5'}
    assert scheduler.make_slots(0, 9) == [threads] * 3        # cores for four, memory for three
    assert scheduler.make_slots(0, 1) == [{}]
    monkeypatch.setattr(scheduler, 'free_memory', lambda: 2**30)
    assert scheduler.make_slots(0, 9) == [{}]


def test_the_live_table():
    runs = [make_run('CoLA', 1, 0.2, 0.3, 0.3, 0.3), make_run('CoLA', 2, 0.25, state='running'),
            make_run('CoLA', 3, state='waiting'), make_run('RTE', 1, state='failed'),
            make_run('RTE', 2, state='running'), make_run('RTE', 3, state='waiting')]
    console = Console(width=100)
    with console.capture() as capture:
        console.print(scheduler.table(runs, 2))
    rows = [re.split(r'\s*[│┃]\s*', line)[1:-1] for line in capture.get().splitlines()]
    # four epochs of two minutes; RTE takes 1.7 times as long
    assert ['CoLA', 'done 30.0', '1/4 25.0', 'waiting', '0:08:00'] in rows
    assert ['RTE', 'failed', 'started', 'waiting', '0:13:36'] in rows
    assert '1 done, 1 failed, 2 running, 2 waiting; about 0:21:36 left' in capture.get()


def test_published_rows():
    titles = {model: list(published.nearest(model)) for model in (
        'bert-base-uncased', 'runs/MNLI/electra-base-seed1', 'distilbert-base-uncased', 'minilm')}
    assert titles == {
        'bert-base-uncased': ['BERT-base cased, transformers', 'BERT-base uncased, DistilBERT'],
        'runs/MNLI/electra-base-seed1': ['ELECTRA-base, Google', 'ELECTRA-base, lonePatient'],
        'distilbert-base-uncased': ['BERT-base cased, transformers', 'BERT-base uncased, DistilBERT',
                                    'DistilBERT uncased'],
        'minilm': ['BERT-base cased, transformers']}
    assert published.nearest('electra-large')['ELECTRA-large, Google'][1]['STSB spearman'] == 92.6
    names = [f'{script} {metric}' for script, task in TASKS.items() for metric in task.metrics]
    assert list(published.GLUE[0][3]) == names
    assert all(set(scores) <= set(names) for *_, scores in published.GLUE)


def test_published_rows_of_chinese_tasks():
    for model, title in (('chinese-electra-small-ex', 'ELECTRA-small-ex, HFL, best of 10'),
                         ('hfl/chinese_electra_180g_base', 'ELECTRA-180g-base, HFL, best of 10'),
                         ('bert-base-chinese', 'BERT-base, HFL, best of 10'), ('mine', 'BERT-base, HFL, best of 10')):
        assert next(iter(published.nearest(model, ['chinese/BQ', 'chinese/XNLI']))) == title
    best, means = (scores for _, scores in published.nearest('electra-small', ['chinese/BQ']).values())
    assert (best['chinese/BQ test accuracy'], means['chinese/BQ test accuracy']) == (82.0, 81.7)
    assert (best['chinese/XNLI accuracy'], means['chinese/LCQMC accuracy']) == (73.3, 86.3)
    assert published.nearest('bert-base-chinese', ['chinese/BQ', 'documents/TREC']) == {}
    assert all(len(scores) == 8 for _, *both in published.CHINESE.values() for scores in both if scores)

"""Means of runs against numpy and scikit-learn; the files for the leaderboard; runs that do not belong together."""

import importlib
import json
import shutil

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score

from engine.runs.mistakes import write_mistakes
from engine.runs.records import DevData
from engine.runs.results import write_outputs
from snippets import Example
from tools import ensemble, submission

LABELS = {'MRPC': ('0', '1'), 'MNLI': ('entailment', 'neutral', 'contradiction'), 'STSB': ()}
ROWS = 40


def random_outputs(task, seed, rows=ROWS):
    random = np.random.default_rng(seed)
    if task == 'STSB':
        return random.uniform(-0.5, 5.5, (rows, 1)).astype(np.float32)
    return random.normal(scale=2, size=(rows, len(LABELS[task]))).astype(np.float32)


def gold_of(task):
    if task == 'STSB':
        return [float(score) for score in np.random.default_rng(99).integers(0, 26, ROWS) / 5]
    return np.random.default_rng(99).integers(0, len(LABELS[task]), ROWS).tolist()


def examples_of(name, gold):
    files = [name.format('matched' if i < ROWS // 2 else 'mismatched') for i in range(len(gold))]
    return [Example(file, i + 2, i, f'text {i} of {name}', 'another', label)
            for i, (file, label) in enumerate(zip(files, gold, strict=True))]


def make_run(root, task, seed, files=(), labels=None, name='', finished=True):
    """The folder of a run as training leaves it, with random outputs. files: for the leaderboard."""
    script, labels, gold = importlib.import_module(task), labels or LABELS[task], gold_of(task)
    folder = root / task / (f'tiny-seed{seed}' + (f'-{name}' if name else ''))
    folder.mkdir(parents=True)
    knobs = {'name': name, 'seed': seed, 'model': 'tiny', 'labels': labels}
    (folder / 'config.json').write_text(json.dumps({'task': task, 'knobs': knobs}))
    outputs = random_outputs(task, seed)
    data = DevData(examples_of('dev_{}.tsv', gold), labels, np.array(gold))
    scores = {metric: float(value) for metric, value in script.score(outputs, data).items()}
    row = {'epoch': 1, 'update': 2, 'loss': 0.5, **scores, 'score': 0.5, 'train_seconds': 1.0, 'dev_seconds': 1.0}
    (folder / 'metrics.json').write_text(json.dumps({'finished': finished, 'best': row, 'epochs': [row]}))
    exact = outputs.astype(np.float64)
    losses = (exact[:, 0] - gold)**2
    if labels:
        losses = -np.log(np.exp(exact)[range(ROWS), gold] / np.exp(exact).sum(1))
    write_mistakes(folder / 'dev_predictions.tsv', data, script.answers(outputs, data), losses)
    write_outputs(folder / 'dev_outputs.npz', outputs, data.examples)
    for number, file in enumerate(files, 1):
        outputs = random_outputs(task, 100 * number + seed)
        answers = script.answers(outputs, data)
        (folder / file).write_text('index\tprediction\n' + ''.join(f'{i}\t{a}\n' for i, a in enumerate(answers)))
        write_outputs(folder / f'{file[:-4]}_outputs.npz', outputs, examples_of(file, [None] * ROWS))
    return folder


def run(capsys, *args):
    """(exit status, standard output, standard error)."""
    status = ensemble.main(list(map(str, args)))
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def rows_of(said):
    """The table: {first cell: the others as text}."""
    cells = [line.strip('|* ').replace('*', '').split(' | ') for line in said.splitlines() if line.startswith('|')]
    return {row[0].strip(): row[1:] for row in cells}


def mean_probabilities(task, seeds):
    powers = [np.exp(random_outputs(task, seed).astype(np.float64)) for seed in seeds]
    return sum(power / power.sum(1, keepdims=True) for power in powers) / len(powers)


def test_probabilities_are_averaged(tmp_path, capsys):
    folders = [make_run(tmp_path / 'runs', 'MRPC', seed, ['MRPC.tsv']) for seed in (1, 2, 3)]
    status, said, error = run(capsys, tmp_path / 'runs', '--results-dir', tmp_path / 'results')
    assert (status, error) == (0, '')
    gold = gold_of('MRPC')
    members = [random_outputs('MRPC', seed).argmax(1) for seed in (1, 2, 3)]
    of_members = np.array([[f1_score(gold, chosen), accuracy_score(gold, chosen)] for chosen in members])
    chosen = mean_probabilities('MRPC', (1, 2, 3)).argmax(1)
    # neither a vote nor the mean of the logits is the same thing
    assert (chosen != np.round(np.mean(members, 0))).any()
    assert (chosen != sum(random_outputs('MRPC', seed) for seed in (1, 2, 3)).argmax(1)).any()
    ours = np.array([f1_score(gold, chosen), accuracy_score(gold, chosen)])
    table = rows_of(said)
    assert table.pop('MRPC') == ['f1', 'accuracy']
    for folder, row in zip(folders, of_members, strict=True):
        assert table[str(folder)] == [f'{100 * value:.2f}' for value in row]
    assert table['mean of the 3'] == [f'{100 * value:.2f}' for value in of_members.mean(0)]
    assert table['ensemble'] == [f'{100 * value:.2f}' for value in ours]
    assert table['ensemble - mean'] == [f'{100 * value:+.2f}' for value in ours - of_members.mean(0)]
    assert 'chosen on dev' in said
    written = (tmp_path / 'results' / 'MRPC.tsv').read_text()
    chosen = mean_probabilities('MRPC', (101, 102, 103)).argmax(1)
    assert written == 'index\tprediction\n' + ''.join(f'{i}\t{answer}\n' for i, answer in enumerate(chosen))


def test_softmax_of_the_average_is_the_mean_even_where_it_is_tiny():
    arrays = [np.array([[900.0, 0.0, -900.0]], np.float32), np.array([[0.0, 0.0, -np.float32(2000)]])]
    mean = ensemble.average('probabilities', arrays)
    assert np.isfinite(mean).all()
    assert np.exp(mean) == pytest.approx(np.array([[0.75, 0.25, 0.0]]))
    scores = ensemble.average('scores', [np.array([[-1.0], [2.0]]), np.array([[0.5], [3.0]])])
    assert scores.tolist() == [[-0.25], [2.5]]


def test_each_task_one_ensemble_with_all_its_files(tmp_path, capsys, monkeypatch):
    files = {'MNLI': ['MNLI-m.tsv', 'MNLI-mm.tsv', 'AX.tsv'], 'STSB': ['STS-B.tsv'], 'MRPC': ['MRPC.tsv']}
    for task, names in files.items():
        for seed in (1, 2):
            if (task, seed) != ('MRPC', 2):
                make_run(tmp_path / 'runs', task, seed, names)
    unfinished = make_run(tmp_path / 'runs', 'STSB', 3, finished=False)
    make_run(tmp_path / 'runs', 'STSB', 1, name='other')
    monkeypatch.chdir(tmp_path)
    status, said, error = run(capsys, 'baseline')
    assert status == 0
    assert error == (f'Note: {unfinished.relative_to(tmp_path)} is not finished: left out.\n'
                     'Note: runs/MRPC/tiny-seed1: the only run of MRPC: left out.\n')
    assert sorted(path.name for path in (tmp_path / 'results').iterdir()) == sorted(files['MNLI'] + files['STSB'])
    for name in files['MNLI'] + files['STSB']:
        data = (tmp_path / 'results' / name).read_bytes()
        assert submission.find_problems(data, submission.FILES[name]._replace(rows=ROWS)) == []

    half, gold = ROWS // 2, np.array(gold_of('MNLI'))
    chosen = mean_probabilities('MNLI', (1, 2)).argmax(1)
    shares = [np.mean((chosen == gold)[:half]), np.mean((chosen == gold)[half:])]
    mnli, stsb = said.split('STSB: 2 runs, the mean of their scores')
    assert rows_of(mnli)['ensemble'] == [f'{100 * share:.2f}' for share in shares]
    mean, gold = (random_outputs('STSB', 1) + random_outputs('STSB', 2))[:, 0] / 2, gold_of('STSB')
    correlations = [pearsonr(mean, gold).statistic, spearmanr(mean, gold).statistic]
    assert rows_of(stsb)['ensemble'] == [f'{100 * value:.2f}' for value in correlations]
    # the mean of the outputs as they are, within 0 and 5 only then
    mean = (random_outputs('STSB', 101).astype(np.float64) + random_outputs('STSB', 102)).clip(0, 10) / 2
    rows = [line.split('\t') for line in (tmp_path / 'results' / 'STS-B.tsv').read_text().splitlines()[1:]]
    assert [float(score) for _, score in rows] == pytest.approx(mean[:, 0], abs=6e-4)
    assert {len(score) for _, score in rows} == {5}


@pytest.mark.parametrize('task, name', [('CoLA', 'CoLA.tsv'), ('STSB', 'STS-B.tsv')])
def test_a_run_with_itself_is_itself(task, name, runs, tmp_path, capsys):
    """A real one: what training writes is what is read, and what is written."""
    for copy in ('a', 'b'):
        shutil.copytree(runs[task], tmp_path / task / copy)
    status, said, error = run(capsys, tmp_path / task / 'a', tmp_path / task / 'b', '--results-dir', tmp_path / 'out')
    assert (status, error) == (0, '')
    assert (tmp_path / 'out' / name).read_bytes() == (runs[task] / name).read_bytes()
    table = rows_of(said)
    assert table['ensemble'] == table['mean of the 2'] == table[str(tmp_path / task / 'a')]


def other_texts(stem):
    def change(folder):
        with np.load(folder / f'{stem}_outputs.npz') as file:
            write_outputs(folder / f'{stem}_outputs.npz', file['output_0'], [Example('', 1, 0, 'new', None, None)])
    return change


def other_shape(folder):
    answers, outputs = (folder / 'MRPC.tsv').read_text().splitlines(), random_outputs('MRPC', 102)
    (folder / 'MRPC.tsv').write_text('\n'.join(answers[:-1]) + '\n')
    with np.load(folder / 'MRPC_outputs.npz') as file:
        np.savez(folder / 'MRPC_outputs.npz', output_0=outputs[:-1], texts_sha256=file['texts_sha256'])


def edit(name, old, new):
    def change(folder):
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new, 1))
    return change


def without_tests(folder):
    (folder / 'MRPC.tsv').unlink()


@pytest.mark.parametrize('change, message', [
    (edit('config.json', '["0", "1"]', '["1", "0"]'), 'the labels differ (0, 1 and 1, 0)'),
    (other_texts('dev'), 'the dev texts differ.'),
    (other_texts('MRPC'), 'the texts of MRPC.tsv differ.'),
    (edit('MRPC.tsv', '\n39\t', '\n40\t'), 'the indexes in MRPC.tsv differ.'),
    (without_tests, 'the test predictions that are there differ (MRPC.tsv and )'),
    (other_shape, 'the indexes in MRPC.tsv differ.'),
])
def test_runs_that_do_not_fit_together(tmp_path, capsys, change, message):
    """Both are named, and nothing is written, of no task."""
    folders = [make_run(tmp_path / 'runs', 'MRPC', seed, ['MRPC.tsv']) for seed in (1, 2)]
    for seed in (1, 2):
        make_run(tmp_path / 'runs', 'MNLI', seed, ['MNLI-m.tsv'])
    change(folders[1])
    status, said, error = run(capsys, tmp_path / 'runs', '--results-dir', tmp_path / 'results')
    assert (status, said) == (2, '')
    assert error.startswith(f'error: {folders[0]} and {folders[1]}: {message}')
    assert error.count('\n') == 1
    assert not (tmp_path / 'results').exists()


def other_loss(folder):
    """As of a script that trains with another one."""
    header, *lines = (folder / 'dev_predictions.tsv').read_text().splitlines()
    lines = [f'{2 * float(line.split()[0]):.4f}' + line[line.index('\t'):] for line in lines]
    (folder / 'dev_predictions.tsv').write_text('\n'.join([header, *lines]) + '\n')


def not_finite(folder):
    with np.load(folder / 'dev_outputs.npz') as file:
        np.savez(folder / 'dev_outputs.npz', **dict(file) | {'output_0': np.full((ROWS, 2), np.nan)})


def other_score(folder):
    metrics = json.loads((folder / 'metrics.json').read_text())
    metrics['best']['f1'] += 0.01
    (folder / 'metrics.json').write_text(json.dumps(metrics))


def other_answers(folder):
    (folder / 'MRPC.tsv').write_text('index\tprediction\n' + ''.join(f'{i}\t1\n' for i in range(ROWS)))


@pytest.mark.parametrize('change, message', [
    (other_loss, 'tiny-seed2: its losses in dev_predictions.tsv are not the cross-entropy of the softmax'),
    (not_finite, 'dev_outputs.npz: some outputs are not finite'),
    (other_score, 'Was the script edited since?'),
    (other_answers, 'MRPC.tsv: not the answers that'),
    (edit('MRPC.tsv', 'index\t', 'id\t'), 'MRPC.tsv: not the file that the run wrote'),
    (edit('metrics.json', 'true', 'false'), 'tiny-seed1: one run of the task'),
])
def test_runs_that_cannot_be_averaged(tmp_path, capsys, change, message):
    folders = [make_run(tmp_path / 'runs', 'MRPC', seed, ['MRPC.tsv']) for seed in (1, 2)]
    change(folders[1])
    status, said, error = run(capsys, tmp_path / 'runs', '--results-dir', tmp_path / 'results')
    assert (status, said) == (2, '')
    assert message in error
    assert not (tmp_path / 'results').exists()


def test_runs_without_test_predictions(tmp_path, capsys):
    for seed in (1, 2):
        make_run(tmp_path / 'runs', 'MRPC', seed)
    status, said, _ = run(capsys, tmp_path / 'runs', '--results-dir', tmp_path / 'results')
    assert status == 0
    assert '--no-predict' in said

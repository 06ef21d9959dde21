"""Scores of prediction files against scikit-learn and SciPy, and the faults in such files."""

import json
import re

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

import config
from engine.catalog.datasets import TASKS
from engine.runs.layout import metric_names
from tools import score

DEMO = config.ROOT / 'demo'
INFERENCE = TASKS['MNLI'].files['dev_matched.tsv'].columns
RELATIONS = ('entailment', 'neutral', 'contradiction')


def run(capsys, *args):
    """(exit status, {what: number as text}, standard error)."""
    status = score.main(list(map(str, args)))
    captured = capsys.readouterr()
    lines = captured.out.splitlines()[1:]
    said = [re.fullmatch(r'(.+?) ([\d.-]+|undefined)( \(.*\))?', line).groups()[:2] for line in lines]
    return status, dict(said), captured.err


def percent(value):
    return f'{100 * value:.2f}'


def column(path, name):
    """A column of a TSV file as text; a number where it has no header."""
    rows = [line.split('\t') for line in path.read_text().splitlines()]
    return [row[name] for row in rows] if isinstance(name, int) else [row[rows[0].index(name)] for row in rows[1:]]


def predictions(path, answers):
    path.write_text('index\tprediction\n' + ''.join(f'{i}\t{answer}\n' for i, answer in enumerate(answers)))
    return path


def flipped(gold, labels, seed=1):
    """Gold with every third answer drawn at random."""
    random = np.random.default_rng(seed)
    return [random.choice(labels) if random.random() < 1 / 3 else label for label in gold]


def both(gold, answers):
    f1 = f1_score(gold, answers, pos_label='1')
    accuracy = accuracy_score(gold, answers)
    return {'f1': percent(f1), 'accuracy': percent(accuracy), "GLUE's number": percent((f1 + accuracy) / 2)}


def matthews(gold, answers):
    mcc = percent(matthews_corrcoef(gold, answers))
    return {'mcc': mcc, "GLUE's number": mcc}


def accuracy(gold, answers):
    share = percent(accuracy_score(gold, answers))
    return {'accuracy': share, "GLUE's number": share}


@pytest.mark.parametrize('task, folder, gold_column, expected', [
    ('CoLA', 'CoLA', 1, matthews), ('SST2', 'SST-2', 'label', accuracy), ('MRPC', 'MRPC', 'Quality', both),
    ('QQP', 'QQP', 'is_duplicate', both), ('QNLI', 'QNLI', 'label', accuracy), ('RTE', 'RTE', 'label', accuracy),
    ('WNLI', 'WNLI', 'label', accuracy)])
def test_labels(task, folder, gold_column, expected, tmp_path, capsys):
    gold = column(DEMO / folder / 'dev.tsv', gold_column)
    answers = flipped(gold, TASKS[task].labels)
    path = predictions(tmp_path / 'mine.tsv', answers)
    assert run(capsys, task, path, '--data-dir', DEMO) == (0, expected(gold, answers), '')
    assert run(capsys, task, path, '--gold', DEMO / folder / 'dev.tsv') == (0, expected(gold, answers), '')


def test_scores_in_any_order(tmp_path, capsys):
    gold = np.array(column(DEMO / 'STS-B' / 'dev.tsv', 'score'), float)
    answers = np.random.default_rng(0).uniform(0, 5, len(gold)).round(3)
    path = predictions(tmp_path / 'mine.tsv', answers)
    header, *rows = path.read_text().splitlines()
    path.write_text('\n'.join([header, *reversed(rows)]) + '\n')
    r, rho = pearsonr(gold, answers).statistic, spearmanr(gold, answers).statistic
    assert run(capsys, 'STSB', path, '--data-dir', DEMO) == (0, {
        'pearson': percent(r), 'spearman': percent(rho), "GLUE's number": percent((r + rho) / 2)}, '')
    predictions(path, [2.5] * len(gold))
    assert run(capsys, 'STSB', path, '--data-dir', DEMO)[1]['pearson'] == 'undefined'


def test_matched_and_mismatched(tmp_path, capsys):
    """Two files of gold, other than dev and of different lengths, and two of predictions."""
    shares, gold_files, files = [], [], []
    for which, rows in (('m', 30), ('mm', 20)):
        gold = np.random.default_rng(rows).choice(RELATIONS, rows).tolist()
        answers = flipped(gold, RELATIONS)
        lines = ['\t'.join(INFERENCE), *('\t'.join([*'x' * (len(INFERENCE) - 1), label]) for label in gold)]
        gold_files.append(tmp_path / f'gold-{which}.tsv')
        gold_files[-1].write_text('\n'.join(lines) + '\n')
        files.append(predictions(tmp_path / f'MNLI-{which}.tsv', answers))
        shares.append(accuracy_score(gold, answers))
    options = [f'--gold={file}' for file in gold_files]
    assert run(capsys, 'MNLI', *files, *options) == (0, {
        'accuracy_m': percent(shares[0]), 'accuracy_mm': percent(shares[1]),
        "GLUE's number": percent(np.mean(shares))}, '')
    status, _, error = run(capsys, 'MNLI', *reversed(files), *options)
    assert (status, error) == (2, f'error: {files[1]}, line 22: the file ends without 10 of 30 gold rows; the first is '
                                  'index 20.\n')
    status, _, error = run(capsys, 'MNLI', files[0], *options)
    assert (status, error[:54]) == (2, 'error: 1 files of predictions instead of 2: one for ea')
    status, _, error = run(capsys, 'MNLI', *files, options[0])
    assert (status, error[:53]) == (2, 'error: --gold: 1 files instead of 2: MNLI has dev_mat')


def test_a_run_scores_what_it_says(runs, capsys):
    """STS-B's answers are rounded and cut to 0..5, the run's scores are of its outputs."""
    for task, folder in runs.items():
        path = folder / 'dev_predictions.tsv'
        best = json.loads((folder / 'metrics.json').read_text())['best']
        expected = {name: best[name] for name in metric_names(best)}
        if task == 'STSB':
            gold, answers = (np.array(column(path, name), float) for name in ('label', 'prediction'))
            expected = {'pearson': pearsonr(gold, answers).statistic, 'spearman': spearmanr(gold, answers).statistic}
        expected["GLUE's number"] = np.mean(list(expected.values()))
        assert run(capsys, task, path, '--data-dir', DEMO) == (
            0, {name: percent(value) for name, value in expected.items()}, '')
    status, _, error = run(capsys, 'SST2', runs['CoLA'] / 'dev_predictions.tsv', '--data-dir', DEMO)
    assert status == 2
    assert re.search(r'dev_predictions.tsv, line 2: another text than that of gold row \d+', error)


@pytest.mark.parametrize('task, line, new, message', [
    ('RTE', 1, 'id\tlabel', "line 1: header 'id\\tlabel' instead of 'index\\tprediction'"),
    ('RTE', 3, None, 'line {end}: the file ends without 1 of {rows} gold rows; the first is index 1.'),
    ('RTE', 4, '1\tentailment', 'line 4: index 1 was there before, in line 3.'),
    ('RTE', 4, '999\tentailment', "line 4: index '999' is none of the gold rows."),
    ('RTE', 4, '-1\tentailment', "line 4: index '-1' is none of the gold rows."),
    ('RTE', 4, '2\tneutral', "line 4: 'neutral' is none of entailment, not_entailment."),
    ('RTE', 4, '2', 'line 4: 1 columns instead of 2.'),
    ('STSB', 4, '2\thigh', "line 4: 'high' is not a finite number."),
    ('STSB', 4, '2\tnan', "line 4: 'nan' is not a finite number."),
    ('STSB', 4, '2\t5.01', "line 4: '5.01' is not within [0, 5]."),
])
def test_what_is_wrong_is_named(task, line, new, message, tmp_path, capsys):
    folder = DEMO / TASKS[task].folder
    path = predictions(tmp_path / 'mine.tsv', column(folder / 'dev.tsv', 'label' if task == 'RTE' else 'score'))
    lines = path.read_text().splitlines()
    rows = len(lines) - 1
    lines[line - 1:line] = [] if new is None else [new]
    path.write_text('\n'.join(lines) + '\n')
    status, said, error = run(capsys, task, path, '--data-dir', DEMO)
    assert (status, said) == (2, {})
    assert error.startswith(f'error: {path}, {message.format(rows=rows, end=rows + 1)}')
    assert error.count('\n') == 1


def test_gold_that_is_none(tmp_path, capsys):
    path = predictions(tmp_path / 'mine.tsv', ['entailment'])
    test_file = DEMO / 'RTE' / 'test.tsv'
    status, _, error = run(capsys, 'RTE', path, '--gold', test_file)
    assert status == 2
    assert error.startswith(f"error: {test_file}, line 1: no column 'label' in the header")
    status, _, error = run(capsys, 'RTE', path, '--gold', tmp_path / 'absent.tsv')
    assert (status, error) == (2, f'error: {tmp_path / "absent.tsv"}: no such file.\n')
    status, _, error = run(capsys, 'config', path)
    assert status == 2
    assert 'no script that trains a model' in error
    status, _, error = run(capsys, 'pretraining/MLM', path)
    assert status == 2
    assert 'without load_data(), score() and answers()' in error


def test_a_task_without_one_label_or_score_is_refused(tmp_path, capsys, monkeypatch):
    import RTE
    from snippets import Example
    path = predictions(tmp_path / 'mine.tsv', ['entailment'])
    monkeypatch.setattr(score, 'load_script', lambda task: RTE)
    monkeypatch.setattr(RTE, 'load_data', lambda knobs, split: [Example('dev.tsv', 1, 0, 'a', None, (3, 4))])
    status, _, error = run(capsys, 'RTE', path)
    assert status == 2
    assert 'RTE: its examples have not one label or one score each' in error

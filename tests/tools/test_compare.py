"""Two sets of runs, compared."""

import json
import shutil

import numpy as np
import pytest
from scipy import stats

from checks import false_alarms
from tools import compare

COLUMNS = ('loss', 'label', 'prediction', 'row', 'file', 'line', 'text_a', 'text_b')


def write_run(runs_dir, task, seed, name='', scores=(0.5,), answers='0110', gold='0101', finished=True, **knobs):
    """A run's folder with what the tools for finished runs read; a score an epoch, an answer an example."""
    folder = runs_dir / task / (f'm-seed{seed}-{name}' if name else f'm-seed{seed}')
    folder.mkdir(parents=True)
    is_score = knobs.get('labels') == []
    knobs = {'model': 'm', 'seed': seed, 'name': name, 'labels': ['0', '1'], 'epochs': len(scores)} | knobs
    (folder / 'config.json').write_text(json.dumps({
        'task': task, 'knobs': knobs, 'source_sha256': {f'{task}.py': name}, 'versions': {}, 'device': 'CPU',
        'cores': 2}))
    rows = [{'epoch': i, 'loss': 1.0, 'mcc': score, 'score': score, 'train_seconds': 10.0 * (1 + bool(name)),
             'dev_seconds': 1.0, 'peak_gib': 1.5} for i, score in enumerate(scores, 1)]
    best = max(rows, key=lambda row: -1 if row['score'] is None else row['score'])
    (folder / 'metrics.json').write_text(json.dumps({'finished': finished, 'best': best, 'epochs': rows}))
    lines = [(float(bool(name)), label, answer, row, 'dev.tsv', row + 1, f'text {row}', '')
             for row, (label, answer) in enumerate(zip(gold, answers, strict=True))]
    text = '\n'.join('\t'.join(map(str, line)) for line in [COLUMNS, *reversed(lines)]) + '\n'
    (folder / 'dev_predictions.tsv').write_text(text)
    outputs = np.array([[float(answer)] for answer in answers] if is_score else
                       [np.eye(2)[int(answer)] * 2 for answer in answers])
    np.savez(folder / 'dev_outputs.npz', output_0=outputs, texts_sha256=np.array('dev'))
    return folder


def read_tsv(path):
    header, *rows = [line.split('\t') for line in path.read_text().removesuffix('\n').split('\n')]
    return [dict(zip(header, row, strict=True)) for row in rows]


def test_the_comparison(tmp_path, capsys):
    random = np.random.default_rng(0)
    scores = {task: random.uniform(0.3, 0.6, (8, 2, 2)).round(4) for task in ('CoLA', 'RTE')}
    for task, of_task in scores.items():
        for seed, (baseline, idea) in enumerate(of_task.tolist(), 1):
            write_run(tmp_path, task, seed, '', baseline, '0110' if seed < 4 else '0100')
            write_run(tmp_path, task, seed, 'x', idea, '0101' if seed < 7 else '1110')
    write_run(tmp_path, 'CoLA', 9)                              # without a partner
    write_run(tmp_path, 'CoLA', 10, 'x', finished=False)
    write_run(tmp_path / 'demo', 'CoLA', 1)                     # another --runs-dir
    assert compare.main(['baseline', 'x', '--runs-dir', str(tmp_path)]) == 0
    said = capsys.readouterr().out
    found = json.loads((tmp_path / 'compare-m-baseline-x.json').read_text())

    for task, of_task in scores.items():
        for epoch, values in (('best', of_task.max(-1)), ('last', of_task[..., -1])):
            outcome, expected = found['tasks'][task]['outcomes'][epoch], stats.ttest_rel(*values.T[::-1] * 100)
            assert outcome['difference'] == pytest.approx(100 * (values[:, 1] - values[:, 0]).mean())
            assert outcome['student'] == pytest.approx([*expected.confidence_interval(), expected.pvalue])
            assert [outcome['wins'], outcome['losses']] == [(values[:, 1] > values[:, 0]).sum(),
                                                            (values[:, 1] < values[:, 0]).sum()]
        assert (found['tasks'][task]['time_ratio'], found['tasks'][task]['memory_ratio']) == (2, 1)
    assert found['overall']['best']['difference'] == pytest.approx(
        100 * np.mean([values.max(-1)[:, 1] - values.max(-1)[:, 0] for values in scores.values()]))

    # worst first: seeds 7 and 8 break the first example, seeds 1 to 6 mend the last one of 8 that all answered wrong
    rows = [row for row in read_tsv(tmp_path / 'compare-m-baseline-x.tsv') if row['task'] == 'CoLA']
    assert [(row['line'], row['seeds_broken'], row['seeds_mended'], row['change']) for row in rows] == [
        ('1', '2', '0', '0.25'), ('3', '2', '3', '-0.125'), ('4', '0', '6', '-0.75')]
    assert (rows[2]['baseline'], rows[2]['idea']) == ('0 0 0 0 0 0 0 0', '1 1 1 1 1 1 0 0')
    task = found['tasks']['CoLA']
    assert (task['mended'], task['broken'], task['mcnemar_p']) == (2, 1, 1)
    for note in ('baseline alone has CoLA seed 9: left out.', 'm-seed10-x.\n',
                 'CoLA: code differs: CoLA.py.', 'By chance alone, one or more of 2 tests'):
        assert note in said
    assert 'epochs differs' not in said
    assert (tmp_path / 'compare-m-baseline-x.md').read_text() in said


def test_few_unequal_and_undefined_runs(tmp_path, capsys):
    for seed in (1, 2, 3):
        write_run(tmp_path / 'a', 'STSB', seed, '', [0.5], ['1.0', '2.0'], ['1.5', '2.0'], labels=[], lr=1)
        write_run(tmp_path / 'b', 'STSB', seed, 'x', [None if seed == 3 else 0.7], ['1.2', '2.0'], ['1.5', '2.0'],
                  labels=[], lr=seed)
    assert compare.main([str(tmp_path / 'a'), f'{tmp_path}/b/STSB/*-x', '--to', f'{tmp_path}/found']) == 0
    said = capsys.readouterr().out
    assert 'STSB seed 3: a score that is not defined, as where all answers are the same, counts as 0.' in said
    assert 'with 3 seeds p cannot come below 0.25, whatever they show. Take 8 seeds.' in said
    assert f'STSB: lr differs: 1 in {tmp_path / "a"}, 1 and 2 and 3 in ' in said
    assert '| STSB | mcc | best | 3 | 50.00 | 46.67 | -3.33 | too few pairs | 1.000 |' in said
    row, = read_tsv(tmp_path / 'found.tsv')         # half a point off, now 0.3
    assert (row['change'], row['seeds_mended']) == ('-0.2', '3')
    assert (row['baseline'], row['idea']) == ('1.0 1.0 1.0', '1.2 1.2 1.2')
    assert json.loads((tmp_path / 'found.json').read_text())['tasks']['STSB']['mcnemar_p'] is None


def drop_column(folder):
    path = folder / 'RTE' / 'm-seed1-x' / 'dev_predictions.tsv'
    path.write_text(path.read_text().replace('\trow\t', '\trows\t'))


@pytest.mark.parametrize(('change', 'message'), [
    (lambda folder: shutil.rmtree(folder / 'RTE' / 'm-seed1-x'), 'x: neither a folder of a run or of runs'),
    (lambda folder: shutil.copytree(folder / 'RTE' / 'm-seed1', folder / 'RTE' / 'n-seed1'),
     'baseline has two runs of RTE with seed 1'),
    (lambda folder: (folder / 'RTE' / 'm-seed1' / 'metrics.json').write_text('{"finished": true}'),
     'is not what a run leaves behind'),
    (lambda folder: (folder / 'RTE' / 'm-seed1' / 'metrics.json').write_text('{"finished": false}'),
     'baseline: no finished run: 1 unfinished ones.'),
    (drop_column, "m-seed1-x/dev_predictions.tsv, line 1: no column 'row'"),
])
def test_what_cannot_be_compared_is_refused(tmp_path, capsys, change, message):
    write_run(tmp_path, 'RTE', 1)
    write_run(tmp_path, 'RTE', 1, 'x')
    change(tmp_path)
    status = compare.main(['baseline', 'x', '--runs-dir', str(tmp_path)])
    error = capsys.readouterr().err
    assert (status, error.count('error: ')) == (2, 1)
    assert message in error
    assert not list(tmp_path.glob('compare*'))


def test_other_dev_texts_are_refused(tmp_path, capsys):
    write_run(tmp_path, 'RTE', 1)
    write_run(tmp_path, 'RTE', 1, 'x', gold='1101')
    assert compare.main(['baseline', 'x', '--runs-dir', str(tmp_path)]) == 2
    assert 'were not scored on the same dev examples' in capsys.readouterr().err
    write_run(tmp_path, 'CoLA', 1, 'y')
    assert compare.main(['baseline', 'y', '--runs-dir', str(tmp_path)]) == 2
    assert 'no script and seed in common: RTE seed 1; CoLA seed 1' in capsys.readouterr().err


def test_runs_of_the_same_code_are_seldom_different(tmp_path, capsys):
    for seed, score in enumerate(np.random.default_rng(0).normal(0.3, 0.02, 18)):
        write_run(tmp_path, 'CoLA', seed, scores=[score])
    assert false_alarms.main(['baseline', '--runs-dir', str(tmp_path), '--draws', '200']) == 0
    cells = capsys.readouterr().out.splitlines()[2].split(' | ')
    assert cells[:3] == ['| CoLA', '', '18']
    assert float(cells[6].removesuffix(' %')) <= 8
    write_run(tmp_path, 'CoLA', 0, 'other')
    assert false_alarms.main(['other', '--runs-dir', str(tmp_path)]) == 2
    assert 'no script has 16 runs of the same code' in capsys.readouterr().err


def test_the_verdict_is_of_both_epochs(tmp_path, capsys):
    for seed in range(1, 9):
        write_run(tmp_path, 'RTE', seed, scores=[0.5, 0.4])
        write_run(tmp_path, 'RTE', seed, 'both', scores=[0.6, 0.5 - seed / 1000])
        write_run(tmp_path, 'RTE', seed, 'best', scores=[0.6, 0.4])
    words = {'both': 'It helps.', 'best': 'Significant at the best epoch only'}
    for name, verdict in words.items():
        assert compare.main(['baseline', name, '--runs-dir', str(tmp_path)]) == 0
        assert verdict in capsys.readouterr().out


def test_one_pair_and_runs_of_different_code(tmp_path, capsys):
    write_run(tmp_path, 'RTE', 1)
    write_run(tmp_path, 'RTE', 1, 'x', scores=[0.6])
    assert compare.main(['baseline', 'x', '--runs-dir', str(tmp_path)]) == 0
    assert '| RTE | mcc | best | 1 | 50.00 | 60.00 | +10.00 | too few pairs | 1.000 |  | 1 / 0 |  |' in \
        capsys.readouterr().out
    write_run(tmp_path, 'RTE', 2, demo=True)
    folder = write_run(tmp_path, 'RTE', 2, 'x')
    config = folder / 'config.json'
    config.write_text(config.read_text().replace('{"RTE.py": "x"}', '{"RTE.py": "edited"}'))
    assert compare.main(['baseline', 'x', '--runs-dir', str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert '- RTE: x mixes runs of different code: RTE.py.\n' in said
    assert '- Demo: made-up data.' in said

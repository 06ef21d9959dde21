"""The page about finished runs, from small run folders written by hand."""

import collections
import html.parser
import json
import subprocess
import sys

import numpy as np
import pytest
from sklearn.metrics import matthews_corrcoef

import config
from engine.runs.records import Prediction
from lab import analysis
from lab.page import MOST_CHARACTERS
from tools import report

TEXTS = [('A dog ran home', 'A dog ran'), ('One two three four five', 'Six'), ('The cat', 'The cat'), ('Up', 'Down'),
         ('All of it is new', 'Nothing is'), ('He left', 'She left him')]
GOLD = ['0', '1', '1', '0', '1', '0']
LOGITS = [[2.0, 1.0], [0.0, 3.0], [1.0, 0.0], [0.5, 0.0], [4.0, 0.0], [0.0, 0.2]]      # wrong: rows 2, 4, 5
TAGGED = '''Lexical Semantics\tPredicate-Argument Structure\tLogic\tKnowledge\tDomain\tPremise\tHypothesis\tLabel
Factivity;Quantifiers\t\tNegation\t\tNews\tp\th\tentailment
Quantifiers\tCore args\t\t\tNews\tp\th\tneutral
\t\tNegation;Conditionals\tCommon sense\tNews\tp\th\tcontradiction
Quantifiers\t\t\t\tNews\tp\th\tcontradiction
Factivity\t\tNegation\t\tNews\tp\th\tentailment
'''
AX_ANSWERS = ['entailment', 'neutral', 'entailment', 'contradiction', 'neutral']


def write_run(root, task='RTE', seed=1, name='', labels=('0', '1'), texts=TEXTS, gold=GOLD, outputs=LOGITS,
              answers=None, epochs=3, metrics=('accuracy',), files=('dev.tsv',), demo=False, finished=True):
    """A folder as a run leaves it, without its weights."""
    folder = root / task / f'minilm-seed{seed}{f"-{name}" if name else ""}'
    folder.mkdir(parents=True)
    knobs = {'model': 'minilm', 'seed': seed, 'name': name, 'labels': list(labels), 'demo': demo, 'epochs': epochs,
             'learning_rate': 1e-4, 'data_dir': str(root / 'data'), 'limit': 0}
    settings = {'task': task, 'knobs': knobs, 'versions': {'numpy': '2.0'}, 'device': 'CPU', 'cores': 2}
    (folder / 'config.json').write_text(json.dumps(settings))
    rows = [{'epoch': i, 'loss': 1 / i, **dict.fromkeys(metrics, 0.4 + 0.1 * i), 'score': 0.4 + 0.1 * i,
             'train_seconds': 60.0, 'dev_seconds': 1.0, 'same_answer': ''} for i in range(1, epochs + 1)]
    (folder / 'metrics.json').write_text(json.dumps(
        {'finished': finished, 'best': rows[-1], 'last': rows[-1], 'epochs': rows}))
    outputs = np.array(outputs, np.float32)
    if answers is None:
        answers = [labels[i] for i in outputs.argmax(-1)]
    lines = ['loss\tlabel\tprediction\trow\tfile\tline\ttext_a\ttext_b']
    for i, (a, b) in reversed(list(enumerate(texts))):
        lines.append('\t'.join([f'{seed / 8}', gold[i], answers[i], str(i), files[i % len(files)], str(i + 2), a, b]))
    (folder / 'dev_predictions.tsv').write_text('\n'.join(lines) + '\n')
    np.savez(folder / 'dev_outputs.npz', output_0=outputs, texts_sha256=np.array('0' * 64))
    return folder


def write_mnli(root, seed=1, rows=AX_ANSWERS):
    labels = ('contradiction', 'entailment', 'neutral')     # not the order of the official file
    gold = [labels[i % 3] for i in range(6)]
    folder = write_run(root, 'MNLI', seed, labels=labels, gold=gold, outputs=np.eye(3)[[0, 1, 2, 1, 1, 1]],
                       metrics=('accuracy_m', 'accuracy_mm'), files=('dev_matched.tsv', 'dev_mismatched.tsv'))
    (folder / 'AX.tsv').write_text('\n'.join(['index\tprediction', *(f'{i}\t{row}' for i, row in enumerate(rows))]))
    return folder


class Page(html.parser.HTMLParser):
    """A page as a browser reads it: how often each element is there, all attributes, the text, the rows of tables."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text, self.tables = collections.Counter(), [], '', {}
        self.table = self.row = None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags[tag] += 1
        self.attributes += attributes
        if tag == 'table':
            self.table = self.tables.setdefault(dict(attributes)['aria-label'], [])
        elif tag == 'tr':
            self.table.append([])
        elif tag in ('td', 'th'):
            self.table[-1].append('')

    def handle_endtag(self, tag):
        if tag == 'table':
            self.table = None

    def handle_data(self, data):
        self.text += data
        if self.table and self.table[-1]:
            self.table[-1][-1] += data


def make(root, *argv):
    """The Page about the runs in a folder."""
    target = root / 'page.html'
    assert report.main([*argv, '--runs-dir', str(root), '--to', str(target)]) == 0
    return Page(target.read_text())


def test_calibration_error_by_hand():
    # Three bins of 15: (8/15, 9/15] with 0.55 and 0.6, which is its upper edge; (9/15, 10/15] with 0.61; the last one.
    confidence = np.array([0.55, 0.6, 0.61, 0.95, 1.0])
    right = np.array([True, False, False, True, True])
    bins = analysis.reliability(confidence, right)
    assert [each.count for each in bins] == [2, 1, 2]
    by_hand = 2 / 5 * abs(0.5 - 0.575) + 1 / 5 * abs(0 - 0.61) + 2 / 5 * abs(1 - 0.975)
    assert analysis.calibration_error(bins) == pytest.approx(by_hand)


def test_calibration_error_of_random_answers():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(size=500)
    right = rng.uniform(size=500) < confidence**2
    error = 0.0
    for m in range(15):     # equation 3 of Guo et al., bin by bin
        members = [i for i in range(500) if m / 15 < confidence[i] <= (m + 1) / 15]
        if members:
            accuracy = sum(right[i] for i in members) / len(members)
            error += len(members) / 500 * abs(accuracy - sum(confidence[i] for i in members) / len(members))
    assert analysis.calibration_error(analysis.reliability(confidence, right)) == pytest.approx(error)


def test_confusion_is_pooled_over_runs(tmp_path):
    write_run(tmp_path, seed=1)
    write_run(tmp_path, seed=2, outputs=[[1.0, 0.0]] * 6)       # answers 0 throughout
    page = make(tmp_path)
    _, gold_0, gold_1 = page.tables['minilm: 6 examples, 2 runs']
    assert gold_0 == ['gold 0', '5 (83 %)', '1 (17 %)', '6']
    assert gold_1 == ['gold 1', '5 (83 %)', '1 (17 %)', '6']


def test_mistakes_of_most_runs_come_first(tmp_path):
    write_run(tmp_path, seed=1)
    write_run(tmp_path, seed=2, outputs=[[1.0, 0.0]] * 6)
    records, _ = report.find_runs([str(tmp_path)], tmp_path)
    dev = analysis.read_dev('RTE', report.groups_of(records))
    mistakes = analysis.worst_mistakes(dev, dev.groups[0], 20)
    assert [(each.example.row, each.wrong) for each in mistakes] == [(4, 2), (2, 2), (5, 1), (1, 1)]
    probability = (1 / (1 + np.exp(4)) + 1 / (1 + np.exp(1))) / 2
    assert mistakes[0].gold_probability == pytest.approx(probability)
    assert mistakes[0].probability == pytest.approx(1 - probability)


def test_pre_training_is_passed_over(tmp_path, capsys):
    write_run(tmp_path)
    folder = write_run(tmp_path, 'pretraining/MLM')
    records, _ = report.find_runs([str(tmp_path)], tmp_path)
    assert [record.task for record in records] == ['RTE']
    assert capsys.readouterr().err == f'Note: left out, pre-training: {folder}\n'
    assert report.main([str(folder)]) == 2
    assert capsys.readouterr().err == (f'error: {folder}: 1 of pre-training, whose runs answer no examples, and no '
                                       'other finished run.\n')


def test_groups_of_texts():
    assert analysis.words('Don\'t 今天 go_on, 2.5') == ['don', 't', '今', '天', 'go_on', '2', '5']
    example = Prediction(0, '', '', '', 1, 'a b c', 'B c d e', 0.0)
    assert analysis.length(example) == 7
    assert analysis.overlap(example) == pytest.approx(2 / 5)
    parts = analysis.quartiles([1, 1, 1, 1, 1, 2, 3, 4])
    assert [(part.low, part.high, part.members.tolist()) for part in parts] == [
        (1, 1, [0, 1, 2, 3, 4]), (2, 2, [5]), (3, 4, [6, 7])]
    assert [(part.low, part.high) for part in analysis.by_score(np.array([0, 0.5, 1.0, 4.2, 5.0]))] == [
        (0, 0.5), (1, 1), (4.2, 5)]


def test_texts_are_shown_as_texts(tmp_path):
    nasty = ['<script>alert(1)</script>', '"quoted" & \'single\'', '</blockquote></ol><h1>out</h1>', '&lt;b&gt; &#60;',
             '<img src=http://x/y.png onerror=alert(2)>', '今天天气很好']
    write_run(tmp_path / 'plain')
    write_run(tmp_path / 'nasty', texts=[(text, text) for text in nasty])
    plain, page = make(tmp_path / 'plain'), make(tmp_path / 'nasty')
    for tag in ('script', 'img', 'h1', 'b', 'blockquote', 'ol', 'li', 'p'):
        assert page.tags[tag] == plain.tags[tag], tag
    for row in (2, 4, 5):       # the wrong answers
        assert page.text.count(nasty[row]) == 2
    long = 'x' * 10_000
    write_run(tmp_path / 'long', texts=[(long, '')] * 6)
    assert f'{"x" * MOST_CHARACTERS} … (10,000 characters)' in make(tmp_path / 'long').text


def test_the_page_stands_alone(tmp_path):
    write_mnli(tmp_path)
    page = make(tmp_path)
    text = (tmp_path / 'page.html').read_text()
    assert not {'script', 'img', 'link', 'iframe', 'object'} & set(page.tags)
    assert all(value.startswith('#') for name, value in page.attributes if name in ('href', 'src', 'xlink:href'))
    assert not any(word in text for word in ('http:', 'https:', 'url(', '@import'))
    targets = {value for name, value in page.attributes if name == 'id'}
    assert {value[1:] for name, value in page.attributes if name == 'href'} <= targets
    assert page.tags['figure'] == sum(name == 'role' and value == 'img' for name, value in page.attributes)


@pytest.mark.filterwarnings('ignore:A single label')      # of the test's own call
def test_diagnostic_by_phenomenon(tmp_path):
    write_mnli(tmp_path / 'runs', seed=1)
    write_mnli(tmp_path / 'runs', seed=2, rows=['entailment'] * 5)
    labelled = tmp_path / 'runs' / 'data' / 'diagnostic' / 'diagnostic-full.tsv'
    labelled.parent.mkdir(parents=True)
    labelled.write_text(TAGGED)
    page = make(tmp_path / 'runs')
    rows = {row[0]: row[1:] for row in page.tables['Diagnostic set by phenomenon, R3 in %']}
    gold = ['entailment', 'neutral', 'contradiction', 'contradiction', 'entailment']
    members = {'all': range(5), 'Lexical Semantics': (0, 1, 3, 4), 'Factivity': (0, 4), 'Quantifiers': (0, 1, 3),
               'Predicate-Argument Structure': (1,), 'Core args': (1,), 'Logic': (0, 2, 4), 'Negation': (0, 2, 4),
               'Conditionals': (2,), 'Knowledge': (2,), 'Common sense': (2,)}
    assert set(rows) == {*members, 'phenomenon'}
    for name, places in members.items():
        first = 100 * matthews_corrcoef([gold[i] for i in places], [AX_ANSWERS[i] for i in places])
        low, high = sorted([first, 0.0])        # the second run gives one answer
        assert rows[name] == [str(len(places)), f'{first / 2:.1f} ({low:.1f} to {high:.1f})'], name


def test_mnli_files_are_apart(tmp_path):
    write_mnli(tmp_path)
    page = make(tmp_path)
    assert 'minilm, dev_matched.tsv: 3 examples, 1 run' in page.tables
    assert 'minilm, dev_mismatched.tsv: 3 examples, 1 run' in page.tables
    assert 'Diagnostic set' not in page.text        # no labelled file


def test_scores_have_errors_in_place_of_confusion(tmp_path):
    gold = ['0', '1.2', '2.5', '3', '4.8', '5']
    outputs = [[0.5], [1.0], [2.0], [3.5], [3.0], [5.2]]
    for seed in (1, 2):
        write_run(tmp_path, 'STSB', seed, labels=(), gold=gold, outputs=outputs, metrics=('pearson', 'spearman'),
                  answers=['0.500', '1.000', '2.000', '3.500', '3.000', '5.000'], demo=True)
    page = make(tmp_path)
    assert 'Errors by score' in page.text and 'Confusion' not in page.text and 'Calibration' not in page.text
    assert 'gold 4.8, predicted 3.00 (3.00 to 3.00 in 2 runs), error 1.80' in page.text
    assert 'Demo: made-up data' in page.text
    assert any('4.8–5 0.9 (n 2)' in value for name, value in page.attributes if name == 'aria-label')


def test_runs_of_one_epoch(tmp_path):
    write_run(tmp_path, seed=1, epochs=1)
    assert 'scored once, so there is no curve' in make(tmp_path).text
    write_run(tmp_path, seed=2, epochs=1)
    page = make(tmp_path)
    assert 'scored once, at their end' in page.text and not page.tags['polyline'] > 1       # that of the reliability
    in_short = page.tables['Scores on dev over all seeds, %'][1]
    assert in_short == ['minilm', 'accuracy', '2', *['50.0', '50.0', '0.0'] * 2]


def test_undefined_scores(tmp_path):
    folder = write_run(tmp_path)
    metrics = json.loads((folder / 'metrics.json').read_text())
    metrics['epochs'][0] |= {'accuracy': None, 'score': None, 'loss': None}
    metrics['epochs'][2] |= {'accuracy': None, 'score': None}
    (folder / 'metrics.json').write_text(json.dumps(metrics))
    page = make(tmp_path)
    assert page.tables['Scores on dev over all seeds, %'][1][3:] == ['70.0', '70.0', '', 'undefined', 'undefined', '']


def test_two_sets_side_by_side(tmp_path):
    for seed in (1, 2):
        write_run(tmp_path, seed=seed)
        write_run(tmp_path, seed=seed, name='idea', outputs=np.array(LOGITS)[:, ::-1])
    page = make(tmp_path, 'baseline', '--against', 'idea')
    assert [row[0] for row in page.tables['Scores on dev over all seeds, %']] == ['runs of', 'baseline', 'idea']
    assert {'baseline: 6 examples, 2 runs', 'idea: 6 examples, 2 runs'} <= set(page.tables)
    head, best, last = page.tables['Scores on dev, in points']
    assert (head[4:6], best[2:4], last[2:4]) == (['baseline', 'idea'], ['best', '2'], ['last', '2'])
    assert 'with 2 seeds p cannot come below 0.5' in page.text


def test_other_answers_have_scores_only(tmp_path):
    write_run(tmp_path, 'tagging/WNUT17', labels=('O', 'B'), gold=['O O B'] * 6, answers=['O B B'] * 6)
    page = make(tmp_path)
    assert 'Scores on dev over all seeds, %' in page.tables and 'Worst mistakes' not in page.text


def damage_npz(root):
    path = root / 'RTE' / 'minilm-seed1' / 'dev_outputs.npz'
    path.write_bytes(path.read_bytes()[:200])


def damage_numbers(root):
    np.savez(root / 'RTE' / 'minilm-seed1' / 'dev_outputs.npz', output_0=np.zeros((3, 2), np.float32), texts_sha256='')


def delete_answers(root):
    (root / 'RTE' / 'minilm-seed1' / 'dev_predictions.tsv').unlink()


def edit_label(root):
    path = root / 'RTE' / 'minilm-seed1' / 'dev_predictions.tsv'
    path.write_text(path.read_text().replace('\t0\t0\t', '\tyes\t0\t'))


def delete_times(root):
    path = root / 'RTE' / 'minilm-seed1' / 'metrics.json'
    path.write_text(path.read_text().replace('train_seconds', 'seconds'))


@pytest.mark.parametrize('damage, argv, message', [
    (damage_npz, [], 'dev_outputs.npz: not read'),
    (damage_numbers, [], 'for 6 examples are expected'),
    (delete_answers, [], 'dev_predictions.tsv: No such file'),
    (delete_times, [], 'an epoch without its number or times'),
    (lambda root: write_run(root, seed=2, metrics=('f1',)), [], 'its metrics are f1, those of'),
    (edit_label, [], 'a label or a prediction is not 0 or 1'),
    (lambda root: write_run(root, seed=2, labels=('1', '0')), [], 'its labels are 1, 0'),
    (lambda root: write_run(root, seed=2, texts=TEXTS[::-1]), [], 'its dev texts or labels are not those'),
    (lambda root: write_run(root, seed=2, finished=False), ['RUNS/RTE/minilm-seed[1]', 'RUNS/RTE/minilm-seed2'],
     'this run is not finished'),
    (None, ['no_such_name'], 'no_such_name: neither'),
    (None, ['--model', 'other'], 'no finished run'),
    (None, ['baseline', '--against', 'RUNS/RTE'], 'on both sides'),
    (None, ['--diagnostic', 'x.tsv'], 'there is none among these'),
    (None, ['--runs-dir', 'RUNS/nothing'], 'no such folder'),
    (lambda root: write_mnli(root, rows=AX_ANSWERS[1:]), ['--diagnostic', 'RUNS/full.tsv'],
     'answers 4 examples, RUNS/full.tsv has labels for 5; the official set has 1104'),
    (lambda root: (write_mnli(root) / 'AX.tsv').unlink(), ['--diagnostic', 'RUNS/full.tsv'], 'no AX.tsv'),
    (write_mnli, ['--diagnostic', 'RUNS/plain.tsv'], 'no column Lexical Semantics'),
])
def test_bad_input(tmp_path, capsys, damage, argv, message):
    runs, target = tmp_path / 'runs', tmp_path / 'page.html'
    write_run(runs)
    (runs / 'full.tsv').write_text(TAGGED)
    (runs / 'plain.tsv').write_text('index\tsentence1\tsentence2\n0\ta\tb\n')
    if damage:
        damage(runs)
    argv = [word.replace('RUNS', str(runs)) for word in argv]
    assert report.main(['--runs-dir', str(runs), '--to', str(target), *argv]) == 2
    said = capsys.readouterr()
    assert message.replace('RUNS', str(runs)) in said.err
    assert said.err.count('\n') == 1 and said.err.startswith('error: ') and not said.out
    assert sorted(path.name for path in tmp_path.iterdir()) == ['runs']


def test_unfinished_runs_of_a_folder_are_left_out(tmp_path, capsys):
    write_run(tmp_path)
    left = write_run(tmp_path, seed=2, finished=False)
    assert f'Left out, not finished: {left}' in make(tmp_path).text
    assert str(left) in capsys.readouterr().err


def test_the_same_runs_give_the_same_page(tmp_path):
    write_run(tmp_path)
    make(tmp_path)
    before = (tmp_path / 'page.html').read_bytes()
    make(tmp_path)
    assert (tmp_path / 'page.html').read_bytes() == before


def test_tensorflow_is_not_imported():
    code = 'import sys, tools.report; sys.exit("tensorflow" in sys.modules or "tf_keras" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', code], cwd=config.ROOT).returncode == 0

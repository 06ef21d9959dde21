"""chinese/: files as they are found in the wild, whole runs, and what the tools make of them."""

import difflib
import json
import re
from pathlib import Path

import numpy as np
import pytest
from helpers import function, knobs_of, options, start, write

import config
from engine.data.tokens import build_rows
from engine.data.vocabulary import load_vocabulary
from engine.files import UserError, read_json
from lab import scheduler, variants
from lab.reference.tokenization import GoogleTokenizer
from lab.scripts import load_script
from snippets import Example, tokenize
from tools import leaderboard, predict, score

NAMES = 'ChnSentiCorp', 'LCQMC', 'BQ', 'XNLI'
SCRIPTS = {name: load_script(f'chinese/{name}') for name in NAMES}
MODEL = config.ROOT / 'demo' / 'chinese-electra'


def read(name, folder, split='train', **knobs):
    """[(text_a, text_b, label)] of what a script reads in a folder."""
    script = SCRIPTS[name]
    knobs = knobs_of(script, f'--data-dir={folder}', f'--model={MODEL}', **knobs)
    return [example[3:] for example in script.load_data(knobs, split)]


# ---- Files ----------------------------------------------------------------------------------------------------------

PAIRS = '怎么走？\t怎么去\t1\n几点了\t天气"好\t0\n'
READ = [('怎么走？', '怎么去', 1), ('几点了', '天气"好', 0)]


@pytest.mark.parametrize('header', ['', 'text_a\ttext_b\tlabel\n', '\ufeffq1\tq2\tlabel\r\n', '\ufeff'])
@pytest.mark.parametrize('name', ['LCQMC/train.tsv', 'LCQMC/train.txt', 'BQ/train.tsv'])
def test_pairs_with_a_header_and_without(name, header, tmp_path):
    write(tmp_path, name, header + PAIRS)
    assert read(name.split('/')[0], tmp_path) == READ
    assert read(name.split('/')[0], tmp_path, limit=1) == READ[:1]


def test_a_test_file_may_have_no_labels(tmp_path):
    expected = [(*texts, None) for *texts, _ in READ]
    for header in ('', 'text_a\ttext_b\n'):
        write(tmp_path, 'LCQMC/test.tsv', header + PAIRS.replace('\t1', '').replace('\t0', ''))
        assert read('LCQMC', tmp_path, 'test') == expected
    write(tmp_path, 'LCQMC/test.tsv', PAIRS)
    assert read('LCQMC', tmp_path, 'test') == READ


def test_commas_and_quotes(tmp_path):
    write(tmp_path, 'BQ/train.csv',
          '\ufeffsentence1,sentence2,label\r\n"借1,000元",怎么还,0\r\n"他说""好""\n吗",好吗,1\r\n')
    assert read('BQ', tmp_path) == [('借1,000元', '怎么还', 0), ('他说"好"\n吗', '好吗', 1)]


def test_languages_and_the_two_spellings(tmp_path):
    write(tmp_path, 'XNLI/multinli.train.zh.tsv', 'premise\thypo\tlabel\n他来了\t他没来\tcontradictory\n'
                                                  '他来了\t有人来\tentailment\n他来了\t他走了\tcontradiction\n')
    assert read('XNLI', tmp_path) == [('他来了', '他没来', 2), ('他来了', '有人来', 0), ('他来了', '他走了', 2)]
    assert len(read('XNLI', config.ROOT / 'demo', 'dev')) == 120
    assert set(read('XNLI', config.ROOT / 'demo', 'dev', language='en')) <= {
        ('A painter sings.', 'Somebody sings.', label) for label in range(3)}


@pytest.mark.parametrize('name, content, message', [
    ('LCQMC/train.txt', '甲\t乙\t2\n', 'train.txt, line 1: neither text, text and label (0 or 1) with tabs'),
    ('LCQMC/train.txt', '甲\t乙\n', 'train.txt, line 1: neither text, text and label'),
    ('LCQMC/train.txt', '甲\t乙\t1\n甲\t乙\n', 'line 2: 2 columns instead of 3'),
    ('LCQMC/train.txt', '甲\t乙\t1\n甲\t乙\tx\n', "line 2: label 'x' is none of 0, 1"),
    ('LCQMC/train.txt', b'\xbc\xd7\t\xd2\xd2\t1\n', 'line 1: byte 0xbc is not UTF-8'),
    ('LCQMC/train.txt', '', 'train.txt: the file is empty'),
    ('BQ/train.csv', 'a,b,c\n', 'train.csv, line 1: the header is not sentence1,sentence2,label'),
    ('BQ/train.csv', '', 'train.csv, line 1: the header'),
    ('BQ/train.csv', 'sentence1,sentence2,label\n', 'the file has a header and no rows'),
    ('BQ/train.csv', 'sentence1,sentence2,label\n"甲\n",乙,1\n甲,乙,2\n', 'train.csv, line 4: 3 columns, the last'),
    ('BQ/train.csv', 'sentence1,sentence2,label\n甲,"乙"丙,1\n', 'train.csv, line 2: '),
    ('BQ/train.csv', b'sentence1,sentence2,label\n\xbc,b,1\n', 'train.csv, line '),
    ('XNLI/multinli.train.zh.tsv', 'premise\thypo\tlabel\n甲\t乙\tyes\n', "line 2: label 'yes' is none of entailment"),
    ('ChnSentiCorp/train.tsv', '1\t好\n', "line 1: no column 'text_a' in the header"),
])
def test_bad_files_are_said_with_their_line(name, content, message, tmp_path):
    write(tmp_path, name, content)
    with pytest.raises(UserError) as error:
        read(name.split('/')[0], tmp_path)
    assert message in str(error.value)


# ---- Tokens ---------------------------------------------------------------------------------------------------------

SHAPES = ['房间很干净，服务也热情！', '用了３天ＷｉＦｉ', '房間很乾淨，服務也熱情！', '今天天气good,100元',
          '屏幕😀很好', '我\u3000在\u00a0看书', '龘𠀀字', '他说：“好”……', 'Ｗindows　系统',
          'a\u0301b房cWiFi1000元', '', ' \t ']


def test_text_in_all_its_shapes_is_cut_as_in_bert():
    tokens = (MODEL / 'vocab.txt').read_text().splitlines()
    google = GoogleTokenizer({token: number for number, token in enumerate(tokens)})
    rows = build_rows(load_vocabulary(MODEL, len(tokens)), 64,
                     [Example('', i, i, text, None, 0) for i, text in enumerate(SHAPES)])
    for number, text in enumerate(SHAPES):
        assert rows.row(number).ids.tolist()[1:-1] == google.ids(text), text


def test_a_vocabulary_that_does_not_fit_is_said(tiny_bert, tmp_path, capsys):
    examples = SCRIPTS['LCQMC'].load_data(knobs_of(SCRIPTS['LCQMC'], '--demo'), 'dev')
    for model, says in ((MODEL, False), (tiny_bert, True)):
        tokenize(knobs_of(SCRIPTS['LCQMC'], f'--model={model}'), examples)
        said = capsys.readouterr().out
        assert bool(re.match(r'Note: \d+ % of the tokens are \[UNK\]', said)) == says


# ---- Runs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('name', NAMES)
def test_a_whole_run(name, tmp_path, capsys):
    script = SCRIPTS[name]
    start(script, *options(tmp_path, MODEL))
    assert 'test, predicted once, by the best epoch on dev: accuracy' in capsys.readouterr().out
    folder = tmp_path / 'runs' / 'chinese' / name / 'chinese-electra-seed42'
    metrics, labels = read_json(folder / 'metrics.json'), script.knobs.labels
    rows = (tmp_path / 'results' / f'{name}.tsv').read_text().splitlines()
    answers = [row.split('\t')[1] for row in rows[1:]]
    gold = [labels[label] for *_, label in read(name, config.ROOT / 'demo', 'test')]
    assert metrics['test']['accuracy'] == pytest.approx(np.mean(np.array(answers) == gold))
    assert score.main([f'chinese/{name}', str(folder / 'dev_predictions.tsv'), '--data-dir',
                       str(config.ROOT / 'demo')]) == 0
    assert f'accuracy {100 * metrics["best"]["accuracy"]:.2f}' in capsys.readouterr().out
    if name == 'ChnSentiCorp':
        (tmp_path / 'texts').write_text('\n'.join(text for text, *_ in read(name, config.ROOT / 'demo', 'test')) + '\n')
        assert predict.main([str(folder), str(tmp_path / 'texts'), '--format', 'json']) == 0
        assert [json.loads(line)['prediction'] for line in capsys.readouterr().out.splitlines()] == answers


def test_without_test_labels_there_are_predictions_and_no_score(tmp_path, capsys):
    data = tmp_path / 'data'
    for split in ('train', 'dev', 'test'):
        content = (config.ROOT / f'demo/LCQMC/{split}.txt').read_text()
        write(data, f'LCQMC/{split}.tsv', re.sub(r'\t[01]\n', '\n', content) if split == 'test' else content)
    start(SCRIPTS['LCQMC'], *options(tmp_path, MODEL), f'--data-dir={data}')
    assert 'predicted once' not in capsys.readouterr().out
    assert len((tmp_path / 'results' / 'LCQMC.tsv').read_text().splitlines()) == 101
    assert 'test' not in read_json(tmp_path / 'runs/chinese/LCQMC/chinese-electra-seed42/metrics.json')


def test_the_four_differ_in_their_data_alone():
    mains = [re.sub(rf'{name}\.tsv|\s', '', function(f'chinese/{name}', 'main')) for name in NAMES]
    assert len(set(mains)) == 1
    for name in NAMES:
        assert function(f'chinese/{name}', 'build_model') == function('CoLA', 'build_model')
        assert len(Path(SCRIPTS[name].__file__).read_text().splitlines()) <= 100


# ---- Many runs ------------------------------------------------------------------------------------------------------


def test_a_folder_means_all_its_scripts():
    assert leaderboard.tasks_of('chinese') == sorted(f'chinese/{name}' for name in NAMES)
    assert leaderboard.tasks_of('documents/TREC') == ['documents/TREC']
    for word in ('engine', 'chinese/texts', 'chinese/CoLA', '../main', ''):
        with pytest.raises(UserError, match='no task'):
            leaderboard.tasks_of(word)
    family = scheduler.common_knobs_class(leaderboard.tasks_of('chinese'))
    assert family.unused == ('swap_pairs',)
    assert {family.model, *(script.knobs.model for script in SCRIPTS.values())} == {'bert-base-chinese'}
    assert scheduler.common_knobs_class(['chinese/XNLI', 'CoLA']) is config.Knobs


def test_scores_on_test_stand_beside_those_on_dev():
    runs = [scheduler.Run('chinese/BQ', seed, Path('runs'), test={'accuracy': test}) for seed, test in
            enumerate((0.5, 0.75))]
    for run in runs:
        run.rows = [{'epoch': 1, 'loss': 1.0, 'accuracy': 0.6, 'score': 0.6, 'train_seconds': 60.0, 'dev_seconds': 0.0}]
        run.best = run.rows[0]
    summary = {'chinese/BQ': leaderboard.summarize(runs)}
    assert '|  | test accuracy | **62.5** | 62.5 | 75.0 | 17.7 |  |  |  |' in leaderboard.markdown(summary, {})


def test_a_patch_of_one_script_is_meant_for_the_others(tmp_path):
    before = Path(SCRIPTS['LCQMC'].__file__).read_text()
    after = before.replace('snippets.Dropout(knobs.dropout, knobs.seed)', 'snippets.Dropout(0.3, knobs.seed)')
    patch = ''.join(difflib.unified_diff(before.splitlines(True), after.splitlines(True), 'a/chinese/LCQMC.py',
                                         'b/chinese/LCQMC.py'))
    scripts = variants.patched_scripts('p.patch', patch, ['chinese/LCQMC', 'chinese/XNLI'], tmp_path)
    assert all('snippets.Dropout(0.3, knobs.seed)' in script.read_text() for script in scripts.values())
    # A run takes the modules of its own copy.
    copied = scripts['chinese/XNLI'].parent / 'pairs.py'
    copied.write_text('raise SystemExit("the pairs.py of the copy")\n')
    run = scheduler.Run('chinese/XNLI', 1, tmp_path / 'runs' / 'x', scripts['chinese/XNLI'])
    scheduler.start(run, {}, tmp_path)
    assert run.process.wait() == 1
    assert 'the pairs.py of the copy' in run.log.read_text()

"""TSV files with every quirk of GLUE's, and with every fault that must be named."""

import numpy as np
import pytest
from helpers import SHARED, make_knobs, needs_shared

import CoLA
import MNLI
import MRPC
import QNLI
import RTE
import STSB
from engine.catalog.datasets import AX, TASKS
from engine.files import UserError

RTE_HEADER = 'index\tsentence1\tsentence2\tlabel\n'
MRPC_HEADER = '\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n'
STSB_HEADER = 'index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n'


def load(script, tmp_path, split, *options, **files):
    """script.load_data(split) on files given as name='content' or bytes."""
    folder = tmp_path / TASKS[script.__name__].folder
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        name = name if name == 'msr_paraphrase_train' else name + '.tsv'
        path = folder / (name if name.endswith('.tsv') else name + '.txt')
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    own = {'labels': script.knobs.labels or ()}
    return script.load_data(make_knobs('--data-dir', tmp_path, *options, task=script.__name__, **own), split)


def test_cola_has_no_header_and_no_final_newline(tmp_path):
    rows = load(CoLA, tmp_path, 'dev', dev='gj04\t1\t\tHe "left.\r\ngj04\t0\t*\tLeft\u2028he. ')
    assert [(e.line, e.index, e.text_a, e.text_b, e.label) for e in rows] == [
        (1, 0, 'He "left.', None, 1), (2, 1, 'Left\u2028he. ', None, 0)]


def test_bom_crlf_quotes_and_empty_last_field(tmp_path):
    rows = load(MRPC, tmp_path, 'dev', dev=MRPC_HEADER + '1\t10\t20\t" He left ." \t\r\n')
    assert [(e.text_a, e.text_b, e.label) for e in rows] == [('" He left ." ', '', 1)]


def test_mrpc_is_split_by_the_dev_ids(tmp_path):
    text = MRPC_HEADER + '1\t10\t20\ta\tb\r\n0\t11\t21\tc\td\r\n1\t12\t22\te\tf\r\n'
    for split, texts in (('dev', ['c']), ('train', ['a', 'e'])):
        rows = load(MRPC, tmp_path, split, '--model', 'minilm', msr_paraphrase_train=text, dev_ids='11\t21\n')
        assert [e.text_a for e in rows] == texts


def test_mrpc_with_other_dev_ids_is_refused(tmp_path):
    text = MRPC_HEADER + '1\t10\t20\ta\tb\n0\t11\t21\tc\td\n'
    with pytest.raises(UserError, match='it has 1 of the 2 pairs of dev_ids.tsv'):
        load(MRPC, tmp_path, 'dev', msr_paraphrase_train=text, dev_ids='11\t21\n98\t99\n')
    with pytest.raises(UserError, match='none of its 2 rows belongs to the dev set'):
        load(MRPC, tmp_path, 'dev', msr_paraphrase_train=text, dev_ids='98\t99\n')
    with pytest.raises(UserError, match="line 1: no column '#1 ID'"):
        load(MRPC, tmp_path, 'dev', msr_paraphrase_train=text.replace('#1 ID', 'ID'), dev_ids='98\t99\n')


def test_electra_recipe_swaps_the_pairs_of_the_training_set_only(tmp_path):
    text = MRPC_HEADER + '1\t10\t20\ta\tb\n'
    assert [(e.text_a, e.text_b) for e in load(MRPC, tmp_path, 'train', '--swap-pairs', train=text)] == [
        ('a', 'b'), ('b', 'a')]
    assert len(load(MRPC, tmp_path, 'dev', '--swap-pairs', dev=text)) == 1


@pytest.mark.parametrize(('split', 'columns'), [('train', 12), ('dev', 16), ('test_matched', 10)])
def test_mnli_columns(tmp_path, split, columns):
    names = ['index', 'promptID', 'pairID', 'genre', 'p1', 'p2', 'p3', 'p4', 'sentence1', 'sentence2'] + [
        f'label{i}' for i in range(1, columns - 10)] + ['gold_label'] * (columns > 10)
    assert len(names) == columns
    row = [str(i) for i in range(columns - 1)] + ['neutral' if columns > 10 else '9']
    text = '\t'.join(names) + '\n' + '\t'.join(row) + '\n'
    files = {'dev_matched': text, 'dev_mismatched': text} if split == 'dev' else {split: text}
    rows = load(MNLI, tmp_path, split, **files)
    assert len(rows) == (2 if split == 'dev' else 1)
    assert (rows[0].text_a, rows[0].text_b, rows[0].label) == ('8', '9', 1 if columns > 10 else None)


def test_qnli_version_1_is_refused(tmp_path):
    text = 'index\tquestion\tsentence\tlabel\n' + '0\tq\ts\tentailment\n' * 5732
    with pytest.raises(UserError, match='dev.tsv: 5732 rows.*version 1'):
        load(QNLI, tmp_path, 'dev', dev=text)


@pytest.mark.parametrize(('script', 'text', 'message'), [
    (RTE, '', 'dev.tsv: the file is empty'),
    (RTE, RTE_HEADER, 'dev.tsv: the file has a header and no rows'),
    (RTE, RTE_HEADER + '0\ta\tb\tentailment\n1\ta\tb\tmaybe\n',
     "1 malformed of 2 rows:\n  line 3: label 'maybe' is none"),
    (RTE, RTE_HEADER + '0\ta\tentailment\n', 'line 2: 3 columns instead of 4'),
    (RTE, RTE_HEADER + '0\ta\tb\tc\tentailment\n', 'line 2: 5 columns instead of 4'),
    (RTE, RTE_HEADER + '0\ta\tb\tentailment\n\n1\ta\tb\tentailment\n', 'line 3: 1 columns instead of 4'),
    (RTE, RTE_HEADER.encode() + b'0\ta\tb\xff\tentailment\n', 'dev.tsv, line 2: byte 0xff is not UTF-8'),
    (RTE, 'index\tsentence1\tsentence2\n0\ta\tb\n', "line 1: no column 'label' in the header"),
    (CoLA, 'index\tsentence\n0\tThey left.\n', r'line 1: 2 columns instead of 4 \(a test file\?\)'),
    (STSB, STSB_HEADER + '0' + '\tx' * 8 + '\t5.1\n', 'line 2: score 5.1 is not within 0 and 5'),
    (STSB, STSB_HEADER + '0' + '\tx' * 8 + '\tnan\n', 'line 2: score nan is not within 0 and 5'),
    (STSB, STSB_HEADER + '0' + '\tx' * 8 + '\thigh\n', "line 2: score 'high' is not a number"),
])
def test_bad_files_are_named_with_their_line(tmp_path, script, text, message):
    with pytest.raises(UserError, match=message):
        load(script, tmp_path, 'dev', '--skip-bad-rows', dev=text)


def test_bad_rows_are_counted_and_dropped_only_in_training_files(tmp_path, capsys):
    text = RTE_HEADER + '0\ta\tb\tentailment\n' + 'x\n' * 7
    with pytest.raises(UserError, match='7 malformed of 8 rows') as error:
        load(RTE, tmp_path, 'train', train=text)
    assert [line.split(':')[0].strip() for line in str(error.value).splitlines()[1:7]] == [
        'line 3', 'line 4', 'line 5', 'line 6', 'line 7', '...']
    assert len(load(RTE, tmp_path, 'train', '--skip-bad-rows', train=text)) == 1
    assert 'dropped 7 malformed rows, the first in line 3' in capsys.readouterr().out


def test_missing_file_says_what_to_do(tmp_path):
    with pytest.raises(UserError, match='RTE/dev.tsv: no such file.*tools.download RTE.*--demo'):
        load(RTE, tmp_path, 'dev')


@needs_shared
def test_the_real_files():
    """Rows and labels of the complete official files; MRPC from Microsoft's files is the official split."""
    for task in ('CoLA', 'SST2', 'MRPC', 'STSB', 'RTE', 'WNLI'):        # the others are long
        script, files = __import__(task), TASKS[task].files
        knobs = make_knobs('--data-dir', SHARED / 'glue', task=task, labels=script.knobs.labels)
        for split in ('train', 'dev', 'test'):
            examples = script.load_data(knobs, split)
            assert len(examples) == files[f'{split}.tsv'].rows
        assert [example.index for example in examples] == list(range(files['test.tsv'].rows))
    knobs = make_knobs('--data-dir', SHARED / 'glue', task='MNLI', labels=MNLI.knobs.labels)
    assert len(MNLI.load_data(knobs, 'AX')) == AX.files['diagnostic.tsv'].rows


@needs_shared
def test_mrpc_from_microsofts_files_is_the_official_split(tmp_path):
    (tmp_path / 'MRPC').mkdir()
    for name in ('msr_paraphrase_train.txt', 'dev_ids.tsv'):
        (tmp_path / 'MRPC' / name).symlink_to(SHARED / 'glue' / 'MRPC' / name)
    made, official = (
        [[e[3:] for e in MRPC.load_data(make_knobs('--data-dir', folder, task='MRPC'), split)]
         for split in ('train', 'dev')] for folder in (tmp_path, SHARED / 'glue'))
    assert [len(rows) for rows in made] == [3668, 408]
    assert [sorted(rows) for rows in made] == [sorted(rows) for rows in official]
    assert np.mean([row[2] for row in made[1]]) == pytest.approx(0.684, abs=1e-3)

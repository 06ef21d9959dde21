"""The check of the eleven files, and the zip."""

import zipfile

import pytest

from tools import submission


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Eleven good files. QQP is made short, so that the tests are fast."""
    monkeypatch.setitem(submission.FILES, 'QQP.tsv', submission.FILES['QQP.tsv']._replace(rows=20))
    folder = tmp_path / 'answers'
    folder.mkdir()
    for name, file in submission.FILES.items():
        answers = file.labels or ('0', '5.000', '3.14159265', '2')
        rows = [f'{i}\t{answers[i % len(answers)]}\n' for i in range(file.rows)]
        (folder / name).write_text('index\tprediction\n' + ''.join(rows), newline='\n')
    return folder


def check(folder, capsys, *options):
    """(exit status, {file: what is said about it}, standard error)."""
    status = submission.main([str(folder), f'--output={folder.parent / "out.zip"}', *options])
    captured = capsys.readouterr()
    return status, dict(line.split(': ', 1) for line in captured.out.splitlines()[:11]), captured.err


def test_a_good_folder_becomes_a_zip(folder, capsys):
    status, said, error = check(folder, capsys)
    assert (status, error) == (0, '')
    assert said == {name: f'ok, {file.rows} rows' for name, file in submission.FILES.items()}
    output = folder.parent / 'out.zip'
    with zipfile.ZipFile(output) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == \
            {path.name: path.read_bytes() for path in folder.iterdir()}
    first = output.read_bytes()
    assert check(folder, capsys)[0] == 0
    assert output.read_bytes() == first
    assert sorted(path.name for path in folder.parent.iterdir()) == ['answers', 'out.zip']


def edit(line, new):
    """A change of one line, from 1; None removes it."""
    def change(data):
        lines = data.split(b'\n')
        lines[line - 1:line] = [] if new is None else [new]
        return b'\n'.join(lines)
    return change


@pytest.mark.parametrize('name, change, message', [
    ('CoLA.tsv', edit(1, b'id\tlabel'), "line 1: header 'id\\tlabel' instead of 'index\\tprediction'"),
    ('CoLA.tsv', edit(1, None), "line 1: header '0\\t0' instead of 'index\\tprediction'"),
    ('WNLI.tsv', edit(6, None), '145 rows instead of 146; line 6: index \'5\' instead of 4'),
    ('MNLI-m.tsv', lambda data: b'\n'.join(data.split(b'\n')[:6]), '5 rows instead of 9796'),
    ('MNLI-mm.tsv', edit(2, b'9796\tneutral'), "line 2: index '9796' instead of 0; line 3: index '1' instead of 9797"),
    ('RTE.tsv', edit(3, b'1\tneutral'), "line 3: 'neutral' is none of entailment, not_entailment"),
    ('SST-2.tsv', edit(3, b'1\t1 '), "line 3: '1 ' is none of 0, 1"),
    ('MRPC.tsv', edit(3, b'1\t1\t1'), 'line 3: 3 columns instead of 2'),
    ('MRPC.tsv', edit(3, b'1,1'), "line 3: 1 columns instead of 2; line 3: index '1,1' instead of 1"),
    ('STS-B.tsv', edit(4, b'2\t5.001'), "line 4: '5.001' is not within [0, 5]"),
    ('STS-B.tsv', edit(4, b'2\t-0.1'), "line 4: '-0.1' is not within [0, 5]"),
    ('STS-B.tsv', edit(4, b'2\tnan'), "line 4: 'nan' is not a finite number"),
    ('STS-B.tsv', edit(4, b'2\thigh'), "line 4: 'high' is not a finite number"),
    ('AX.tsv', lambda data: b'\xef\xbb\xbf' + data, 'line 1: begins with a byte order mark (BOM)'),
    ('AX.tsv', lambda data: data.replace(b'\n', b'\r\n'),
     'line 1: a carriage return; lines must end with \\n, not with \\r\\n'),
    ('AX.tsv', edit(3, b'1\tneutr\xe4l'), 'line 3: byte 0xe4 is not UTF-8'),
    ('AX.tsv', lambda data: data + b'\n', 'line 1106: blank'),
    ('AX.tsv', lambda data: b'', 'the file is empty'),
    ('WNLI.tsv', lambda data: data.replace(b'\t1', b'\t2'),
     "line 3: '2' is none of 0, 1; line 5: '2' is none of 0, 1; line 7: '2' is none of 0, 1; and 70 more"),
])
def test_what_is_wrong_is_named(folder, capsys, name, change, message):
    (folder / name).write_bytes(change((folder / name).read_bytes()))
    for options in ([], ['--allow-missing']):       # which never covers a wrong file
        status, said, error = check(folder, capsys, *options)
        assert status == 2
        assert said.pop(name) == message
        assert all(text.startswith('ok, ') for text in said.values())
        assert '1 of 11 files' in error
        assert not (folder.parent / 'out.zip').exists()


def test_missing_files(folder, capsys):
    for name in ('AX.tsv', 'STS-B.tsv'):
        (folder / name).unlink()
    status, said, error = check(folder, capsys)
    assert (said['AX.tsv'], said['STS-B.tsv']) == ('missing (MNLI.py writes it)', 'missing (STSB.py writes it)')
    assert (status, error) == (2, 'error: 2 of 11 files are not right: no zip was written.\n')
    status, said, error = check(folder, capsys, '--allow-missing')
    assert (status, error) == (0, '')
    assert said['AX.tsv'] == 'missing; the zip has entailment in all 1104 rows'
    with zipfile.ZipFile(folder.parent / 'out.zip') as archive:
        assert sorted(archive.namelist()) == sorted(submission.FILES)
        for name in archive.namelist():
            assert submission.find_problems(archive.read(name), submission.FILES[name]) == []
        assert archive.read('STS-B.tsv').startswith(b'index\tprediction\n0\t2.701\n1\t2.701\n')


def test_no_folder_and_no_place_for_the_zip(folder, capsys, tmp_path):
    assert submission.main([str(tmp_path / 'absent')]) == 2
    assert 'absent: no such folder' in capsys.readouterr().err
    assert submission.main([str(tmp_path), '--allow-missing']) == 2
    assert 'none of the 11 files' in capsys.readouterr().err
    assert submission.main([str(folder), '--output', str(tmp_path / 'absent' / 'x.zip')]) == 2
    assert 'cannot be written: No such file or directory' in capsys.readouterr().err


def test_the_files_are_those_of_the_leaderboard():
    assert sorted(submission.FILES) == sorted([
        'CoLA.tsv', 'SST-2.tsv', 'MRPC.tsv', 'STS-B.tsv', 'QQP.tsv', 'MNLI-m.tsv', 'MNLI-mm.tsv', 'QNLI.tsv', 'RTE.tsv',
        'WNLI.tsv', 'AX.tsv'])
    assert submission.FILES['AX.tsv'].script == 'MNLI.py'
    for file in submission.FILES.values():
        assert file.majority in (file.labels or ('2.701',))

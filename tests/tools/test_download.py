"""The downloader against a server on this machine: whole, broken off, wrong, unsafe and unreachable files."""

import dataclasses
import hashlib
import http.server
import io
import random
import socket
import stat
import subprocess
import sys
import tarfile
import threading
import zipfile

import pytest
from helpers import write_hugging_face

import config
from engine import console
from engine.catalog import models
from engine.catalog.datasets import FOLDERS, SOURCES, Download, Source
from engine.catalog.models import MODELS, Model
from lab.reference.random_model import SIZES, random_variables
from tools import download


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves server.files. With a cut it sends that many bytes, once; without ranges it always sends all.

    A file that is a string is the path of another one, to which it redirects.
    """

    def do_GET(self):
        server, start = self.server, 0
        content = server.files.get(self.path)
        wanted = self.headers.get('Range')
        server.seen.append((self.path, wanted))
        if content is None:
            return self.send_error(404)
        if isinstance(content, str):
            self.send_response(302)
            self.send_header('Location', content)
            return self.end_headers()
        if wanted and server.ranges:
            start = int(wanted.removeprefix('bytes=').removesuffix('-'))
            if start >= len(content):
                self.send_response(416)
                self.send_header('Content-Range', f'bytes */{len(content)}')
                return self.end_headers()
        self.send_response(206 if start else 200)
        if start:
            self.send_header('Content-Range', f'bytes {start}-{len(content) - 1}/{len(content)}')
        self.send_header('Content-Length', str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:][:server.cuts.pop(self.path, None)])
        return None

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv('NO_PROXY', '127.0.0.1')
    monkeypatch.setattr(download, 'RETRY_WAIT', 0.0)
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as server:
        server.files, server.seen, server.cuts, server.ranges = {}, [], {}, True
        server.url = f'http://127.0.0.1:{server.server_port}'
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def fetch(monkeypatch, tmp_path, capsys):
    """fetch(names) -> (exit status, stderr, names of what is in datasets/ and pretrained/)."""
    roots = [tmp_path / 'datasets', tmp_path / 'pretrained']

    def run(*names):
        status = download.main([*names, f'--data-dir={roots[0]}', f'--model-dir={roots[1]}'])
        left = {path.name for root in roots for path in root.glob('*')}     # also hidden ones
        return status, capsys.readouterr().err, sorted(left - {'.download.lock'})
    return run


def table(rows, columns, header=True):
    """A TSV file of that size, of text that does not compress."""
    text = random.Random(rows)
    lines = ['\t'.join(['h'] * columns)] * header
    lines += ['\t'.join(f'{text.getrandbits(64):x}' for _ in range(columns)) for _ in range(rows)]
    return '\n'.join(lines).encode()


def published_at(monkeypatch, folder, *downloads):
    """From now on this folder of GLUE comes from these addresses: (url, sha256, file name)."""
    task = dataclasses.replace(FOLDERS[folder], downloads=[Download(*each) for each in downloads])
    monkeypatch.setitem(FOLDERS, folder, task)


def make_zip(**members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w') as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


COLA = {'CoLA/train.tsv': table(8551, 4, header=False), 'CoLA/dev.tsv': table(1043, 4, header=False),
        'CoLA/test.tsv': table(1063, 2)}
COLA_ZIP = make_zip(**COLA, **{'CoLA/': b'', 'CoLA/original/train.tsv': b'raw', 'CoLA/original/raw/dev.tsv': b'raw',
                               'CoLA/README.md': b'read me'})


@pytest.fixture
def cola(server, monkeypatch):
    """CoLA's address is on the server; no hash is known. cola(content) changes what is there."""
    def serve(content, sha256=''):
        server.files['/CoLA.zip'] = content
        published_at(monkeypatch, 'CoLA', (f'{server.url}/CoLA.zip', sha256))
    serve(COLA_ZIP)
    return serve


def assert_whole(tmp_path):
    folder = tmp_path / 'datasets' / 'CoLA'
    assert {f'CoLA/{path.name}': path.read_bytes() for path in folder.iterdir()} == COLA


def test_a_folder_is_fetched_once(server, cola, fetch, tmp_path, capsys):
    assert fetch('cola') == (0, '', ['CoLA'])
    assert_whole(tmp_path)
    assert fetch('CoLA')[0] == 0
    assert len(server.seen) == 1


def make_tar(folder):
    """A .tar.gz of a folder's files, in a folder of their own."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode='w:gz') as archive:
        archive.add(folder, 'folder')
    return file.getvalue()


SINGLE_FILES = 'IMDB', 'TREC', 'SQuAD', 'CMRC2018', 'DRCD', 'WNUT17', 'PeopleDaily'


def test_the_data_of_other_scripts(server, fetch, tmp_path, monkeypatch):
    """From the same kinds of files as the official ones: an archive that stays one, single files, one that is
    unpacked, two that are. What holds another number of texts does not appear."""
    demo = config.ROOT / 'demo'
    server.files = {f'/{path.name}': path.read_bytes() for name in SINGLE_FILES
                    for path in (demo / name).iterdir()}
    server.files['/yahoo_answers_csv.tgz'] = make_tar(demo / 'Yahoo')
    for name, folder, pattern in (('chnsenticorp.zip', 'chnsenticorp', 'ChnSentiCorp/*.tsv'),
                                  ('peopledaily.zip', 'peopledaily', 'MSRA/*.txt'),
                                  ('XNLI-1.0.zip', 'XNLI-1.0', 'XNLI/xnli.*.tsv'),
                                  ('XNLI-MT-1.0.zip', 'XNLI-MT-1.0/multinli', 'XNLI/multinli.*.tsv')):
        files = {f'{folder}/{path.name}': path.read_bytes() for path in demo.glob(pattern)}
        server.files[f'/{name}'] = make_zip(**files)
    rows = {'IMDB': {'aclImdb_v1.tar.gz': 400}, 'TREC': {'train_5500.label': 300, 'TREC_10.label': 100},
            'Yahoo': {'train.csv': 300, 'test.csv': 100},
            'ChnSentiCorp': {'train.tsv': 600, 'dev.tsv': 120, 'test.tsv': 100},
            'WNUT17': {'wnut17train.conll': 500, 'emerging.dev.conll': 120, 'emerging.test.annotated': 120},
            'MSRA': {'train.txt': 500, 'test.txt': 120},
            'PeopleDaily': {'example.train': 500, 'example.dev': 120, 'example.test': 120},
            'XNLI': {'xnli.dev.tsv': 132, 'xnli.test.tsv': 110, 'multinli.train.zh.tsv': 600},
            'SQuAD': {f'{split}-v{version}.json': rows for split, rows in (('train', 360), ('dev', 72))
                      for version in ('1.1', '2.0')},
            'CMRC2018': {'cmrc2018_train.json': 720, 'cmrc2018_dev.json': 144},
            'DRCD': {'DRCD_training.json': 720, 'DRCD_dev.json': 144, 'DRCD_test.json': 144}}
    for name, source in SOURCES.items():
        downloads = [each._replace(url=f'{server.url}/{each.url.rsplit("/")[-1]}', sha256='')
                     for each in source.downloads]
        monkeypatch.setitem(SOURCES, name, Source(rows[name], downloads))
    status, error, names = fetch('imdb', *list(rows)[1:])
    assert (status, error, names) == (0, '', sorted(rows))
    for name in names:
        there = {path.name: path.read_bytes() for path in (tmp_path / 'datasets' / name).iterdir()}
        assert there == {path.name: path.read_bytes() for path in (demo / name).iterdir()}
        changed = SOURCES[name]._replace(rows=dict.fromkeys(rows[name], 7))
        monkeypatch.setitem(SOURCES, name, changed)
        (tmp_path / 'datasets' / name).rename(tmp_path / f'first {name}')
        status, error, left = fetch(name)
        assert status == 2 and 'texts instead of 7' in error and name not in left


def test_what_is_given_on_application_is_not_fetched(fetch, capsys):
    with pytest.raises(SystemExit) as stopped:
        fetch('lcqmc')
    assert stopped.value.code == 2
    assert 'LCQMC is given on application only: http://icrc.hitsz.edu.cn/' in capsys.readouterr().err


def test_a_broken_transfer_goes_on_where_it_stopped(server, cola, fetch, tmp_path):
    cola(COLA_ZIP, hashlib.sha256(COLA_ZIP).hexdigest())
    server.cuts['/CoLA.zip'] = 200_000
    assert fetch('CoLA') == (0, '', ['CoLA'])
    (_, first), (_, second) = server.seen
    assert first is None
    assert 200_000 - download.CHUNK <= int(second.removeprefix('bytes=').removesuffix('-')) <= 200_000
    assert_whole(tmp_path)


def test_two_at_once_fetch_it_once(server, cola, fetch, tmp_path):
    other = threading.Thread(target=download.main, args=(['CoLA', f'--data-dir={tmp_path / "datasets"}'],))
    other.start()
    assert fetch('CoLA')[::2] == (0, ['CoLA'])
    other.join()
    assert len(server.seen) == 1
    assert_whole(tmp_path)


@pytest.mark.parametrize('part, ranges, seen', [
    (COLA_ZIP[:1000], True, ['bytes=1000-']),                                   # 206
    (COLA_ZIP[:1000], False, ['bytes=1000-']),                                  # 200: from the start
    (COLA_ZIP, True, [f'bytes={len(COLA_ZIP)}-']),                              # 416, and nothing is missing
    (COLA_ZIP + b'more', True, [f'bytes={len(COLA_ZIP) + 4}-', None]),          # 416: from the start
])
def test_the_part_of_an_earlier_run(server, cola, fetch, tmp_path, part, ranges, seen):
    cola(COLA_ZIP, hashlib.sha256(COLA_ZIP).hexdigest())        # zipfile itself would overlook bytes in front
    server.ranges = ranges
    (tmp_path / 'datasets').mkdir()
    (tmp_path / 'datasets' / 'CoLA.zip.part').write_bytes(part)
    assert fetch('CoLA') == (0, '', ['CoLA'])
    assert [wanted for _, wanted in server.seen] == seen
    assert_whole(tmp_path)


def test_ctrl_c_keeps_the_part(server, cola, fetch, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt
    with monkeypatch.context() as patch:
        patch.setattr(console.LineProgress, 'update', interrupt)
        assert fetch('CoLA')[::2] == (130, ['CoLA.zip.part'])
    with monkeypatch.context() as patch:        # while unpacking: nothing is fetched again
        patch.setattr(download, 'unpack', interrupt)
        assert fetch('CoLA')[::2] == (130, ['CoLA.zip.part'])
    assert fetch('CoLA')[::2] == (0, ['CoLA'])
    assert [wanted for _, wanted in server.seen] == [None, f'bytes={download.CHUNK}-', f'bytes={len(COLA_ZIP)}-']


def link():
    member = zipfile.ZipInfo('CoLA/train.tsv')
    member.create_system, member.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w') as archive:
        archive.writestr(member, '/etc/passwd')
    return file.getvalue()


def bomb():
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('CoLA/train.tsv', bytes(10**6))
    return file.getvalue().replace((10**6).to_bytes(4, 'little'), (2**31).to_bytes(4, 'little'))


@pytest.mark.parametrize('content, sha256, message', [
    (COLA_ZIP, '0' * 64, 'its sha256 is not 000'),
    (make_zip(**COLA, **{'../CoLA/train.tsv': b''}), '', 'points out of the archive'),
    (make_zip(**COLA, **{'/tmp/train.tsv': b''}), '', 'points out of the archive'),
    (make_zip(**COLA, **{'CoLA\\..\\..\\x': b''}), '', 'points out of the archive'),
    (link(), '', 'points out of the archive'),
    (bomb(), '', 'would unpack to 2,147,483,648 bytes'),
    (COLA_ZIP.replace(COLA['CoLA/dev.tsv'][:9], b'different'), '', 'Bad CRC-32'),
    (b'<html>Please log in</html>', '', 'no intact zip archive'),
    (make_zip(**COLA, **{'train.tsv': b''}), '', 'two files train.tsv'),
    (make_zip(**COLA | {'CoLA/dev.tsv': table(1042, 4, header=False)}), '', 'dev.tsv has 1042 rows instead of 1043'),
    (make_zip(**COLA | {'CoLA/test.tsv': table(1063, 3)}), '', 'test.tsv, line 1: 3 columns instead of 2'),
    (make_zip(**{'CoLA/train.tsv': COLA['CoLA/train.tsv']}), '', 'dev.tsv is missing'),
])
def test_a_wrong_archive_leaves_nothing(cola, fetch, content, sha256, message):
    cola(content, sha256)
    status, error, left = fetch('CoLA')
    assert (status, left) == (2, [])
    assert message in error
    assert 'Traceback' not in error


def test_no_network_is_one_message_with_all_that_is_needed(fetch, tmp_path, monkeypatch):
    monkeypatch.setenv('NO_PROXY', '127.0.0.1')
    with socket.socket() as closed:         # bound, but nobody listens
        closed.bind(('127.0.0.1', 0))
        url = f'http://127.0.0.1:{closed.getsockname()[1]}'
        published_at(monkeypatch, 'CoLA', (f'{url}/CoLA.zip',))
        published_at(monkeypatch, 'diagnostic', (f'{url}/AX.tsv', '', 'diagnostic.tsv'))
        status, error, left = fetch('CoLA', 'AX')
    assert (status, left) == (2, [])
    assert error.startswith('error: CoLA could not be fetched: Connection refused')
    for text in (f'{url}/CoLA.zip', f'{tmp_path / "datasets" / "CoLA"}: train.tsv, dev.tsv, test.tsv', f'{url}/AX.tsv',
                 str(tmp_path / 'datasets' / 'diagnostic' / 'diagnostic.tsv'), '--demo', '--model minilm'):
        assert text in error


def test_plain_files_and_an_http_error(server, fetch, tmp_path, monkeypatch):
    files = {'msr_paraphrase_train.txt': table(4076, 5).replace(b'\n', b'\r\n'),
             'msr_paraphrase_test.txt': table(1725, 5), 'dev_ids.tsv': table(408, 2, header=False)}
    published_at(monkeypatch, 'MRPC', *((f'{server.url}/{name}', '', name) for name in files))
    server.files = {f'/{name}': content for name, content in files.items() if name != 'dev_ids.tsv'}
    status, error, left = fetch('MRPC')
    assert (status, left) == (2, [f'MRPC.msr_paraphrase_{split}.txt.part' for split in ('test', 'train')])
    assert 'the server answered 404' in error
    server.files['/dev_ids.tsv'] = files['dev_ids.tsv']
    assert fetch('MRPC') == (0, '', ['MRPC'])
    assert {path.name: path.read_bytes() for path in (tmp_path / 'datasets' / 'MRPC').iterdir()} == files


MODEL = {'vocab.txt': b'[PAD]', 'm.ckpt.index': b'i', 'm.ckpt.data-00000-of-00002': b'0',
         'm.ckpt.data-00001-of-00002': b'1', 'm.ckpt.meta': b'graph', 'checkpoint': b'm.ckpt'}
KEPT = {name: content for name, content in MODEL.items() if name not in ('m.ckpt.meta', 'checkpoint')}
CONFIG = {'bert_config.json': b'{}'}


def without(name, members):
    return {other: content for other, content in members.items() if other != name}


@pytest.mark.parametrize('model, members, kept', [
    ('bert-tiny', MODEL | CONFIG, KEPT | CONFIG),                                                   # BERT 2020
    ('bert-tiny', {f'uncased_L-2/{name}': text for name, text in (MODEL | CONFIG).items()}, KEPT | CONFIG),     # 2018
    ('electra-small', {f'electra_small/{name}': text for name, text in MODEL.items()}, KEPT),
    ('bert-tiny', MODEL, '*config*.json'),
    ('bert-tiny', without('vocab.txt', MODEL | CONFIG), 'vocab.txt is missing'),
    ('bert-tiny', without('m.ckpt.index', MODEL | CONFIG), '0 checkpoints'),
    ('bert-tiny', MODEL | CONFIG | {'n.index': b''}, '2 checkpoints'),
    ('bert-tiny', without('m.ckpt.data-00001-of-00002', MODEL | CONFIG), 'data files of m.ckpt.index'),
])
def test_models(server, fetch, tmp_path, monkeypatch, model, members, kept):
    recipe = MODELS[model].recipe
    monkeypatch.setitem(MODELS, model, Model(recipe, f'{server.url}/m.zip'))
    server.files['/m.zip'] = make_zip(**members)
    status, error, left = fetch(model)
    if isinstance(kept, str):
        assert (status, left) == (2, [])
        assert kept in error
    else:
        assert (status, error, left) == (0, '', [model])
        assert {path.name: path.read_bytes() for path in (tmp_path / 'pretrained' / model).iterdir()} == kept


@pytest.fixture
def hub(server, monkeypatch):
    """The hub is on the server, and on it owner/tiny, a model by the name `tiny`. The folder's address."""
    monkeypatch.setattr(models, 'HUB_URL', server.url)
    monkeypatch.setitem(MODELS, 'tiny', Model('bert-small', hub='owner/tiny', revision='refs/pr/2'))
    return '/owner/tiny/resolve/refs%2Fpr%2F2'


def test_a_model_of_the_hub(server, hub, fetch, tmp_path, monkeypatch):
    from engine.model import checkpoints
    source = write_hugging_face(tmp_path / 'source', random_variables('bert', SIZES), SIZES, 'bert')
    files = {path.name: path.read_bytes() for path in source.iterdir()}
    server.files = {f'{hub}/{name}': f'/store/{name}' for name in files} \
        | {f'/store/{name}': content for name, content in files.items()}
    server.cuts['/store/model.safetensors'] = 100_000      # the range goes with the redirection
    monkeypatch.setattr(checkpoints, 'download', lambda *arguments: download.main(arguments))
    checkpoint = checkpoints.open_model('tiny', str(tmp_path / 'pretrained'))
    folder = tmp_path / 'pretrained' / 'tiny'
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files
    assert (checkpoint.folder, checkpoint.family) == (folder, 'bert')
    assert [path for path, wanted in server.seen if wanted] == [f'{hub}/model.safetensors', '/store/model.safetensors']
    seen = len(server.seen)
    assert fetch('tiny')[::2] == (0, ['tiny'])
    assert len(server.seen) == seen


@pytest.mark.parametrize('files, messages', [
    ({'config.json': b'{}', 'vocab.txt': b'[PAD]'}, ['holds no model.safetensors', '--model FOLDER']),
    ({'config.json': b'{}', 'vocab.txt': b'[PAD]', 'model.safetensors': b'cut off'}, ['model.safetensors is damaged']),
    (dict.fromkeys(download.HUB_FILES, b'<html>Please log in</html>'), ['config.json is damaged', 'login page']),
    ({}, ['the server answered 404']),
])
def test_a_wrong_repository_leaves_nothing(server, hub, fetch, tmp_path, files, messages):
    server.files = {f'{hub}/{name}': content for name, content in files.items()}
    status, error, left = fetch('tiny')
    assert (status, left) == (2, [])
    for text in (*messages, f'{server.url}{hub}/vocab.txt', f'-> {tmp_path / "pretrained" / "tiny" / "vocab.txt"}'):
        assert text in error


def test_names(fetch, monkeypatch, capsys):
    installed = []
    monkeypatch.setattr(download, 'install', lambda name, root: installed.append((name, root.name)))
    assert fetch('sst2', 'STS-B', 'stsb', 'ax', 'Electra-Small')[0] == 0
    assert installed == [('SST-2', 'datasets'), ('STS-B', 'datasets'), ('diagnostic', 'datasets'),
                         ('electra-small', 'pretrained')]
    installed.clear()
    assert fetch('all')[0] == 0
    assert [name for name, _ in installed] == list(FOLDERS)
    installed.clear()
    assert fetch('tinybert-4l', 'bert-base-chinese')[0] == 0
    assert installed == [('tinybert-4l', 'pretrained'), ('bert-base-chinese', 'pretrained')]
    assert [url for url, _, _ in download.sources('tinybert-4l')] == [
        f'https://huggingface.co/huawei-noah/TinyBERT_General_4L_312D/resolve/refs%2Fpr%2F2/{name}'
        for name in ('config.json', 'vocab.txt', 'model.safetensors')]
    installed.clear()
    assert download.main(['minilm']) == 0
    assert 'needs no download' in capsys.readouterr().out
    for names, message in (([], 'usage: '), (['CoLa', 'electra-smal'], 'did you mean electra-small?')):
        with pytest.raises(SystemExit) as stop:
            download.main(names)
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
    assert installed == []


def test_the_tools_answer_without_tensorflow():
    program = 'import sys, tools.download, tools.submission; sys.exit("tensorflow" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', program], cwd=config.ROOT).returncode == 0

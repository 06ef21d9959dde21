"""Fetch GLUE, the data of other scripts, and pre-trained models.

    uv run -m tools.download CoLA RTE electra-small     # what you name, in any order
    uv run -m tools.download all bert-base-uncased      # all: the ten folders of GLUE, the diagnostic set among them
    uv run -m tools.download IMDB TREC Yahoo            # for documents/
    uv run -m tools.download ChnSentiCorp XNLI          # for chinese/
    uv run -m tools.download SQuAD CMRC2018 DRCD        # for reading/
    uv run -m tools.download WNUT17 MSRA PeopleDaily    # for tagging/

The scripts call it at first use. A folder appears whole and checked or not at all, and one that is there is left alone.
A broken transfer goes on where it stopped. The addresses are in config.py, in the tables of tasks, models and sources.
"""

import argparse
import contextlib
import csv
import difflib
import errno
import glob
import json
import os
import re
import shutil
import stat
import sys
import time
import zipfile
import zlib
from pathlib import Path
from urllib.parse import quote, urlsplit

import filelock
import pooch
import requests
import safetensors

import config
from engine.catalog import models
from engine.catalog.datasets import AVAILABLE_ON_REQUEST, AX, FOLDERS, SOURCES, TASKS, Download
from engine.catalog.models import MODELS
from engine.console import progress_bar
from engine.files import ARCHIVE_ERRORS, atomic_folder, open_tar_gz

TIMEOUT = (10, 20)              # seconds: for a connection (to each address of a host), for the next bytes
RETRIES, RETRY_WAIT = 3, 1.0    # a transfer that broke off is continued this often, after 1, 2 and 3 seconds
CHUNK = 1 << 16                 # bytes; at most this much is lost when a transfer breaks off
LARGEST = 20 * 10**9            # bytes an archive may unpack to; BERT-large has 1.3e9
LARGEST_RATIO = 1000            # ... and as a multiple of its own size

HUB_FILES = ('config.json', 'vocab.txt', 'model.safetensors')
MODEL_FILE = r'vocab\.txt|\w[\w.-]*\.index|\w[\w.-]*\.data-\d{5}-of-\d{5}|(\w[\w.-]*)?config[\w.-]*\.json'


ANOTHER_SERVER = 'Does a proxy or a login page answer instead of the server?'


class Wrong(Exception):
    """A file arrived, but it is not what it should be. The message says which and why."""


# ---- Transfer --------------------------------------------------------------------------------------------------------


def retrieve(url, sha256, path, part):
    """Fetch url to `path` with pooch; what has arrived of it waits in `part`, also for the next run.

    Raises Wrong for another sha256 than the given one ('': none is known) and for a repository without safetensors,
    requests.RequestException for the network.
    """
    def downloader(url, output, _):
        transfer(url, part)
        part.replace(output)

    pooch.get_logger().setLevel('WARNING')
    try:
        pooch.retrieve(url, sha256 or None, path.name, path.parent, downloader=downloader)
    except requests.RequestException as error:
        if path.name == 'model.safetensors' and error.response is not None and error.response.status_code == 404:
            repository = url.removeprefix(f'{models.HUB_URL}/').split('/resolve/')[0]
            raise Wrong(f'the repository holds no model.safetensors ({url}), and nothing else is read. Convert it '
                        'where transformers and PyTorch are installed, and --model FOLDER takes it: python -c "from '
                        f"transformers import AutoModel, BertTokenizer; name = '{repository}'; "
                        "AutoModel.from_pretrained(name).save_pretrained('FOLDER'); "
                        "BertTokenizer.from_pretrained(name).save_pretrained('FOLDER')\"") from error
        raise
    except ValueError as error:     # pooch's word for another hash
        raise Wrong(f'{url} is not the published file: its sha256 is not {sha256}') from error


def transfer(url, part):
    """Fetch url into the file `part`, going on from its end. Raises requests.RequestException."""
    for attempt in range(1, RETRIES + 2):
        # A request that gets no answer is not repeated: a closed network should say so soon.
        with request(url, part) as response:
            if response is None:
                return
            try:
                receive(response, part)
                return
            except requests.RequestException:
                if attempt > RETRIES:
                    raise
        print(f'{url} broke off; going on from {size(part):,} bytes', flush=True)
        time.sleep(attempt * RETRY_WAIT)


def request(url, part):
    """The response that holds the rest of the file, or all of it; a null context where `part` has it all.

    A server that does not answer for just this rest (416, or 206 with another range) loses `part`.
    """
    start = size(part)
    headers = {'Accept-Encoding': 'identity'}
    if start:
        headers['Range'] = f'bytes={start}-'
    response = requests.get(url, headers=headers, stream=True, timeout=TIMEOUT)
    content_range = response.headers.get('Content-Range', '')
    refused = response.status_code == 416
    if start and (refused or response.status_code == 206 and not content_range.startswith(f'bytes {start}-')):
        response.close()
        if refused and content_range == f'bytes */{start}':
            return contextlib.nullcontext()
        part.unlink()
        return request(url, part)
    response.raise_for_status()
    return response


def receive(response, part):
    """Write the body of a response to `part`: to its end for 206, else from its beginning."""
    start = size(part) if response.status_code == 206 else 0
    length = response.headers.get('Content-Length')
    total = start + int(length) if length else None
    with part.open('ab' if start else 'wb') as file, \
            contextlib.closing(progress_bar(total, part.stem, 'B', start)) as bar:
        for chunk in response.iter_content(CHUNK):
            file.write(chunk)
            bar.update(len(chunk))
    if total is not None and size(part) != total:
        raise requests.ConnectionError(f'{size(part)} bytes arrived instead of {total}')


def size(path):
    return path.stat().st_size if path.is_file() else 0


# ---- Archives and checks ---------------------------------------------------------------------------------------------


def unpack(archive, folder, wanted):
    """Unpack the members whose file name matches the pattern `wanted` into `folder`, without their own folder.

    They lie at the archive's root or up to two folders down (not in original/). zipfile checks their CRC. Raises Wrong.
    """
    try:
        with zipfile.ZipFile(archive) as file:
            chosen = {}
            for member in file.infolist():
                *folders, name = member.filename.replace('\\', '/').split('/')
                if '..' in [*folders, name] or folders[:1] == [''] or ':' in member.filename \
                        or stat.S_ISLNK(member.external_attr >> 16):
                    raise Wrong(f'the member {member.filename!r} of {archive.name} points out of the archive')
                if len(folders) <= 2 and 'original' not in folders and re.fullmatch(wanted, name, re.ASCII):
                    if name in chosen:
                        raise Wrong(f'{archive.name} holds two files {name}')
                    chosen[name] = member
            total = sum(member.file_size for member in file.infolist())
            if total > min(LARGEST, LARGEST_RATIO * size(archive)):
                raise Wrong(f'{archive.name}, {size(archive):,} bytes, would unpack to {total:,} bytes')
            for name, member in chosen.items():
                with file.open(member) as source, (folder / name).open('xb') as target:
                    shutil.copyfileobj(source, target, CHUNK)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:      # not of a wrong place in the archive
            raise
        raise Wrong(f'{archive.name} is no intact zip archive ({error}). {ANOTHER_SERVER}') from error


def unpack_tar(archive, folder, wanted):
    """unpack() for a .tar.gz."""
    try:
        with open_tar_gz(archive) as file:
            for member in file:
                name = member.name.split('/')[-1]
                if member.isfile() and re.fullmatch(wanted, name, re.ASCII):
                    if member.size > min(LARGEST, LARGEST_RATIO * size(archive)):
                        raise Wrong(f'{name} of {archive.name} would have {member.size:,} bytes')
                    with file.extractfile(member) as source, (folder / name).open('xb') as target:
                        shutil.copyfileobj(source, target, CHUNK)
    except FileExistsError as error:
        raise Wrong(f'{archive.name} holds two files {Path(error.filename).name}') from error
    except ARCHIVE_ERRORS as error:
        raise Wrong(f'{archive.name} is no intact archive ({error}). {ANOTHER_SERVER}') from error


def data_files(name):
    """The names of the files that the downloads of a data folder hold."""
    if name in SOURCES:
        return SOURCES[name].rows
    task = FOLDERS[name]
    return task.raw_files or task.files


def check_source(name, folder):
    """That the files of one of config.SOURCES hold as many texts as they should; a line about them. Raises Wrong."""
    for file, expected in SOURCES[name].rows.items():
        if not (folder / file).is_file():
            raise Wrong(f'{file} is missing')
        try:
            rows = count_texts(folder / file)
        except (*ARCHIVE_ERRORS, csv.Error, ValueError, LookupError, TypeError) as error:
            raise Wrong(f'{file} is damaged or another file ({error}). {ANOTHER_SERVER}') from error
        if rows != expected:
            raise Wrong(f'{file} has {rows} texts instead of {expected}')
    return 'texts as published: ' + ', '.join(f'{file} {rows}' for file, rows in SOURCES[name].rows.items())


def count_texts(path):
    """The texts in a file: the .txt of an archive whose names are numbers, the rows of a .csv, those of a .tsv below
    its header, the sentences of a file of a word a line, the questions of a .json, or the lines."""
    if path.name.endswith('.tar.gz'):
        with open_tar_gz(path) as archive:
            return sum(member.isfile() and bool(re.search(r'/\d+_\d+\.txt$', member.name)) for member in archive)
    if path.suffix == '.csv':
        with open(path, encoding='utf-8', newline='') as file:
            return sum(1 for _ in csv.reader(file))
    if path.suffix in ('.conll', '.annotated', '.train', '.dev', '.test', '.txt'):
        is_word = [bool(line.strip()) for line in path.read_bytes().split(b'\n')]
        return sum(here and not before for before, here in zip([False, *is_word], is_word, strict=False))
    if path.suffix == '.json':
        articles = json.loads(path.read_bytes())['data']
        return sum(len(paragraph['qas']) for article in articles for paragraph in article['paragraphs'])
    lines = path.read_bytes().rstrip(b'\r\n').count(b'\n') + 1
    return lines - 1 if path.suffix == '.tsv' else lines


def check_data(name, folder):
    """That the files of a GLUE folder have their official rows and columns; a line about them. Raises Wrong."""
    files = data_files(name)
    for file, published in files.items():
        if not (folder / file).is_file():
            raise Wrong(f'{file} is missing')
        lines = (folder / file).read_bytes().rstrip(b'\r\n').split(b'\n')
        for number, line in enumerate(lines, 1):
            columns = line.count(b'\t') + 1
            if columns != len(published.columns):
                raise Wrong(f'{file}, line {number}: {columns} columns instead of {len(published.columns)}')
        rows = len(lines) - 1 if published.header else len(lines)
        if rows != published.rows:
            raise Wrong(f'{file} has {rows} rows instead of {published.rows}')
    return 'rows as published: ' + ', '.join(f'{file} {published.rows}' for file, published in files.items())


def check_model(model, folder):
    """That a folder holds vocabulary, one checkpoint and configuration; a line about them. Raises Wrong."""
    names = sorted(path.name for path in folder.iterdir())
    if 'vocab.txt' not in names:
        raise Wrong('vocab.txt is missing')
    checkpoints = [name for name in names if name.endswith('.index') or name == 'model.safetensors']
    if len(checkpoints) != 1:
        raise Wrong(f'{len(checkpoints)} checkpoints (*.index or model.safetensors) instead of one')
    if checkpoints[0] == 'model.safetensors':
        check_hub_files(folder)
    else:
        stem = checkpoints[0].removesuffix('.index')
        data = [name for name in names if name.startswith(f'{stem}.data-')]
        count = int(data[0][-5:]) if data else 1
        if data != [f'{stem}.data-{i:05}-of-{count:05}' for i in range(count)]:
            raise Wrong(f'data files of {checkpoints[0]} are missing')
    # ELECTRA's archives carry none: the sizes are read off the checkpoint.
    if not MODELS[model].recipe.startswith('electra') and not any(name.endswith('.json') for name in names):
        raise Wrong('the configuration (*config*.json) is missing')
    return ', '.join(names)


def check_hub_files(folder):
    """That these are what their names say: no archive has checked them, and most have no published hash."""
    try:
        name = 'config.json'
        json.loads((folder / name).read_bytes())
        name = 'model.safetensors'
        with safetensors.safe_open(folder / name, 'np'):      # compares the file's size with its own table of contents
            pass
    except (ValueError, safetensors.SafetensorError) as error:
        raise Wrong(f'{name} is damaged or another file ({error}). {ANOTHER_SERVER}') from error


# ---- Folders ---------------------------------------------------------------------------------------------------------


def is_data(name):
    """Whether this is the name of a data folder, not that of a model."""
    return name in FOLDERS or name in SOURCES


def sources(name):
    """The config.Downloads of a data folder or a model."""
    if is_data(name):
        return (FOLDERS | SOURCES)[name].downloads
    model = MODELS[name]
    if not model.hub:
        return [Download(model.url, model.sha256)]
    folder = f'{models.HUB_URL}/{model.hub}/resolve/{quote(model.revision, safe="")}'
    return [Download(f'{folder}/{file}', model.sha256 if file == 'model.safetensors' else '', file)
            for file in HUB_FILES]


def part_file(root, name, file):
    """Where a file waits until all of it is there: datasets/CoLA.zip.part, datasets/MRPC.dev_ids.tsv.part."""
    return root / f'{name}.{file or "zip"}.part'


def install(name, root):
    """Fetch, unpack and check root/name. Raises Wrong, requests.RequestException, OSError; then it is not there."""
    target = root / name
    root.mkdir(parents=True, exist_ok=True)
    with alone_in(root):
        if os.path.lexists(target):
            print(f'{target} is there already and is left as it is.')
            return
        for left in root.glob(f'.{glob.escape(name)}.*'):       # of a run that was killed
            shutil.rmtree(left, ignore_errors=True)
        with atomic_folder(target) as folder:
            said = fill(name, folder, root)
    print(f'{target}: {said}')


def fill(name, folder, root):
    """Fetch what belongs into `folder`, unpack and check it; a line about it. Archives to be unpacked are kept beside
    `folder`."""
    arrived = {}
    try:
        for number, (url, sha256, file) in enumerate(sources(name)):
            print(f'{name}: fetching {url}', flush=True)
            path = folder / file if file else folder.with_name(f'{name}.{number}.zip')
            part = part_file(root, name, file or (f'{number}.zip' if number else ''))
            retrieve(url, sha256, path, part)
            arrived[path] = part
            if not file:
                wanted = '|'.join(map(re.escape, data_files(name))) if is_data(name) else MODEL_FILE
                (unpack_tar if url.endswith('.tgz') else unpack)(path, folder, wanted)
        if name in SOURCES:
            return check_source(name, folder)
        return check_data(name, folder) if name in FOLDERS else check_model(name, folder)
    except Wrong:
        raise
    except BaseException:       # the network, the disk, Ctrl-C: what has arrived whole is not fetched twice
        for path, part in arrived.items():
            path.replace(part)
        raise


@contextlib.contextmanager
def alone_in(root):
    """Wait until no other download into this folder runs, as when several seeds start at once.

    Where the system or the file system has no such locks nothing is waited for.
    """
    lock = filelock.FileLock(root / '.download.lock')
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        print(f'waiting for another download into {root}', flush=True)
        lock.acquire()
    except (NotImplementedError, OSError):
        pass
    try:
        yield
    finally:
        lock.release()


# ---- Command line ----------------------------------------------------------------------------------------------------


def find_names(parser, given):
    """The data folders and models that the arguments name, each once. Exits with status 2 on an unknown one."""
    known = {'ax': AX.folder} | {task.script.lower(): task.folder for task in TASKS.values()}
    known |= {name.lower(): name for name in (*FOLDERS, *SOURCES, *MODELS)}
    on_application = {name.lower(): name for name in AVAILABLE_ON_REQUEST}
    names, unknown = [], []
    for name in given:
        if name.lower() == 'all':
            names += FOLDERS
        elif name.lower() in on_application:
            name = on_application[name.lower()]
            parser.error(f'{name} is given on application only: {AVAILABLE_ON_REQUEST[name]}. Put its files into the '
                         f'folder {name} of your data.')
        elif name.lower() in known:
            names.append(known[name.lower()])
        else:
            close = difflib.get_close_matches(name.lower(), [*known, 'all'], 1)
            unknown.append(f'{name!r}' + (f' (did you mean {known.get(close[0], close[0])}?)' if close else ''))
    if unknown:
        parser.error(f'unknown: {", ".join(unknown)}. GLUE: all, {", ".join(FOLDERS)}. '
                     f'Other data: {", ".join(SOURCES)}. Models: {", ".join(MODELS)}')
    return list(dict.fromkeys(names))


def reason(error):
    """In a few words why a file could not be fetched."""
    if isinstance(error, Wrong):
        return str(error)
    if isinstance(error, requests.HTTPError):
        return f'the server answered {error.response.status_code} {error.response.reason}'
    if isinstance(error, requests.Timeout):
        return f'no answer within {TIMEOUT[0] if isinstance(error, requests.ConnectTimeout) else TIMEOUT[1]} seconds'
    if isinstance(error, OSError) and error.filename:
        return f'{error.filename}: {error.strerror}'
    while error.__cause__ or error.__context__:     # under requests and urllib3 lies what the system said
        error = error.__cause__ or error.__context__
    return getattr(error, 'strerror', None) or str(error) or type(error).__name__


def report(error, missing):
    """Why it failed, and all that is needed to fetch the rest by hand. `missing`: {name: root}."""
    where = f' ({urlsplit(error.request.url).hostname})' if getattr(error, 'request', None) is not None else ''
    lines = [f'error: {next(iter(missing))} could not be fetched: {reason(error)}{where}.',
             'To fetch by hand, for example on another computer:']
    for name, root in missing.items():
        files = 'vocab.txt, *.index, *.data-* and *config*.json'
        if is_data(name):
            files = ', '.join(data_files(name))
        folder = (root / name).resolve()
        for url, _, file in sources(name):
            lines += [f'  {url}', f'    -> {folder / file}' if file else f'    -> {folder}: {files} of this archive']
    parts = [part for name, root in missing.items() for _, _, file in sources(name)
             if size(part := part_file(root, name, file))]
    lines += [f'{size(part):,} bytes wait in {part}: the same command goes on from there.' for part in parts]
    lines.append('Neither needs a download: --demo, which brings a small data set, and --model minilm, whose weights '
                 'were installed with the project.')
    return '\n'.join(lines)


def main(argv=None):
    """The command line. Returns 0, 2 where something could not be fetched, 130 on Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog='python -m tools.download', description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f'GLUE: all, {", ".join(FOLDERS)}\nother data: {", ".join(SOURCES)}\n'
               f'models: {", ".join(MODELS)}')
    parser.add_argument('names', nargs='*', metavar='NAME', help='a data folder, "all" of GLUE, or a model (below)')
    parser.add_argument('--data-dir', type=Path, default=config.Knobs.data_dir, help='for data (%(default)s)')
    parser.add_argument('--model-dir', type=Path, default=config.Knobs.model_dir, help='for models (%(default)s)')
    args = parser.parse_intermixed_args(argv)
    if not args.names:
        parser.error('name what to fetch, for example CoLA, electra-small or all')
    missing = {}
    for name in find_names(parser, args.names):
        if is_data(name):
            missing[name] = args.data_dir
        elif not MODELS[name].package:
            missing[name] = args.model_dir
        else:
            print(f'{name} needs no download: its weights were installed with the project '
                  f'(package {MODELS[name].package}).')
    try:
        for name, root in list(missing.items()):
            install(name, root)
            del missing[name]
    except KeyboardInterrupt:
        print('interrupted; the same command goes on from here', file=sys.stderr)
        return 130
    except (Wrong, OSError) as error:       # requests' errors are OSErrors
        print(report(error, missing), file=sys.stderr)
        for root in set(missing.values()):
            with contextlib.suppress(OSError):
                root.rmdir()            # where nothing else is in it
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())

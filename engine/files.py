"""Files are read with messages that name the line, and written whole or not at all."""

import contextlib
import csv
import glob
import gzip
import json
import math
import os
import sys
import tarfile
import tempfile
import time
import zlib
from pathlib import Path

STALE_SECONDS = 600     # seconds without a change after which a half-written file is nobody's


class UserError(Exception):
    """Something the user can mend. The message says what, where and how; the program ends with `status`."""
    status = 2


class Diverged(UserError):
    """Training has failed: its numbers are not finite."""
    status = 3


def first_line(error):
    """Of an error of any type, its message in one line."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def exit_status(work, *args):
    """The exit status of a program: what work(*args) returns, None being 0; where it raised a UserError or an OSError,
    which is said in one line, that one's, or 2; 141 where nobody reads what it prints."""
    for name in ('stdout', 'stderr'):       # closed, as by >&-
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, 'w'))       # noqa: SIM115
    try:
        status = work(*args) or 0
        sys.stdout.flush()
        return status
    except UserError as error:
        print(f'error: {error}', file=sys.stderr)
        return error.status
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:        # a read-only folder, a file where a folder should be, a full disk
        print(f'error: {error.filename or "standard output, or a file"}: {error.strerror or error}.', file=sys.stderr)
        return 2


def read_lines(path, file=None):
    """The lines of a UTF-8 file, without line ends, and without a BOM and blank lines at the end.

    `file`: what to read instead, in bytes; `path` is then only a name for messages.
    """
    return list(iterate_lines(path, file))


def iterate_lines(path, file=None):
    """read_lines() one by one: a training file may have hundreds of megabytes."""
    number, blank = 0, []       # blank lines that are at the end unless another one follows
    try:
        # Lines end at \n, not at U+2028 and other characters of the text.
        with open(path, 'rb') if file is None else contextlib.nullcontext(file) as file:
            for number, data in enumerate(file, 1):
                line = data.decode('utf-8-sig' if number == 1 else 'utf-8').removesuffix('\n')
                blank.append(line.removesuffix('\r'))
                if line.strip('\r'):
                    yield from blank
                    blank.clear()
    except OSError as error:
        raise UserError(f'{path}: {error.strerror}.') from error
    except UnicodeDecodeError as error:
        raise UserError(f'{path}, line {number}: byte 0x{error.object[error.start]:02x} is not UTF-8. Convert the file '
                        f'to UTF-8 (iconv -f latin1 -t utf-8).') from error
    if number == len(blank):
        raise UserError(f'{path}: the file is empty.')


def read_csv(path):
    """(number of its first line, cells) of every row of a file with commas and quotes, blank lines passed over. Raises
    UserError."""
    line = 1
    try:
        with open(path, encoding='utf-8-sig', newline='') as file:
            rows = csv.reader(file, strict=True)
            for row in rows:
                if row:
                    yield line, row
                line = rows.line_num + 1
    except OSError as error:
        raise UserError(f'{path}: {error.strerror}.') from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f'{path}, line {line}: {error}.') from error


def read_json(path):
    """The object in a JSON file, as a dict. Raises UserError."""
    settings = read_json_value(path)
    if not isinstance(settings, dict):
        raise UserError(f'{path}: a JSON object is expected.')
    return settings


def read_json_value(path):
    """What a JSON file holds, an object, a list or a value. Raises UserError."""
    try:
        return json.loads('\n'.join(read_lines(path)))
    except json.JSONDecodeError as error:
        raise UserError(f'{path}, line {error.lineno}: not valid JSON: {error.msg}.') from error
    except (RecursionError, ValueError) as error:       # nested too deeply, a number of too many digits
        raise UserError(f'{path}: not read: {error}.') from error


ARCHIVE_ERRORS = tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError      # raised by open_tar_gz()


@contextlib.contextmanager
def open_tar_gz(path):
    """A .tar.gz as a TarFile to be read from its beginning to its end, where its checksum is verified: tarfile alone
    takes a damaged one for a shorter one."""
    with gzip.open(path) as unpacked, tarfile.open(fileobj=unpacked, mode='r|') as archive:
        yield archive
        while unpacked.read(1 << 20):
            pass


@contextlib.contextmanager
def atomic_write(path):
    """The name of a new file, which takes the place of `path` at the end: that is there whole or not at all, and an
    earlier one stays until then. Raises UserError."""
    beside = path.with_name(f'.{path.name}.{os.getpid()}')
    try:
        yield beside
        beside.replace(path)
    except OSError as error:
        earlier = ' An earlier one is as it was.' if path.is_file() else ''
        raise UserError(f'{path}: cannot be written: {error.strerror or error}.{earlier}') from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        remove_stale(path.parent, f'.{glob.escape(path.name)}.[0-9]*')


@contextlib.contextmanager
def atomic_folder(target, fresh=False):
    """A new folder, which becomes `target` at the end: that is there whole or not at all. With `fresh` it may be there
    before, and stays until then. What lies beside the new folder, in its parent, is deleted at the end."""
    target = target.absolute()
    root = next(folder for folder in target.parents if folder.is_dir())
    with tempfile.TemporaryDirectory(prefix=f'.{target.name}.', dir=root) as work:
        new = Path(work) / 'new'
        new.mkdir()
        yield new
        target.parent.mkdir(parents=True, exist_ok=True)
        if fresh and target.exists():
            target.rename(Path(work) / 'old')
        new.rename(target)


def remove_stale(folder, pattern, seconds=STALE_SECONDS):
    """Delete what is left of programs that were killed while they wrote."""
    for path in folder.glob(pattern):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > seconds:
                path.unlink()


def fsync(path):
    """Wait until this, if it is a file, is on the disk, as it must be when the power fails."""
    if path.is_file():
        with open(path, 'rb+') as file:
            os.fsync(file.fileno())


def write_file(path, content):
    """Write text or bytes, whole or not at all."""
    with atomic_write(path) as beside:
        beside.write_bytes(content.encode() if isinstance(content, str) else content)


def write_json(path, content):
    """Write `content` as strict JSON: a number that is not defined (nan) becomes null."""
    def strict(value):
        if isinstance(value, dict):
            return {key: strict(item) for key, item in value.items()}
        if isinstance(value, list):
            return [strict(item) for item in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value
    write_file(path, json.dumps(strict(content), indent=2, allow_nan=False) + '\n')



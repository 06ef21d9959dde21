"""Check the files of a GLUE submission and pack them for the leaderboard.

    uv run -m tools.submission                          # results/ -> submission.zip
    uv run -m tools.submission FOLDER --output my.zip   # anybody's folder of TSV files
    uv run -m tools.submission --allow-missing          # a constant answer in place of a file that is not there

One line for each file. The zip is written only if all are right; exit status 0, else 2.
"""

import argparse
import io
import os
import re
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple

from engine.catalog.datasets import FOLDERS
from engine.files import UserError, exit_status, write_file


class File(NamedTuple):
    rows: int           # of the official test file
    labels: tuple       # the answers that the server takes; none: a number within [0, 5]
    majority: str       # the most frequent answer of the training set, for --allow-missing
    script: str         # writes it


FILES = {name: File(task.files[test_file].rows, task.labels, task.majority, f'{task.script}.py')
         for task in FOLDERS.values() for name, test_file in task.submission.items()}
HEADER = 'index\tprediction'
SHOWN = 3       # problems of a file that are spelled out


def find_problems(data, file):
    """What is wrong with the content of a file (bytes), as short texts, the number of rows first."""
    problems = []
    if data.startswith(b'\xef\xbb\xbf'):
        problems.append('line 1: begins with a byte order mark (BOM)')
        data = data[3:]
    if b'\r' in data:
        problems.append(f'line {data.count(10, 0, data.index(13)) + 1}: a carriage return; lines must end with \\n, '
                        'not with \\r\\n')
        data = data.replace(b'\r\n', b'\n').replace(b'\r', b'\n')
    try:
        lines = data.decode('utf-8').split('\n')
    except UnicodeDecodeError as error:
        return [*problems, f'line {data.count(10, 0, error.start) + 1}: byte 0x{data[error.start]:02x} is not UTF-8']
    if not lines[-1]:
        lines.pop()             # what follows the last line end
    if not lines:
        return [*problems, 'the file is empty']
    first = 1
    if lines[0] != HEADER:
        problems.append(f'line 1: header {shorten(lines[0])} instead of {HEADER!r}')
        first = 0 if re.match(r'\d+\t', lines[0]) else 1        # no header at all: a row
    rows = expected = 0
    for number, line in enumerate(lines[first:], first + 1):
        if not line.strip():
            problems.append(f'line {number}: blank')
            continue
        rows += 1
        index, *answers = line.split('\t')
        if len(answers) != 1:
            problems.append(f'line {number}: {len(answers) + 1} columns instead of 2')
        elif problem := find_problem(answers[0], file.labels):
            problems.append(f'line {number}: {problem}')
        if index != str(expected):
            problems.append(f'line {number}: index {shorten(index)} instead of {expected}')
        # Counting goes on from the index that is there: one row too few is one problem, not a thousand.
        expected = int(index) + 1 if re.fullmatch('[0-9]{1,9}', index) else expected + 1
    if rows != file.rows:
        problems.insert(0, f'{rows} rows instead of {file.rows}')
    return problems


def find_problem(answer, labels):
    """What is wrong with one answer, or None."""
    if labels:
        return None if answer in labels else f'{shorten(answer)} is none of {", ".join(labels)}'
    # float() also takes nan, 1_0 and blanks around it, which the server need not.
    if not re.fullmatch(r'[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?', answer):
        return f'{shorten(answer)} is not a finite number'
    return None if 0 <= float(answer) <= 5 else f'{shorten(answer)} is not within [0, 5]'


def shorten(text):
    return ascii(text if len(text) <= 40 else f'{text[:37]}...')


def constant(file):
    """The content of a file that gives the same answer everywhere."""
    return ''.join(f'{line}\n' for line in [HEADER, *(f'{index}\t{file.majority}' for index in range(file.rows))])


def collect(folder, allow_missing):
    """({name: bytes} for the zip, how many of them are constants, how many files are wrong); says a line about each."""
    contents, filled, wrong = {}, 0, 0
    for name, file in FILES.items():
        path, problems = folder / name, []
        if os.path.lexists(path):
            try:
                contents[name] = path.read_bytes()
                problems = find_problems(contents[name], file)
            except OSError as error:
                problems = [f'cannot be read: {error.strerror}']
            said = f'ok, {file.rows} rows'
        elif allow_missing:
            contents[name] = constant(file).encode()
            filled += 1
            said = f'missing; the zip has {file.majority} in all {file.rows} rows'
        else:
            problems = [f'missing ({file.script} writes it)']
        if problems:
            more = f'; and {len(problems) - SHOWN} more' if len(problems) > SHOWN else ''
            said = '; '.join(problems[:SHOWN]) + more
            wrong += 1
        print(f'{name}: {said}')
    return contents, filled, wrong


def pack(contents, output):
    """Write the zip whole or not at all; the same contents give the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w', zipfile.ZIP_DEFLATED) as file:
        for name, content in contents.items():
            member = zipfile.ZipInfo(name)      # dated 1980
            member.compress_type, member.create_system, member.external_attr = zipfile.ZIP_DEFLATED, 3, 0o644 << 16
            file.writestr(member, content)
    write_file(output, buffer.getvalue())


def main(argv=None):
    """The command line. Returns 0 when the zip is written, else 2."""
    parser = argparse.ArgumentParser(prog='python -m tools.submission', description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', nargs='?', type=Path, default='results', help='of the TSV files (%(default)s)')
    parser.add_argument('--output', type=Path, default='submission.zip', help='the zip (%(default)s)')
    parser.add_argument('--allow-missing', action='store_true',
                        help='fill files that are missing with the most frequent answer of the training set')
    return exit_status(run, parser.parse_args(argv))


def run(args):
    if not args.folder.is_dir():
        raise UserError(f'{args.folder}: no such folder. The scripts write their test predictions to results/; '
                        'name another folder as the first argument.')
    if not any(os.path.lexists(args.folder / name) for name in FILES):
        raise UserError(f'{args.folder}: none of the {len(FILES)} files is in this folder: {", ".join(FILES)}.')
    contents, filled, wrong = collect(args.folder, args.allow_missing)
    if wrong:
        old = f' {args.output} is an older one.' if args.output.exists() else ''
        raise UserError(f'{wrong} of {len(FILES)} files are not right: no zip was written.{old}')
    pack(contents, args.output)
    constants = f', {filled} of them constant answers' if filled else ''
    print(f'{args.output}: {len(contents)} files{constants}; ready for gluebenchmark.com')


if __name__ == '__main__':
    sys.exit(main())

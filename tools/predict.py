"""Answers of a fine-tuned model for texts of your own.

    uv run -m tools.predict runs/CoLA/bert-base-uncased-seed42 --text 'The boy clean a lamp.'
    uv run -m tools.predict runs/RTE/bert-base-uncased-seed42 --text 'It rains.' --text-b 'It is wet.'
    uv run -m tools.predict runs/RTE/bert-base-uncased-seed42 pairs.tsv > answers.tsv
    uv run -m tools.predict runs/RTE/bert-base-uncased-seed42 dev.tsv --columns sentence1,sentence2 --format json

FOLDER is a run's, or one that tools.export wrote. Without --text, every line of FILE or of standard input is a text, or
two texts with a tab between them where the task takes two. Quotes are text. Blank lines at the end do not count. Words
to be tagged have blanks between them; of a Chinese text every character is a word, with blanks and without.

tsv: a line for each text with the prediction, as the script's answers() writes it, and the probability of every label
where the script's loss says what that is; json: an object a line. Answers go to standard output, everything else to
standard error; exit status 0, or 2 and no answers.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from scipy.special import softmax

import config
import snippets
from engine.arguments import number_in_range
from engine.data.batches import prediction_batches
from engine.data.tokens import build_rows
from engine.data.vocabulary import load_vocabulary
from engine.files import UserError, exit_status, first_line, read_json, read_lines
from engine.runs.layout import tsv_cell
from engine.training.prediction import Predictor, in_file_order
from lab.scripts import inference_settings, load_script, open_run, require_packages
from tools.export import load_export

# ---- Texts -----------------------------------------------------------------------------------------------------------


def read_examples(name, columns, pair):
    """The lines of a file as Examples.

    `columns`: names in its header, or numbers from 0 where it has none; none: the line is the text, or the two texts.
    Raises UserError with the line's number.
    """
    texts = ['text_a', 'text_b'] if pair else ['the text']
    wanted = columns.split(',') if columns else [str(i) for i in range(len(texts))]
    if len(wanted) != len(texts):
        raise UserError(f'--columns {columns}: this model takes {"two texts" if pair else "one text"}.')
    if name == '-':
        name = 'standard input'
        lines = read_lines(name, sys.stdin.buffer)
    else:
        lines = read_lines(name)
    header = [cell.strip() for cell in lines[0].split('\t')]
    width, hint = len(header), ''
    if not columns:
        width, hint = len(texts), f' ({"<TAB>".join(texts)}; --columns chooses from more)'
    if all(column.isdecimal() for column in wanted):
        first, places = 0, [int(column) for column in wanted]
        if max(places) >= len(header) and columns:
            raise UserError(f'{name}, line 1: no column {max(places)}: it has {len(header)}, numbered from 0.')
    else:
        if missing := [column for column in wanted if column not in header]:
            raise UserError(f'{name}, line 1: no column {missing[0]!r} in the header: {", ".join(header)}.')
        first, places = 1, [header.index(column) for column in wanted]
        if len(lines) == 1:
            raise UserError(f'{name}: it has a header and no rows.')
    examples = []
    for number, line in enumerate(lines[first:], first + 1):
        row = line.split('\t')
        if len(row) != width:
            raise UserError(f'{name}, line {number}: {len(row)} columns instead of {width}{hint}.')
        text_b = row[places[1]] if pair else None
        examples.append(snippets.Example(name, number, len(examples), row[places[0]], text_b, None))
    return examples


# ---- Answers ---------------------------------------------------------------------------------------------------------


def open_folder(folder, batch_size=None):
    """(settings, script, predictor) of a run's folder or an exported one: settings_of(), the script, and what predicts:
    a Predictor, or an Exported. Raises UserError."""
    if not folder.is_dir():
        raise UserError(f'{folder}: no such folder.')
    if not (folder / 'export.json').is_file():
        given = {'eval_batch_size': batch_size} if batch_size else {}
        script, knobs, model = open_run(folder, **given)
        if not hasattr(script, 'answers'):
            raise UserError(f'{folder}: a run of {knobs.task}, which has no answers() for texts. To use its model, '
                            'fine-tune it: --model takes this folder.')
        return inference_settings(folder, knobs, model), script, Predictor(knobs, model)
    settings = read_json(folder / 'export.json')
    needed = {'format', 'task', 'labels', 'maxlen', 'cut', 'pair', 'vocab_size', 'token_axis', 'probabilities'}
    if not needed <= set(settings):
        raise UserError(f'{folder / "export.json"}: not written by tools.export, or by an older one. Export it again.')
    if settings['format'] == 'onnx':
        require_packages('onnxruntime')
    try:
        _, run, _ = load_export(folder)
    except Exception as error:      # of many types: ValueError, OSError without a file name, onnxruntime's own
        raise UserError(f'{folder}: the exported model cannot be loaded ({first_line(error)}). Export it '
                        'again.') from error

    return settings, load_script(settings['task']), Exported(run, settings, batch_size or config.Knobs.eval_batch_size)


class Exported:
    """An exported model, which predicts as a Predictor does."""

    def __init__(self, run, settings, batch_size):
        self.run, self.axes, self.batch_size, self.model = run, [settings['token_axis']], batch_size, None

    def predict(self, data):
        """As Predictor.predict()."""
        batches = prediction_batches(data.lengths, self.batch_size)
        return in_file_order(data, ((rows, [self.run(*data.batch(rows))]) for rows in batches), self.axes)


def answer_lines(outputs, answers, settings, form):
    """The lines to print, header included: the answers, and the probability of every label where they are known."""
    if not settings['probabilities']:
        if form == 'tsv':
            return ['prediction', *map(tsv_cell, answers)]
        is_score = not settings['labels'] and isinstance(outputs, np.ndarray) and outputs.shape == (len(answers), 1)
        return [json.dumps({'prediction': float(answer) if is_score else answer}) for answer in answers]
    labels = settings['labels']
    shares = [[f'{share:.6f}' for share in row] for row in softmax(outputs.astype(np.float64), -1)]
    if form == 'tsv':
        rows = [['prediction', *labels], *([answer, *row] for answer, row in zip(answers, shares, strict=True))]
        return ['\t'.join(row) for row in rows]
    return [json.dumps({'prediction': answer, 'probabilities': dict(zip(labels, map(float, row), strict=True))})
            for answer, row in zip(answers, shares, strict=True)]


def predict(args):
    """The lines that the parsed command line asks for. Raises UserError."""
    if args.text is None and args.text_b is not None:
        raise UserError('--text-b: give the first text with --text.')
    if args.text is not None and (args.file or args.columns):
        raise UserError('--text: not together with FILE or --columns.')
    try:
        f'{args.text}{args.text_b}'.encode()
    except UnicodeEncodeError:      # bytes that Python could not decode
        raise UserError('--text: not UTF-8.') from None
    settings, script, predictor = open_folder(args.folder, args.batch_size)
    pair = settings['pair']
    if args.text is None:
        examples = read_examples(args.file or '-', args.columns, pair)
    elif pair != (args.text_b is not None):
        raise UserError('--text-b is missing: this model takes two texts.' if pair else
                        '--text-b: this model takes one text only.')
    else:
        examples = [snippets.Example('--text', 1, 0, args.text, args.text_b, None)]
    examples = [example._replace(text_a=script.knobs.parse_text(example.text_a)) for example in examples]
    vocabulary = load_vocabulary(args.folder, settings['vocab_size'])
    data = build_rows(vocabulary, settings['maxlen'], examples, tuple(settings['labels']), **settings['cut'])
    outputs = script.predict(predictor, data) if hasattr(script, 'predict') else predictor.predict(data)
    return answer_lines(outputs, script.answers(outputs, data), settings, args.format)


def main(argv=None):
    """The command line. Returns 0 when the answers are printed, else 2."""
    parser = argparse.ArgumentParser(prog='python -m tools.predict', description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', type=Path, help='a folder in runs/, or one that tools.export wrote')
    parser.add_argument('file', nargs='?', help='the texts, UTF-8 (standard input)')
    parser.add_argument('--text', metavar='A', help='one text, in place of a file')
    parser.add_argument('--text-b', metavar='B', help='the second text of a pair')
    parser.add_argument('--columns', metavar='A[,B]', help='the columns of the texts: names in the header of FILE, or '
                                                           'numbers from 0 where it has none')
    parser.add_argument('--format', choices=('tsv', 'json'), default='tsv', help='of the answers (%(default)s)')
    parser.add_argument('--batch-size', type=number_in_range(int, 1, 65536), metavar='N',
                        help="texts in a step (the run's eval_batch_size)")
    args = parser.parse_intermixed_args(argv)        # FILE may follow an option
    return exit_status(lambda: print('\n'.join(predict(args))))


if __name__ == '__main__':
    sys.exit(main())

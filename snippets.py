"""What a script uses, in the order in which it uses it: rows of TSV files, tokens, the encoder and a head, training,
prediction, answers. How it works inside is in engine/."""

from pathlib import Path
from typing import NamedTuple

import config
from engine.backend import keras, tf
from engine.cli import launch
from engine.data.targets import MaskedTokens, PerRow, PerToken, ReplacedTokens
from engine.data.tokens import build_rows
from engine.data.vocabulary import MAX_UNKNOWN_SHARE, load_vocabulary, print_once
from engine.data.windows import WindowedTokens
from engine.files import UserError, iterate_lines, read_lines
from engine.model.checkpoints import ModelSpec, download, model_spec, open_model
from engine.model.encoders import MeanPooling, build_encoder, build_fresh_encoder
from engine.model.heads import SampleReplacements, load_mlm_head, mlm_head, rtd_head
from engine.model.layers import Dropout
from engine.runs.folder import write_configuration
from engine.runs.results import report_overlap, write_predictions, write_test_scores
from engine.training.compilation import use_xla
from engine.training.loop import train
from engine.training.optimizers import build_optimizer
from engine.training.prediction import Predictor

__all__ = [
    # Rows, tokens, targets
    'Example', 'data_file', 'load_tsv', 'read_lines', 'splits', 'swap_pairs', 'tokenize',
    'PerRow', 'PerToken', 'MaskedTokens', 'ReplacedTokens',
    # Encoder and heads
    'ModelSpec', 'build_encoder', 'build_fresh_encoder', 'model_spec', 'open_model', 'Dropout', 'MeanPooling',
    'SampleReplacements', 'classifier', 'load_mlm_head', 'mlm_head', 'rtd_head', 'build_optimizer', 'use_xla', 'keras',
    'tf',
    # Training, prediction, answers
    'Predictor', 'UserError', 'launch', 'report_overlap', 'train', 'write_answers', 'write_configuration',
    'write_predictions', 'write_test_scores',
]

# ---- TSV rows -------------------------------------------------------------------------------------------------------


class Example(NamedTuple):
    file: str
    line: int                   # from 1, in `file`
    index: int                  # the row's own index, or its number from 0
    text_a: str
    text_b: str | None
    label: int | float | None   # the label's number, or the score; None in test files


def data_file(knobs, *names):
    """The path of the first of `names` ('MRPC/train.tsv', ...) that exists in the data folder.

    The default data folder is filled by the downloader at first use; a folder somebody named is left as it is.
    """
    root, folder = Path(knobs.data_dir), Path(names[0]).parent.name
    found = [root / name for name in names if (root / name).exists()]
    if not found and not (root / folder).is_dir() and knobs.data_dir == config.Knobs.data_dir:
        download(folder, f'--data-dir={root.resolve()}')
        found = [root / name for name in names if (root / name).exists()]
    if found:
        return found[0]
    raise UserError(f'{root / names[0]}: no such file. Put {folder} into {root} (uv run -m tools.download {folder} '
                    f'--data-dir {root}), name its folder with --data-dir, or try --demo, which needs no data.')


def load_tsv(knobs, split, path, text_a, text_b=None, label=None, index=None, labels=(), columns=0, keep=None):
    """The rows of a GLUE file as Examples.

    Columns are named by the file's header, or by their number from 0 where the file has none (then `columns` says how
    many there are). `labels`: the label strings in the order of the logits, or (lowest, highest) for a score.
    `keep` takes a row as {column: text} and says whether it belongs here.
    Fields are split at tabs only, quotes are text. Malformed rows raise UserError, unless `split` is 'train' and the
    knob skip_bad_rows is set; the knob `limit` cuts the training rows.
    """
    lines = enumerate(iterate_lines(path), 1)
    names = list(range(columns)) if columns else [name.strip() for name in next(lines)[1].split('\t')]
    number = first = 0 if columns else 1
    wanted = [name for name in (index, text_a, text_b, label) if name is not None]
    missing = [name for name in wanted if name not in names]
    if missing:
        raise UserError(f'{path}, line 1: no column {missing[0]!r} in the header: {", ".join(names)}. '
                        f'Is this the {split} file of the task, in GLUE\'s format?')
    at = {name: names.index(name) for name in wanted}

    examples, bad = [], []
    for number, line in lines:
        row = line.split('\t')
        try:
            if len(row) != len(names):
                hint = ' (a test file?)' if columns and len(row) == 2 else ''
                raise ValueError(f'{len(row)} columns instead of {len(names)}{hint}')
            if keep and not keep(dict(zip(names, row, strict=True))):
                continue
            example = Example(str(path), number,
                              to_index(row[at[index]]) if index else len(examples),
                              row[at[text_a]],
                              row[at[text_b]] if text_b is not None else None,
                              to_label(row[at[label]], labels) if label is not None else None)
        except ValueError as error:
            bad.append((number, error))
            continue
        except KeyError as error:
            raise UserError(f'{path}, line 1: no column {error} in the header: {", ".join(names)}.') from error
        examples.append(example)

    if number == first:
        raise UserError(f'{path}: the file has a header and no rows.')
    if bad and not (split == 'train' and knobs.skip_bad_rows and examples):
        shown = ''.join(f'\n  line {number}: {error}' for number, error in bad[:5])
        more = '\n  ...' if len(bad) > 5 else ''
        advice = 'Mend the file, or drop these rows with --skip-bad-rows.' if split == 'train' else \
            'Mend the file: rows of dev and test files are never dropped.'
        raise UserError(f'{path}: {len(bad)} malformed of {number - first} rows:{shown}{more}\n{advice}')
    if not examples:
        raise UserError(f'{path}: none of its {number - first} rows belongs to the {split} set.')
    if bad:
        print(f'{path}: dropped {len(bad)} malformed rows, the first in line {bad[0][0]}: {bad[0][1]}')
    return examples[:knobs.limit or None] if split == 'train' else examples


def to_index(text):
    if not text.isdecimal():
        raise ValueError(f'index {text!r} is not a number')
    return int(text)


def to_label(text, labels):
    """The number of a label in `labels`, or a score within (lowest, highest)."""
    if isinstance(labels[0], str):
        if text not in labels:
            raise ValueError(f'label {text!r} is none of {", ".join(labels)}')
        return labels.index(text)
    low, high = labels
    try:
        score = float(text)
    except ValueError:
        raise ValueError(f'score {text!r} is not a number') from None
    if not low <= score <= high:
        raise ValueError(f'score {text} is not within {low:g} and {high:g}')
    return score


def swap_pairs(examples):
    """The same pairs with their two sentences swapped."""
    return [example._replace(text_a=example.text_b, text_b=example.text_a) for example in examples]


# ---- The head -------------------------------------------------------------------------------------------------------


def classifier(knobs, units):
    """The new output layer: Dense with the initial values of the family's own code, seeded."""
    if open_model(knobs.model, knobs.model_dir).family == 'electra':    # tf.layers.dense: glorot uniform
        initial = keras.initializers.GlorotUniform(knobs.seed)
    else:                                                               # run_classifier.py: truncated normal
        initial = keras.initializers.TruncatedNormal(stddev=0.02, seed=knobs.seed)
    return keras.layers.Dense(units, kernel_initializer=initial, name='classifier')


# ---- Answers --------------------------------------------------------------------------------------------------------


def splits(knobs):
    """What a script reads: 'train', 'dev' and, unless --no-predict, 'test'."""
    return ('train', 'dev', 'test') if knobs.predict else ('train', 'dev')


def write_answers(knobs, name, examples, outputs, answers):
    """A file for the leaderboard in results/, and beside the run's other files: index<TAB>prediction, one row a test
    row in the file's order. answers: a text for each example; outputs: the model's, kept beside it."""
    rows = [f'{example.index}\t{answer}' for example, answer in zip(examples, answers, strict=True)]
    write_predictions(knobs, name, examples, outputs, '\n'.join(['index\tprediction', *rows]) + '\n')


def tokenize(knobs, examples, **cut):
    """[CLS] a [SEP] or [CLS] a [SEP] b [SEP] for every example, at most `maxlen` tokens, as Tokens.

    Word pieces as in Google's BERT. A pair that is too long loses tokens of the longer text, on a tie of the second
    (BERT, run_classifier.py, _truncate_seq_pair). keep: which tokens of a text that is too long stay: its 'head', its
    'tail', or a number: so many from the head and the others from the tail (Sun et al. 2019, section 5.3.1).

    stride: instead of cutting the last text to what there is room for, make windows over it that begin so many tokens
    apart, each with the whole of text_a in front where there are two. joined: all windows of an example are one row,
    as InWindows; where no stride is given, a window begins where the one before it ends.

    longest_a: before all this the first text of a pair, a question say, is cut to so many tokens.

    offsets: keep the place of each token in its text, for Tokens.row(). All five are knobs.cut unless they are given.
    Says so where the vocabulary does not fit. Raises UserError for a stride that would skip text, and where windows
    have no room.
    """
    checkpoint = open_model(knobs.model, knobs.model_dir)
    vocabulary = load_vocabulary(checkpoint.folder, checkpoint.config['vocab_size'])
    cache = Path(knobs.cache_dir) if knobs.cache else None
    rows = build_rows(vocabulary, knobs.maxlen, examples, knobs.labels, cache, **knobs.cut | cut)
    ids = (rows.windows if isinstance(rows, WindowedTokens) else rows).ids
    unknown = (ids == vocabulary.tokenizer.token_to_id('[UNK]')).mean() if len(ids) else 0.0
    if unknown > MAX_UNKNOWN_SHARE:
        print_once(f'Note: {100 * unknown:.0f} % of the tokens are [UNK]: the vocabulary of {knobs.model} lacks what '
                 f'{examples[0].file} is written in. Choose a --model that has it.')
    return rows

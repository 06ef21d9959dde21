"""What the scripts beside it share: their knobs, dev apart from test, the vector of a long text; IMDB's reviews."""

import dataclasses
import functools
import hashlib
import json
import re
from pathlib import Path
from typing import NamedTuple

import config
import snippets
from config import knob
from engine.data.vocabulary import print_once
from engine.files import ARCHIVE_ERRORS, UserError, open_tar_gz, write_file
from engine.model.checkpoints import ModelSpec, model_spec, open_model
from engine.model.windows import AttentionPooling, EncodeWindows, MaxPooling
from snippets import keras

# ---- Knobs ----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Knobs(config.Knobs):
    """The scripts' knobs, and what Sun et al. 2019, "How to Fine-Tune BERT for Text Classification?", vary."""
    unused = ('swap_pairs', 'skip_bad_rows')
    demo_settings = config.DEMO | {'maxlen': 64, 'epochs': 3, 'batch_size': 16, 'dev_share': 0.2}

    # Rows
    dev_share: float = knob(0.1, 'of the training rows are dev, of each label; the test rows are used once, at the end',
                            0.001, 0.9)
    split_seed: int = knob(0, 'which rows are dev, and which LIMIT leaves', 0, 2**31 - 1)
    limit: int = knob(0, 'train on LIMIT rows only, of each label its share; 0: on all', 0)

    # Long texts (section 5.3.1)
    truncation: str = knob('head+tail', 'what stays of a text that is too long; windows: all of it',
                           choices=('head', 'tail', 'head+tail', 'windows'))
    head: int = knob(0, 'tokens of the head in head+tail; 0: a quarter, which are 128 of 510', 0, 511)
    stride: int = knob(0, 'tokens from the beginning of a window to that of the next; 0: they do not overlap', 0, 511)
    combine: str = knob('mean', 'what is made of the vectors of the windows', choices=('mean', 'max', 'attention'))
    windows_at_once: int = knob(0, 'train with so many windows in memory, for half more time; 0: with all of a '
                                'batch', 0, 10**6)

    # Layers (sections 5.3.2 and 5.3.4)
    layers: str = knob('last', "whose vectors the classifier gets: last, last4, all, or numbers from 1, the lowest, "
                       'separated by commas; those above have no part in the model')
    join: str = knob('concat', 'what is made of several layers', choices=('concat', 'mean', 'max'))
    decay_rule: str = knob(None, 'layer_decay to the power of 0 for the last layer, 1 for the one below, ... (sun), '
                           'or, as ELECTRA has it, 2, 3, ... (electra); by itself as the model was published',
                           choices=('sun', 'electra'))

    @property
    def cut(self):
        if self.truncation == 'windows':
            return {'stride': self.stride, 'joined': True}
        if self.truncation == 'head+tail':
            return {'keep': self.head or round((self.maxlen - 2) / 4)}      # 510: 128
        return {'keep': self.truncation}

    @property
    def out_of_memory_hint(self):
        return '--windows-at-once (32, say)' if self.truncation == 'windows' else '--maxlen'

    def resolve(self, script, recipe, given):
        """As config.Knobs.resolve(). Raises UserError for a knob that would have no effect."""
        knobs = super().resolve(script, recipe, given)
        without_effect = []
        if knobs.truncation != 'windows':
            without_effect += ['stride', 'combine', 'windows_at_once']
        if knobs.truncation != 'head+tail':
            without_effect.append('head')
        if knobs.layers.isdecimal() or knobs.layers == 'last':
            without_effect.append('join')
        for name in without_effect:
            if getattr(knobs, name) != getattr(Knobs, name):
                option = f'--{name.replace("_", "-")} {getattr(knobs, name)}'
                raise UserError(f'{option}: without effect beside --truncation {knobs.truncation} and --layers '
                                f'{knobs.layers}.')
        if knobs.head > knobs.maxlen - 2:
            raise UserError(f'--head {knobs.head}: a text has room for {knobs.maxlen - 2} tokens.')
        as_published = 'electra' if recipe.startswith('electra') else 'sun'
        return dataclasses.replace(knobs, decay_rule=knobs.decay_rule or as_published)

    def new_model_spec(self):
        """The model up to the highest of its layers that the classifier gets, without a pooler."""
        if self.layers == 'last':
            return None
        model = open_model(self.model, self.model_dir)
        highest = max(layer_numbers(self.layers, model.config['num_hidden_layers']))
        return ModelSpec(model.family, model.config | {'num_hidden_layers': highest},
                    'mean' if model.pooling == 'mean' else 'cls', model.folder)


# ---- Rows -----------------------------------------------------------------------------------------------------------


def train_or_dev(knobs, examples, split):
    """The examples of the training file that are 'train' or 'dev', in its order, or all of the test file."""
    if split == 'test':
        return examples
    from sklearn.model_selection import train_test_split  # takes 2 s
    from sklearn.utils import resample
    labels = [example.label for example in examples]
    try:
        train, dev = train_test_split(examples, test_size=knobs.dev_share, random_state=knobs.split_seed,
                                      stratify=labels)
    except ValueError as error:
        raise UserError(f'{examples[0].file}: its {len(examples)} rows are too few for --dev-share '
                        f'{knobs.dev_share:g} with all labels ({error}).') from error
    if split == 'dev':
        print(f'dev: {len(dev):,} of {len(examples):,} training rows. The test rows are used at the end alone.')
        snippets.report_overlap('dev', dev, train)
        return sorted(dev, key=file_order)
    if 0 < knobs.limit < len(train):
        train = resample(train, replace=False, n_samples=knobs.limit, random_state=knobs.split_seed,
                         stratify=[example.label for example in train])
    return sorted(train, key=file_order)


def file_order(example):
    return example.index


# ---- Model ----------------------------------------------------------------------------------------------------------


def build_encoder(knobs):
    """As snippets.build_encoder(), with the vector that these knobs ask for: of other layers, or of all windows of a
    text, whose inputs are those of InWindows (engine/model/windows.py)."""
    encoder = snippets.build_encoder(knobs)
    if knobs.layers != 'last':
        encoder = encoder._replace(vector=vector_of_layers(knobs, encoder))
    if knobs.truncation != 'windows':
        return encoder
    inputs = [keras.Input((None,), name=name) for name in ('Windows-Token', 'Windows-Segment')]
    vectors = EncodeWindows(encoder, knobs.maxlen, knobs.windows_at_once, name='Windows')(inputs)
    if knobs.combine == 'mean':
        combine = snippets.MeanPooling()
    elif knobs.combine == 'max':
        combine = MaxPooling()
    else:
        initial = keras.initializers.TruncatedNormal(stddev=0.02, seed=knobs.seed)
        combine = AttentionPooling(vectors.shape[-1], initial, name='attention')
    return encoder._replace(inputs=inputs, vector=combine(vectors))


def vector_of_layers(knobs, encoder):
    """The vectors of knobs.layers as one, (batch, hidden); concatenated (batch, layers * hidden)."""
    pooling = model_spec(knobs).pooling if knobs.pooling == 'auto' else knobs.pooling
    if pooling == 'pooler':
        raise UserError('--pooling pooler: it was trained on the last layer. With --layers choose cls or mean.')
    states = [encoder.hidden_states[number] for number in layer_numbers(knobs.layers, len(encoder.hidden_states) - 1)]
    vectors = [snippets.MeanPooling()(state) if pooling == 'mean' else state[:, 0] for state in states]
    if len(vectors) == 1:
        return vectors[0]
    if knobs.join == 'concat':
        return keras.layers.Concatenate()(vectors)
    return keras.layers.Average()(vectors) if knobs.join == 'mean' else keras.layers.Maximum()(vectors)


def layer_numbers(text, count):
    """The numbers, from 1 to count, that --layers means. Raises UserError."""
    named = {'last': [count], 'last4': list(range(count - 3, count + 1)), 'all': list(range(1, count + 1))}
    numbers = named.get(text) or [int(word) if word.isdecimal() else -1 for word in text.split(',')]
    if not all(1 <= number <= count for number in numbers):
        raise UserError(f'--layers {text}: last, last4, all, or numbers from 1 to {count}, separated by commas.')
    return numbers


def use_xla(knobs, examples):
    """snippets.use_xla(); not for windows, of which every batch has another number."""
    if knobs.truncation == 'windows':
        if knobs.jit:
            raise UserError('--jit: not for --truncation windows, of which every batch has another number.')
        return False
    return snippets.use_xla(knobs, examples)


# ---- IMDB's reviews -------------------------------------------------------------------------------------------------

FORMAT = 1      # of the kept file; a new number makes the old ones useless
REVIEW = re.compile(r'(?:.*/)?(train|test)/(pos|neg)/(\d+)_\d+\.txt')


class Review(NamedTuple):
    split: str      # 'train' or 'test'
    label: str      # 'pos' or 'neg'
    number: int
    file: str
    text: str


def read_reviews(knobs, path, split):
    """The Reviews of 'train' or 'test' in IMDB's official folder aclImdb or its archive: 'neg' first, by number.

    They are read once and then kept in the cache folder, known by the names, sizes and times of what was read. Raises
    UserError.
    """
    reviews = [review for review in all_reviews(path, Path(knobs.cache_dir) if knobs.cache else None)
               if review.split == split]
    for label in ('pos', 'neg'):
        if not any(review.label == label for review in reviews):
            raise UserError(f'{path}: no reviews {split}/{label}/0_1.txt, ... in it. Is this the official aclImdb?')
    if len(reviews) != 25000 and not knobs.demo:
        print_once(f'Note: {path}: {len(reviews):,} reviews in {split}; the official data have 25,000.')
    return reviews


@functools.cache
def all_reviews(path, cache):
    if path.is_file():
        files, read = [path], read_archive
    else:
        files, read = sorted([*path.glob('train/*/*_*.txt'), *path.glob('test/*/*_*.txt')]), read_files
    if cache is None:
        return sorted(read(files))
    stats = [(file.name, file.stat()) for file in files]
    about = [FORMAT, str(path.resolve()), [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]]
    kept = cache / f'reviews-{hashlib.sha256(json.dumps(about).encode()).hexdigest()}.jsonl'
    try:
        with open(kept) as file:
            return [Review(*json.loads(line)) for line in file]
    except FileNotFoundError:
        pass
    except (ValueError, TypeError, OSError):
        print(f'{kept}: damaged; made again.')
    reviews = sorted(read(files))
    try:
        cache.mkdir(parents=True, exist_ok=True)
        write_file(kept, ''.join(f'{json.dumps(review)}\n' for review in reviews))
    except (OSError, UserError):
        print(f'{cache}: reviews cannot be kept here; going on without.')
    return reviews


def read_archive(files):
    """The Reviews of an archive."""
    path, = files
    try:
        with open_tar_gz(path) as archive:
            for member in archive:
                match = REVIEW.fullmatch(member.name)
                if match and member.isfile():
                    content = archive.extractfile(member).read()
                    yield make_review(match, f'{path}: {member.name}', content)
    except (*ARCHIVE_ERRORS, OSError) as error:
        raise UserError(f'{path}: not an intact archive ({error}). Fetch it again.') from error


def read_files(files):
    """The Reviews of single files."""
    for file in files:
        if match := REVIEW.fullmatch(file.as_posix()):
            yield make_review(match, str(file), file.read_bytes())


def make_review(match, file, content):
    try:
        text = content.decode('utf-8').strip()
    except UnicodeDecodeError as error:
        raise UserError(f'{file}: byte 0x{content[error.start]:02x} is not UTF-8.') from error
    if not text:
        raise UserError(f'{file}: an empty review. Delete it, or put its text back.')
    split, label, number = match.groups()
    return Review(split, label, int(number), file, text)

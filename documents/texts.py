"""What the scripts beside it share: their knobs, dev apart from test, the vector of a long text; IMDB's reviews."""

import dataclasses
import hashlib
import json
import re
import tarfile
from pathlib import Path

import config
import snippets
from config import knob
from engine.checkpoints import Made, model_of, open_model
from engine.files import METRICS, UserError, read_json, run_folder, show_value, write_file, write_json
from engine.windows import AttentionOver, EachWindow, Maximum
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
    windows_at_once: int = knob(0, 'train with so many windows in memory, for a third more time; 0: with all of a '
                                'batch', 0, 10**6)

    # Layers (sections 5.3.2 and 5.3.4)
    layers: str = knob('last', "whose vectors the classifier gets: last, last4, all, or numbers from 1, the lowest, "
                       'separated by commas; those above have no part in the model')
    join: str = knob('concat', 'what is made of several layers', choices=('concat', 'mean', 'max'))
    decay_rule: str = knob('sun', 'layer_decay to the power of 0 for the last layer, 1 for the one below, ... (sun), '
                           'or, as ELECTRA has it, 2, 3, ... (electra)', choices=('sun', 'electra'))

    @property
    def cut(self):
        if self.truncation == 'windows':
            return {'stride': self.stride, 'joined': True}
        if self.truncation == 'head+tail':
            return {'keep': self.head or (self.maxlen - 2) // 4 + 1}
        return {'keep': self.truncation}

    def made_model(self):
        """The model up to the highest of its layers that the classifier gets, without a pooler."""
        if self.layers == 'last':
            return None
        model = open_model(self.model, self.model_dir)
        highest = max(layer_numbers(self.layers, model.config['num_hidden_layers']))
        return Made(model.family, model.config | {'num_hidden_layers': highest},
                    'mean' if model.pooling == 'mean' else 'cls', model.folder)


# ---- Rows -----------------------------------------------------------------------------------------------------------


def part(knobs, examples, split):
    """The examples of the training file that are 'train' or 'dev', in its order, or all of the test file."""
    if split == 'test':
        return examples
    from sklearn.model_selection import train_test_split  # takes 2 s
    labels = [example.label for example in examples]

    def draw(rows, **size):
        try:
            return train_test_split(rows, stratify=[labels[row] for row in rows], random_state=knobs.split_seed, **size)
        except ValueError as error:
            raise UserError(f'{examples[0].file}: its {len(examples)} rows are too few for --dev-share '
                            f'{knobs.dev_share:g} and --limit {knobs.limit} with all labels ({error}).') from error

    train, dev = draw(range(len(examples)), test_size=knobs.dev_share)
    if split == 'dev':
        print(f'dev: {len(dev):,} of {len(examples):,} training rows. The test rows are used once, at the end.')
        return [examples[row] for row in sorted(dev)]
    if 0 < knobs.limit < len(train):
        train, _ = draw(train, train_size=knobs.limit)
    return [examples[row] for row in sorted(train)]


def keep_test_scores(knobs, data, metrics):
    """Say the scores on the test rows, {metric: value}, and keep them in the run's metrics.json."""
    path = run_folder(knobs) / METRICS
    write_json(path, read_json(path) | {'test': metrics})
    shown = ', '.join(f'{name} {show_value(value)}' for name, value in metrics.items())
    print(f'test, predicted once, by the best epoch on dev: {shown}')
    texts = [{(example.text_a, example.text_b) for example in data[split].examples} for split in ('train', 'test')]
    if both := len(texts[0] & texts[1]):
        print(f'Note: {both} of {len(texts[1]):,} different test texts are training texts, too.')


# ---- Model ----------------------------------------------------------------------------------------------------------


def build_encoder(knobs):
    """As snippets.build_encoder(), with the vector that these knobs ask for: of other layers, or of all windows of a
    text, whose inputs are those of InWindows (engine/windows.py)."""
    encoder = snippets.build_encoder(knobs)
    if knobs.layers != 'last':
        encoder = encoder._replace(vector=vector_of_layers(knobs, encoder))
    if knobs.truncation != 'windows':
        return encoder
    inputs = [keras.Input((None,), name=name) for name in ('Windows-Token', 'Windows-Segment')]
    vectors = EachWindow(encoder, knobs.maxlen, knobs.windows_at_once, name='Windows')(inputs)
    if knobs.combine == 'mean':
        combine = snippets.Mean()
    elif knobs.combine == 'max':
        combine = Maximum()
    else:
        initial = keras.initializers.TruncatedNormal(stddev=0.02, seed=knobs.seed)
        combine = AttentionOver(vectors.shape[-1], initial, name='attention')
    return encoder._replace(inputs=inputs, vector=combine(vectors))


def vector_of_layers(knobs, encoder):
    """The vectors of knobs.layers as one, (batch, hidden); concatenated (batch, layers * hidden)."""
    pooling = model_of(knobs).pooling if knobs.pooling == 'auto' else knobs.pooling
    if pooling == 'pooler':
        raise UserError('--pooling pooler: it was trained on the last layer. With --layers choose cls or mean.')
    states = [encoder.hidden_states[number] for number in layer_numbers(knobs.layers, len(encoder.hidden_states) - 1)]
    vectors = [snippets.Mean()(state) if pooling == 'mean' else state[:, 0] for state in states]
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

REVIEW = re.compile(r'(?:.*/)?(train|test)/(pos|neg)/(\d+)_\d+\.txt')


def read_reviews(knobs, path, split):
    """[(file, label, text)] of the reviews of 'train' or 'test', in IMDB's official folder aclImdb or its archive.

    They are read once and then kept in the cache folder, known by the names, sizes and times of what was read.
    """
    archive = path.is_file()
    files = [path] if archive else sorted(path.glob('*/*/*_*.txt'))
    about = [[str(file.resolve()), stat.st_size, stat.st_mtime_ns] for file in files for stat in [file.stat()]]
    kept = Path(knobs.cache_dir) / f'reviews-{hashlib.sha256(json.dumps(about).encode()).hexdigest()}.jsonl'
    if not (knobs.cache and kept.is_file()):
        reviews = sorted(read_archive(path) if archive else read_folder(path, files))
        check_reviews(path, reviews)
        if not knobs.cache:
            return [review[3:] for review in reviews if review[0] == split]
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_file(kept, ''.join(f'{json.dumps(review)}\n' for review in reviews))
    with open(kept) as file:
        reviews = [json.loads(line) for line in file]
    return [tuple(review[3:]) for review in reviews if review[0] == split]


def read_archive(path):
    """(split, label, number, file, label, text) of every review."""
    try:
        with tarfile.open(path, 'r|*') as archive:
            for member in archive:
                if member.isfile() and (match := REVIEW.fullmatch(member.name)):
                    split, label, number = match.groups()
                    file = f'{path}: {member.name}'
                    yield split, label, int(number), file, label, decoded(file, archive.extractfile(member).read())
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UserError(f'{path}: not an intact archive ({error}). Fetch it again.') from error


def read_folder(path, files):
    """The same."""
    for file in files:
        if match := REVIEW.fullmatch(file.as_posix()):
            split, label, number = match.groups()
            yield split, label, int(number), str(file), label, decoded(file, file.read_bytes())


def decoded(file, content):
    try:
        text = content.decode('utf-8').strip()
    except UnicodeDecodeError as error:
        raise UserError(f'{file}: byte 0x{content[error.start]:02x} is not UTF-8.') from error
    if not text:
        raise UserError(f'{file}: an empty review. Delete it, or put its text back.')
    return text


def check_reviews(path, reviews):
    there = {review[:2] for review in reviews}
    for split in ('train', 'test'):
        for label in ('pos', 'neg'):
            if (split, label) not in there:
                raise UserError(f'{path}: no reviews {split}/{label}/0_1.txt, ... in it. Is this the official aclImdb?')

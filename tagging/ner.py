"""What the scripts beside it share: their knobs, files of words and tags, the words' places among tokens, entity F1."""

import dataclasses

import numpy as np
from scipy.special import log_softmax

import config
import snippets
from config import knob
from engine.data.conll import from_iob2, read_conll, scheme_of, to_iob2
from engine.data.vocabulary import print_once
from engine.files import UserError, read_lines
from engine.metrics.entities import all_scores
from engine.model.crf import path_scores

SCORE_OF_O = 20.0       # for a word of which the tokenizer leaves nothing; of the other tags 0

# ---- Knobs ----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Knobs(config.Knobs):
    """The scripts' knobs."""
    unused = ('swap_pairs', 'skip_bad_rows', 'pooling')
    demo_settings = config.DEMO | {'maxlen': 32}

    crf: bool = knob(False, 'score whole paths of tags, with a conditional random field, instead of each tag by itself')
    crf_learning_rate: float = knob(1e-2, "the peak of the CRF's own learning rate", 1e-9, 1.0)
    stride: int = knob(0, 'tokens from the beginning of a window to that of the next, where a sentence is longer than '
                       'the model takes; 0: half of a window', 0, 511)

    @property
    def cut(self):
        return {'stride': self.stride or (self.maxlen - 2) // 2, 'offsets': True}

    def parse_text(self, line):
        """The words of a line that somebody types, with one blank between them."""
        return ' '.join(line.split())


@dataclasses.dataclass
class ChineseKnobs(Knobs):
    """Those of the scripts whose words are characters. The demo trains a small encoder with fresh values, which wants
    other steps."""
    demo_settings = config.DEMO | {'model': str(config.ROOT / 'demo' / 'chinese-tags'), 'maxlen': 32, 'epochs': 10,
                                   'learning_rate': 1e-3, 'layer_decay': 1.0}

    model: str = knob('bert-base-chinese', 'a folder with a checkpoint, or a name; docs/chinese.md has those that read '
                      'Chinese')

    def parse_text(self, line):
        """The characters of a line that somebody types, with one blank between them."""
        return ' '.join(''.join(line.split()))


def iob2(*types):
    """The tags of these types of entities: O, and of each B- for its first word and I- for the others."""
    return 'O', *(f'{prefix}-{name}' for name in types for prefix in 'BI')


# ---- Files ----------------------------------------------------------------------------------------------------------


def load_conll(knobs, split, path):
    """The sentences of a file of a word a line as Examples: text_a are the words, joined by blanks, label are the
    numbers of their tags.

    The first column is the word, the last one the tag; between columns are tabs or blanks, between sentences blank
    lines; a test file may have words only. Tags that are not written in IOB2 are read as what they mean, and that is
    said. Raises UserError with the line.
    """
    sentences = read_conll(path)
    scheme = scheme_of(sentences)
    if scheme != 'IOB2':
        print(f'{path}: its tags are {scheme}; they are read as IOB2.')
    examples = []
    for sentence in sentences:
        label = None
        if sentence.tags:
            label = numbers_of(sentence, scheme, knobs.labels, path)
        elif split != 'test':
            raise UserError(f'{path}, line {sentence.line}: a word without a tag. Is this a test file?')
        text = ' '.join(sentence.words)
        examples.append(snippets.Example(str(path), sentence.line, len(examples), text, None, label))
    return examples[:knobs.limit or None] if split == 'train' else examples


def numbers_of(sentence, scheme, labels, path):
    """The numbers of a sentence's tags. Raises UserError with the line of one that is not in `labels`."""
    tags = sentence.tags if scheme == 'IOB2' else to_iob2(sentence.tags)
    numbers = []
    for i, tag in enumerate(tags):
        if tag not in labels:
            raise UserError(f'{path}, line {sentence.line + i}: the tag {sentence.tags[i]!r} is none of '
                            f'{", ".join(labels)} (--labels?).')
        numbers.append(labels.index(tag))
    return tuple(numbers)


def write_conll(knobs, name, examples, outputs, tags):
    """The test file once more, as a result of the run: with these tags, a list for each example, in place of its last
    column, or as a second one where it has words only; in the scheme of its tags."""
    path = examples[0].file
    lines, scheme = read_lines(path), scheme_of(read_conll(path))
    for example, of_example in zip(examples, tags, strict=True):
        for i, tag in enumerate(from_iob2(of_example, scheme), example.line - 1):
            line = lines[i].rstrip('\t ')
            separator = '\t' if '\t' in line else ' '
            before, found, _ = line.rpartition(separator)
            lines[i] = before + found + tag if found else f'{line}\t{tag}'
    snippets.write_predictions(knobs, name, examples, outputs, '\n'.join([*lines, '', '']))


# ---- Words and tokens -----------------------------------------------------------------------------------------------


def prepare(knobs, examples):
    """Tokens (engine/data/tokens.py) of these sentences, windows of those that are too long; the first token of each word
    has its label, in the window in which it has the most text around it; all others have none."""
    data = snippets.tokenize(knobs, examples)
    longer = (np.bincount(data.example) > 1).sum()
    if longer:
        print_once(f'{examples[0].file}: {longer} of {len(examples):,} sentences are longer than {knobs.maxlen} tokens '
                 'and read in windows.')
    if examples[0].label is None:
        return data
    labels = []
    for row, (places, words) in enumerate(word_places(data)):
        of_row = np.full(data.lengths[row], snippets.PerToken.NONE)
        of_row[places] = np.array(data.examples[data.example[row]].label)[words]
        labels.append(of_row)
    return data.with_targets(snippets.PerToken(labels, fill=snippets.PerToken.NONE if knobs.crf else 0))


def word_places(data):
    """For each row of Tokens (places, words): where in the row the first tokens of its words are, and which of the
    sentence's words these are, from 0.

    A word is in one row alone: of the windows that hold its first token that one in which the text is longest on its
    shorter side (google-research/bert, run_squad.py, _check_is_max_context). A word of which the tokenizer leaves
    nothing is in none.
    """
    first_rows = np.searchsorted(data.example, np.arange(len(data.examples) + 1))
    places = []
    for i, example in enumerate(data.examples):
        rows = slice(first_rows[i], first_rows[i + 1])
        begin, end = data.starts[rows, 0], data.starts[rows, 0] + data.counts[rows, 0]      # of each window, in ids
        tokens = np.arange(begin[0], end[-1])
        lengths = [len(word) for word in example.text_a.split(' ')]
        word_begins = np.cumsum([0, *lengths[:-1]]) + np.arange(len(lengths))
        word_of = np.searchsorted(word_begins, data.offsets[tokens, 0], 'right') - 1
        words, first = np.unique(word_of, return_index=True)
        left = tokens[first] - begin[:, None]                   # (windows, words)
        right = end[:, None] - 1 - tokens[first]
        window = np.minimum(left, right).argmax(0)
        for k in range(len(begin)):
            own = window == k
            places.append((1 + left[k, own], words[own]))       # behind [CLS]
    return places


def predict(predictor, data):
    """The scores of the tags of every word, a (words, labels) array for each sentence: logits; where the model has a
    CRF, how far the best path through each is behind the best of all (engine/model/crf.py)."""
    places, logits = word_places(data), predictor.predict(data)
    scores = [[] for _ in data.examples]
    numbers = [[] for _ in data.examples]
    for row, (own, words) in enumerate(places):
        scores[data.example[row]].append(logits[row][own])
        numbers[data.example[row]].append(words)
    scores, numbers = [np.concatenate(some) for some in scores], [np.concatenate(some) for some in numbers]
    layers = predictor.model.layers if predictor.model else []      # an exported model has no CRF
    crf = next((layer for layer in layers if layer.name == 'crf'), None)
    if crf:
        scores = path_scores(scores, crf.parameters())
    result = []
    for example, of_words, which in zip(data.examples, scores, numbers, strict=True):
        everything = np.zeros((len(example.text_a.split(' ')), of_words.shape[1]), np.float32)
        everything[:, data.labels.index('O')] = SCORE_OF_O
        everything[which] = of_words
        result.append(everything)
    return result


# ---- Score ----------------------------------------------------------------------------------------------------------


def tags_of(outputs, data):
    """The best tags of every sentence, a list for each."""
    return [[data.labels[i] for i in scores.argmax(-1)] for scores in outputs]


def gold_tags(data):
    return [[data.labels[i] for i in example.label] for example in data.examples]


def cross_entropy(outputs, data):
    """(sentences,): the mean over a sentence's words of the cross-entropy of the softmax of predict()'s outputs."""
    return np.array([-log_softmax(scores, -1)[range(len(scores)), example.label].mean()
                     for scores, example in zip(outputs, data.examples, strict=True)])


def score_files(gold, predictions):
    """{metric: value}, all_scores() of a file of predictions against a labelled one: the same words in the same
    sentences, tags in the last columns. Raises UserError with the line where they differ."""
    files = read_conll(gold), read_conll(predictions)
    for path, sentences in zip((gold, predictions), files, strict=True):
        if sentences[0].tags is None:
            raise UserError(f'{path}, line {sentences[0].line}: words without tags.')
    for wanted, given in zip(*files, strict=False):
        if wanted.words != given.words:
            length = min(len(wanted.words), len(given.words))
            i = next((i for i in range(length) if wanted.words[i] != given.words[i]), length)
            raise UserError(f'{predictions}, line {given.line + i}: {word_at(given, i)} instead of '
                            f'{word_at(wanted, i)}, line {wanted.line + i} of {gold}.')
    if len(files[0]) != len(files[1]):
        raise UserError(f'{predictions}: {len(files[1])} sentences instead of {len(files[0])}.')
    scheme = scheme_of(files[0])        # predictions are in that of the labels
    tags = [[sentence.tags if scheme == 'IOB2' else to_iob2(sentence.tags) for sentence in sentences]
            for sentences in files]
    return all_scores(*tags)


def word_at(sentence, i):
    return repr(sentence.words[i]) if i < len(sentence.words) else 'the end of the sentence'

"""What the scripts beside it share: their knobs, questions about paragraphs, where in these the answers are, and the
best answers of a model.

A question is text_a of its example, the paragraph text_b. A paragraph that is too long becomes several rows: windows
that begin `stride` tokens apart, each with the question in front.
"""

import dataclasses
import json
from pathlib import Path

import numpy as np
from scipy.special import expit, softmax

import config
import snippets
from config import knob
from engine.data.squad import read_questions
from engine.files import UserError, read_json, write_file
from engine.metrics.reading import best_threshold, squad2_scores
from engine.model.spans import MASKED_LOGIT, JointSpanHead, MaskPositions, best_spans
from engine.runs.layout import run_folder
from snippets import keras, tf

COVERED = 0.999         # the share of the training answers that are no longer than the longest one that is predicted
NEVER = 1e9             # a threshold that no difference of two scores exceeds
NOBODY = -1, -1         # the characters of what is no answer: text[-1:-1] is ''

# ---- Knobs ----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Knobs(config.Knobs):
    """The scripts' knobs. There is no dropout in front of the heads, as in their sources."""
    unused = ('swap_pairs', 'skip_bad_rows', 'dropout', 'pooling')
    demo_settings = config.DEMO | {'maxlen': 48, 'stride': 16, 'max_query': 16, 'batch_size': 16}

    stride: int = knob(128, 'tokens from the beginning of a window over a long paragraph to that of the next', 1, 511)
    max_query: int = knob(64, 'tokens of a question; what is longer is cut', 1, 500)
    max_answer: int = knob(0, 'tokens of the longest answer that is predicted; 0: as many as 99.9 % of the training '
                           'answers have at most', 0, 512)
    n_best: int = knob(20, 'answers that are kept of every question, and places of a window where one may begin', 1,
                       100)
    head: str = knob(None, 'how the end of an answer is found: for itself (plain, BERT) or given its beginning (joint, '
                     "ELECTRA); by itself as the model's family", choices=('plain', 'joint'))

    @property
    def cut(self):
        return {'stride': self.stride, 'offsets': True, 'longest_a': self.max_query}

    def resolve(self, script, recipe, given):
        knobs = super().resolve(script, recipe, given)
        of_family = 'joint' if recipe.startswith('electra') else 'plain'
        return dataclasses.replace(knobs, head=knobs.head or of_family)


@dataclasses.dataclass
class ChineseKnobs(Knobs):
    """With Chinese models. The demo trains a small encoder with fresh values, which wants other steps."""
    demo_settings = Knobs.demo_settings | {
        'model': str(config.ROOT / 'demo' / 'chinese-reading'), 'epochs': 20, 'learning_rate': 1e-3, 'layer_decay': 1.0}

    model: str = knob('bert-base-chinese', 'a folder with a checkpoint, or a name; docs/chinese.md has those that read '
                      'Chinese')


# ---- Files ----------------------------------------------------------------------------------------------------------


def load(knobs, split, path, unanswerable=False):
    """The Questions of a file for 'train', 'dev' or 'test'; what is odd in it is said in one line.

    unanswerable: whether there may be questions without an answer. Training questions of which no answer is in the
    paragraph are left out; the knob `limit` cuts what is left. Raises UserError.
    """
    questions, mended = read_questions(path, unanswerable)
    lacking = [question for question in questions if question.label is None]
    if lacking and (split != 'test' or len(lacking) < len(questions)):
        raise UserError(f'{path}, question {lacking[0].index}: no answers. Add them; only a test file may have none, '
                        'and then for no question.')
    starts = [start for question in questions for start in question.starts]
    said = [f'{len(questions):,} questions']
    if mended:
        said.append(f'{mended:,} of {len(starts):,} answers were not where the file says, and were found elsewhere')
    if missing := starts.count(-1):
        said.append(f'{missing:,} of {len(starts):,} answers are not in the paragraph: accepted, but never predicted')
    if no_answer := sum(question.label == () for question in questions):
        said.append(f'{no_answer:,} have no answer')
    if split == 'train':
        kept = [question for question in questions if question.label == () or max(question.starts) >= 0]
        if len(kept) < len(questions):
            said.append(f'{len(questions) - len(kept):,} questions left out, with no answer that is in the paragraph')
        questions = kept[:knobs.limit or None]
        if not questions:
            raise UserError(f'{path}: no question has an answer that is in its paragraph.')
    print(f'{path}: {"; ".join(said)}.')
    return questions


# ---- Tokens and answers ---------------------------------------------------------------------------------------------


class GoldStart(snippets.PerRow):
    """Positions (rows, 2) as targets, of which the first is also an input of the model, (batch, 1): the joint head
    learns to find the end of an answer from its true beginning."""

    def __init__(self, positions):
        super().__init__(positions)
        self.specs = (tf.TensorSpec((None, 1), tf.int32),), *self.specs[1:]

    def batch(self, ids, rows, key):
        ids, _, positions, weights = super().batch(ids, rows, key)
        return ids, (positions[:, :1],), positions, weights


def prepare(knobs, questions):
    """Questions as Tokens, and where their answers are known with positions() as targets."""
    data = snippets.tokenize(knobs, questions)
    if cut := sum(is_cut(data, row, knobs.max_query) for row in first_rows(data)):
        print(f'{questions[0].file}: {cut:,} questions cut to {knobs.max_query} tokens (--max-query).')
    if questions[0].label is None:
        return data
    return with_positions(knobs, data, positions(data))


def with_positions(knobs, data, values):
    return data.with_targets(GoldStart(values) if knobs.head == 'joint' else snippets.PerRow(values))


def first_rows(data):
    """The first row of each question, (questions,)."""
    return np.searchsorted(data.example, np.arange(len(data.examples)))


def is_cut(data, row, max_query):
    """Whether something of the question is left out in a row."""
    start, count = data.starts[row, 0], data.counts[row, 0]
    if count < max_query:
        return False
    question, behind = data.examples[data.example[row]].text_a, data.offsets[start + count - 1, 1]
    return bool(question[behind:].strip())


def answer_tokens(data):
    """(questions, 2): the first and the last token, of the paragraph's, of each question's first answer that is in the
    paragraph; -1, -1 where there is none. A token that holds only a part of the answer belongs to it."""
    tokens = np.full((len(data.examples), 2), -1)
    firsts = first_rows(data)
    lasts = np.append(firsts[1:], len(data)) - 1
    for i, question in enumerate(data.examples):
        place = next((place for place, start in enumerate(question.starts) if start >= 0), None)
        if place is None:
            continue
        start, end = question.starts[place], question.starts[place] + len(question.label[place])
        begin, behind = data.starts[firsts[i], 1], data.starts[lasts[i], 1] + data.counts[lasts[i], 1]
        offsets = data.offsets[begin:behind]        # of the whole paragraph
        first, last = np.searchsorted(offsets[:, 1], start, 'right'), np.searchsorted(offsets[:, 0], end) - 1
        if first <= last:       # else it is made of characters that BERT drops
            tokens[i] = first, last
    return tokens


def positions(data):
    """(rows, 2) int32: where in each row the answer's first and last token are; 0, 0, which is [CLS], in a window that
    does not hold all of it.
        [CLS] q q [SEP] 3 4 5 6 [SEP], tokens 4 and 5 of the paragraph: 5 and 6
    """
    tokens = answer_tokens(data)[data.example]
    begin = window_begins(data)
    inside = (tokens[:, 0] >= begin) & (tokens[:, 1] < begin + data.counts[:, 1])
    in_row = tokens - begin[:, None] + paragraph_place(data)[:, None]
    return np.where(inside[:, None], in_row, 0).astype(np.int32)


def window_begins(data):
    """(rows,): which token of the paragraph is the first of each window."""
    return data.starts[:, 1] - data.starts[first_rows(data), 1][data.example]


def paragraph_place(data):
    """(rows,): where in each row the paragraph's tokens begin: behind [CLS], the question and [SEP]."""
    return data.counts[:, 0] + 2


def with_longest_answer(knobs, data):
    """The knobs with max_answer as a number, found out from training data where it is 0, and said."""
    if knobs.max_answer:
        return knobs
    tokens = answer_tokens(data)
    lengths = (tokens[:, 1] - tokens[:, 0] + 1)[tokens[:, 0] >= 0]
    longest = int(np.quantile(lengths, COVERED, method='inverted_cdf')) if len(lengths) else 1
    print(f'longest answer to be predicted: {longest} tokens, which {100 * COVERED:g} % of the training answers do not '
          f'exceed; the longest of them has {max(lengths, default=0)}')
    return dataclasses.replace(knobs, max_answer=longest, found=(*knobs.found, 'max_answer'))


# ---- Heads ----------------------------------------------------------------------------------------------------------


def plain_head(knobs, encoder):
    """(inputs, outputs) of a model: the logits of the beginning and of the end, (batch, 2, length), by one dense layer
    (google-research/bert, run_squad.py)."""
    scores = snippets.classifier(knobs, 2)(encoder.sequence)
    return encoder.inputs, MaskPositions(name='Allowed')([scores, *encoder.inputs])


def joint_head(knobs, encoder):
    """The same for ELECTRA's head, as JointEnds says. The third input is the true beginning, of no use in prediction.
    """
    gold = keras.Input((1,), dtype='int32', name='gold-start')
    starts = MaskPositions(name='Allowed')([snippets.classifier(knobs, 1)(encoder.sequence), *encoder.inputs])
    initial = keras.initializers.GlorotUniform(knobs.seed)
    ends = JointSpanHead(knobs.n_best, initial, name='joint')([encoder.sequence, starts, gold, *encoder.inputs])
    return [*encoder.inputs, gold], ends


# ---- The best answers -----------------------------------------------------------------------------------------------


def predict(predictor, data):
    """What is kept of the model's outputs: (questions, 1 + n_best, 3) float32, for each answer its first character, the
    one behind its last, and its score: first that there is no answer (0, 0), then the best answers, best first. What is
    left is (-1, -1, LOWEST).

    A token is asked as the beginning of an answer in the window where it has most context on both sides (run_squad.py,
    _check_is_max_context). Where the windows differ about there being no answer the lowest score counts, as there.
    """
    knobs = predictor.knobs
    longest = knobs.max_answer or knobs.maxlen
    if knobs.head == 'joint':
        data = with_positions(knobs, data, np.zeros((len(data), 2), np.int32))     # prediction does not use them
    may_begin, places = context_maximal(data), paragraph_place(data)
    of_rows, nulls = [None] * len(data), np.zeros(len(data))
    for rows, (outputs,) in predictor.batches(data):
        for row, logits in zip(rows, outputs, strict=True):
            nulls[row] = logits[0, 0] + logits[1, 0]
            logits = logits[:, places[row]:places[row] + data.counts[row, 1]]
            first, last, scores = best_spans(logits, may_begin[row], longest, knobs.n_best)
            begin = data.starts[row, 1]
            offsets = data.offsets[begin:begin + data.counts[row, 1]]
            of_rows[row] = np.stack([offsets[first, 0], offsets[last, 1], scores], -1)
    best = np.full((len(data.examples), 1 + knobs.n_best, 3), (*NOBODY, MASKED_LOGIT), np.float32)
    best[:, 0] = 0, 0, np.inf
    np.minimum.at(best[:, 0, 2], data.example, nulls)
    for i, windows in enumerate(np.split(np.arange(len(data)), first_rows(data)[1:])):
        spans = np.concatenate([of_rows[row] for row in windows])
        order = np.argsort(-spans[:, 2], kind='stable')[:knobs.n_best]
        best[i, 1:1 + len(order)] = spans[order]
    return best


def context_maximal(data):
    """Of each row, (tokens of the paragraph in it,) bool: whether this is the window where the token has most context:
    most tokens on the side where it has less, and a hundredth of the window's length; of equal windows the first
    (run_squad.py, _check_is_max_context)."""
    begins, counts, result = window_begins(data), data.counts[:, 1], [None] * len(data)
    for rows in np.split(np.arange(len(data)), first_rows(data)[1:]):
        begin, count = begins[rows][:, None], counts[rows][:, None]
        tokens = np.arange(begins[rows[-1]] + counts[rows[-1]])
        context = np.minimum(tokens - begin, begin + count - 1 - tokens) + 0.01 * count
        context = np.where((tokens >= begin) & (tokens < begin + count), context, -1)
        chosen = rows[context.argmax(0)]
        for row in rows:
            result[row] = chosen[begins[row]:begins[row] + counts[row]] == row
    return result


# ---- Answers and files ----------------------------------------------------------------------------------------------


def best_texts(outputs, data):
    """Of every question the best answer that is a text."""
    return [parse_text(question, spans[1]) for spans, question in zip(outputs, data.examples, strict=True)]


def parse_text(question, span):
    """The text of (first character, the one behind the last, score)."""
    return question.text_b[int(span[0]):int(span[1])]


def null_margins(outputs):
    """(questions,): how much higher the score of no answer is than that of the best text."""
    return (outputs[:, 0, 2] - outputs[:, 1, 2]).astype(np.float64)


def null_threshold(outputs, data):
    """How high null_margins() must be for no answer to be given: the threshold with the best exact match where some of
    these questions are known to have no answer (engine/metrics/reading.py, best_threshold), NEVER where all have one, and 0
    where that is not known."""
    if data.examples[0].label is None:
        return 0.0
    if not some_have_none(data):
        return NEVER
    accepted, margins = {question.index: question.label for question in data.examples}, null_margins(outputs)
    texts = dict(zip(accepted, best_texts(outputs, data), strict=True))
    scores = {name: squad2_scores(accepted[name], text) for name, text in texts.items()}
    odds = expit(margins)
    _, best = best_threshold(scores, accepted, texts, dict(zip(accepted, odds, strict=True)), 'em')
    is_text = odds <= best
    return float(margins[is_text].max() if is_text.any() else margins.min() - 1)


def some_have_none(data):
    """Whether there are questions without an answer."""
    return any(question.label == () for question in data.examples)


def with_null_threshold(knobs, outputs, dev_data):
    """The knobs with null_threshold as a number, found out from dev where it is 0."""
    if knobs.null_threshold:
        return knobs
    threshold = null_threshold(outputs, dev_data)
    return dataclasses.replace(knobs, null_threshold=threshold, found=(*knobs.found, 'null_threshold'))


def score(evaluate, answers, data):
    """{'em': ..., 'f1': ...} of a text for each question, by a function of engine/metrics/reading.py."""
    accepted = {question.index: question.label for question in data.examples}
    scores = evaluate(accepted, dict(zip(accepted, answers, strict=True)))
    return {name: scores[name] for name in ('em', 'f1')}


def losses(score_one, answers, data):
    """1 less the F1 of a text for each question, (questions,), by a function of engine/metrics/reading.py."""
    return np.array([1.0 - score_one(question.label, answer)['f1']
                     for question, answer in zip(data.examples, answers, strict=True)])


def splits(knobs, *test_files):
    """'train', 'dev' and, where one of these files is in the data folder and its predictions are wanted, 'test'."""
    has_test = knobs.predict and any((Path(knobs.data_dir) / file).is_file() for file in test_files)
    return ('train', 'dev', 'test') if has_test else ('train', 'dev')


def write(knobs, name, split, data, outputs, answers, unanswerable=False):
    """Write what the model says of a split: NAME.json, {id: text}, which the official evaluation reads, in the run's
    folder and in the results folder; in the run's folder NAME_nbest.json, for each id its best answers, with their
    scores and their probabilities among each other. unanswerable: whether no answer is one of them; then also
    NAME_null_odds.json, for each id how probable that is beside the best text, for the evaluation of SQuAD 2.0.
    """
    questions, folder = data.examples, run_folder(knobs)
    text = to_json({question.index: answer for question, answer in zip(questions, answers, strict=True)})
    n_best = {question.index: listed(question, spans if unanswerable else spans[1:])
              for question, spans in zip(questions, outputs, strict=True)}
    write_file(folder / f'{name}_nbest.json', to_json(n_best))
    if unanswerable:
        odds = {question.index: odd for question, odd in
                zip(questions, expit(null_margins(outputs)).tolist(), strict=True)}
        write_file(folder / f'{name}_null_odds.json', to_json(odds))
    snippets.write_predictions(knobs, f'{name}.json', questions, outputs, text, split)


def to_json(content):
    return json.dumps(content, ensure_ascii=False, indent=1) + '\n'


def listed(question, spans):
    """The answers of a question as NAME_nbest.json has them, the best first."""
    spans = spans[spans[:, 2] > MASKED_LOGIT]
    spans = spans[np.argsort(-spans[:, 2], kind='stable')]
    shares = softmax(spans[:, 2].astype(np.float64)) if len(spans) else []
    return [{'text': parse_text(question, span), 'probability': share, 'score': float(span[2])}
            for span, share in zip(spans, map(float, shares), strict=True)]


def read_predictions(gold, predictions, unanswerable=False):
    """({id: accepted texts}, {id: text}) of a file with answers and an official prediction file. Raises UserError."""
    questions, _ = read_questions(gold, unanswerable)
    for question in questions:
        if question.label is None:
            raise UserError(f'{gold}, question {question.index}: no answers, so nothing can be scored.')
    accepted, texts = {question.index: question.label for question in questions}, read_json(predictions)
    for name, text in texts.items():
        if not isinstance(text, str):
            raise UserError(f'{predictions}, question {name}: not a text. The file is {{id: text}}.')
    if not set(texts) & set(accepted):
        raise UserError(f'{predictions}: none of its ids is one of {gold}. Is it of other data?')
    missing = [name for name in accepted if name not in texts]
    if missing and () in accepted.values():
        raise UserError(f'{predictions}: no prediction for {len(missing):,} of {len(accepted):,} questions, the first '
                        f'{missing[0]}. SQuAD 2.0 wants one for each.')
    if missing:
        print(f'Note: {predictions} has no prediction for {len(missing):,} of {len(accepted):,} questions, the first '
              f'{missing[0]}: they count as wrong.')
    return accepted, texts


def read_odds(path, accepted):
    """{id: number} of a file for each of these questions; None where there is no file. Raises UserError."""
    if path is None:
        return None
    odds = read_json(path)
    for name in accepted:
        if not isinstance(odds.get(name), int | float):
            raise UserError(f'{path}, question {name}: no number. The file is {{id: how sure it is that there is no '
                            'answer}, with every question of the gold file.')
    return odds

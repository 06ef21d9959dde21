"""Pre-training: the packing by Google's rule, masks and samples by their distributions, losses and gradients against
the float64 reference, runs that are killed and go on, what comes out, and what bad text gets."""

import dataclasses
import gzip
import json
import math
import random

import numpy as np
import pytest
from helpers import STEP, Killed, start, stop_in
from scipy.stats import chisquare

import CoLA
import snippets
from checks import align_pretraining, kill
from engine import files
from engine.arguments import parse_args
from engine.cli import resolve_knobs
from engine.data import corpus, packing
from engine.data.vocabulary import load_vocabulary
from engine.model.checkpoints import Checkpoint
from engine.model.encoders import build_encoder, named_weights
from engine.model.heads import SampleReplacements
from engine.runs.layout import STATE
from lab.reference import numpy_model
from lab.reference.random_model import WORDS
from lab.scripts import load_script
from pretraining import vocabulary
from snippets import keras, tf
from tools import export, predict

LETTERS = 'abcdefghijklmnopqrstuvwxyz'
ELECTRA, MLM = (load_script(f'pretraining/{name}') for name in ('ELECTRA', 'MLM'))
FRESH = ('--layers', 1, '--hidden-size', 16, '--positions', 32)
TINY = ('--maxlen', 16, '--batch-size', 8, '--updates', 6, '--score-every', 3, '--learning-rate', 1e-3)


@pytest.fixture(scope='module')
def words(tmp_path_factory):
    """A folder with a vocabulary of letters and their continuations."""
    folder = tmp_path_factory.mktemp('words')
    (folder / 'vocab.txt').write_text('\n'.join(WORDS) + '\n')
    return folder


def made_up_text(documents=40, seed=0):
    """Documents of words of one to three letters that go on in the alphabet, in lines of unequal length."""
    chance, lines = random.Random(seed), []
    for _ in range(documents):
        for _ in range(chance.randint(1, 6)):
            first = [chance.randrange(24) for _ in range(chance.randint(1, 14))]
            lines.append(' '.join(LETTERS[i:i + chance.randint(1, 3)] for i in first) + ' .')
        lines.append('')
    return '\n'.join(lines) + '\n'


def knobs_of(script, folder, words, *more):
    path = folder / 'text.txt'
    if not path.exists():
        path.write_text(made_up_text())
    model = () if '--model' in more else ('--model', 'small' if script is ELECTRA else 'mini', *FRESH)
    model += ('--embedding-size', 8) if script is ELECTRA else ()
    argv = ['--text', path, '--vocabulary', words, '--runs-dir', folder / 'runs', '--cache-dir', folder / 'cache',
            '--no-jit', *model, *TINY, *more]
    return list(map(str, argv))


def settled(script, argv, **changes):
    knobs = resolve_knobs(script.knobs, script.__file__, parse_args(script.knobs, 'test', '', argv))
    return dataclasses.replace(knobs, **changes)


# ---- Text -----------------------------------------------------------------------------------------------------------


class ExampleBuilder:
    """google-research/electra, build_pretraining_dataset.py, in so far as it chooses tokens; and what engine/data/packing.py
    has different: once the second segment has begun nothing goes to the first."""

    def __init__(self, maxlen, chance):
        self.maxlen, self.random, self.target, self.lines = maxlen, chance, maxlen, []

    def add_line(self, tokens):
        if not tokens and self.lines:
            return self.example()
        self.lines += [tokens] if tokens else []
        return self.example() if sum(map(len, self.lines)) >= self.target else None

    def example(self):
        limit = 100000 if self.random.random() < 0.1 else (self.target - 3) // 2
        first, second = [], []
        for line in self.lines:
            fits = not first or len(first) + len(line) < limit or (
                not second and len(first) < limit and self.random.random() < 0.5)
            if fits and not second:
                first += line
            else:
                second += line
        first = first[:self.maxlen - 2]
        second = second[:max(0, self.maxlen - len(first) - 3)]
        self.lines = []
        self.target = self.random.randint(5, self.maxlen) if self.random.random() < 0.05 else self.maxlen
        ids = [2, *first, 3, *([*second, 3] if second else [])]
        return ids, [0] * (len(first) + 2) + [1] * (len(ids) - len(first) - 2)


def test_rows_are_packed_by_googles_rule(words, tmp_path):
    path, maxlen = tmp_path / 'text.txt', 48
    path.write_text(made_up_text(300))
    of_words = load_vocabulary(words, len(WORDS))
    whole = corpus.load_corpus(tmp_path / 'cache', of_words, [path])
    short = whole.lines.max() <= (maxlen - 3) // 2      # no line is taken apart
    rows = packing.pack(whole, of_words, maxlen, 7)
    builder, expected = ExampleBuilder(maxlen, random.Random(7)), []
    for line in path.read_text().split('\n'):
        tokens = of_words.tokenizer.encode(line, add_special_tokens=False).ids
        pieces = [tokens]
        if len(tokens) > (maxlen - 3) // 2:
            pieces, rest = [], tokens
            while rest:
                stop = rest.index(WORDS.index('.')) + 1 if WORDS.index('.') in rest else len(rest)
                stop = min(stop, (maxlen - 3) // 2)
                pieces.append(rest[:stop])
                rest = rest[stop:]
        expected += [builder.add_line(piece) for piece in pieces]
    expected = [example for example in expected if example]
    assert not short and len(rows) == len(expected) > 200
    data = packing.PackedRows(whole, of_words, rows, np.arange(len(rows)))
    segments = 0
    for i, example in enumerate(expected):
        ids, segment_ids = data.batch([i])
        assert (ids[0].tolist(), segment_ids[0].tolist()) == example
        segments += segment_ids.any()
    assert 0.5 < segments / len(rows) < 0.95


def test_text_is_cut_once_whatever_it_is_packed_in(words, tmp_path, monkeypatch):
    of_words = load_vocabulary(words, len(WORDS))
    lines = ['ab cd', 'ef', '', 'gh ij kl', '']
    (tmp_path / 'a.txt').write_text('\n'.join(lines) + '\n')
    (tmp_path / 'empty.txt').write_text('')
    with gzip.open(tmp_path / 'a.gz', 'wt') as file:
        file.write('\n'.join(lines) + '\n')
    (tmp_path / 'a.tsv').write_text('id\tone\ttwo\n1\tab cd\tef\n2\t\tgh ij kl\n')
    found = {}
    for name, options in (('a.txt', {}), ('a.gz', {}), ('a.tsv', {'columns': ['one', 'two']})):
        found[name] = corpus.load_corpus(tmp_path / 'cache', of_words, corpus.text_files(str(tmp_path / name)),
                                         **options)
    monkeypatch.setattr(corpus, 'tokenize_corpus', None)     # not again
    again = corpus.load_corpus(tmp_path / 'cache', of_words, [tmp_path / 'a.txt'])
    for whole in (*found.values(), again):
        assert whole.ids.tolist() == [WORDS.index(piece) for piece in (
            'a', '##b', 'c', '##d', 'e', '##f', 'g', '##h', 'i', '##j', 'k', '##l')]
        assert whole.joined.tolist() == [False, True] * 6
        assert whole.lines.tolist() == [4, 2, 6]
        assert whole.documents[:, 0].tolist() == [0, 2]
    assert found['a.txt'].place(1) == (str(tmp_path / 'a.txt'), 4)
    assert found['a.tsv'].place(1) == (str(tmp_path / 'a.tsv'), 3)
    assert corpus.text_files(f'{tmp_path}/*.txt,{tmp_path}/a.gz') == [tmp_path / 'a.txt', tmp_path / 'a.gz']
    by_line = list(corpus.read_text([tmp_path / 'a.txt'], 'line'))
    assert [line.begins for line in by_line] == [True] * 3
    assert [line.begins for line in corpus.read_text([tmp_path / 'a.txt'], 'file')] == [True, False, False]


def test_a_segmenter_says_what_a_word_is(tmp_path):
    (tmp_path / 'vocab.txt').write_text('\n'.join([*WORDS[:5], *'我来到北京清华大学', 'a', '##b']) + '\n')
    (tmp_path / 'text.txt').write_text('我来到北京ab清华大学\n')
    of_words = load_vocabulary(tmp_path, 16)
    joined = [corpus.load_corpus(tmp_path / 'cache', of_words, [tmp_path / 'text.txt'], segmenter=segmenter).joined
              for segmenter in ('', 'jieba')]
    assert joined[0].tolist() == [False] * 6 + [True] + [False] * 4
    # 我 来到 北京 ab 清华大学
    assert joined[1].tolist() == [False, False, True, False, True, False, True, False, True, True, True]


def test_whole_documents_are_held_out():
    rows = np.zeros((1000, 5), np.int64)
    rows[:, 4] = np.repeat(np.arange(250), 4)
    train, dev = packing.hold_out(rows, 1)
    assert len(dev) == 48 and not set(rows[train, 4]) & set(rows[dev, 4])       # every 20th document
    assert len(packing.hold_out(rows, 100)[1]) == 8                      # every 100th
    train, dev = packing.hold_out(rows[:30] * 0, 10)                     # one document
    assert (len(train), len(dev)) == (29, 1)


@pytest.mark.parametrize(('content', 'more', 'message'), [
    (b'ab\nc\xe4\n', (), 'text.txt, line 2: byte 0xe4 is not UTF-8'),
    (b'', (), 'no text in them'),
    (b'ab cd', (), 'none can be held out'),
    (b'one\ttwo\n1\n', ('--columns', 'one'), 'text.txt, line 2: 1 columns instead of 2'),
    (b'one\ttwo\n1\t2\n', ('--columns', 'three'), "text.txt, line 1: no column 'three'"),
    (None, ('--text', '/nowhere/*.txt'), '--text /nowhere/*.txt: no such file'),
    (None, ('--vocabulary', '/nowhere'), '--vocabulary /nowhere: no vocab.txt there'),
    (None, ('--model', 'minilm'), '--model minilm'),
])
def test_bad_text_is_said_in_one_line(content, more, message, words, tmp_path, capsys):
    if content is not None:
        (tmp_path / 'text.txt').write_bytes(content)
    with pytest.raises(SystemExit) as end:
        start(ELECTRA, *knobs_of(ELECTRA, tmp_path, words, *more))
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert message in said and said.count('\n') == 1
    assert not list(tmp_path.glob('runs/*/*/*/model.safetensors'))


def test_an_alphabet_that_the_vocabulary_lacks_is_said(words, tmp_path, capsys):
    (tmp_path / 'text.txt').write_text('ab cd Щит и меч ' * 3)
    corpus.load_corpus(tmp_path / 'cache', load_vocabulary(words, len(WORDS)), [tmp_path / 'text.txt'])
    assert '42.86 % of them [UNK]\nNote: of more than 5 %' in capsys.readouterr().out


def test_a_vocabulary_of_ones_own(tmp_path, capsys):
    (tmp_path / 'text.txt').write_text('Der Käse, der Käse!\n' * 20 + 'die Käserei\n' * 5)
    assert vocabulary.main([str(tmp_path / 'uncased'), '--text', str(tmp_path / 'text.txt'), '--size', '100']) == 0
    assert vocabulary.main([str(tmp_path / 'cased'), '--text', str(tmp_path / 'text.txt'), '--size', '100',
                            '--cased']) == 0
    for name, pieces in (('uncased', ['der', 'kase', ',', 'der', 'kase', '!']),
                         ('cased', ['Der', 'Käse', ',', 'der', 'Käse', '!'])):
        tokens = files.read_lines(tmp_path / name / 'vocab.txt')
        assert tokens[:5] == vocabulary.SPECIAL
        tokenizer = load_vocabulary(tmp_path / name, len(tokens)).tokenizer
        assert tokenizer.encode('Der Käse, der Käse!').tokens == pieces
    assert vocabulary.main([str(tmp_path / 'cased'), '--text', str(tmp_path / 'text.txt')]) == 2
    assert 'exists already' in capsys.readouterr().err


def test_more_characters_than_a_vocabulary_has_tokens(tmp_path, capsys):
    (tmp_path / 'text.txt').write_text(' '.join(chr(i) + chr(i + 1) for i in range(0x1200, 0x1200 + 90)))
    assert vocabulary.main([str(tmp_path / 'words'), '--text', str(tmp_path / 'text.txt'), '--size', '100']) == 0
    assert 'more than --size 100: every character' in capsys.readouterr().out
    assert vocabulary.main([str(tmp_path / 'few'), '--text', str(tmp_path / 'text.txt'), '--size', '100',
                            '--alphabet', '40']) == 0
    assert 'more than' not in capsys.readouterr().out


# ---- What is drawn --------------------------------------------------------------------------------------------------


class Rows:
    """Rows of [CLS], so many other tokens, [SEP], in which every second one goes on with the word before it."""

    def __init__(self, vocabulary, lengths):
        self.vocabulary, self.lengths = vocabulary, np.array(lengths)
        self.tokens = self.lengths - 2

    def batch(self, rows):
        width = self.lengths[rows].max()
        ids = np.full((len(rows), width), 30)
        ids[:, 0] = self.vocabulary.cls
        ids[np.arange(width) == self.lengths[rows][:, None] - 1] = self.vocabulary.sep
        ids[np.arange(width) >= self.lengths[rows][:, None]] = 0
        return ids

    def joined(self, rows, width):
        return np.tile(np.arange(width) % 2 == 0, (len(rows), 1)) & (np.arange(width) > 0)


@pytest.mark.parametrize(('kind', 'options', 'shares'), [
    (snippets.ReplacedTokens, {}, {'mask': 0.85, 'same': 0.15}),
    (snippets.MaskedTokens, {}, {'mask': 0.8, 'same': 0.1, 'other': 0.1}),
    (snippets.MaskedTokens, {'whole_words': True}, {'mask': 0.8, 'same': 0.1, 'other': 0.1})])
def test_a_million_masks(kind, options, shares, words):
    of_words = load_vocabulary(words, len(WORDS))
    count = 100000 if not options else 20000
    data = Rows(of_words, [68] * count)
    rows = np.arange(count)
    targets = kind(data, slots=12, **options)
    ids = data.batch(rows)
    hidden, (places,), words_hidden, used = targets.batch(ids, rows, (1, 0))
    if kind is snippets.ReplacedTokens:
        assert (words_hidden[1] == ids).all() and used[1].sum() == data.lengths.sum()
        words_hidden, used = words_hidden[0], used[0]
    places, row = places[used > 0], np.nonzero(used)[0]
    assert len(places) == 10 * count and (words_hidden[used > 0] == 30).all()
    assert len(set(zip(row.tolist(), places.tolist(), strict=True))) == len(places)     # without replacement
    assert chisquare(np.bincount(places, minlength=67)[1:67]).pvalue > 1e-4
    shown = hidden[row, places]
    counts = {'mask': (shown == of_words.mask).sum(), 'same': (shown == 30).sum()}
    if 'other' in shares:       # any token but [PAD]: [MASK] and the same one among them
        others = np.bincount(shown, minlength=len(WORDS))[1:]
        others = np.delete(others, [of_words.mask - 1, 29])
        assert chisquare(others).pvalue > 1e-4
        counts['other'] = others.sum()
        one = shares['other'] / (len(WORDS) - 1)
        shares = {'mask': shares['mask'] + one, 'same': shares['same'] + one, 'other': shares['other'] - 2 * one}
    expected = [share * len(places) for share in shares.values()]
    assert chisquare(list(counts.values()), expected).pvalue > 1e-4
    if options:     # both pieces of a word, or none
        chosen = np.zeros((count, 69), bool)
        chosen[row, places] = True
        assert (chosen[:, 1:67:2] == chosen[:, 2:68:2]).all()


def test_a_million_samples():
    logits = np.random.default_rng(0).normal(0, 1.5, 40).astype(np.float32)
    expected = np.exp(logits.astype(float)) / np.exp(logits.astype(float)).sum()
    ids = np.tile(np.array([[2, *[9] * 20, 3]], np.int32), (64, 1))
    places = np.tile(np.arange(21), (64, 1))        # the first slot is not used
    layer = SampleReplacements(1)
    draw = tf.function(lambda ids, training: layer(
        [ids, places, tf.broadcast_to(logits, (64, 21, 40))], training=training))
    counts = {True: np.zeros(40), False: np.zeros(40)}
    for training, total in counts.items():
        for i in range(800 if training else 100):
            ids[:, 21] = 64 * i + np.arange(64)     # other texts, for evaluation
            drawn = draw(ids, training).numpy()
            assert (drawn[:, 0] == 2).all() and (drawn[:, 21] == ids[:, 21]).all()
            total += np.bincount(drawn[:, 1:21].ravel(), minlength=40)
        assert chisquare(total, expected * total.sum()).pvalue > 1e-4
    assert counts[True].sum() == 1024000
    assert (draw(ids, False) == draw(ids, False)).numpy().all()
    assert (draw(ids, False)[:1] == draw(ids[:1].repeat(64, 0), False)[:1]).numpy().all()     # whatever the batch
    assert (draw(ids, True) != draw(ids, True)).numpy().any()


# ---- The step -------------------------------------------------------------------------------------------------------


def first_batch(script, knobs, data):
    """A training batch, the compiled loss of it without dropout, its outputs and {name: gradient}."""
    from checks.align_pretraining import given_to
    from engine.data.batches import training_steps
    model = script.build_model(knobs, len(data))
    random_numbers = np.random.default_rng(0)
    for variable in model.trainable_variables:      # biases and norms too shall count
        variable.assign_add(random_numbers.normal(0, 0.1, variable.shape))
    rows, *_ = next(training_steps(knobs, data, 0))
    inputs, targets, weights = given_to(knobs, data, rows)
    weights_of = {name: v for name, v in named_weights(model).items() if v.trainable}
    with tf.GradientTape() as tape:
        outputs = model(inputs, training=False)
        loss = model.compiled_loss(*tf.nest.map_structure(tf.convert_to_tensor, (targets, outputs, weights)))
    gradients = tape.gradient(loss, list(weights_of.values()))
    return inputs, targets, weights, outputs, float(loss), {
        name: tf.convert_to_tensor(g).numpy() for name, g in zip(weights_of, gradients, strict=True)}, {
        name: v.numpy() for name, v in weights_of.items()}


def check_gradients(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name in ours:
        size = np.abs(theirs[name.replace('/key/bias', '/query/bias')]).max()
        assert np.abs(ours[name] - theirs[name]).max() <= 1e-4 * size, name


def test_an_electra_step_is_the_references(words, tmp_path):
    knobs = settled(ELECTRA, knobs_of(ELECTRA, tmp_path, words, '--hidden-size', 128, '--generator-size', 0.5,
                                      '--layers', 2))
    data = ELECTRA.load_data(knobs)['train']
    (hidden, segments, places), (guessed, ids), (used, is_real), (guesses, seen), loss, gradients, values = \
        first_batch(ELECTRA, knobs, data)
    tables = [name for name in values if name.startswith('electra/embeddings/')]
    assert len(tables) == 5 and not [name for name in values if name.startswith('generator/embeddings/')]

    def model(root, sizes):
        """The generator's variables under the names that the reference has for an encoder's."""
        own = {name.replace(root, 'electra/', 1) if name.startswith(root) else name: value
               for name, value in values.items() if name.startswith(root) or name in tables or '_predictions' in name}
        return numpy_model.ReferenceModel('electra', {'layer_norm_eps': 1e-12, 'hidden_act': 'gelu_erf', 'num_hidden_layers': 2,
                                           'num_attention_heads': max(1, sizes // 64)}, 'cls', own)
    generator, discriminator = model('generator/', 64), model('electra/', 128)
    states, backward = generator.encode(hidden, segments)
    words_loss, gradient = generator.hidden_words_loss(states[-1], places, guessed, used > 0, 'generator_predictions')
    backward(gradient)
    logits, _ = generator.hidden_words(states[-1], places, 'generator_predictions')
    np.testing.assert_allclose(guesses, logits, atol=1e-5 * np.abs(logits).max())
    corrupted = seen[:, :, 1].numpy().astype(int)       # the same samples
    chosen = np.zeros(ids.shape, bool)
    chosen[np.nonzero(used)[0], places[used > 0]] = True
    is_replaced = corrupted != ids
    assert is_replaced.any() and (corrupted == ids)[~chosen].all()
    states, backward = discriminator.encode(corrupted, segments, is_real > 0)
    replaced_loss, gradient = discriminator.replaced_loss(states[-1], is_replaced, is_real > 0, 50.0)
    backward(gradient)
    assert loss == pytest.approx(words_loss + 50 * replaced_loss, rel=1e-4)
    theirs = {}
    for root, one in (('generator/', generator), ('electra/', discriminator)):
        for name, value in one.gradients.items():
            if name not in tables:
                name = name.replace('electra/', root, 1)
            theirs[name] = theirs.get(name, 0.0) + value
    check_gradients(gradients, theirs)


def test_tokens_of_both_losses_weigh_the_same_in_all_batches(words, tmp_path):
    from engine.data.batches import training_batch, training_steps
    knobs = settled(ELECTRA, knobs_of(ELECTRA, tmp_path, words))
    data = ELECTRA.load_data(knobs)['train']
    steps = list(training_steps(knobs, data, 0))
    weights = [training_batch(knobs, data, step, (), 0)[2] for step in steps]
    for of_loss in zip(*weights, strict=True):
        average = sum(np.count_nonzero(of_batch) for of_batch in of_loss) / len(data)       # a row's tokens
        for of_batch, (_, of_rows) in zip(of_loss, steps, strict=True):
            share = of_batch[of_batch > 0] / of_batch.size      # in the mean of a batch
            np.testing.assert_allclose(share, of_rows.max() / len(of_rows) / average, rtol=1e-5)


def test_an_mlm_step_is_the_references(words, tmp_path, tiny_bert):
    """On from a checkpoint that has no head."""
    knobs = settled(MLM, knobs_of(MLM, tmp_path, words, '--model', tiny_bert))
    data = MLM.load_data(knobs)['train']
    (hidden, segments, places), guessed, used, guesses, loss, gradients, values = first_batch(MLM, knobs, data)
    settings = snippets.open_model(str(tiny_bert), '').config
    model = numpy_model.ReferenceModel('bert', settings, 'cls', values)
    states, backward = model.encode(hidden, segments)
    expected, gradient = model.hidden_words_loss(states[-1], places, guessed, used > 0, 'cls/predictions/transform')
    backward(gradient)
    logits, _ = model.hidden_words(states[-1], places, 'cls/predictions/transform')
    np.testing.assert_allclose(guesses, logits, atol=1e-5 * np.abs(logits).max())
    assert loss == pytest.approx(expected, rel=1e-4)
    check_gradients(gradients, model.gradients)


def test_scores_are_googles():
    """google-research/electra, run_pretraining.py, metric_fn, on made-up outputs."""
    from sklearn.metrics import precision_score, recall_score
    chance = np.random.default_rng(0)
    suspicion, is_replaced = chance.normal(size=100), chance.random(100) < 0.3
    tokens = np.stack([chance.random(100), suspicion, is_replaced], -1)
    hidden = np.stack([chance.random(30), chance.random(30) < 0.4, chance.random(30) < 0.2], -1)
    scores = ELECTRA.score(([hidden[:10], hidden[10:]], [tokens[:50], tokens[50:]]), None)
    assert scores['disc_precision'] == pytest.approx(precision_score(is_replaced, suspicion > 0))
    assert scores['disc_recall'] == pytest.approx(recall_score(is_replaced, suspicion > 0))
    assert scores['disc_accuracy'] == pytest.approx(((suspicion > 0) == is_replaced).mean())
    assert scores['all_original_accuracy'] == pytest.approx((~is_replaced).mean())
    assert scores['masked_lm_loss'] == pytest.approx(hidden[:, 0].mean())
    assert scores['sampled_masked_lm_accuracy'] == pytest.approx(hidden[:, 2].mean())


# ---- Runs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('script', [ELECTRA, MLM], ids=['ELECTRA', 'MLM'])
def test_a_run_is_killed_goes_on_and_leaves_a_model(script, words, tmp_path, monkeypatch, capsys):
    name = 'small' if script is ELECTRA else 'mini'
    more = ('--grad-accumulation', 2, '--save-every', 0, '--checkpoints', 1)
    ends = {}
    for which in ('undisturbed', 'killed'):
        folder = tmp_path / which
        folder.mkdir()
        argv = knobs_of(script, folder, words, *more)
        folder = folder / 'runs' / 'pretraining' / script.__name__.split('.')[-1] / f'{name}-seed42'
        if which == 'killed':
            for call in (2, 8):
                with monkeypatch.context() as patch, pytest.raises(Killed):
                    stop_in(patch, STEP, call, kill.signal.SIGKILL)
                    start(script, *argv)
                assert (folder / STATE).is_file()
        start(script, *argv)
        ends[which] = folder
    said = capsys.readouterr().out
    assert 'goes on after 1 of 12 steps' in said and 'update 6/6  loss' in said
    assert not kill.differences(tmp_path / 'undisturbed', tmp_path / 'killed')
    metrics = json.loads((ends['killed'] / 'metrics.json').read_text())
    assert metrics['best']['update'] == 6 and (ends['killed'] / 'curve.png').is_file()
    assert [path.name for path in ends['killed'].glob('update-*')] == ['update-00000006']

    # What comes out is a model for every script, its last checkpoint the same.
    for folder in (ends['killed'], ends['killed'] / 'update-00000006'):
        knobs = resolve_knobs(CoLA.knobs, CoLA.__file__, {'model': str(folder), 'maxlen': 32})
        encoder = build_encoder(knobs)
        of_run = Checkpoint(folder)
        names = named_weights(keras.Model(encoder.inputs, encoder.vector))
        assert all((value == names[key].numpy()).all() for key, value in of_run.read(names))
    assert 'skipped: pre-training head' in capsys.readouterr().out


def test_mlm_goes_on_from_its_own_head(words, tmp_path, capsys):
    start(MLM, *knobs_of(MLM, tmp_path, words))
    folder = tmp_path / 'runs' / 'pretraining' / 'MLM' / 'mini-seed42'
    start(MLM, *knobs_of(MLM, tmp_path, words, '--model', folder, '--learning-rate', 1e-9, '--updates', 1,
                         '--whole-words', '--line-by-line'))
    assert 'its head for hidden words is used' in capsys.readouterr().out
    before, after = (Checkpoint(one) for one in (folder, folder.with_name('mini-seed42-seed42')))
    for name, value in after.read(after.shapes):
        np.testing.assert_allclose(value, dict(before.read([name]))[name], atol=1e-6)
    with pytest.raises(SystemExit) as end:
        start(MLM, *knobs_of(MLM, tmp_path, words, '--model', folder, '--layers', 2, '--fresh'))
    assert end.value.code == 2
    assert '--layers is for models with fresh values' in capsys.readouterr().err


def test_electra_starts_from_mlm_of_its_sizes(words, tmp_path, capsys):
    """The discriminator is the encoder that MLM.py left, the smaller generator has fresh values."""
    start(MLM, *knobs_of(MLM, tmp_path, words))
    folder = tmp_path / 'runs' / 'pretraining' / 'MLM' / 'mini-seed42'
    argv = [*knobs_of(ELECTRA, tmp_path, words, '--learning-rate', 1e-9, '--updates', 1), '--init', str(folder)]
    with pytest.raises(files.UserError, match='--layers 1 --hidden-size 16 --embedding-size 16'):
        ELECTRA.main(settled(ELECTRA, argv))
    start(ELECTRA, *argv, '--embedding-size', 16)
    before, after = Checkpoint(folder), Checkpoint(folder.parents[1] / 'ELECTRA' / 'small-seed42')
    encoder = [name for name in after.shapes if name.startswith('electra/')]
    begun = dict(before.read([name.replace('electra/', 'bert/') for name in encoder]))
    assert len(encoder) == 5 + 16
    for name, value in after.read(encoder):
        np.testing.assert_allclose(value, begun[name.replace('electra/', 'bert/')], atol=1e-6)


def test_positions_that_begin_as_sines(words, tmp_path):
    """Vaswani et al. 2017, section 3.5, as the equations have it; as large as the random values."""
    knobs = settled(MLM, knobs_of(MLM, tmp_path, words, '--sine-positions'))
    table = named_weights(MLM.build_model(knobs, 8))['bert/embeddings/position_embeddings'].numpy()
    expected = np.array([[f(p / 10000 ** (2 * i / 16)) for i in range(8) for f in (math.sin, math.cos)]
                         for p in range(32)])
    np.testing.assert_allclose(table, 0.02 * math.sqrt(2) * expected, atol=1e-6)
    assert np.sqrt(np.mean(table ** 2)) == pytest.approx(0.02)


@pytest.mark.parametrize('script', [ELECTRA, MLM], ids=['ELECTRA', 'MLM'])
def test_what_is_converted_computes_the_same(script, words, tmp_path, monkeypatch, capsys):
    """checks.align_pretraining reads what tools.convert writes. And what a run of pre-training is not for is said."""
    more = ('--generator-size', 0.5) if script is ELECTRA else ()
    start(script, *knobs_of(script, tmp_path, words, '--hidden-size', 128, '--layers', 2, '--checkpoints', 1, *more))
    folder, = tmp_path.glob('runs/*/*/*-seed42/update-00000006')
    capsys.readouterr()
    monkeypatch.setattr(align_pretraining, 'BATCHES', 1)
    assert align_pretraining.main([str(folder)]) == 0
    assert ('all 7 rows pass' if script is ELECTRA else 'all 4 rows pass') in capsys.readouterr().out
    if script is ELECTRA:
        return
    monkeypatch.setattr(numpy_model.ReferenceModel, 'activation', lambda self, x: (x, lambda dy: dy))
    assert align_pretraining.main([str(folder)]) == 1
    assert predict.main([str(folder), '--text', 'a']) == 2
    assert 'which has no answers() for texts' in capsys.readouterr().err
    assert export.main([str(folder), '--format', 'savedmodel']) == 2
    assert 'only models with one output, for texts alone' in capsys.readouterr().err


@pytest.mark.parametrize(('option', 'message'), [
    ('--reference=/nowhere/python', '--reference /nowhere/python: no such program'),
    ('--data-dir=/nowhere', 'no run of pretraining/ELECTRA.py or MLM.py')])
def test_bad_options_of_the_comparison(option, message, tiny_bert, capsys):
    assert align_pretraining.main([str(tiny_bert), option]) == 2
    assert message in capsys.readouterr().err

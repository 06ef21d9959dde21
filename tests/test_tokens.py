"""Token ids, truncation by Google's rule, the cache, batches that hold every example once, few lengths to pad to."""

import csv
import errno
import io
import itertools
import os
import pathlib
import random
import re
import shutil
import time
import unicodedata
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import SHARED, WORDS, make_knobs, needs_shared, write_google

import config
import snippets
from checks.google_tokenization import GoogleTokenizer, truncate_seq_pair
from engine import tokens
from engine.checkpoints import load_tokenizer, open_model
from engine.files import UserError, read_json, read_lines
from snippets import keras, tf


def examples(pairs):
    return [snippets.Example('x.tsv', i + 1, i, a, b, i % 2) for i, (a, b) in enumerate(pairs)]


@pytest.mark.parametrize('maxlen', [8, 9, 12])
def test_pairs_are_truncated_as_google_does(tiny_bert, maxlen):
    knobs = make_knobs('--model', tiny_bert, '--maxlen', maxlen)
    pairs = [('a ' * n, 'b ' * m) for n in range(1, 14) for m in range(1, 14)]
    data = snippets.tokenize(knobs, examples(pairs))
    a, b = WORDS.index('a'), WORDS.index('b')
    for i, (text_a, text_b) in enumerate(pairs):
        tokens_a, tokens_b = text_a.split(), text_b.split()
        truncate_seq_pair(tokens_a, tokens_b, maxlen - 3)
        ids, segments = data.batch(np.array([i]))
        expected = [2, *[a] * len(tokens_a), 3, *[b] * len(tokens_b), 3]
        assert ids[0, :len(expected)].tolist() == expected
        assert not ids[0, len(expected):].any()
        assert segments[0].sum() == len(tokens_b) + 1


def test_word_pieces_accents_and_unknown_characters(tiny_bert):
    data = snippets.tokenize(make_knobs('--model', tiny_bert), examples([('Éa, b\u0007b \u4e2d ', None)]))
    expected = [2, *(WORDS.index(w) for w in ('e', '##a', ',', 'b', '##b')), 1, 3]
    assert data.batch(np.array([0]))[0].tolist() == [expected]


# Where `tokenizers`, and transformers with it, differs from Google's code for BERT: that writes a sigma at the end of a
# word in its final form, as Python's lower() does; keeps private use characters, which ELECTRA's code drops too; and
# sets all of CJK extension E apart, whose first 256 characters `tokenizers` has missed.
OTHERWISE = re.compile('[\u03a3\ue000-\uf8ff\U0002b820-\U0002b91f\U000f0000-\U0010ffff]')


def assert_as_google(tokenizer, google, pairs, maxlen):
    """The ids, the segment ids and the padding of all these texts, or pairs of texts."""
    data = snippets.token_ids(tokenizer, maxlen, examples(pairs))
    assert len(data) == len(pairs)
    for start in range(0, len(pairs), 500):
        rows = np.arange(start, min(start + 500, len(pairs)))
        ids, segments = (array.tolist() for array in data.batch(rows))
        for i, row in enumerate(rows):
            wanted = google.inputs(*pairs[row], maxlen)
            padding = [0] * (len(ids[i]) - len(wanted[0]))
            assert (ids[i], segments[i]) == (wanted[0] + padding, wanted[1] + padding), pairs[row]


class Once:
    """A tokenizer that cuts every text once, for several values of maxlen."""

    def __init__(self, tokenizer):
        self.tokenizer, self.texts = tokenizer, {}

    def encode_batch_fast(self, texts, **options):
        new = list(set(texts) - self.texts.keys())
        for text, encoding in zip(new, self.tokenizer.encode_batch_fast(new, **options), strict=True):
            self.texts[text] = SimpleNamespace(ids=encoding.ids)
        return [self.texts[text] for text in texts]


def both_tokenizers(folder, lowercase=True):
    """Ours and Google's of a folder with a vocab.txt."""
    vocabulary = {token: i for i, token in enumerate(read_lines(folder / 'vocab.txt'))}
    tokenizer, cls, sep = load_tokenizer(folder, len(vocabulary))
    return (Once(tokenizer), cls, sep), GoogleTokenizer(vocabulary, lowercase)


TRICKY = [
    '', ' ', ' \t\n\r\u3000\u00a0 ', 'Sailors rode the breeze.', 'unaffable Johannesburg',
    "don't e-mail: $5.00 (50%)!", '#@_^~`|\\<>{}[]=+*&', '…—“quoted”‘x’ «oui» ¿qué? ¡sí! ‰ § ¶ † • €5 £6 ¥7',
    *('a' * n for n in (99, 100, 101, 199, 200, 201)), *('é' * n for n in (200, 201)), 'e\u0301' * 200,
    'ab ' + 'z9' * 100 + ' c', 'x' * 150 + '.' + 'x' * 201, '中' * 201, '.' * 201,
    'ÀÉÎÕÜ ñ ç Å \u212b İstanbul ß ẞ ŒUVRE', 'e\u0301a\u0300o\u0308 \u0301 q\u0323\u0307',
    'Việt Nam, Ελλάδα, Ёлка, Москва и Київ', 'עִבְרִית', 'العَرَبِيَّة', 'हिन्दी में', 'ภาษาไทย', '한국어 문장',
    'ひらがなとカタカナ', '機器學習と深層学習abc中文mixed英語', '豈更車 \U0002f804 \U00020000\U0002a6d6x \u3007〆',
    '、。「」〜！？（）：；',
    '１２３ ＡＢＣ ﬁ ½ ² Ⅷ ① ㎏ ㍿', 'I ❤️ it 😀👍🏽 👩\u200d👩\u200d👧 🇩🇪 🥺🫠 ok',
    '\u0000a\u0007b\u001bc\u007fd\u0085e\ufffdf', 'tab\tnew\nline\r\nend', 'line\u2028and\u2029par',
    'zero\u200bwidth\u200cnon\u200djoiner\ufeffbom\u00adsoft\u2060word', '\u202eright to left\u202c',
    '\u2003em\u2009thin\u202fnarrow\u205fmath\u1680ogham', '[CLS] [SEP] [MASK] [UNK] [PAD] [unused1] ##ing',
]


def steady_characters():
    """{category: characters} of those that Unicode has left as they are since version 3.2; and emoji, younger ones.

    `tokenizers` knows version 8, Python one from 13 to 15: newer marks and punctuation are none to one of them.
    """
    kinds = {}
    for char in map(chr, range(0x30000)):
        category = unicodedata.category(char)
        if category == unicodedata.ucd_3_2_0.category(char) and category not in ('Cn', 'Cs') \
                and not OTHERWISE.match(char):
            kinds.setdefault(category, []).append(char)
    return kinds | {'emoji': [*'😀❤👍🏽👩🇩🇪🥺\ufe0f\u200d']}


def random_texts(count, seed):
    """Texts of up to 40 characters or words of every kind."""
    draw, kinds = random.Random(seed), steady_characters()
    words = ['the', 'Sailor', 'ing', 'um', '中文', 'x' * 99, 'y' * 199]
    kinds = [*kinds.values(), kinds['Mn'], kinds['Lo'], [' '], [' '], [*'abcdeABCDE0123.,\'-[]'], words]
    return [''.join(draw.choice(draw.choice(kinds)) for _ in range(draw.randrange(40))) for _ in range(count)]


@pytest.mark.parametrize('lowercase', [True, False])
@pytest.mark.parametrize('vocabulary', ['words', 'letters'])
def test_ids_as_google_on_tricky_texts(tmp_path, vocabulary, lowercase):
    texts = TRICKY + random_texts(4000, f'{vocabulary} {lowercase}')
    assert not OTHERWISE.search(' '.join(texts))
    tokens = read_lines(open_model('minilm', '').folder / 'vocab.txt')      # BERT's own
    if vocabulary == 'letters':         # then no difference hides behind an [UNK] for the whole word
        letters = {letter for text in texts for form in (text, text.lower())
                   for letter in form + unicodedata.normalize('NFD', form) if letter.strip()}
        letters = sorted(letter for letter in letters if not lowercase or letter == letter.lower())
        tokens = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', *letters, *(f'##{letter}' for letter in letters)]
    elif not lowercase:
        tokens += ['The', 'Sailor', 'É', '##E']
    (tmp_path / 'vocab.txt').write_text('\n'.join(tokens) + '\n', encoding='utf-8')
    ours, google = both_tokenizers(tmp_path, lowercase)
    pairs = list(zip(texts, random.Random(1).sample(texts, len(texts)), strict=True))
    for maxlen in (16, 64, 128):
        assert_as_google(ours, google, [(text, None) for text in texts], maxlen)
        assert_as_google(ours, google, pairs, maxlen)


def shared_glue():
    """Every text and pair: {file: [(a, b or None)]}."""
    names = ('sentence', 'question', 'sentence1', 'sentence2', 'question1', 'question2', '#1 String', '#2 String')
    files = {}
    for path in sorted((SHARED / 'glue').glob('*/*.tsv')):
        if path.name == 'dev_ids.tsv':
            continue
        rows = [line.split('\t') for line in read_lines(path)]
        columns = [3] if path.parent.name == 'CoLA' and path.stem != 'test' else \
            [i for i, name in enumerate(rows.pop(0)) if name in names]
        files[path] = [(row[columns[0]], row[columns[1]] if columns[1:] else None) for row in rows]
    return files


def shared_chinese():
    """The same; for reading comprehension every question with its text."""
    root, files = SHARED / 'chinese', {}
    for path in root.glob('ChnSentiCorp/*.tsv'):
        files[path] = [(line.split('\t', 1)[1], None) for line in read_lines(path)[1:]]
    for path in root.glob('LCQMC/*.txt'):
        files[path] = [tuple(line.split('\t')[:2]) for line in read_lines(path)]
    for path in root.glob('BQ/*.csv'):
        files[path] = [tuple(row[:2]) for row in csv.reader(io.StringIO('\n'.join(read_lines(path)[1:])))]
    for path in root.glob('*/*.json'):
        files[path] = [(question['question'], text['context']) for article in read_json(path)['data']
                       for text in article['paragraphs'] for question in text['qas']]
    for path in root.glob('PeopleDaily/*'):     # a character and its label a line, a blank line after a sentence
        sentences = '\n'.join(read_lines(path)).split('\n\n')
        files[path] = [(''.join(line.split(' ')[0] for line in sentence.split('\n')), None) for sentence in sentences]
    return files


@needs_shared
@pytest.mark.parametrize('read, vocabulary, rows, otherwise', [
    (shared_glue, 'bert-uncased', 143789, 2), (shared_chinese, 'bert-chinese', 71494, 2)])
def test_ids_as_google_on_all_data(tmp_path, read, vocabulary, rows, otherwise):
    (tmp_path / 'vocab.txt').write_bytes((SHARED / 'vocab' / f'{vocabulary}.txt').read_bytes())
    ours, google = both_tokenizers(tmp_path)
    files = read()
    assert sum(map(len, files.values())) == rows
    for pairs in files.values():
        same = [pair for pair in pairs if not any(OTHERWISE.search(text) for text in pair if text)]
        otherwise -= len(pairs) - len(same)
        for maxlen in (16, 64, 128):
            assert_as_google(ours, google, same[::10], maxlen)      # every tenth, for the time
    assert otherwise == 0


def test_every_epoch_holds_every_example_once_in_an_order_of_seed_and_epoch(tiny_bert):
    random = np.random.default_rng(0)
    data = snippets.tokenize(make_knobs('--model', tiny_bert), examples([('a ' * n, None) for n in
                                                                        random.integers(1, 25, 500)]))
    orders = {(seed, epoch): data.shuffled(seed, epoch, 8) for seed in (1, 2) for epoch in (0, 1)}
    for batches in orders.values():
        assert sorted(np.concatenate(batches)) == list(range(500))
    flat = [tuple(np.concatenate(batches)) for batches in orders.values()]
    assert len(set(flat)) == 4
    assert flat[0] == tuple(np.concatenate(data.shuffled(1, 0, 8)))


# ---- The cache ------------------------------------------------------------------------------------------------------

PAIRS = [('a b', 'c'), ('c', 'a b'), ('', 'dd e. ' * 20), ('a b', '')]


@pytest.fixture
def cached(tmp_path, tiny_bert, monkeypatch):
    """tokenize() with a cache folder; `calls` are the lists of texts that went to the tokenizer."""
    def tokenize(pairs=PAIRS, *options):
        knobs = make_knobs('--model', tiny_bert, '--cache', '--cache-dir', tokenize.folder, *options)
        return snippets.tokenize(knobs, examples(pairs))

    def encode(tokenizer, texts):
        tokenize.calls.append(texts)
        return made(tokenizer, texts)

    made, tokenize.calls, tokenize.folder = tokens.encode, [], tmp_path / 'new' / 'cache'
    monkeypatch.setattr(tokens, 'encode', encode)
    return tokenize


def assert_same(one, other):
    assert len(one) == len(other)
    for name in ('ids', 'lengths', 'lengths_a'):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    for ours, theirs in zip(one.batch(np.arange(len(one))), other.batch(np.arange(len(one))), strict=True):
        assert ours.dtype == theirs.dtype == np.int32
        np.testing.assert_array_equal(ours, theirs)


def test_every_text_is_cut_once_and_kept(cached, capsys):
    first = cached()
    assert cached.calls == [['a b', 'c', '', 'dd e. ' * 20]]        # each of them once
    assert_same(first, cached(PAIRS, '--no-cache'))
    del cached.calls[:]
    again = cached()
    assert isinstance(again.ids.base.base, np.memmap)
    assert_same(first, again)
    # Swapped pairs have the same texts, and truncation comes after.
    assert_same(cached(PAIRS + [pair[::-1] for pair in PAIRS]), cached(PAIRS + [pair[::-1] for pair in PAIRS]))
    assert cached(PAIRS, '--maxlen', 8).lengths.tolist() == [6, 6, 8, 5]
    assert not cached.calls
    assert [path.name[:7] for path in cached.folder.iterdir()] == ['tokens-']
    assert not capsys.readouterr().out


def test_another_text_vocabulary_or_option_has_a_file_of_its_own(cached, tmp_path, tiny_bert, monkeypatch):
    folders = [shutil.copytree(tiny_bert, tmp_path / name) for name in ('words', 'case')]
    (folders[0] / 'vocab.txt').write_text('\n'.join([*WORDS[:-2], WORDS[-1], WORDS[-2]]) + '\n')
    (folders[1] / 'vocab.txt').write_text('\n'.join(WORDS).replace('##z', 'Z') + '\n')         # so it keeps capitals
    for count, (pairs, *options) in enumerate([
            (PAIRS,), ([('a b', 'c!'), *PAIRS[1:]],), ([('a b', 'dc'), *PAIRS[1:]],), ([('a', ' bc'), *PAIRS[1:]],),
            (PAIRS[::-1],), (PAIRS, '--model', folders[0]), (PAIRS, '--model', folders[1])], 1):
        cached(pairs, *options)
        assert len(cached.calls) == len(list(cached.folder.iterdir())) == count
    monkeypatch.setattr(tokens, 'FORMAT', tokens.FORMAT + 1)
    cached()
    assert len(cached.calls) == count + 1


@pytest.mark.parametrize('spoil', [
    lambda path, other: path.write_bytes(path.read_bytes()[:-4]), lambda path, other: path.write_bytes(b''),
    lambda path, other: path.write_bytes(path.read_bytes()[:-1] + b'\1'),
    lambda path, other: path.write_text('foreign'),
    lambda path, other: np.save(path, np.zeros(3, np.float64)), lambda path, other: np.save(path, np.int32(3)),
    lambda path, other: shutil.copy(other, path),
    lambda path, other: np.save(path, np.arange(9, dtype=np.int32).reshape(3, 3)),
    lambda path, other: (path.unlink(), path.mkdir()),
], ids=['short', 'empty', 'one byte', 'text', 'floats', 'a number', 'another key', 'a table', 'a folder'])
def test_a_damaged_file_is_made_again(cached, capsys, spoil):
    cached([('b', 'a a'), *PAIRS[1:]])
    other, = cached.folder.iterdir()
    good = cached()
    path, = set(cached.folder.iterdir()) - {other}
    spoil(path, other)
    capsys.readouterr()
    assert_same(good, cached())
    assert capsys.readouterr().out.splitlines()[0] == f'{path}: damaged, or no file of token ids; made again.'
    if path.is_file():
        assert_same(good, cached())
        assert len(cached.calls) == 3
        assert not capsys.readouterr().out


def test_no_cache(cached, capsys):
    for _ in range(2):
        cached(PAIRS, '--no-cache')
    assert len(cached.calls) == 2
    assert not cached.folder.exists()


def test_a_folder_that_cannot_be_written_is_said_once(cached, capsys, monkeypatch):
    cached.folder.parent.mkdir()
    cached.folder.write_text('a file')
    first = cached()
    assert_same(first, cached())
    said = f'{cached.folder}: token ids cannot be kept here (File exists); going on without.\n'
    assert capsys.readouterr().out == said

    def full(path, content):
        raise OSError(errno.ENOSPC, 'No space left on device')
    monkeypatch.setattr(pathlib.Path, 'write_bytes', full)
    cached.folder.unlink()
    assert_same(first, cached())
    cached(PAIRS[::-1])
    assert capsys.readouterr().out.count('(No space left on device); going on without.\n') == 1
    assert not list(cached.folder.iterdir())


def test_what_was_not_used_for_longest_is_deleted(cached, monkeypatch):
    (cached.folder / 'mine').mkdir(parents=True)
    np.save(cached.folder / 'mine.npy', np.zeros(1000))
    names = []
    for age, text in ((30, 'a'), (20, 'b'), (10, 'c')):
        cached([(text, None)])
        path, = set(cached.folder.glob('tokens-*')) - set(names)
        os.utime(path, (time.time() - age,) * 2)
        names.append(path)
    cached([('a', None)])       # used again
    monkeypatch.setattr(config, 'CACHE_LIMIT', 3 * names[0].stat().st_size)
    cached([('d', None)])
    assert [path.exists() for path in names] == [True, False, True]
    monkeypatch.setattr(config, 'CACHE_LIMIT', 0)
    cached([('e', None)])
    assert sorted(path.name[:6] for path in cached.folder.iterdir()) == ['mine', 'mine.n', 'tokens']


# ---- Batches --------------------------------------------------------------------------------------------------------


def of_lengths(lengths, tiny_bert):
    return snippets.tokenize(make_knobs('--model', tiny_bert, '--maxlen', 512),
                             examples([('a ' * (n - 2), None) for n in lengths]))


def share(data, batches, lengths):
    return 1 - data.lengths.sum() / sum(data.batch(rows, lengths)[0].size for rows in batches)


def test_few_lengths_leave_little_padding_in_every_epoch(tiny_bert):
    random = np.random.default_rng(0)
    data = of_lengths(np.minimum(3 + random.lognormal(2.5, 0.7, 5000), 150).astype(int), tiny_bert)
    lengths = data.fewest_lengths(data.shuffled(1, 0, 16))
    assert lengths == sorted(set(lengths))
    assert (len(lengths), len(set(data.lengths))) == (20, 88)
    for seed, epoch in ((1, 0), (1, 1), (1, 7), (2, 3)):
        batches = data.shuffled(seed, epoch, 16)
        assert share(data, batches, lengths) < config.PADDING
        assert {data.batch(rows, lengths)[0].shape[1] for rows in batches} == set(lengths)


@pytest.mark.parametrize('seed', range(5))
def test_the_lengths_are_the_fewest_and_best(tiny_bert, monkeypatch, seed):
    monkeypatch.setattr(config, 'PADDING', 0.12)
    data = of_lengths(np.random.default_rng(seed).integers(3, 40, 60), tiny_bert)
    batches = data.shuffled(seed, 0, 7)
    *shorter, longest = sorted({data.lengths[rows].max() for rows in batches})

    def best(count):
        return min(share(data, batches, [*some, longest]) for some in itertools.combinations(shorter, count - 1))
    lengths = data.fewest_lengths(batches)
    assert share(data, batches, lengths) == pytest.approx(best(len(lengths)))
    allowed = max(0.12, 1 - (1 - best(len(shorter) + 1)) / 1.02)
    assert share(data, batches, lengths) <= allowed < best(len(lengths) - 1)


@needs_shared
@pytest.mark.parametrize(('name', 'count'), [('CoLA', 11), ('MRPC', 10), ('RTE', 15), ('WNLI', 10)])
def test_lengths_of_real_data(name, count):
    script = __import__(name)
    knobs = make_knobs('--data-dir', SHARED / 'glue', task=name, labels=script.knobs.labels, maxlen=script.knobs.maxlen)
    data = snippets.tokenize(knobs, script.load_data(knobs, 'train'))
    batches = data.shuffled(42, 0, 32)
    lengths = data.fewest_lengths(batches)
    assert len(lengths) == count
    # WNLI's 635 examples make 20 batches, which hold 6.3 % by themselves.
    assert share(data, batches, lengths) < (0.081 if name == 'WNLI' else 0.05)


def test_predictions_come_back_in_file_order_from_one_trace(tiny_bert):
    random = np.random.default_rng(3)
    train, dev = (of_lengths(random.integers(3, most, 300), tiny_bert) for most in (30, 60))
    knobs = make_knobs('--model', tiny_bert, '--maxlen', 64, '--eval-batch-size', 7)
    train.training_batches(knobs)
    assert max(knobs.lengths) == 29
    inputs = [keras.Input((None,), dtype='int32') for _ in range(2)]
    counts = keras.layers.Lambda(lambda x: tf.cast(tf.stack(
        [tf.reduce_sum(tf.sign(x[0]), -1), tf.reduce_sum(tf.ones_like(x[0]), -1)], -1), tf.float32))(inputs)
    model = keras.Model(inputs, counts)
    for data, knobs.jit in ((dev, True), (train, True), (dev, False)):
        real, padded = snippets.predict(knobs, model, data).T
        assert real.tolist() == data.lengths.tolist()
        if knobs.jit:
            assert set(padded) <= {*knobs.lengths, 512.0}
        assert (padded >= real).all()
    assert model.forward.experimental_get_tracing_count() == 1


@pytest.mark.parametrize(('rows', 'most'), [(1000, 1), (64, 0.2)])
def test_batches_of_prediction_hold_little_padding(rows, most, tiny_bert):
    data = of_lengths(np.random.default_rng(3).geometric(0.05, 1000).clip(3, 500), tiny_bert)
    batches, order = data.batches(rows)
    shapes = np.array([ids.shape for (ids, _), in batches])
    assert sorted(order) == list(range(1000)) and shapes[:, 0].sum() == 1000 and shapes[:, 0].max() <= rows
    padding = shapes.prod(1).sum() - data.lengths.sum()
    assert padding <= len(shapes) * config.BATCH_COST
    assert 10 < len(shapes) < 100 and padding / data.lengths.sum() < most


def test_the_last_batch_is_filled_up_with_rows_that_weigh_nothing(tiny_bert):
    data = of_lengths(range(3, 43), tiny_bert)
    data.labels = np.arange(40)
    batches = itertools.islice(data.training_batches(make_knobs('--model', tiny_bert, '--batch-size', 16)), 3)
    shapes, rows = [], []
    for (ids, segments), labels, weights in batches:
        labels, weights = labels.numpy(), weights.numpy()
        shapes.append(ids.shape[0])
        assert ids.shape == segments.shape
        real = weights > 0
        assert (weights[real] == 16 / real.sum()).all()
        assert np.mean(weights * labels) == pytest.approx(labels[real].mean())
        rows += labels[real].tolist()
    assert shapes == [16, 16, 16]
    assert sorted(rows) == list(range(40))


@pytest.mark.parametrize('slow', ['data', 'model'])
def test_the_time_that_the_training_waits(tiny_bert, monkeypatch, slow):
    """On a machine that does other things as well: no longer than it is in next(), and for slow data most of theirs."""
    data, batch = of_lengths(range(3, 43), tiny_bert), tokens.Tokens.batch

    def slowly(self, *args):
        time.sleep(0.1 if slow == 'data' else 0)
        return batch(self, *args)
    monkeypatch.setattr(tokens.Tokens, 'batch', slowly)
    batches = iter(data.training_batches(make_knobs('--model', tiny_bert, '--batch-size', 2)))
    asking = 0.0
    for _ in range(10):
        asked = time.time()
        next(batches)
        asking += time.time() - asked
        time.sleep(0.1 if slow == 'model' else 0)
    assert (0.5 if slow == 'data' else 0.0) < data.waited <= asking


def test_vocabulary_that_does_not_fit(tmp_path):
    from conftest import SIZES, random_variables
    variables = random_variables('bert', SIZES)
    for words, message in ((WORDS + ['more'], f'{len(WORDS) + 1} tokens, but the checkpoint has {len(WORDS)}'),
                           (WORDS[1:], r'no line \[PAD\]'), (WORDS + ['a'], r"'a' stands in line 6 too")):
        folder = write_google(tmp_path / str(len(message)), variables, SIZES, words)
        with pytest.raises(UserError, match=message):
            snippets.tokenize(make_knobs('--model', folder), examples([('a', None)]))

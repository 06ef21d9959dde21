"""Token ids, truncation by Google's rule, windows, the cache, batches that hold every example once, few widths to pad
to, targets and their weights, predictions in the order of the file."""

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
from helpers import SHARED, make_knobs, needs_shared

import config
import snippets
from engine.data import batches, tokens, vocabulary
from engine.data.batches import choose_widths, prediction_batches, shuffled_batches
from engine.files import UserError, read_json, read_lines
from engine.model.checkpoints import open_model
from engine.training import prediction
from engine.training.plan import make_plan
from lab.reference.random_model import WORDS, write_google
from lab.reference.tokenization import GoogleTokenizer, truncate_seq_pair
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


def assert_as_google(ours, google, pairs, maxlen):
    """The ids, the segment ids and the padding of all these texts, or pairs of texts."""
    data = tokens.build_rows(ours, maxlen, examples(pairs))
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
    """Ours, as a Vocabulary, and Google's of a folder with a vocab.txt."""
    ids = {token: i for i, token in enumerate(read_lines(folder / 'vocab.txt'))}
    ours = vocabulary.load_vocabulary(folder, len(ids))
    return ours._replace(tokenizer=Once(ours.tokenizer)), GoogleTokenizer(ids, lowercase)


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
@pytest.mark.parametrize('kind', ['words', 'letters'])
def test_ids_as_google_on_tricky_texts(tmp_path, kind, lowercase):
    texts = TRICKY + random_texts(4000, f'{kind} {lowercase}')
    assert not OTHERWISE.search(' '.join(texts))
    words = read_lines(open_model('minilm', '').folder / 'vocab.txt')       # BERT's own
    if kind == 'letters':               # then no difference hides behind an [UNK] for the whole word
        letters = {letter for text in texts for form in (text, text.lower())
                   for letter in form + unicodedata.normalize('NFD', form) if letter.strip()}
        letters = sorted(letter for letter in letters if not lowercase or letter == letter.lower())
        words = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', *letters, *(f'##{letter}' for letter in letters)]
    elif not lowercase:
        words += ['The', 'Sailor', 'É', '##E']
    (tmp_path / 'vocab.txt').write_text('\n'.join(words) + '\n', encoding='utf-8')
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
@pytest.mark.parametrize('read, name, rows, otherwise', [
    (shared_glue, 'bert-uncased', 143789, 2), (shared_chinese, 'bert-chinese', 71494, 2)])
def test_ids_as_google_on_all_data(tmp_path, read, name, rows, otherwise):
    (tmp_path / 'vocab.txt').write_bytes((SHARED / 'vocab' / f'{name}.txt').read_bytes())
    ours, google = both_tokenizers(tmp_path)
    files = read()
    assert sum(map(len, files.values())) == rows
    for pairs in files.values():
        same = [pair for pair in pairs if not any(OTHERWISE.search(text) for text in pair if text)]
        otherwise -= len(pairs) - len(same)
        for maxlen in (16, 64, 128):
            assert_as_google(ours, google, same[::10], maxlen)      # every tenth, for the time
    assert otherwise == 0


# ---- Which tokens stay ----------------------------------------------------------------------------------------------

LETTERS = 'abcdefghijklmnopqrstuvwxyz'


def letters(count, start=0):
    """A text of so many tokens, all different, which is a slice of the alphabet."""
    return ' '.join(LETTERS[start:start + count])


def pieces_of(data, row):
    """The tokens of each text of a row, with what row() and batch() say about them in agreement."""
    ids, segments = data.batch(np.array([row]))
    one = data.row(row)
    assert (one.ids.tolist(), one.segments.tolist()) == (ids[0].tolist(), segments[0].tolist())
    assert (one.ids[one.texts < 0] < 4).all()       # [CLS], [SEP]
    return [[WORDS[i] for i in one.ids[one.texts == text]] for text in range(one.texts.max() + 1)]


@pytest.mark.parametrize('keep', ['tail', 1, 2, 20])
def test_which_tokens_of_a_long_text_stay(tiny_bert, keep):
    def kept(text, count):
        if keep == 'tail' or count == len(text):
            return text[len(text) - count:]
        head = min(keep, count)
        return text[:head] + text[len(text) - (count - head):]

    pairs = [(letters(n), letters(m, 8)) for n in range(1, 14) for m in range(1, 14)]
    data = snippets.tokenize(make_knobs('--model', tiny_bert, '--maxlen', 9), examples(pairs), keep=keep)
    for row, pair in enumerate(pairs):
        texts = [text.split() for text in pair]
        heads = [list(text) for text in texts]
        truncate_seq_pair(*heads, 6)
        assert pieces_of(data, row) == [kept(text, len(head)) for text, head in zip(texts, heads, strict=True)]


@pytest.mark.parametrize('question', [None, 'x y'])
@pytest.mark.parametrize('stride', [1, 3, 5])
def test_windows_hold_every_token_of_the_text(tiny_bert, stride, question):
    room = 9 - 2 if question is None else 9 - 3 - 2
    stride = min(stride, room)
    texts = [letters(n) for n in range(1, 26)]
    pairs = [(text, None) if question is None else (question, text) for text in texts]
    data = snippets.tokenize(make_knobs('--model', tiny_bert, '--maxlen', 9), examples(pairs), stride=stride)
    windows = {}
    for row, number in enumerate(data.example):
        *before, text = pieces_of(data, row)
        assert before == ([] if question is None else [['x', 'y']])
        windows.setdefault(number, []).append(''.join(text))
    assert list(windows) == list(range(25)) == list(np.unique(data.example))
    for number, parts in windows.items():
        text = LETTERS[:number + 1]
        starts = range(0, max(number + 1 - room, 0) + stride, stride)
        assert parts == [text[start:start + room] for start in starts][:len(parts)]
        assert parts[-1][-1] == text[-1] and all(part[-1] != text[-1] for part in parts[:-1])
    assert data.gold.tolist() == [number % 2 for number in range(25)]
    np.testing.assert_array_equal(data.targets.values, data.gold[data.example])


@pytest.mark.parametrize(('question', 'stride'), [('a b', 5), ('a b c d e f', 1)])
def test_windows_that_would_skip_text_are_refused(tiny_bert, question, stride):
    pairs = [('a', 'b'), (question, letters(9))]
    with pytest.raises(UserError, match='x.tsv, line 2: .*smaller stride or a larger --maxlen'):
        snippets.tokenize(make_knobs('--model', tiny_bert, '--maxlen', 9), examples(pairs), stride=stride)


@pytest.mark.parametrize('settings', [{}, {'keep': 'tail'}, {'keep': 2}, {'stride': 2}], ids=str)
def test_offsets_lead_back_to_the_text(tmp_path, tiny_bert, settings):
    pairs = [('Éa,  b\u0007b', '\U0001f600 İx? E\u0301z'), ('no, No', 'Ü' * 9 + ' \u4e2d. x' * 5), ('', 'a b')]
    knobs = make_knobs('--model', tiny_bert, '--maxlen', 14, '--cache', '--cache-dir', tmp_path)
    for _ in range(2):      # made, and from the cache
        data = snippets.tokenize(knobs, examples(pairs), offsets=True, **settings)
        for number, example in enumerate(data.example):
            row = data.row(number)
            for i, text, (start, end) in zip(row.ids, row.texts, row.offsets, strict=True):
                if text < 0:
                    assert (start, end) == (-1, -1)
                    continue
                piece = unicodedata.normalize('NFD', pairs[example][text][start:end].lower())
                piece = ''.join(char for char in piece if unicodedata.category(char) != 'Mn')
                assert piece and (i == 1 or piece == WORDS[i].removeprefix('##'))
    assert snippets.tokenize(knobs, examples(pairs)).row(0).offsets is None


# ---- The cache ------------------------------------------------------------------------------------------------------

PAIRS = [('a b', 'c'), ('c', 'a b'), ('', 'dd e. ' * 20), ('a b', '')]


@pytest.fixture
def cached(tmp_path, tiny_bert, monkeypatch):
    """tokenize() with a cache folder; `calls` are the lists of texts that went to the tokenizer."""
    def tokenize(pairs=PAIRS, *options, **settings):
        knobs = make_knobs('--model', tiny_bert, '--cache', '--cache-dir', tokenize.folder, *options)
        return snippets.tokenize(knobs, examples(pairs), **settings)

    def cut_texts(tokenizer, texts, offsets=False):
        tokenize.calls.append(texts)
        return cut(tokenizer, texts, offsets)

    cut, tokenize.calls, tokenize.folder = vocabulary.tokenize_texts, [], tmp_path / 'new' / 'cache'
    for module in (vocabulary, tokens):
        monkeypatch.setattr(module, 'tokenize_texts', cut_texts)
    return tokenize


def assert_same(one, other):
    assert len(one) == len(other)
    for name in ('ids', 'lengths', 'starts', 'counts'):
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
    cached(offsets=True)
    cached()
    assert len(cached.calls) == len(list(cached.folder.iterdir())) == count + 1
    monkeypatch.setattr(vocabulary, 'FORMAT', vocabulary.FORMAT + 1)
    cached()
    assert len(cached.calls) == count + 2


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


def share(lengths, rows_of_batches, widths):
    """Of padding in these batches."""
    longest = [lengths[rows].max() for rows in rows_of_batches]
    padded = sum(len(rows) * min(width for width in widths if width >= most)
                 for rows, most in zip(rows_of_batches, longest, strict=True))
    return 1 - lengths.sum() / padded


def test_every_epoch_holds_every_example_once_in_an_order_of_seed_and_epoch():
    lengths = np.random.default_rng(0).integers(1, 25, 500)
    orders = [shuffled_batches(lengths, seed, epoch, 8) for seed in (1, 2) for epoch in (0, 1)]
    flat = [tuple(np.concatenate(order)) for order in orders]
    for order in flat:
        assert sorted(order) == list(range(500))
    assert len(set(flat)) == 4
    assert flat[0] == tuple(np.concatenate(shuffled_batches(lengths, 1, 0, 8)))


def test_few_widths_leave_little_padding_in_every_epoch(tiny_bert):
    random = np.random.default_rng(0)
    data = of_lengths(np.minimum(3 + random.lognormal(2.5, 0.7, 5000), 150).astype(int), tiny_bert)
    widths = choose_widths(data.lengths, shuffled_batches(data.lengths, 1, 0, 16))
    assert widths == sorted(set(widths))
    assert (len(widths), len(set(data.lengths))) == (20, 88)
    for seed, epoch in ((1, 0), (1, 1), (1, 7), (2, 3)):
        ids = [data.batch(rows, widths)[0] for rows in shuffled_batches(data.lengths, seed, epoch, 16)]
        assert 1 - data.lengths.sum() / sum(batch.size for batch in ids) < config.PADDING
        assert {batch.shape[1] for batch in ids} == set(widths)


@pytest.mark.parametrize('seed', range(5))
def test_the_widths_are_the_fewest_and_best(monkeypatch, seed):
    lengths = np.random.default_rng(seed).integers(3, 40, 60)
    rows_of_batches = shuffled_batches(lengths, seed, 0, 7)
    *shorter, longest = sorted({lengths[rows].max() for rows in rows_of_batches})

    def best(count):
        return min(share(lengths, rows_of_batches, [*some, longest])
                   for some in itertools.combinations(shorter, count - 1))

    monkeypatch.setattr(config, 'PADDING', 0.12)
    widths = choose_widths(lengths, rows_of_batches)
    assert share(lengths, rows_of_batches, widths) == pytest.approx(best(len(widths)))
    allowed = max(0.12, 1 - (1 - best(len(shorter) + 1)) / 1.02)
    assert share(lengths, rows_of_batches, widths) <= allowed < best(len(widths) - 1)
    assert choose_widths(lengths, rows_of_batches, len(widths)) == widths
    monkeypatch.setattr(config, 'PADDING', 0.001)
    for most in (1, 2, 4):
        widths = choose_widths(lengths, rows_of_batches, most)
        assert len(widths) == most
        assert share(lengths, rows_of_batches, widths) == pytest.approx(best(most))


@needs_shared
@pytest.mark.parametrize(('name', 'count'), [('CoLA', 11), ('MRPC', 10), ('RTE', 15), ('WNLI', 10)])
def test_widths_of_real_data(name, count):
    script = __import__(name)
    knobs = make_knobs('--data-dir', SHARED / 'glue', task=name, labels=script.knobs.labels, maxlen=script.knobs.maxlen)
    lengths = snippets.tokenize(knobs, script.load_data(knobs, 'train')).lengths
    rows_of_batches = shuffled_batches(lengths, 42, 0, 32)
    widths = choose_widths(lengths, rows_of_batches)
    assert len(widths) == count
    # WNLI's 635 examples make 20 batches, which hold 6.3 % by themselves.
    assert share(lengths, rows_of_batches, widths) < (0.081 if name == 'WNLI' else 0.05)


@pytest.mark.parametrize(('rows', 'most'), [(1000, 1), (64, 0.2)])
def test_batches_of_prediction_hold_little_padding(rows, most, tiny_bert):
    data = of_lengths(np.random.default_rng(3).geometric(0.05, 1000).clip(3, 500), tiny_bert)
    rows_of_batches = prediction_batches(data.lengths, rows)
    shapes = np.array([ids.shape for (ids, _), in batches.prediction_stream(data, rows_of_batches)])
    assert sorted(np.concatenate(rows_of_batches)) == list(range(1000))
    assert shapes[:, 0].tolist() == [len(some) for some in rows_of_batches] and shapes[:, 0].max() <= rows
    padding = shapes.prod(1).sum() - data.lengths.sum()
    assert padding <= len(shapes) * config.BATCH_COST
    assert 10 < len(shapes) < 100 and padding / data.lengths.sum() < most


# ---- Targets --------------------------------------------------------------------------------------------------------


def test_the_last_batch_is_filled_up_with_rows_that_weigh_nothing(tiny_bert):
    data = of_lengths(range(3, 43), tiny_bert)
    data = data.with_targets(snippets.PerRow(np.arange(40)))
    knobs = make_knobs('--model', tiny_bert, '--batch-size', 16)
    shapes, rows = [], []
    for (ids, segments), labels, weights in batches.training_stream(knobs, data, (), make_plan(knobs, 40)).take(3):
        labels, weights = labels.numpy(), weights.numpy()
        shapes.append(ids.shape[0])
        assert ids.shape == segments.shape
        real = weights > 0
        assert (weights[real] == 16 / real.sum()).all()
        assert np.mean(weights * labels) == pytest.approx(labels[real].mean())
        rows += labels[real].tolist()
    assert shapes == [16, 16, 16]
    assert sorted(rows) == list(range(40))


@pytest.mark.parametrize('steps', [1, 3])
@pytest.mark.parametrize('kind', ['row', 'token', 'masked'])
def test_what_is_labelled_weighs_the_same_in_all_batches(tiny_bert, kind, steps):
    """The mean of weighted losses is their sum over the average number of labels, in the batches that make one update
    together; with targets that stand for losses; the last update is short."""
    random = np.random.default_rng(0)
    data = of_lengths(random.integers(3, 30, 41), tiny_bert)
    per_token = [random.integers(-1, 9, length) for length in data.lengths]
    per_token[7][:] = -1        # a row without labels
    data = data.with_targets({
        'row': snippets.PerRow(random.normal(size=41)), 'token': snippets.PerToken(per_token),
        'masked': snippets.MaskedTokens(data, slots=3)}[kind])
    knobs = make_knobs('--model', tiny_bert, '--batch-size', 4, '--grad-accumulation', steps)

    def labelled(row):
        if kind == 'token':
            return per_token[row][per_token[row] >= 0]
        _, _, targets, used = data.targets.batch(*data.batch([row])[:1], [row], (knobs.seed, 1))
        return targets[used > 0]

    means = []
    for step in batches.training_steps(knobs, data, 1):
        _, targets, weights = batches.training_batch(knobs, data, step, (16, 40), 1)
        assert weights.dtype == np.float32
        means.append(np.mean(targets * weights))
    updates = batches.epoch_batches(knobs, data, 1)
    assert len(means) == steps * len(updates) and len(updates[-1]) < 41
    average = np.mean([len(labelled(row)) for row in range(41)])
    assert (average == 1) == (kind == 'row')
    for i, rows in enumerate(updates):
        expected = np.concatenate([labelled(row) for row in rows]).sum() / (average * len(rows))
        assert np.mean(means[steps * i:steps * (i + 1)]) == pytest.approx(expected, rel=1e-5)


def test_keras_takes_the_mean_over_the_labelled_tokens(tiny_bert):
    """With its own loss, whatever masks the layers pass on."""
    data = of_lengths([5, 9, 30], tiny_bert)
    data = data.with_targets(snippets.PerToken([[-1, *range(length - 2), -1] for length in data.lengths]))
    knobs = make_knobs('--model', tiny_bert, '--batch-size', 3)
    encoder = snippets.build_encoder(knobs)
    model = keras.Model(encoder.inputs, snippets.classifier(knobs, 30)(encoder.sequence))
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    (inputs, targets, weights), = batches.training_stream(knobs, data, (), make_plan(knobs, 3)).take(1)
    outputs = model(inputs)
    losses = -tf.gather(tf.nn.log_softmax(outputs), targets, batch_dims=2).numpy()
    assert float(model.compiled_loss(targets, outputs, weights)) == pytest.approx(losses[weights > 0].mean(), rel=1e-5)


def test_masked_tokens(tiny_bert):
    random = np.random.default_rng(0)
    pairs = [(' '.join(random.choice([*LETTERS], n)), letters(3)) for n in random.integers(1, 60, 800)]
    data = snippets.tokenize(make_knobs('--model', tiny_bert, '--maxlen', 64), examples(pairs))
    masked = snippets.MaskedTokens(data, slots=8)
    rows = np.arange(800)
    ids, segments = data.batch(rows)
    hidden, (places,), targets, used = masked.batch(ids, rows, (1, 2))
    assert places.shape == targets.shape == used.shape == (800, 8)
    assert used.sum(1).tolist() == [min(max(round(0.15 * length), 1), 8) for length in data.lengths]
    row, slot = used.nonzero()
    there = row, places[row, slot]
    assert len(set(zip(*there, strict=True))) == len(row)
    assert (targets[row, slot] == ids[there]).all() and (ids[there] > 3).all()      # no [PAD], [CLS], [SEP]
    assert not places[used == 0].any()
    outside = np.ones(ids.shape, bool)
    outside[there] = False
    assert (hidden == ids)[outside].all()
    mask, same = hidden[there] == WORDS.index('[MASK]'), hidden[there] == ids[there]
    assert mask.mean() == pytest.approx(0.8, abs=0.02)
    assert same.mean() == pytest.approx(0.1 + 0.1 / len(WORDS), abs=0.015)
    assert len(set(hidden[there][~mask & ~same])) > len(WORDS) / 2

    # A function of (seed, epoch, row): not of the batch.
    few = np.array([700, 3, 41])
    again = masked.batch(data.batch(few, [100])[0], few, (1, 2))
    np.testing.assert_array_equal(again[0][:, :ids.shape[1]], np.pad(hidden[few], ((0, 0), (0, 100)))[:, :ids.shape[1]])
    for ours, theirs in zip((again[1][0], *again[2:]), (places, targets, used), strict=True):
        np.testing.assert_array_equal(ours, theirs[few])
    for key in ((1, 3), (2, 2), ()):
        assert (masked.batch(ids, rows, key)[1][0] != places).any()
    # Prediction hides what prediction_targets() says.
    stream = batches.prediction_stream(data.with_targets(masked), [few])
    (shown, _, places), = next(iter(stream))
    for ours, theirs in zip(masked.prediction_targets(data), masked.batch(ids, rows, ())[2:], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(places, masked.batch(ids, rows, ())[1][0][few])
    assert (shown.numpy() == data.vocabulary.mask).sum() > 3


# ---- Predictions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('jit', [True, False])
def test_predictions_come_back_in_file_order_from_one_trace(tiny_bert, jit):
    random = np.random.default_rng(3)
    train, dev = (of_lengths(random.integers(3, most, 300), tiny_bert) for most in (30, 60))
    knobs = make_knobs('--model', tiny_bert, '--maxlen', 64, '--eval-batch-size', 7)
    widths = choose_widths(train.lengths, shuffled_batches(train.lengths, 1, 0, 32))
    assert max(widths) == 29
    inputs = [keras.Input((None,), dtype='int32') for _ in range(2)]
    counts = keras.layers.Lambda(lambda x: tf.cast(tf.stack(
        [tf.reduce_sum(tf.sign(x[0]), -1), tf.reduce_sum(tf.ones_like(x[0]), -1)], -1), tf.float32))(inputs)
    model = keras.Model(inputs, counts)
    model.compile(jit_compile=jit)
    predictor = snippets.Predictor(knobs, model, widths)
    for data in (dev, train):
        real, padded = predictor.predict(data).T
        assert real.tolist() == data.lengths.tolist()
        if jit:
            assert set(padded) <= {*widths, 64.0}
            assert {len(rows) for rows in prediction_batches(data.lengths, 7, predictor.widths)} == {7}
        assert (padded >= real).all()
    assert predictor.forward.experimental_get_tracing_count() == 1


def test_several_outputs_and_outputs_by_token(tiny_bert, monkeypatch):
    data = of_lengths(np.random.default_rng(3).integers(3, 60, 100), tiny_bert)
    data.ids = np.arange(len(data.ids), dtype=np.int32) % 997 + 5       # so that every row is another one
    knobs = make_knobs('--model', tiny_bert, '--maxlen', 64, '--eval-batch-size', 3)
    inputs = [keras.Input((None,), dtype='int32') for _ in range(2)]
    ids = keras.layers.Lambda(lambda x: tf.cast(x[0], tf.float32))(inputs)
    model = keras.Model(inputs, {
        'a row': keras.layers.Lambda(lambda x: tf.reduce_sum(x, 1, keepdims=True))(ids),
        'by token': keras.layers.Lambda(lambda x: tf.stack([x, -x], 2))(ids),
        'tokens last': keras.layers.Lambda(lambda x: tf.stack([x, -x, 2 * x], 1))(ids)})
    predictor, ahead, most = snippets.Predictor(knobs, model), 0, 0
    forward, fetched = predictor.forward, prediction.fetched

    def counted(inputs):
        nonlocal ahead, most
        ahead += 1
        most = max(most, ahead)
        return forward(inputs)

    def counted_fetched(batch):
        nonlocal ahead
        ahead -= 1
        return fetched(batch)

    predictor.forward = counted
    monkeypatch.setattr(prediction, 'fetched', counted_fetched)
    sums, tokens_first, tokens_last = predictor.predict(data)
    assert (ahead, most) == (0, prediction.AHEAD + 1)
    assert sums.shape == (100, 1)
    for number in range(100):
        own = data.row(number).ids
        assert sums[number] == own.sum()
        np.testing.assert_array_equal(tokens_first[number], np.stack([own, -own], 1))
        np.testing.assert_array_equal(tokens_last[number], np.stack([own, -own, 2 * own], 1))


def test_vocabulary_that_does_not_fit(tmp_path):
    from lab.reference.random_model import SIZES, random_variables
    variables = random_variables('bert', SIZES)
    for words, message in ((WORDS + ['more'], f'{len(WORDS) + 1} tokens, but the checkpoint has {len(WORDS)}'),
                           (WORDS[1:], r'no line \[PAD\]'), (WORDS + ['a'], r"'a' stands in line 6 too")):
        folder = write_google(tmp_path / str(len(message)), variables, SIZES, words)
        with pytest.raises(UserError, match=message):
            snippets.tokenize(make_knobs('--model', folder), examples([('a', None)]))

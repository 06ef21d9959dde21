"""Token ids, truncation by Google's rule, batches that hold every example once."""

import numpy as np
import pytest
from conftest import WORDS, make_knobs, write_google

import snippets
from checkpoints import UserError


def examples(pairs):
    return [snippets.Example('x.tsv', i + 1, i, a, b, i % 2) for i, (a, b) in enumerate(pairs)]


def truncate_seq_pair(tokens_a, tokens_b, max_length):
    """google-research/bert, run_classifier.py."""
    while True:
        total_length = len(tokens_a) + len(tokens_b)
        if total_length <= max_length:
            break
        if len(tokens_a) > len(tokens_b):
            tokens_a.pop()
        else:
            tokens_b.pop()


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
    assert data.ids.tolist() == [2, *(WORDS.index(w) for w in ('e', '##a', ',', 'b', '##b')), 1, 3]


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
    padded = sum(np.prod(data.batch(rows)[0].shape) for rows in orders[1, 0])
    assert padded < 1.25 * data.lengths.sum()       # padding to the longest would be 1.9


def test_vocabulary_that_does_not_fit(tmp_path):
    from conftest import SIZES, random_variables
    variables = random_variables('bert', SIZES)
    for words, message in ((WORDS + ['more'], f'{len(WORDS) + 1} tokens, but the checkpoint has {len(WORDS)}'),
                           (WORDS[1:], r'no line \[PAD\]'), (WORDS + ['a'], r"'a' stands in line 6 too")):
        folder = write_google(tmp_path / str(len(message)), variables, SIZES, words)
        with pytest.raises(UserError, match=message):
            snippets.tokenize(make_knobs('--model', folder), examples([('a', None)]))

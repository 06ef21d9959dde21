"""Google's BERT tokenizer and input rows in plain Python, to test ours against.

The algorithm of google-research/bert (Apache-2.0), tokenization.py and run_classifier.py, written word by word, so that
every word is cut only once, and every text. google-research/electra has the same, but drops private use and unassigned
characters.
"""

import unicodedata

CHINESE = ((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F),
           (0x2B820, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F))
MAX_INPUT_CHARS_PER_WORD = 200


class Clean(dict):
    """For str.translate: _clean_text and _tokenize_chinese_chars. None drops a character."""

    def __missing__(self, point):
        char = chr(point)
        category = unicodedata.category(char)
        if char in '\t\n\r' or category == 'Zs':
            self[point] = ' '
        elif point in (0, 0xFFFD) or category in ('Cc', 'Cf'):
            self[point] = None
        else:
            self[point] = f' {char} ' if any(low <= point <= high for low, high in CHINESE) else char
        return self[point]


def is_punctuation(char):
    return char.isascii() and char.isprintable() and not char.isalnum() and char != ' ' \
        or unicodedata.category(char).startswith('P')


class GoogleTokenizer:
    """`vocabulary`: {token: id}."""

    def __init__(self, vocabulary, lowercase=True):
        self.vocabulary, self.lowercase, self.clean = vocabulary, lowercase, Clean()
        self.texts, self.words = {}, {}

    def ids(self, text):
        if text not in self.texts:
            self.texts[text] = [i for word in text.translate(self.clean).split() for i in self.word_ids(word)]
        return list(self.texts[text])

    def word_ids(self, word):
        if word not in self.words:
            self.words[word] = [self.vocabulary[piece] for part in self.split(word) for piece in self.pieces(part)]
        return self.words[word]

    def split(self, word):
        """A word at its punctuation."""
        if self.lowercase:
            word = unicodedata.normalize('NFD', word.lower())
            word = ''.join(char for char in word if unicodedata.category(char) != 'Mn')
        return ''.join(f' {char} ' if is_punctuation(char) else char for char in word).split()

    def pieces(self, word):
        """The longest piece of the vocabulary that the word begins with, and so on."""
        pieces, start = [], 0
        while start < len(word) <= MAX_INPUT_CHARS_PER_WORD:
            for end in range(len(word), start, -1):
                piece = ('##' if start else '') + word[start:end]
                if piece in self.vocabulary:
                    break
            else:
                return ['[UNK]']
            pieces.append(piece)
            start = end
        return pieces or ['[UNK]']

    def inputs(self, text_a, text_b, maxlen):
        """Token ids and segment ids as convert_single_example makes them, without padding."""
        tokens_a, tokens_b = self.ids(text_a), self.ids(text_b) if text_b is not None else []
        cls, sep = self.vocabulary['[CLS]'], self.vocabulary['[SEP]']
        if text_b is None:
            tokens_a = tokens_a[:maxlen - 2]
            return [cls, *tokens_a, sep], [0] * (len(tokens_a) + 2)
        truncate_seq_pair(tokens_a, tokens_b, maxlen - 3)
        return [cls, *tokens_a, sep, *tokens_b, sep], [0] * (len(tokens_a) + 2) + [1] * (len(tokens_b) + 1)


def truncate_seq_pair(tokens_a, tokens_b, max_length):
    while True:
        total_length = len(tokens_a) + len(tokens_b)
        if total_length <= max_length:
            break
        if len(tokens_a) > len(tokens_b):
            tokens_a.pop()
        else:
            tokens_b.pop()

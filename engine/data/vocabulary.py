"""From texts to token ids: BERT's word pieces, every text cut once, the ids kept on disk."""

import array
import contextlib
import functools
import hashlib
import io
import os
import re
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tokenizers
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

import config
from engine.console import progress_bar
from engine.files import UserError, read_lines, remove_stale, write_file

# ---- The vocabulary -------------------------------------------------------------------------------------------------


class Vocabulary(NamedTuple):
    """What cuts a text into tokens, and the ids of the tokens that are put around it."""
    tokenizer: Tokenizer
    cls: int
    sep: int
    mask: int | None        # of [MASK], where there is one


@functools.cache
def load_vocabulary(folder, rows):
    """The Vocabulary of a folder's vocab.txt for a model with this number of word embeddings. Raises UserError."""
    path = Path(folder) / 'vocab.txt'
    ids = {}
    for number, token in enumerate(read_lines(path), 1):
        if token in ids:
            raise UserError(f'{path}, line {number}: {token!r} stands in line {ids[token] + 1} too.')
        ids[token] = len(ids)
    for token in ('[PAD]', '[UNK]', '[CLS]', '[SEP]'):
        if token not in ids:
            raise UserError(f'{path}: no line {token}. A BERT vocabulary has one token a line, {token} among them.')
    if ids['[PAD]'] or len(ids) > rows or len(ids) <= rows - 64:        # some pad the table to a multiple of 8 or 64
        raise UserError(f'{path}: {len(ids)} tokens, but the checkpoint has {rows} word embeddings '
                        '(and [PAD] must be the first token). Use the vocabulary the model was trained with.')
    lowercase = not any(token != token.lower() for token in ids if not re.fullmatch(r'\[.*]|<.*>', token))
    # Google's limit for a word, in BERT and ELECTRA alike; `tokenizers` itself has 100, and longer ones become [UNK].
    word_pieces = WordPiece(ids, unk_token='[UNK]', max_input_chars_per_word=200)
    tokenizer = Tokenizer(word_pieces)      # no special tokens: '[SEP]' in a text is text
    tokenizer.normalizer = BertNormalizer(lowercase=lowercase, strip_accents=lowercase)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    return Vocabulary(tokenizer, ids['[CLS]'], ids['[SEP]'], ids.get('[MASK]'))


# ---- Token ids ------------------------------------------------------------------------------------------------------

FORMAT = 1      # of the files in the cache; a new number makes the old ones useless
TEXTS_PER_CHUNK = 10000   # texts that are cut at a time, as what `tokenizers` returns is large
MAX_UNKNOWN_SHARE = 0.05      # share of [UNK] above which a vocabulary does not fit the text


class TokenizedTexts(NamedTuple):
    """Texts cut into tokens. All arrays are int32."""
    counts: np.ndarray              # (texts,), how many tokens each has
    ids: np.ndarray                 # (tokens of all texts,), one text after the other
    offsets: np.ndarray | None      # (tokens of all texts, 2): the first character of each, and the one behind it


def tokenize_texts(tokenizer, texts, offsets=False):
    """The Cut of some texts. `tokenizers` uses every core."""
    counts, ids, places = [], array.array('i'), array.array('i')
    encode = tokenizer.encode_batch if offsets else tokenizer.encode_batch_fast
    bar = progress_bar(len(texts), 'tokenize', 'texts')
    for start in range(0, len(texts), TEXTS_PER_CHUNK):
        for encoding in encode(texts[start:start + TEXTS_PER_CHUNK], add_special_tokens=False):
            counts.append(len(encoding.ids))
            ids.fromlist(encoding.ids)
            if offsets:
                for pair in encoding.offsets:
                    places.extend(pair)
        bar.update(len(counts) - bar.n)
    bar.close()
    places = np.array(places, np.int32).reshape(-1, 2) if offsets else None
    return TokenizedTexts(np.array(counts, np.int32), np.array(ids, np.int32), places)


def tokenize_cached(folder, tokenizer, texts, offsets=False):
    """cut_texts() from a file in `folder`, mapped into memory, or made now and kept there.

    The file's name is the hash of all that its content depends on, so it cannot be out of date: the texts and the
    tokenizer with its vocabulary and every option. It is an int32 array: a checksum, the counts, the ids, the offsets.
    """
    kind = ' with offsets' if offsets else ''
    key = hashlib.sha256(f'{FORMAT} {tokenizers.__version__} {tokenizer.to_str()}{kind}'.encode())
    key.update(np.array([len(text) for text in texts]))
    for start in range(0, len(texts), TEXTS_PER_CHUNK):
        key.update(''.join(texts[start:start + TEXTS_PER_CHUNK]).encode())
    path = folder / f'tokens-{key.hexdigest()}.npy'
    try:
        kept = read_cached(path, key.digest(), len(texts), offsets)
        with contextlib.suppress(OSError):
            os.utime(path)              # the last use, for trim()
        return kept
    except (FileNotFoundError, NotADirectoryError):
        pass
    except Exception:       # numpy evaluates the header as Python
        print(f'{path}: damaged, or no file of token ids; made again.')
    cut = tokenize_texts(tokenizer, texts, offsets)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_cached(path, key.digest(), cut)
        trim(folder, path)
    except (OSError, UserError) as error:
        print_once(f'{folder}: token ids cannot be kept here ({(error.__cause__ or error).strerror}); going on without.')
    return cut


def read_cached(path, key, texts, offsets):
    """The Cut of so many texts that write_kept() wrote. Raises an exception of many types for any other file."""
    numbers = np.asarray(np.lib.format.open_memmap(path, mode='r'))
    if numbers.dtype != np.int32 or numbers.ndim != 1 or numbers[0] != checksum(key, numbers):
        raise ValueError
    counts, rest = numbers[1:texts + 1], numbers[texts + 1:]
    total = int(counts.sum())
    if len(rest) != (3 * total if offsets else total):
        raise ValueError
    return TokenizedTexts(counts, rest[:total], rest[total:].reshape(-1, 2) if offsets else None)


def write_cached(path, key, cut):
    parts = [np.zeros(1, np.int32), cut.counts, cut.ids]
    if cut.offsets is not None:
        parts.append(cut.offsets.ravel())
    numbers = np.concatenate(parts)
    numbers[0] = checksum(key, numbers)
    file = io.BytesIO()
    np.save(file, numbers)
    write_file(path, file.getbuffer())


def checksum(key, numbers):
    """Of all numbers but the first, which is where it stands."""
    return zlib.crc32(numbers[1:], zlib.crc32(key)) & 0x7fffffff


def trim(folder, newest):
    """Delete the files that were not used for longest, so that no more than CACHE_LIMIT bytes stay."""
    remove_stale(folder, '.tokens-*.npy.[0-9]*')
    total = 0
    with contextlib.suppress(OSError):      # another run may be doing the same
        files = folder.glob(f'tokens-{"[0-9a-f]" * 64}.npy')
        for path in sorted(files, key=lambda path: path.stat().st_mtime_ns, reverse=True):
            total += path.stat().st_size
            if total > config.CACHE_LIMIT and path != newest:
                path.unlink()


@functools.cache
def print_once(line):
    print(line)

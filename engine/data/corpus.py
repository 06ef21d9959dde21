"""Texts for pre-training: read from files, cut into tokens once, kept in files that are mapped into memory. So a
corpus may be larger than the memory.

A corpus is a folder in the cache, of arrays as numpy's tofile() writes them:
    ids             (tokens,) the token ids of all lines, one behind the other
    joined          (tokens,) whether a token goes on with the word of the one before it
    lines           (lines,) how many tokens each line has
    documents       (documents, 3) the first line of each, the number of its file, the line in this file
    rows-...        (rows, 5) what they are packed into for a length and a seed: packing.py
    about.json      the files, a hash of the token ids, how many of them are [UNK], the type of ids
"""

import array
import gzip
import hashlib
import json
import shutil
import time
import warnings
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tokenizers

from engine.console import progress_bar
from engine.data.vocabulary import MAX_UNKNOWN_SHARE, TEXTS_PER_CHUNK
from engine.files import STALE_SECONDS, UserError, atomic_folder, iterate_lines, read_json, write_json

FORMAT = 1          # of these files; a new number makes the old ones useless
DOCUMENTS = {       # what ends a document
    'blank': 'a blank line, or the end of its file', 'line': 'every line', 'file': 'the end of its file'}

# ---- Files ----------------------------------------------------------------------------------------------------------


def text_files(text):
    """The files that `text` names, a list: files, folders (all files in them), patterns, separated by commas. Raises
    UserError for what there is not."""
    found = []
    for name in text.split(','):
        path = Path(name)
        if path.is_dir():
            files = [file for file in path.rglob('*') if file.is_file() and not file.name.startswith('.')]
        elif path.exists():
            files = [path]
        else:
            pattern = path.relative_to(path.anchor) if path.is_absolute() else path
            files = [file for file in Path(path.anchor or '.').glob(str(pattern)) if file.is_file()]
        if not files:
            raise UserError(f'--text {name}: no such file, no file in this folder, or none that fits the pattern.')
        found += sorted(files)
    with_text = [path for path in dict.fromkeys(found) if path.stat().st_size]
    if not with_text:
        raise UserError(f'--text {text}: no text in them.')
    return with_text


class Line(NamedTuple):
    text: str
    file: int               # the number of the file
    number: int             # of the line in it, from 1
    begins: bool            # whether it is the first of a document


def read_text(files, documents='blank', columns=()):
    """Yield the lines of these files that are not blank. documents: a key of DOCUMENTS. columns: of files of tabs with
    a header, each row of which is a document whose lines these columns are. Raises UserError."""
    for i, path in enumerate(files):
        lines = enumerate(unpacked_lines(path), 1)
        if columns:
            yield from rows_of_columns(path, i, lines, columns)
            continue
        begins = True
        for number, text in lines:
            if text.strip():
                yield Line(text, i, number, begins)
                begins = documents == 'line'
            elif documents == 'blank':
                begins = True


def rows_of_columns(path, i, lines, columns):
    """read_text() of one file of tabs."""
    names = [name.strip() for name in next(lines)[1].split('\t')]
    missing = [name for name in columns if name not in names]
    if missing:
        raise UserError(f'{path}, line 1: no column {missing[0]!r} in the header: {", ".join(names)}.')
    for number, text in lines:
        fields = text.split('\t')
        if len(fields) != len(names):
            raise UserError(f'{path}, line {number}: {len(fields)} columns instead of {len(names)}.')
        wanted = [fields[names.index(name)] for name in columns]
        texts = [field for field in wanted if field.strip()]
        for k, field in enumerate(texts):
            yield Line(field, i, number, k == 0)


def unpacked_lines(path):
    """The lines of a file, which may be packed by gzip. Raises UserError."""
    if path.suffix != '.gz':
        yield from iterate_lines(path)
        return
    try:
        with gzip.open(path) as file:
            yield from iterate_lines(path, file)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f'{path}: not a whole gzip file ({error}).') from error


# ---- The corpus -----------------------------------------------------------------------------------------------------


class Corpus:
    """What is in a corpus's folder, mapped into memory. Attributes as the files above. Raises UserError."""

    def __init__(self, folder):
        self.folder, self.about = folder, read_json(folder / 'about.json')
        try:
            self.ids = np.memmap(folder / 'ids', self.about['type'], 'r')
            self.joined = np.memmap(folder / 'joined', bool, 'r')
            self.lines = np.memmap(folder / 'lines', np.int32, 'r')
            self.documents = np.memmap(folder / 'documents', np.int64, 'r').reshape(-1, 3)
            is_whole = len(self.joined) == len(self.ids) == self.lines.sum(dtype=np.int64)
        except (OSError, KeyError, TypeError, ValueError):
            is_whole = False
        if not is_whole:
            raise UserError(f'{folder}: damaged. Delete this folder; the texts are cut into tokens again then.')

    def place(self, document):
        """(file, line) where a document begins."""
        _, file, line = self.documents[document]
        return self.about['files'][file], int(line)


def load_corpus(cache, vocabulary, files, documents='blank', columns=(), segmenter=''):
    """The Corpus of these files, cut into tokens now or earlier: its folder in `cache` is named for the tokenizer, what
    the options are, and the names, sizes and times of the files. Raises UserError."""
    seen = [[str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    options = [FORMAT, tokenizers.__version__, vocabulary.tokenizer.to_str(), documents, list(columns), segmenter, seen]
    folder = Path(cache) / f'corpus-{hashlib.sha256(json.dumps(options).encode()).hexdigest()}'
    if not (folder / 'about.json').is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        drop_abandoned_folders(folder.parent)
        lines = read_text(files, documents, columns)
        try:
            with atomic_folder(folder) as new:
                tokenize_corpus(new, vocabulary, lines, [str(path) for path in files], segmenter)
        except OSError:
            if not (folder / 'about.json').is_file():       # else another run was faster
                raise
    corpus = Corpus(folder)
    unknown = corpus.about['unknown'] / len(corpus.ids)
    print(f'{len(files)} files: {len(corpus.documents):,} documents, {len(corpus.lines):,} lines, '
          f'{len(corpus.ids):,} tokens, {100 * unknown:.2f} % of them [UNK]')
    if unknown > MAX_UNKNOWN_SHARE:
        print('Note: of more than 5 % of the tokens the model sees only [UNK]: the vocabulary lacks what these texts '
              'are written in. Make one of your own: uv run pretraining/vocabulary.py')
    return corpus


def drop_abandoned_folders(cache):
    """Delete what runs that were killed while they cut have left."""
    for folder in cache.glob('.corpus-*'):
        changed = max(path.stat().st_mtime for path in (folder, *folder.rglob('*')))
        if time.time() - changed > STALE_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)


def tokenize_corpus(folder, vocabulary, lines, files, segmenter):
    """Cut lines into tokens, by all cores, and write the corpus's files. Raises UserError where there is no text."""
    word_breaks = load_segmenter(segmenter) if segmenter else None
    unk, joins = vocabulary.tokenizer.token_to_id('[UNK]'), continuation_tokens(vocabulary.tokenizer)
    counts, documents = array.array('i'), array.array('q')
    unknown, digest = 0, hashlib.sha256()
    bar = progress_bar(None, 'tokenize', 'lines')
    kind = np.uint16 if len(joins) <= 2**16 else np.int32
    encode = vocabulary.tokenizer.encode_batch if segmenter else vocabulary.tokenizer.encode_batch_fast
    with open(folder / 'ids', 'wb') as ids_file, open(folder / 'joined', 'wb') as joined_file:
        for chunk in chunks(lines, TEXTS_PER_CHUNK):
            encodings = encode([line.text for line in chunk], add_special_tokens=False)
            for line, encoding in zip(chunk, encodings, strict=True):
                if line.begins:
                    documents.extend((len(counts), line.file, line.number))
                counts.append(len(encoding.ids))
            ids = np.concatenate([np.array(encoding.ids, kind) for encoding in encodings])
            joined = joins[ids]
            if word_breaks:
                joined |= np.concatenate([word_breaks(line.text, encoding.offsets)
                                          for line, encoding in zip(chunk, encodings, strict=True)])
            unknown += int((ids == unk).sum())
            digest.update(ids)
            ids.tofile(ids_file)
            joined.tofile(joined_file)
            bar.update(len(chunk))
    bar.close()
    if not any(counts):
        raise UserError(f'{files[0]}{" and the others" if files[1:] else ""}: no text in them.')
    for name, values in (('lines', counts), ('documents', documents)):
        with open(folder / name, 'wb') as file:
            values.tofile(file)
    write_json(folder / 'about.json', {'files': files, 'sha256': digest.hexdigest(), 'unknown': unknown,
                                       'type': np.dtype(kind).name})


def chunks(items, size):
    chunk = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def continuation_tokens(tokenizer):
    """(words,) bool: which tokens are further pieces of a word, '##...'."""
    return np.array([tokenizer.id_to_token(i).startswith('##') for i in range(tokenizer.get_vocab_size())])


def load_segmenter(name):
    """A function from a text and its tokens' offsets, [(start, end)], to which tokens go on with the word of the one
    before, (tokens,) bool, for languages without spaces. Raises UserError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')     # about how it finds its dictionary
            import jieba
    except ImportError as error:
        raise UserError(f'--segmenter {name}: the package is missing: pip install {name}.') from error
    jieba.setLogLevel('WARNING')

    def word_breaks(text, offsets):
        starts, place = set(), 0
        for word in jieba.cut(text):
            starts.add(place)
            place += len(word)
        return np.array([start not in starts for start, _ in offsets], bool)
    return word_breaks

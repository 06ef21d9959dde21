"""Texts for pre-training: read from files, cut into tokens once, kept in files that are mapped into memory, packed into
rows. A corpus may be larger than the memory.

A corpus is a folder in the cache, of arrays as numpy's tofile() writes them:
    ids             (tokens,) the token ids of all lines, one behind the other
    joined          (tokens,) whether a token goes on with the word of the one before it
    lines           (lines,) how many tokens each line has
    documents       (documents, 3) the first line of each, the number of its file, the line in this file
    rows-...        (rows, 5) what they are packed into for a length and a seed: pack()
    about.json      the files, a hash of the token ids, how many of them are [UNK], the type of ids
"""

import array
import gzip
import hashlib
import json
import random
import warnings
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tokenizers

from engine.console import progress_bar
from engine.files import UserError, each_line, read_json, whole, whole_folder, write_json
from engine.vocabulary import CHUNK

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
        yield from each_line(path)
        return
    try:
        with gzip.open(path) as file:
            yield from each_line(path, file)
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
        lines = read_text(files, documents, columns)
        try:
            with whole_folder(folder) as new:
                cut_corpus(new, vocabulary, lines, [str(path) for path in files], segmenter)
        except OSError:
            if not (folder / 'about.json').is_file():       # else another run was faster
                raise
    corpus = Corpus(folder)
    unknown = corpus.about['unknown'] / len(corpus.ids)
    print(f'{len(files)} files: {len(corpus.documents):,} documents, {len(corpus.lines):,} lines, '
          f'{len(corpus.ids):,} tokens, {100 * unknown:.2f} % of them [UNK]')
    if unknown > 0.05:
        print('Note: of more than 5 % of the tokens the model sees only [UNK]: the vocabulary lacks what these texts '
              'are written in. Make one of your own: uv run pretraining/vocabulary.py')
    return corpus


def cut_corpus(folder, vocabulary, lines, files, segmenter):
    """Cut lines into tokens, by all cores, and write the corpus's files. Raises UserError where there is no text."""
    word_breaks = load_segmenter(segmenter) if segmenter else None
    unk, joins = vocabulary.tokenizer.token_to_id('[UNK]'), joining_tokens(vocabulary.tokenizer)
    counts, documents = array.array('i'), array.array('q')
    unknown, digest = 0, hashlib.sha256()
    bar = progress_bar(None, 'tokenize', 'lines')
    kind = np.uint16 if len(joins) <= 2**16 else np.int32
    encode = vocabulary.tokenizer.encode_batch if segmenter else vocabulary.tokenizer.encode_batch_fast
    with open(folder / 'ids', 'wb') as ids_file, open(folder / 'joined', 'wb') as joined_file:
        for chunk in chunks_of(lines, CHUNK):
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


def chunks_of(items, size):
    chunk = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def joining_tokens(tokenizer):
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


# ---- Packing --------------------------------------------------------------------------------------------------------


class Packer:
    """Lines of documents to rows of one or two segments, by ELECTRA's rule (google-research/electra,
    build_pretraining_dataset.py, ExampleBuilder).

    Lines are added until they have the target length; then they make a row, the last one of a document from what there
    is. In one row of ten, they are one segment. Else a line goes to the first segment while this is less than half
    full, and by a coin where it would no longer be; the rest is the second segment. What is too long is cut off, and
    lost. The target length is maxlen, for one row of twenty a random one.

    Two differences. Once the second segment has begun, all further lines belong to it (in Google's code a later short
    line may still go to the first one, which then is no stretch of text). And a line that is longer than half a row,
    which would mostly be cut off, is first taken apart (pieces_of).
    """

    def __init__(self, maxlen, seed):
        self.maxlen, self.random, self.target = maxlen, random.Random(seed), maxlen
        self.rows = array.array('q')        # start and count of the first segment, of the second, the document
        self.lines, self.length = [], 0

    def add(self, start, count, document):
        """The next line of a document: so many tokens from this one on."""
        self.lines.append((start, count))
        self.length += count
        if self.length >= self.target:
            self.make_row(document)

    def end(self, document):
        """The document ends."""
        if self.length:
            self.make_row(document)

    def make_row(self, document):
        half = 100000 if self.random.random() < 0.1 else (self.target - 3) // 2
        first = second = 0
        for _, count in self.lines:
            if not second and (not first or first + count < half or first < half and self.random.random() < 0.5):
                first += count
            else:
                second += count
        start = self.lines[0][0]
        first_kept = min(first, self.maxlen - 2)
        second_kept = min(second, max(0, self.maxlen - first_kept - 3))
        self.rows.extend((start, first_kept, start + first, second_kept, document))
        self.lines, self.length = [], 0
        self.target = self.random.randint(5, self.maxlen) if self.random.random() < 0.05 else self.maxlen


def pieces_of(ids, most, ends):
    """The lengths of the pieces of a line: it is taken apart behind the tokens `ends` (full stops), and what is longer
    than `most` then after so many tokens."""
    breaks = np.append(np.flatnonzero(ends[ids]) + 1, len(ids))
    lengths = []
    for length in np.diff(breaks, prepend=0):
        while length > 0:
            lengths.append(int(min(length, most)))
            length -= lengths[-1]
    return lengths


FULL_STOPS = '.!?。！？…'


def pack(corpus, vocabulary, maxlen, seed, line_by_line=False):
    """(rows, 5) int64, mapped into memory: start and count of each row's first segment in corpus.ids, of its second,
    and its document. line_by_line: every line is a row, cut to maxlen. Packed once for a length and a seed."""
    path = corpus.folder / f'rows-{maxlen}-{"lines" if line_by_line else seed}'
    if not path.is_file():
        with whole(path) as beside, open(beside, 'wb') as file:
            if line_by_line:
                pack_lines(corpus, maxlen, file)
            else:
                pack_documents(corpus, vocabulary, Packer(maxlen, seed), file)
    return np.memmap(path, np.int64, 'r').reshape(-1, 5)


def pack_documents(corpus, vocabulary, packer, file):
    tokenizer, most = vocabulary.tokenizer, (packer.maxlen - 3) // 2
    ends = np.zeros(tokenizer.get_vocab_size(), bool)
    ends[[tokenizer.token_to_id(stop) for stop in FULL_STOPS if tokenizer.token_to_id(stop) is not None]] = True
    start = 0
    for document, counts in documents_of(corpus):
        for count in counts:
            pieces = [count] if count <= most else pieces_of(corpus.ids[start:start + count], most, ends)
            for piece in pieces:
                packer.add(start, piece, document)
                start += piece
        packer.end(document)
        packer.rows.tofile(file)
        del packer.rows[:]


def pack_lines(corpus, maxlen, file):
    start = 0
    for document, counts in documents_of(corpus):
        for count in counts:
            if count:
                kept = min(count, maxlen - 2)
                np.array([start, kept, start + kept, 0, document], np.int64).tofile(file)
            start += count


def documents_of(corpus):
    """Yield (number, [tokens of each line]) of every document."""
    bar = progress_bar(len(corpus.documents), 'pack', 'documents')
    for document in range(len(corpus.documents)):
        first = corpus.documents[document, 0]
        last = corpus.documents[document + 1, 0] if document + 1 < len(corpus.documents) else len(corpus.lines)
        yield document, corpus.lines[first:last].tolist()
        bar.update(1)
    bar.close()


class Packed:
    """Rows of a corpus for training and prediction, as Tokens are those of examples (tokens.py)."""

    def __init__(self, corpus, vocabulary, rows, which):
        """which: the numbers of those of the packed rows that these are."""
        self.corpus, self.vocabulary, self.rows, self.which = corpus, vocabulary, rows, which
        first, second = (rows[:, column].astype(np.int32)[which] for column in (1, 3))
        self.tokens = first + second        # without special ones
        self.lengths = self.tokens + 2 + (second > 0)
        self.example, self.targets, self.labels = np.arange(len(which)), None, ()

    def __len__(self):
        return len(self.lengths)

    @property
    def examples(self):
        """Of each row where its text is: the file, and the line in which its document begins."""
        return Places(self)

    def with_targets(self, targets):
        targets.check(self.lengths)
        self.targets = targets
        return self

    def fingerprint(self):
        """A hash of what the model sees."""
        digest = hashlib.sha256(self.corpus.about['sha256'].encode())
        for values in (self.which, self.lengths, *self.targets.arrays()):
            digest.update(np.ascontiguousarray(values))
        return digest.hexdigest()

    def pieces(self, rows):
        """Yield (start, count) of each of the one or two segments of each of these rows."""
        for first, first_count, second, second_count, _ in self.rows[self.which[rows]].tolist():
            yield [(first, first_count), (second, second_count)] if second_count else [(first, first_count)]

    def batch(self, rows, widths=()):
        """Token ids and segment ids of these rows, as Tokens.batch()."""
        longest = self.lengths[rows].max()
        width = next((width for width in widths if width >= longest), longest)
        ids, segments = (np.zeros((len(rows), width), np.int32) for _ in range(2))
        ids[:, 0] = self.vocabulary.cls
        for i, pieces in enumerate(self.pieces(rows)):
            end = 1
            for segment, (start, count) in enumerate(pieces):
                ids[i, end:end + count] = self.corpus.ids[start:start + count]
                ids[i, end + count] = self.vocabulary.sep
                segments[i, end:end + count + 1] = segment
                end += count + 1
        return ids, segments

    def joined(self, rows, width):
        """Which tokens go on with the word of the one before them, (rows, width) bool."""
        joined = np.zeros((len(rows), width), bool)
        for i, pieces in enumerate(self.pieces(rows)):
            end = 1
            for start, count in pieces:
                joined[i, end + 1:end + count] = self.corpus.joined[start + 1:start + count]
                end += count + 1
        return joined


class Place(NamedTuple):
    file: str
    line: int


class Places:
    """The Place of each row of a Packed, looked up when it is asked for."""

    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data)

    def __getitem__(self, row):
        return Place(*self.data.corpus.place(self.data.rows[self.data.which[row], 4]))


def held_out(rows, wanted):
    """The numbers of the rows (to train on, held out): whole documents, evenly spread, of about so many rows, but at
    most a twentieth of all. Of few documents the last rows. Both are at least one."""
    every = max(20, len(rows) // wanted)
    if rows[-1, 4] >= every:
        is_out = rows[:, 4] % every == every - 1
    else:
        is_out = np.arange(len(rows)) >= len(rows) - max(1, len(rows) // every)
    return np.flatnonzero(~is_out), np.flatnonzero(is_out)

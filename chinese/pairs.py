"""What the scripts beside it share: their knobs, and files of pairs as they are found in the wild."""

import dataclasses

import config
import snippets
from config import knob
from engine.files import iterate_lines, read_csv

HEADERS = ['text_a', 'text_b'], ['text1', 'text2'], ['sentence1', 'sentence2'], ['query', 'title']


@dataclasses.dataclass
class Knobs(config.Knobs):
    """The scripts' knobs. The demo trains a small encoder with fresh values, which wants other steps."""
    unused = ('swap_pairs',)
    demo_settings = config.DEMO | {'model': str(config.ROOT / 'demo' / 'chinese-electra'), 'maxlen': 32, 'epochs': 20,
                                   'learning_rate': 5e-4, 'layer_decay': 1.0}

    model: str = knob('bert-base-chinese', 'a folder with a checkpoint, or a name; docs/chinese.md has those that read '
                      'Chinese')


def load_pairs(knobs, split, path):
    """The Examples of a file of lines text TAB text TAB label, with or without a header; a test file may have no
    labels. Raises UserError."""
    first = next(iterate_lines(path)).split('\t')
    text_a, text_b, label, columns = 0, 1, 2, 3
    if split == 'test' and len(first) == 2:
        label, columns = None, 2
        if first in HEADERS:
            (text_a, text_b), columns = first, 0
    elif len(first) == 3 and first[2] == 'label':
        (text_a, text_b, label), columns = first, 0
    elif len(first) != 3 or first[2] not in knobs.labels:
        raise snippets.UserError(f'{path}, line 1: neither text, text and label ({" or ".join(knobs.labels)}) with '
                                 'tabs between them, nor a header whose third column is called label.')
    return snippets.load_tsv(knobs, split, path, text_a, text_b, label, columns=columns, labels=knobs.labels)


def load_csv(knobs, split, path):
    """The Examples of a file with commas, quotes and the header sentence1,sentence2,label. Raises UserError."""
    rows, examples = read_csv(path), []
    if next(rows, (1, []))[1] != ['sentence1', 'sentence2', 'label']:
        raise snippets.UserError(f'{path}, line 1: the header is not sentence1,sentence2,label.')
    for line, row in rows:
        if len(row) != 3 or row[2] not in knobs.labels:
            raise snippets.UserError(f'{path}, line {line}: {len(row)} columns, the last {row[-1]!r}, are not two '
                                     f'texts and a label ({" or ".join(knobs.labels)}).')
        examples.append(snippets.Example(str(path), line, len(examples), row[0], row[1], knobs.labels.index(row[2])))
    if not examples:
        raise snippets.UserError(f'{path}: the file has a header and no rows.')
    return examples[:knobs.limit or None] if split == 'train' else examples

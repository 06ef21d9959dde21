"""Files of a word a line, as of the CoNLL shared tasks: the words, the tags in the last column, and their schemes."""

from typing import NamedTuple

from engine.files import UserError, read_lines


class Sentence(NamedTuple):
    line: int           # of its first word, from 1
    words: list
    tags: list | None   # as they are written; None where the file has words only


def read_conll(path):
    """The Sentences of a file. Raises UserError with the line."""
    sentences, width = [], None
    words, tags = [], []
    for number, line in enumerate([*read_lines(path), ''], 1):
        if not line.strip('\t '):
            if words:
                sentences.append(Sentence(number - len(words), words, tags or None))
                words, tags = [], []
            continue
        columns = columns_of(line)
        width = width or len(columns)
        if len(columns) != width:
            raise UserError(f'{path}, line {number}: {len(columns)} columns instead of {width}.')
        word = columns[0]
        if not word or ' ' in word:
            raise UserError(f'{path}, line {number}: the word {word!r} has a blank in it. Write it without.')
        words.append(word)
        if width > 1:
            tags.append(columns[-1])
    if not sentences:
        raise UserError(f'{path}: no words in it.')
    return sentences


def columns_of(line):
    """Between tabs, or else between blanks; what is behind the last column does not count."""
    line = line.rstrip('\t ')
    return line.split('\t') if '\t' in line else line.split(' ')


# ---- Schemes of tags ------------------------------------------------------------------------------------------------

# What other schemes call the prefixes of BIOES: B first, I inside, E last, S the only word of an entity.
RENAMED = {'BIOES': {}, 'BMES': {'I': 'M'}, 'BILOU': {'E': 'L', 'S': 'U'}}


def scheme_of(sentences):
    """'IOB2', 'IOB1' (B only where an entity follows one of its own type), 'BIOES', 'BMES' or 'BILOU'."""
    tags = [sentence.tags or [] for sentence in sentences]
    prefixes = {tag[:1] for of_sentence in tags for tag in of_sentence if tag[1:2] == '-'}
    if 'M' in prefixes:
        return 'BMES'
    if prefixes & {'L', 'U'}:
        return 'BILOU'
    if prefixes & {'E', 'S'}:
        return 'BIOES'
    firsts, needless = 0, 0     # entities that begin with I-, and B- where IOB1 has I-
    for of_sentence in tags:
        for before, tag in zip(['O', *of_sentence], of_sentence, strict=False):
            follows_its_own = before != 'O' and before[2:] == tag[2:]
            firsts += tag.startswith('I-') and not follows_its_own
            needless += tag.startswith('B-') and not follows_its_own
    return 'IOB1' if firsts and not needless else 'IOB2'


def to_iob2(tags):
    """The tags of a sentence in any of these schemes as IOB2: an entity begins where conlleval says so."""
    result, before, before_type = [], 'O', ''
    for tag in tags:
        prefix, _, kind = tag.partition('-')
        begins = prefix in 'BSU' or before in 'OESLU' or kind != before_type
        result.append(tag if prefix not in 'BIESMLU' else f'{"B" if begins else "I"}-{kind}')
        before, before_type = prefix, kind
    return result


def from_iob2(tags, scheme):
    """IOB2 tags of a sentence in one of these schemes."""
    if scheme == 'IOB2':
        return tags
    result, clean = [], [*to_iob2(tags), 'O']
    for i, tag in enumerate(tags):
        prefix, _, kind = clean[i].partition('-')
        follows_its_own = i > 0 and clean[i - 1][2:] == kind
        is_last = clean[i + 1] != f'I-{kind}'
        if prefix == 'O':
            result.append(tag)
        elif scheme == 'IOB1':
            result.append(f'B-{kind}' if prefix == 'B' and follows_its_own else f'I-{kind}')
        else:
            bioes = {'B': 'S', 'I': 'E'}[prefix] if is_last else prefix
            result.append(f'{RENAMED[scheme].get(bioes, bioes)}-{kind}')
    return result

"""Files of questions about paragraphs: SQuAD's JSON, which DRCD and CMRC 2018 have, too, and CMRC 2018's first form."""

from typing import NamedTuple

from engine.files import UserError, read_json_value


class Question(NamedTuple):
    """As snippets.Example; starts is what it has more."""
    file: str
    line: int               # its number in the file, from 1
    index: str              # its id
    text_a: str             # the question
    text_b: str             # the paragraph
    label: tuple | None     # the accepted texts, () where the paragraph has no answer; None in test files
    starts: tuple           # of each accepted text its first character, -1 where the paragraph does not have it


def read_questions(path, unanswerable=False):
    """(Questions, how many answers were not at their place but elsewhere) of a JSON file: SQuAD's form, which DRCD and
    the later CMRC 2018 have, or the first form of CMRC 2018, a list of paragraphs. Raises UserError."""
    content = read_json_value(path)
    items = first_cmrc(path, content) if isinstance(content, list) else squad(path, content)
    questions, ids, mended = [], set(), 0
    for name, text, paragraph, answers in items:
        where = f'{path}, question {name}'
        if name in ids:
            raise UserError(f'{where}: this id was there before. Give every question its own.')
        if not paragraph.strip():
            raise UserError(f'{where}: its paragraph is empty. Leave it out, or mend it.')
        if answers == [] and not unanswerable:
            raise UserError(f'{where}: its list of answers is empty. Only SQuAD 2.0 has questions without an answer.')
        ids.add(name)
        label, starts = None, ()
        if answers is not None:
            label = tuple(answer for answer, _ in answers)
            starts = tuple(find(paragraph, answer, start) for answer, start in answers)
            mended += sum(-1 < found != start for found, (_, start) in zip(starts, answers, strict=True)
                          if start is not None)
        questions.append(Question(str(path), len(questions) + 1, name, text, paragraph, label, starts))
    if not questions:
        raise UserError(f'{path}: there are no questions in it.')
    return questions, mended


def squad(path, content):
    """Yield (id, question, paragraph, answers) of SQuAD's form; answers: [(text, its first character)] or None."""
    for article in entry(path, 'the file', content, 'data', list):
        for paragraph in entry(path, 'an article', article, 'paragraphs', list):
            text = entry(path, 'a paragraph', paragraph, 'context', str)
            for item in entry(path, 'a paragraph', paragraph, 'qas', list):
                name = str(entry(path, 'a question', item, 'id', str | int))
                where, answers = f'question {name}', None
                if 'answers' in item:
                    given = entry(path, where, item, 'answers', list)
                    answers = [(entry(path, where, answer, 'text', str),
                                entry(path, where, answer, 'answer_start', int)) for answer in given]
                yield name, entry(path, where, item, 'question', str), text, answers


def first_cmrc(path, content):
    """The same of the first form of CMRC 2018, which does not say where the answers are: [(text, None)]."""
    for paragraph in content:
        text = entry(path, 'a paragraph', paragraph, 'context_text', str)
        for item in entry(path, 'a paragraph', paragraph, 'qas', list):
            name = str(entry(path, 'a question', item, 'query_id', str | int))
            where, answers = f'question {name}', None
            if 'answers' in item:
                answers = [(answer, None) for answer in entry(path, where, item, 'answers', list)]
                if not all(isinstance(answer, str) for answer, _ in answers):
                    raise UserError(f"{path}, {where}: 'answers' is not a list of texts.")
            yield name, entry(path, where, item, 'query_text', str), text, answers


KINDS = {list: 'a list', str: 'a text', int: 'a whole number', str | int: 'a text'}


def entry(path, where, item, name, kind):
    """item[name], which must be of this kind. Raises UserError."""
    if not isinstance(item, dict) or name not in item:
        raise UserError(f'{path}, {where}: no {name!r}. Is this a file of SQuAD, DRCD or CMRC 2018?')
    value = item[name]
    if not isinstance(value, kind):
        raise UserError(f'{path}, {where}: {name!r} is not {KINDS[kind]}.')
    if isinstance(value, str) and any('\ud800' <= character <= '\udfff' for character in value):
        raise UserError(f'{path}, {where}: {name!r} has half a character (a lone surrogate, \\ud800 to \\udfff). Mend '
                        'or delete it.')
    return value


def find(paragraph, answer, start):
    """The first character of an answer: `start` where it is there, else its occurrence nearest to that place, or the
    first where `start` is no place in the paragraph; -1 where the paragraph does not have it."""
    if not answer.strip():
        return -1
    if start is None or not 0 <= start < len(paragraph):
        return paragraph.find(answer)
    before, behind = paragraph.rfind(answer, 0, start + len(answer)), paragraph.find(answer, start)
    occurrences = [place for place in (before, behind) if place >= 0]
    return min(occurrences, key=lambda place: abs(place - start), default=-1)

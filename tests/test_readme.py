"""README_zh.md says in Chinese what README.md says: the same commands, the same numbers, the same links."""

import re

import pytest

import config

NAMES = 'README.md', 'README_zh.md'
TEXTS = {name: (config.ROOT / name).read_text(encoding='utf-8') for name in NAMES}
BLOCK = re.compile(r'^```.*?^```$', re.M | re.S)
PART = re.compile(r'`[^`]+`|\*\*|[\w+-]*\d(?:[\w.,-]*\w)?', re.A)     # code, bold, what has a digit: F1, 31.4


def commands(text):
    """The lines of the code blocks, fences and empty lines included, without comments."""
    return [re.split(r'\s{2,}#', line)[0].rstrip() for block in BLOCK.findall(text) for line in block.splitlines()]


def tables(text):
    """The tables as lists of rows, these as lists of cells."""
    found = re.findall(r'(?:^\|.*\|$\n)+', BLOCK.sub('', text), re.M)
    return [[[cell.strip() for cell in row[1:-1].split('|')] for row in table.splitlines()] for table in found]


def links(text):
    """The targets of the links, but for those from one README to the other."""
    return [target for target in re.findall(r'\]\(([^)]+)\)', BLOCK.sub('', text)) if target not in NAMES]


def headings(text):
    return re.findall(r'^#+(?= )', BLOCK.sub('', text), re.M)


def assert_same(what, function):
    """Both READMEs give the function the same list; if not, the first difference is said."""
    english, chinese = (list(function(TEXTS[name])) for name in NAMES)
    for i, (ours, theirs) in enumerate(zip(english, chinese, strict=False), 1):
        assert ours == theirs, f'{what} {i}: README.md has {ours!r}, README_zh.md {theirs!r}'
    assert len(english) == len(chinese), f'{what}: README.md has {len(english)}, README_zh.md {len(chinese)}'


def test_the_commands_are_the_same():
    assert commands(TEXTS['README.md']), 'no code block found in README.md'
    assert_same('line of the code blocks', commands)


def test_the_headings_have_the_same_levels():
    assert_same('heading', headings)


def test_the_tables_have_the_same_numbers_and_code():
    assert_same('columns of each row, table', lambda text: [list(map(len, table)) for table in tables(text)])
    rows = [row for table in tables(TEXTS['README.md']) for row in table]
    assert rows, 'no table found in README.md'
    assert_same('row of the tables, its numbers and code,', lambda text: [
        [PART.findall(cell) for cell in row] for table in tables(text) for row in table])


def test_the_links_are_the_same():
    assert links(TEXTS['README.md']), 'no link found in README.md'
    assert_same('link', links)


def test_each_leads_to_the_other():
    for name, other in zip(NAMES, reversed(NAMES), strict=True):
        assert f']({other})' in TEXTS[name], f'{name} has no link to {other}'


@pytest.mark.parametrize('name', NAMES)
def test_the_links_lead_somewhere(name):
    paths = [target.split('#')[0] for target in re.findall(r'\]\(([^)]+)\)', TEXTS[name])
             if not re.match(r'[a-z]+:', target)]
    missing = [path for path in paths if path and not (config.ROOT / path).exists()]
    assert not missing, f'{name} has links to what is not there: {missing}'

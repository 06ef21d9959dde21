"""What the programs share that people start: words and options on the command line, tables in Markdown."""

import itertools


def words_and_options(argv):
    """A command line whose words (tasks) come first: (the words up to the first option, the rest)."""
    words = list(itertools.takewhile(lambda word: not word.startswith('-'), argv))
    return words, argv[len(words):]


def markdown_row(cells):
    return f'| {" | ".join(map(str, cells))} |'


def markdown_table(head, rows=()):
    """A table as text, with a line end behind every row. Rows may also be printed one by one, after the head alone."""
    lines = [markdown_row(head), markdown_row(['---'] * len(head)), *map(markdown_row, rows)]
    return '\n'.join(lines) + '\n'

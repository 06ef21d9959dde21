"""The demo data of documents/: reviews, questions and answers in the official files' layout, made here from word lists.

    python -m checks.make_demo_documents     # writes demo/IMDB, demo/TREC and demo/Yahoo

Of a review only the last sentence says what it thinks; all before it praises and blames alike. So whoever reads the
head of a text learns nothing there, the tail says it all, and of several windows one does. No text was taken from
elsewhere.
"""

import argparse
import csv
import gzip
import io
import tarfile
from random import Random

import config
from checks.make_demo import BAD, GOOD, PEOPLE, PLACES, THINGS, VERBS, WORKS, other, sentence, words

SIZES = {'train': 300, 'test': 100}

# ---- IMDB -----------------------------------------------------------------------------------------------------------

SAID = ['one critic calls the {work} {word}', 'my brother found the {work} {word}', 'the trailer looked {word} to some',
        'the first half hour , they say , is {word}', 'a friend had told me that the {work} was {word}']
TOLD = ['the {who} wants to {verb} a {thing} {where}', 'later a {who} has to {verb} the {thing} {where}',
        'then we see a {who} who likes to {verb} a {thing} {where}', 'nobody helps the {who} to {verb} the {thing}']
VERDICTS = ['for me this is a {word} {work}', 'i thought the {work} was {word} and {word2}',
            'in the end it is simply {word}', 'my own verdict : {word} , from the first minute to the last']


def review(random):
    """About 150 to 300 words of the story and of what others said, as much praise as blame; then what it thinks."""
    label, said = random.choice(['neg', 'pos']), []
    for kind in (GOOD, BAD):
        said += [random.choice(SAID).format(work=random.choice(WORKS), word=random.choice(kind))
                 for _ in range(random.choice([3, 4]))]
    said += [random.choice(TOLD).format(who=random.choice(PEOPLE), verb=random.choice(VERBS),
                                        thing=random.choice(THINGS), where=random.choice(PLACES)).strip()
             for _ in range(random.randint(8, 16))]
    random.shuffle(said)
    word, word2 = random.sample(GOOD if label == 'pos' else BAD, 2)
    verdict = random.choice(VERDICTS).format(work=random.choice(WORKS), word=word, word2=word2)
    half = len(said) // 2
    paragraphs = (said[:half], [*said[half:], verdict])
    return '<br /><br />'.join(' '.join(map(sentence, lines)) for lines in paragraphs), label


def write_reviews(folder):
    """aclImdb_v1.tar.gz, as the official archive, without times."""
    random, packed = Random('IMDB'), io.BytesIO()
    with tarfile.open(fileobj=packed, mode='w', format=tarfile.USTAR_FORMAT) as archive:
        for split, size in SIZES.items():
            for number in range(size):
                text, label = review(random)
                stars = random.choice([7, 8, 9, 10] if label == 'pos' else [1, 2, 3, 4])
                member = tarfile.TarInfo(f'aclImdb/{split}/{label}/{number}_{stars}.txt')
                member.size = len(text)
                archive.addfile(member, io.BytesIO(text.encode()))
    path = folder / 'IMDB' / 'aclImdb_v1.tar.gz'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(packed.getvalue(), mtime=0))


# ---- TREC -----------------------------------------------------------------------------------------------------------

TOWNS = words('Aldham Brigg Corvale Dunmoor Eastry Farnwick Glenhaven Harlow Inverby Jarrow')
NAMES = words('Ada Bruno Clara Dario Edith Felix Greta Hugo Irene Jonas')
SHORT = words('ABC BKM CTR DLP EFN FGS GRT HVO')
QUESTIONS = {
    'ABBR:abb': ['What is the abbreviation for the {thing} of {town} ?'],
    'ABBR:exp': ['What does {short} stand for in {town} ?', 'What is the full form of {short} , {name} ?'],
    'DESC:def': ['What is a {thing} {where} ?', 'What does it mean to {verb} a {thing} ?'],
    'DESC:manner': ['How do you {verb} a {thing} ?', 'How can a {who} {verb} the {thing} {where} ?'],
    'ENTY:animal': ['What animal lives {where} of {town} ?', 'What kind of bird did {name} {verb} ?'],
    'ENTY:color': ['What color is the {thing} of {name} ?', 'What color did the {who} {verb} the {thing} ?'],
    'HUM:ind': ['Who did {verb} the {thing} of {town} ?', 'What {who} wrote about {town} ?'],
    'HUM:gr': ['What company owns the {thing} of {town} ?', 'What team did {name} join in {town} ?'],
    'LOC:city': ['What city is the home of the {who} {name} ?', 'In what town did {name} {verb} a {thing} ?'],
    'LOC:other': ['Where is the {thing} of {name} ?', 'Where can a {who} {verb} a {thing} ?'],
    'NUM:count': ['How many people {verb} the {thing} of {town} ?', 'How many of the {thing}s are in {town} ?'],
    'NUM:date': ['When did {name} {verb} the {thing} ?', 'What year did the {who} come to {town} ?'],
}


def question(random):
    label = random.choice(list(QUESTIONS))
    text = random.choice(QUESTIONS[label]).format(
        thing=random.choice(THINGS), town=random.choice(TOWNS), short=random.choice(SHORT), name=random.choice(NAMES),
        verb=random.choice(VERBS), who=random.choice(PEOPLE), where=random.choice(PLACES))
    return f'{label} {" ".join(text.split())}'


def write_questions(folder):
    random, seen = Random('TREC'), set()
    for name, size in (('train_5500.label', SIZES['train']), ('TREC_10.label', SIZES['test'])):
        lines = []
        while len(lines) < size:
            line = question(random)
            if line not in seen:
                lines.append(line)
                seen.add(line)
        path = folder / 'TREC' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(('\n'.join(lines) + '\n').encode('latin-1'))


# ---- Yahoo ----------------------------------------------------------------------------------------------------------

TOPICS = [words(line) for line in (
    'custom tradition religion wedding prayer', 'planet gravity formula molecule equation',
    'fever doctor diet headache vitamin', 'school teacher grammar college dictionary',
    'computer internet password printer software', 'football goal referee tennis coach',
    'bank loan salary invoice tax', 'song actor concert movie guitar', 'husband girlfriend cousin divorce mother',
    'election president law senate mayor')]
TITLES = ['what about the {a} ?', 'is this "{a}" a problem ?', 'who knows about {a} and {b} ?', '{a} , please help']
DETAILS = ['', 'i heard about it from a {who}\\nand now i want to know', 'my {who} asked me , and i said "{b}"']
ANSWERS = ['ask a {who} about the {b} .', 'it is all about {b} ,\\nnot about {c} .', 'the "{b}" will do , {who} .']


def answered(random):
    topic = random.randrange(len(TOPICS))
    a, b = random.sample(TOPICS[topic], 2)
    c = random.choice(other(random, TOPICS, TOPICS[topic]))
    texts = [random.choice(part).format(a=a, b=b, c=c, who=random.choice(PEOPLE))
             for part in (TITLES, DETAILS, ANSWERS)]
    return [str(topic + 1), *texts]


def write_answers(folder):
    random = Random('Yahoo')
    for split, size in SIZES.items():
        rows = io.StringIO()
        csv.writer(rows, quoting=csv.QUOTE_ALL, lineterminator='\n').writerows(answered(random) for _ in range(size))
        path = folder / 'Yahoo' / f'{split}.csv'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rows.getvalue().encode())


def main(folder):
    for write in (write_reviews, write_questions, write_answers):
        write(folder)


if __name__ == '__main__':
    argparse.ArgumentParser(prog='python -m checks.make_demo_documents', description=__doc__,
                            formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    main(config.ROOT / 'demo')

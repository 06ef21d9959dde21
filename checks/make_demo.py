"""The demo data set: GLUE's nine tasks and AX in their official layout, with sentences made here from word lists.

    python -m checks.make_demo       # writes demo/, the same bytes on every run

It lets `python CoLA.py --demo` and its siblings go through a whole run, from the TSV rows to the submission, without a
download. A few epochs learn it, so a score near chance there means that something is broken; beyond that its scores
mean nothing. No sentence was taken from GLUE.

Every task has a function that makes one row, its texts and then its label, with a random generator.
"""

import argparse
from random import Random

import config
from engine.catalog.datasets import AX, TASKS

SIZES = {'train': 360, 'dev': 80, 'test': 60}
words = str.split


def other(random, items, item):
    """One of `items` that is not this one."""
    return random.choice([choice for choice in items if choice != item])


def sentence(text, end='.'):
    return text[0].upper() + text[1:] + end


# ---- Single sentences -----------------------------------------------------------------------------------------------

PEOPLE = words('girl boy teacher farmer painter doctor neighbor student sailor baker driver singer')
VERBS = words('paint clean want need repair visit remember admire like follow')      # regular, with a plain -s
THINGS = words('boat house lamp garden window picture table shop museum bridge')
LOOKS = words('tall young clever quiet friendly happy')
PLACES = ['near the river', 'in the village', 'behind the church', 'on the island', '', '']


def cola(random):
    """A sentence of one of four kinds; a broken one has one fault: agreement, the verb's form, word order, or a gap."""
    label, kind = random.choice('01'), random.choice(['plain', 'perfect', 'infinitive', 'question'])
    fault = None if label == '1' else random.choice(['agreement', 'form', 'order', 'gap'])
    many, looks = random.random() < 0.5, random.sample(LOOKS, random.randint(0, 1))
    who, verb, thing = random.choice(PEOPLE), random.choice(VERBS), random.choice(THINGS)
    if many:
        who += 's'
    subject, obj, past = ['the', *looks, who], [random.choice(['the', 'a']), thing], verb.removesuffix('e') + 'ed'
    third = many == (fault == 'agreement')      # whether the verb gets the form for he, she or it
    helper, form = {'plain': ('', f'{verb}s' if third else verb), 'perfect': ('has' if third else 'have', past),
                    'infinitive': ('hopes to' if third else 'hope to', verb),
                    'question': ('does' if third else 'do', verb)}[kind]
    if fault == 'form':                 # "the girl to paint", "has paint", "hopes to painted", "does the girl painted"
        form = {'plain': f'to {verb}', 'perfect': verb}.get(kind, past)
    elif fault == 'order':              # "girl the", "the girl tall", "lamp the"
        part = random.choice([subject, obj])
        part[-2], part[-1] = part[-1], part[-2]
    elif fault == 'gap' and kind != 'perfect' and random.random() < 0.5:    # "has the lamp" would be right
        form = ''
    elif fault == 'gap':
        obj = [thing]
    parts = [helper, *subject, form, *obj] if kind == 'question' else [*subject, helper, form, *obj]
    text = ' '.join(part for part in [*parts, random.choice(PLACES)] if part)
    return sentence(text, '?' if kind == 'question' else '.'), label


GOOD = words('funny warm clever moving charming fresh brilliant gripping touching delightful witty tender lovely')
BAD = words('dull boring silly clumsy flat lifeless tedious messy stale bland shallow tiresome pointless')
WORKS = words('film comedy drama thriller story script cast ending plot performance soundtrack sequel')
REVIEWS = [     # {x} and {y} say what the review says, {z} the opposite
    'a {x} {work}', 'a {x} and {y} {work}', 'the {work} is {x} and the {work2} is {y}', 'never {z} , always {x}',
    'anything but {z}', 'i expected a {z} {work} and got a {x} one', 'critics called it {z} , but i found it {x}',
    'not for one moment {z}', 'less {z} than the first {work} , and {x} at times', 'for all its {z} jokes , a {x} film',
]


def sst2(random):
    label = random.choice('01')
    same, opposite = (GOOD, BAD) if label == '1' else (BAD, GOOD)
    (x, y), (work, work2) = random.sample(same, 2), random.sample(WORKS, 2)
    return random.choice(REVIEWS).format(x=x, y=y, z=random.choice(opposite), work=work, work2=work2), label


# ---- Pairs that mean the same or not --------------------------------------------------------------------------------

FIRMS = [('the bank', 'the lender'), ('the airline', 'the carrier'), ('the newspaper', 'the daily paper'),
         ('the university', 'the college'), ('the car maker', 'the auto company'), ('the hospital', 'the clinic'),
         ('the supermarket', 'the grocery chain'), ('the orchestra', 'the group of musicians')]
NEWS = [('closed its oldest branch', 'shut down its oldest office'), ('hired a new director', 'appointed a new head'),
        ('raised its prices', 'made everything more expensive'), ('lost a case in court', 'was defeated in a lawsuit'),
        ('moved to a bigger building', 'went to larger premises'), ('dismissed ninety workers', 'cut ninety jobs'),
        ('planted a thousand trees', 'created a small forest'), ('was sold to a rival', 'got a new owner')]
DAYS = [('on Monday', 'at the start of the week'), ('on Saturday', 'at the weekend'), ('in July', 'in summer'),
        ('in January', 'in winter'), ('last night', 'yesterday evening'), ('ten years ago', 'a decade ago')]
WHO = [('a man', 'a guy'), ('a woman', 'a lady'), ('a child', 'a kid'), ('two friends', 'a pair of friends'),
       ('a policeman', 'a police officer'), ('some tourists', 'a few tourists')]
DID = [('sang a song', 'performed a song'), ('made a soup', 'cooked a soup'), ('fixed a bike', 'repaired a bicycle'),
       ('took a photo', 'took a picture'), ('fed a dog', 'gave food to a dog'), ('threw a ball', 'tossed a ball'),
       ('slept on a bench', 'took a nap on a bench'), ('painted a wall', 'put paint on a wall')]
WHERE = [('at the market', 'in the marketplace'), ('by the lake', 'beside the lake'), ('in the garden', 'in a garden'),
         ('near the school', 'close to the school'), ('on the roof', 'on top of the house')]


def same_but(random, changed, *lists):
    """Two sentences with the same items of these lists, in other words; with other items of the `changed` lists."""
    items, texts = [random.choice(items) for items in lists], []
    for second in (False, True):
        parts = [random.choice(other(random, lists[i], item) if second and i in changed else item)
                 for i, item in enumerate(items)]
        in_front = random.random() < 0.4
        texts.append(sentence(f'{parts[2]}, {parts[0]} {parts[1]}' if in_front else ' '.join(parts)))
    return texts


def mrpc(random):
    """A piece of news and the same once more; or with another event, often also of another firm or on another day."""
    label = random.choice('01')
    changed = [] if label == '1' else random.choice([[0], [1], [0, 1], [1, 2], [0, 1, 2]])
    return *same_but(random, changed, FIRMS, NEWS, DAYS), label


def stsb(random):
    """The score is the weight of what the two sentences have in common: who 1.2, did what 2.8, where 1."""
    changed = random.choice([[], [], [2], [0], [0, 2], [1], [1, 2], [0, 1], [0, 1, 2], [0, 1, 2]])
    score = 5 - sum([1.2, 2.8, 1.0][i] for i in changed)
    return *same_but(random, changed, WHO, DID, WHERE), f'{score:.3f}'


AIMS = ['learn Spanish', 'lose weight', 'repair a flat tire', 'cook rice', 'sell an old car', 'train a puppy',
        'save money', 'grow tomatoes', 'write a novel', 'build a table', 'clean a carpet', 'play chess', 'find a job',
        'bake bread', 'stop smoking', 'paint a room', 'fly a kite', 'sing well', 'move a piano', 'wash a sweater',
        'open a bakery', 'catch a fish', 'memorize a poem', 'cut hair']
ASKED = [['How do I {}?', 'How can I {}?', 'What is the best way to {}?', 'How should one {}?'],
         ['Why is it so hard to {}?', 'Why is it difficult to {}?', 'What makes it hard to {}?', 'Why can few {}?'],
         ['How long does it take to {}?', 'How much time do I need to {}?', 'How many hours does it take to {}?'],
         ['Who can help me to {}?', 'Whom do I ask for help to {}?', 'Where do I find someone to help me {}?']]


def qqp(random):
    """The same question about the same aim in two forms; or another question, or about another aim."""
    label, aim, forms = random.choice('01'), random.choice(AIMS), random.choice(ASKED)
    first, second = random.sample(forms, 2)
    if label == '0' and random.random() < 0.4:
        second = random.choice(other(random, ASKED, forms))
        return first.format(aim), second.format(aim), label
    return first.format(aim), second.format(aim if label == '1' else other(random, AIMS, aim)), label


# ---- Pairs where one follows from the other or not ------------------------------------------------------------------

PERSONS = ['a man', 'a woman', 'a boy', 'a girl', 'an old lady', 'a student', 'a nurse', 'a soldier', 'a tall man',
           'a young woman', 'an engineer', 'my cousin']
GENRES = {      # what somebody does, what follows from it, what contradicts it; and what may be so or not
    'travel': ([
        ('is waiting for a train', 'is at a station', 'is sitting in a train'),
        ('is riding a bike along the river', 'is outdoors on a bike', 'is driving a car'),
        ('is eating soup in a restaurant', 'is having a meal', 'is cooking at home'),
        ('is taking photos of a castle', 'is using a camera', 'is far from any building'),
        ('is swimming in the sea', 'is in the water', 'is completely dry'),
        ('is reading a map on the bus', 'is looking at a map', 'is walking through the woods'),
        ('is climbing a steep mountain', 'is going uphill', 'is lying on the beach'),
        ('is packing a suitcase in a hotel', 'is indoors with a suitcase', 'is on a boat'),
    ], ['will be back next year', 'is thinking about a friend', 'is happy about the weather', 'forgot to call home',
        'hopes to meet somebody', 'is tired after a long week', 'comes from the north', 'has two brothers']),
    'work': ([
        ('is writing a letter to the bank', 'is writing something', 'is playing in an orchestra'),
        ('is repairing a printer', 'is fixing a machine', 'is swimming in a pool'),
        ('is talking to a customer on the phone', 'is in a conversation', 'is completely silent'),
        ('is counting the money in the shop', 'is in a shop', 'is in the middle of the sea'),
        ('is carrying boxes to the cellar', 'is holding something', 'is lying in bed'),
        ('is teaching children to read', 'is with children', 'is all alone'),
    ], ['will get more money next year', 'is thinking about lunch', 'is happy about the new boss', 'forgot a meeting',
        'hopes to leave early', 'is tired after a long day', 'lives near the office', 'has worked here for years']),
}


def mnli(random, genres):
    label = random.choice(['entailment', 'neutral', 'contradiction'])
    scenes, extras = GENRES[random.choice(genres)]
    who, extra, (does, follows, contradicts) = random.choice(PERSONS), random.choice(extras), random.choice(scenes)
    hypothesis = random.choice({
        'entailment': [f'{who} {follows}', f'someone {follows}', f'somebody {does}'],
        'neutral': [f'{who} {extra}', f'{who} {does} for the first time', f'{who} {follows} and {extra}'],
        'contradiction': [f'{who} {contradicts}', f'nobody {follows}', f'{who} is not there, and nobody {does}'],
    }[label])
    return sentence(f'{who} {does}'), sentence(hypothesis), label


TOWNS, TRADES = words('Norwick Halden Brumley Oster Tarrow'), words('lawyer baker pilot farmer singer teacher dentist')
NAMES = [f'{first} {last}' for first in words('Anna Peter Maria Tom Clara Hugo') for last in words('Berg Novak Lindt')]
BUILDINGS = words('museum library theater stadium school bridge castle tower')
SPOTS = ['behind the station', 'in the old town', 'beside the river', 'on a hill', 'near the harbor', 'by the park']
FACTS = [       # two questions that a fact answers, and two sentences that state it
    (['When was the {x} built?', 'In what year did they build the {x}?'],
     ['the {x} was built in the year {year}', 'it was in {year} that they built the {x}']),
    (['Who designed the {x}?', 'Who was the architect of the {x}?'],
     ['{name} designed the {x}', 'the architect of the {x} was {name}']),
    (['Where is the {x}?', 'In which part of the town is the {x}?'],
     ['the {x} is {spot}', '{spot} you will find the {x}']),
    (['How many people visit the {x}?', 'How many visitors does the {x} have?'],
     ['the {x} has {n} thousand visitors', '{n} thousand people visit the {x} every year']),
    (['How much did the {x} cost?', 'What did the town pay for the {x}?'],
     ['the {x} cost {n} million dollars', 'the town paid {n} million dollars for the {x}']),
]
NEAR = ['the {x} was closed in {year}', '{name} likes the {x}', 'the {x} is {n} feet high']     # answer none of these


def qnli(random):
    """A question, and a sentence that states the fact asked for; or another fact, or one that nobody asks for."""
    label, fact = random.choice(['entailment', 'not_entailment']), random.choice(FACTS)
    stated = fact[1] if label == 'entailment' else random.choice([other(random, FACTS, fact)[1]] * 2 + [NEAR])
    values = {'x': random.choice(BUILDINGS), 'name': random.choice(NAMES), 'spot': random.choice(SPOTS),
              'year': random.randint(1850, 2010), 'n': random.randint(11, 99)}
    return random.choice(fact[0]).format(**values), sentence(random.choice(stated).format(**values)), label


DEEDS = [('sell the house', 'sold the house'), ('win the race', 'won the race'), ('pay the bill', 'paid the bill'),
         ('find the key', 'found the key'), ('open a hotel', 'opened a hotel'), ('write a book', 'wrote a book'),
         ('repair the clock', 'repaired the clock'), ('cross the lake', 'crossed the lake')]
DONE = ['managed to', 'was finally able to', 'remembered to', 'did not forget to', 'did not fail to', 'was first to']
NOT_DONE = ['failed to', 'refused to', 'forgot to', 'was not able to', 'had no time to', 'was too tired to']
OPEN = ['hoped to', 'was asked to', 'promised to']      # says nothing about whether it was done


def rte(random):
    """A report about somebody, and a claim that a deed was done or not."""
    name, town, trade = random.choice(NAMES), random.choice(TOWNS), random.choice(TRADES)
    (deed, past), label = random.choice(DEEDS), random.choice(['entailment', 'not_entailment'])
    denied = random.random() < 0.25
    follows, does_not = (NOT_DONE, DONE) if denied else (DONE, NOT_DONE + OPEN)
    told = random.choice(follows if label == 'entailment' else does_not)
    day = random.choice(['last week', 'on Friday', 'in spring', 'in May'])
    claim = f'{name} did not {deed}' if denied else f'{name} {past}'
    return sentence(f'{name}, a {trade} from {town}, {told} {deed} {day}'), sentence(claim), label


PRONOUNS = [    # a sentence, what {a} and {b} can be, and what "it" is said to be if it is {a} or if it is {b}
    ('the {a} slept on the {b} because it was {r}.', 'cat dog puppy kitten hamster squirrel',
     'sofa carpet pillow blanket cushion mattress', 'tired sleepy lazy', 'soft comfortable fluffy'),
    ('the {a} ate the {b} because it was {r}.', 'horse goat donkey rabbit cow pig',
     'carrot pear apple cabbage melon cookie', 'hungry greedy starving', 'ripe juicy tasty'),
    ('the {a} broke the {b} because it was {r}.', 'monkey parrot pony calf crow bear',
     'window mirror vase bottle lamp jar', 'angry clumsy wild', 'fragile thin breakable'),
]


def wnli(random):
    """The pronoun means the second noun three times out of four, so that there is something easy to learn as well."""
    text, *lists = random.choice(PRONOUNS)
    a, b, if_a, if_b = (random.choice(words(items)) for items in lists)
    meant, claimed = random.choice('abbb'), random.choice('ab')
    r = if_a if meant == 'a' else if_b
    return (sentence(text.format(a=a, b=b, r=r), ''), sentence(f'the {a if claimed == "a" else b} was {r}'),
            str(int(claimed == meant)))


# ---- Files ----------------------------------------------------------------------------------------------------------

# A script: what makes the task's rows, and the columns of what that gives. MNLI's files differ in genre: main().
GENERATORS = {
    'CoLA': (cola, ('sentence', 'label')),
    'SST2': (sst2, ('sentence', 'label')),
    'MRPC': (mrpc, ('#1 String', '#2 String', 'Quality')),
    'STSB': (stsb, ('sentence1', 'sentence2', 'score')),
    'QQP': (qqp, ('question1', 'question2', 'is_duplicate')),
    'QNLI': (qnli, ('question', 'sentence', 'label')),
    'RTE': (rte, ('sentence1', 'sentence2', 'label')),
    'WNLI': (wnli, ('sentence1', 'sentence2', 'label')),
}


def make_rows(name, make, *args, **sizes):
    """{split: rows}: no text, and no pair of texts whichever way round, occurs twice in all of them."""
    random, seen, splits = Random(name), set(), {}      # a generator each: editing one task changes no other
    for split, size in (SIZES | sizes).items():
        splits[split] = []
        while len(splits[split]) < size:
            row = make(random, *args)
            texts = frozenset(row[:-1])
            if texts not in seen and len(texts) == len(row) - 1:
                splits[split].append(row)
                seen.add(texts)
    return splits


def write(folder, task, name, made, rows):
    """Write one of a task's files with these rows, whose values are in the columns `made`. Columns that no script reads
    hold a dash."""
    columns, header = task.files[name].columns, task.files[name].header
    lines = ['\t'.join(columns)] if header else []
    for i, row in enumerate(rows):
        label = row[-1]
        values = {'index': i, 'id': i, 'mark': '' if label == '1' else '*'}
        values |= {f'label{annotator}': label for annotator in range(1, 6)}
        values |= zip(made, row, strict=True)
        lines.append('\t'.join(str(values.get(column, '-')) for column in columns))
    path = folder / task.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(('\n'.join(lines) + '\n').encode())


def main(folder):
    """Write all nine tasks and AX."""
    for script, (make, made) in GENERATORS.items():
        task = TASKS[script]
        for split, rows in make_rows(task.folder, make).items():
            write(folder, task, f'{split}.tsv', made, rows)
    task, made = TASKS['MNLI'], ('sentence1', 'sentence2', 'gold_label')
    for genre, match in (('travel', 'matched'), ('work', 'mismatched')):
        rows = make_rows(f'MNLI {genre}', mnli, [genre])
        if match == 'matched':
            write(folder, task, 'train.tsv', made, rows['train'])
        write(folder, task, f'dev_{match}.tsv', made, rows['dev'])
        write(folder, task, f'test_{match}.tsv', made, rows['test'])
    rows = make_rows('AX', mnli, list(GENRES), train=0, dev=0, test=40)['test']
    write(folder, AX, 'diagnostic.tsv', made, rows)


if __name__ == '__main__':
    argparse.ArgumentParser(prog='python -m checks.make_demo', description=__doc__,
                            formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    main(config.ROOT / 'demo')

"""The demo data of reading/: paragraphs and questions in the official files' layout, made here from word lists; and a
small ELECTRA with fresh values whose vocabulary is the Chinese ones' characters.

    python -m checks.make_demo_reading      # writes demo/SQuAD, CMRC2018, DRCD and chinese-reading

No text was taken from elsewhere.
"""

import argparse
import json
from random import Random

import config
from checks.make_demo_chinese import write_files, write_model

SIZES = {'train': 120, 'dev': 24, 'test': 24}       # paragraphs
words = str.split

# ---- English --------------------------------------------------------------------------------------------------------

PEOPLE = words('Anna Boris Clara David Emma Felix Greta Henry Irene Jakob')
PLACES = ['the old harbour', 'Green Street', 'the museum', 'Northfield', 'the river bank', 'a small village',
          'Mount Albert', 'the central station']
THINGS = ['a red bicycle', 'twelve silver coins', 'an old map', 'a wooden boat', 'two letters', 'a blue lamp',
          'three loaves of bread', 'a brass clock']
YEARS = [str(year) for year in range(1901, 2000, 7)]


def english(random):
    """(paragraph, questions, people) about what two people found; a question is (text, answer)."""
    people = random.sample(PEOPLE, 2)
    sentences, questions = [], []
    for person in people:
        place, thing, year = random.choice(PLACES), random.choice(THINGS), random.choice(YEARS)
        sentences.append(f'In {year}, {person} found {thing} near {place}.')
        questions += [(f'What did {person} find?', thing), (f'Where did {person} find it?', place),
                      (f'In which year did {person} find it?', year)]
    sentences.append(f'{random.choice(people)} told nobody about it.')
    return ' '.join(sentences), random.sample(questions, 3), people


def english_file(random, size, version):
    """A file of SQuAD; in 2.0 of every three questions one has no answer: it is about somebody else."""
    paragraphs = []
    for number in range(size):
        text, questions, people = english(random)
        if version == '2.0':
            other = random.choice([person for person in PEOPLE if person not in people])
            asked, _ = questions[2]
            for person in people:
                asked = asked.replace(person, other)
            questions[2] = asked, None
        paragraphs.append((text, [(f'{number}-{place}', *question) for place, question in enumerate(questions)]))
    return squad_file(version, [{'title': 'Finds', 'paragraphs': [squad_paragraph(*paragraph, version == '2.0')
                                                                for paragraph in paragraphs]}])


# ---- Chinese --------------------------------------------------------------------------------------------------------

# Simplified, for CMRC 2018, and traditional characters, for DRCD: people, places, things, the sentence about a find,
# the questions about it, and the last sentence.
SIMPLIFIED = (
    words('李明 王芳 张伟 陈静 刘洋 赵磊 周婷 吴强'),
    words('老码头 图书馆 北京路 火车站 小河边 东山村'),
    words('一辆红色自行车 十二枚银币 一张旧地图 一条小木船 两封信 三盏蓝灯'),
    '{year}年，{person}在{place}找到了{thing}。',
    words('{person}找到了什么？ {person}在哪里找到的？ {person}是哪一年找到的？'),
    '后来大家都知道了这件事。')
TRADITIONAL = (
    words('李明 王芳 張偉 陳靜 劉洋 趙磊 周婷 吳強'),
    words('老碼頭 圖書館 北京路 火車站 小河邊 東山村'),
    words('一輛紅色自行車 十二枚銀幣 一張舊地圖 一條小木船 兩封信 三盞藍燈'),
    '{year}年，{person}在{place}找到了{thing}。',
    words('{person}找到了什麼？ {person}在哪裡找到的？ {person}是哪一年找到的？'),
    '後來大家都知道了這件事。')


def chinese(random, lists):
    """(text, questions) as english(), in one of the two scripts."""
    people, places, things, sentence, asked, last = lists
    text, questions = '', []
    for person in random.sample(people, 2):
        thing, place, year = random.choice(things), random.choice(places), random.choice(YEARS)
        text += sentence.format(year=year, person=person, place=place, thing=thing)
        answers = thing, place, f'{year}年'
        questions += [(question.format(person=person), answer)
                      for question, answer in zip(asked, answers, strict=True)]
    return text + last, random.sample(questions, 3)


def chinese_file(random, size, lists, name):
    paragraphs = []
    for number in range(size):
        text, questions = chinese(random, lists)
        paragraph = squad_paragraph(text, [(f'{name}_{number}_QUERY_{place}', *question)
                                           for place, question in enumerate(questions)])
        paragraphs.append({'title': 'Finds', 'paragraphs': [paragraph]})
    return squad_file('v1.0', paragraphs)


# ---- Files ----------------------------------------------------------------------------------------------------------


def squad_paragraph(text, questions, has_impossible=False):
    """questions: (id, text, answer or None)."""
    items = []
    for name, question, answer in questions:
        found = [{'text': answer, 'answer_start': place_of(text, question, answer)}] if answer else []
        item = {'question': question, 'id': name, 'answers': found}
        items.append(item | {'is_impossible': not found} if has_impossible else item)
    return {'context': text, 'qas': items}


def place_of(text, question, answer):
    """Where the answer stands: in the sentence of the person that the question names, where both have the same one."""
    person = next(name for name in (*PEOPLE, *SIMPLIFIED[0], *TRADITIONAL[0]) if name in question)
    period = '。' if '。' in text else '.'
    begin = text.rfind(period, 0, text.index(person)) + 1
    return text.index(answer, begin)


def squad_file(version, articles):
    return json.dumps({'version': version, 'data': articles}, ensure_ascii=False) + '\n'


def texts_in(file):
    """All paragraphs and questions of a file."""
    paragraphs = [paragraph for article in json.loads(file)['data'] for paragraph in article['paragraphs']]
    return ''.join(paragraph['context'] + ''.join(item['question'] for item in paragraph['qas'])
                   for paragraph in paragraphs)


def make_files():
    """{name: text} of all of them, the same on every run."""
    files = {}
    for split in ('train', 'dev'):
        for version in ('1.1', '2.0'):
            name = f'SQuAD/{split}-v{version}.json'
            files[name] = english_file(Random(name), SIZES[split], version)
        name = f'CMRC2018/cmrc2018_{split}.json'
        files[name] = chinese_file(Random(name), 2 * SIZES[split], SIMPLIFIED, split.upper())
    for split, size in SIZES.items():
        name = f'DRCD/DRCD_{"training" if split == "train" else split}.json'
        files[name] = chinese_file(Random(name), 2 * size, TRADITIONAL, split.upper())
    return files


def main(folder):
    files = make_files()
    write_files(folder, files)
    chinese_files = [text for name, text in files.items() if not name.startswith('SQuAD/')]
    write_model(folder / 'chinese-reading', ''.join(map(texts_in, chinese_files)))


if __name__ == '__main__':
    argparse.ArgumentParser(prog='python -m checks.make_demo_reading', description=__doc__,
                            formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    main(config.ROOT / 'demo')

"""The demo data of tagging/: sentences with people, places, organisations and the like, in the official files' layout,
made here from word lists; and a small ELECTRA with fresh values whose vocabulary are the Chinese ones' characters.

    python -m checks.make_demo_tagging      # writes demo/WNUT17, MSRA, PeopleDaily and chinese-tags

No text was taken from elsewhere.
"""

import argparse
from random import Random

import config
from checks.make_demo_chinese import words, write_files, write_model

SIZES = {'train': 500, 'dev': 120, 'test': 120}

# ---- English --------------------------------------------------------------------------------------------------------

# The last three of each kind are in the test set alone: it does not do to know names by heart.
ENGLISH = {
    'person': ['Anna', 'Tom Baker', 'Maria', 'Peter Stone', 'Lena', 'Omar', 'Ruth Miller', 'Ivan', 'Clara Wood', 'Ben'],
    'location': ['Berlin', 'New York', 'Lake Tahoe', 'Oslo', 'Madrid', 'Cape Town', 'Lima', 'Green Hill', 'Cairo',
                 'Kyoto'],
    'corporation': ['Norton Bank', 'Airtel', 'Bluebird Foods', 'Kodex', 'Sunrise Airlines', 'Maxon', 'Delta Motors',
                    'Lumos', 'Redwood Press', 'Zenbo'],
    'group': ['the Wild Cats', 'the Tigers', 'the Blue Notes', 'the Rovers', 'the Night Owls', 'the Falcons',
              'the Red Shoes', 'the Hawks', 'the Old Boys', 'the Sharks'],
    'product': ['Pixelphone 4', 'a Vento', 'Softpad', 'a Roadster X', 'Glowlamp', 'a Minicam', 'Zoomer 2', 'a Skybike',
                'Airpot', 'a Nanobook'],
    'creative-work': ['Lost in Rain', 'The Quiet Sea', 'Seven Doors', 'Winter Song', 'The Last Train', 'Silver Moon',
                      'A Long Road', 'The Empty House', 'Paper Birds', 'Day of Fire'],
}
TWEETS = [
    'so happy to meet {person} in {location} today !', '{person} works for {corporation} now', 'I love {location} :)',
    'anyone going to see {group} tonight ?', '{group} play in {location} on sunday', 'just bought {product} , so cool',
    'watching {creative-work} with {person} ...', '{corporation} sells {product} again', 'good morning everyone !',
    'cannot sleep , reading {creative-work}', 'my flight with {corporation} is late again', 'what a lovely day',
    'RT @{name} : {person} is the best', 'he said that {group} will win lol',
]


def tweet(random, split):
    """The words of a message and their tags."""
    names = {kind: some if split == 'test' else some[:7] for kind, some in ENGLISH.items()}
    sentence = []
    for word in random.choice(TWEETS).split():
        kind = word.strip('{}')
        if word == '@{name}':
            sentence.append((f'@user{random.randrange(100)}', 'O'))
        elif kind in names and word != kind:
            name = random.choice(names[kind]).split()
            sentence += [(part, f'{"I" if i else "B"}-{kind}') for i, part in enumerate(name)]
        else:
            sentence.append((word, 'O'))
    return sentence


# ---- Chinese --------------------------------------------------------------------------------------------------------

FAMILY_NAMES, GIVEN_NAMES = '王李张刘陈杨赵黄', words('明 华 丽 国强 小红 建军 海燕 志远 文 思成')
CITIES = words('北京 上海 广州 南京 成都 武汉 西安 杭州 天津 重庆')
BODIES = words('大学 银行 日报社 医院 出版社 足球队')
NEWS = ['{PER}今天访问了{LOC}。', '{ORG}的{PER}出席了会议。', '本报{LOC}９月３日电', '{PER}和{PER}在{LOC}见面。',
        '{ORG}在{LOC}成立了。', '这里的天气很好。', '{LOC}的人们都知道{ORG}。', '记者{PER}报道：{LOC}下雪了。',
        '我们要努力工作。', '{PER}从{LOC}来到{ORG}学习。']


def chinese_name(random, kind):
    if kind == 'PER':
        return random.choice(FAMILY_NAMES) + random.choice(GIVEN_NAMES)
    return random.choice(CITIES) + (random.choice(BODIES) if kind == 'ORG' else '')


def news(random, split):
    """The characters of a sentence and their tags."""
    sentence, text = [], random.choice(NEWS)
    while text:
        if text[0] == '{':
            kind, text = text[1:4], text[5:]
            sentence += [(character, f'{"I" if i else "B"}-{kind}')
                         for i, character in enumerate(chinese_name(random, kind))]
        else:
            sentence.append((text[0], 'O'))
            text = text[1:]
    return sentence


# ---- Files ----------------------------------------------------------------------------------------------------------


def file_of(name, split, make, separator):
    """The text of a file of a word a line, the same on every run."""
    random, lines = Random(f'{name} {split}'), []
    for _ in range(SIZES[split]):
        lines += [f'{word}{separator}{tag}' for word, tag in make(random, split)] + ['']
    return '\n'.join(lines) + '\n'


def make_files():
    """{name: text} of all of them."""
    files = {f'WNUT17/{file}': file_of('WNUT17', split, tweet, '\t') for split, file in (
        ('train', 'wnut17train.conll'), ('dev', 'emerging.dev.conll'), ('test', 'emerging.test.annotated'))}
    files |= {f'MSRA/{split}.txt': file_of('MSRA', split, news, ' ') for split in ('train', 'test')}
    files |= {f'PeopleDaily/example.{split}': file_of('PeopleDaily', split, news, ' ') for split in SIZES}
    return files


def main(folder):
    files = make_files()
    write_files(folder, files)
    chinese = ''.join(text for name, text in files.items() if not name.startswith('WNUT17'))
    write_model(folder / 'chinese-tags', ''.join(line[0] for line in chinese.splitlines() if line))


if __name__ == '__main__':
    argparse.ArgumentParser(prog='python -m checks.make_demo_tagging', description=__doc__,
                            formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    main(config.ROOT / 'demo')

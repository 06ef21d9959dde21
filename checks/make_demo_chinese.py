"""The demo data of chinese/: reviews, questions, premises in the official files' layout, made here from word lists; and
a small ELECTRA with fresh values whose vocabulary is their characters.

    python -m checks.make_demo_chinese      # writes demo/ChnSentiCorp, LCQMC, BQ, XNLI and chinese-electra

No text was taken from elsewhere.
"""

import argparse
import csv
import io
import json
import re
from random import Random

import numpy as np
import safetensors.numpy

import config
from engine.model.families import encoder_shapes, hugging_face_name

SIZES = {'train': 600, 'dev': 120, 'test': 100}
words = str.split

# ---- ChnSentiCorp ---------------------------------------------------------------------------------------------------

THINGS = {      # what a review is about: (its parts, what is good, what is bad)
    '酒店': (words('房间 服务 早餐 位置 大堂 空调 WiFi'),
           words('干净 热情 舒适 方便 满意'), words('陈旧 冷淡 吵闹 糟糕 失望')),
    '书': (words('内容 文字 故事 封面 翻译 纸张'),
          words('精彩 流畅 有趣 精美 感人'), words('空洞 枯燥 混乱 粗糙 无聊')),
    '电脑': (words('屏幕 键盘 外观 电池 系统 Windows'),
           words('清晰 好用 漂亮 耐用 稳定'), words('模糊 难用 难看 发烫 死机')),
}
REVIEWS = ['{part}很{word}。', '{part}非常{word}，{part2}也{word2}！', '这{thing}的{part}{word}，{part2}{word2}。',
           '总的来说，{part}太{word}了。', '用了３天，{part}{word}，{part2}{word2}。']


def chnsenticorp(random):
    """A review: parts of a thing, and what they are like."""
    label, thing = random.choice('01'), random.choice(list(THINGS))
    parts, good, bad = THINGS[thing]
    part, part2 = random.sample(parts, 2)
    word, word2 = random.sample(good if label == '1' else bad, 2)
    return random.choice(REVIEWS).format(thing=thing, part=part, part2=part2, word=word, word2=word2), label


# ---- LCQMC and BQ ---------------------------------------------------------------------------------------------------

# What is asked for, each in several wordings.
QUESTIONS = [
    words('去火车站怎么走？ 火车站在什么地方？ 火车站怎么去'),
    words('今天天气怎么样？ 今天会下雨吗？ 今天外面冷不冷'),
    words('这件衣服多少钱？ 这件衣服的价格是多少？ 这件衣服贵吗'),
    words('你最喜欢吃什么菜？ 你爱吃哪种菜？ 你喜欢的菜是什么'),
    words('怎么学好英语？ 学英语有什么好方法？ 如何提高英语水平'),
]
BANK = [
    words('怎么提高额度？ 额度太低了怎么办 我的额度能增加吗'),
    words('可以提前还款吗？ 想早一点还清怎么操作 能不能一次还完'),
    words('利息是怎么算的？ 每天的利率多少 借1000元利息要多少'),
    words('如何更换银行卡？ 我要换绑定的卡 能用别的卡吗'),
    words('为什么审核没有通过？ 审核失败的原因是什么 申请被拒绝了为什么'),
]


BEFORE, BEHIND = ['', '', '请问', '你好，', '谁知道', '我想问'], ['', '', '谢谢', '急', '呢']


def same_question(random, questions):
    """Two questions that ask for the same, in other words, or for something else."""
    label, (one, other) = random.choice('01'), random.sample(questions, 2)
    pair = random.sample(one, 2) if label == '1' else [random.choice(one), random.choice(other)]
    return *(random.choice(BEFORE) + text + random.choice(BEHIND) for text in pair), label


# ---- XNLI -----------------------------------------------------------------------------------------------------------

PEOPLE = words('老师 医生 学生 司机 农民 画家 邻居 妹妹')
PLACES = words('公园里 学校里 河边 山上 车站 图书馆')
DEEDS = words('画画 唱歌 看书 跑步 喝茶 等人')
REASONS = words('因为心情很好 因为放假了 是为了休息 希望遇到朋友')


def xnli(random):
    """A premise, and what follows from it, what may be, or what is wrong."""
    label = random.choice(['entailment', 'neutral', 'contradiction'])
    who, where, deed = random.choice(PEOPLE), random.choice(PLACES), random.choice(DEEDS)
    premise = f'{who}今天在{where}{deed}。'
    if label == 'entailment':
        return premise, random.choice([f'{who}在{where}。', f'有人在{deed}。', f'{who}今天{deed}了。']), label
    if label == 'neutral':
        return premise, f'{who}在{where}{deed}，{random.choice(REASONS)}。', label
    return premise, random.choice([f'{who}没有{deed}。', f'{who}不在{where}。', f'没有人在{where}。']), label


# ---- Files ----------------------------------------------------------------------------------------------------------


def rows_of(name, make):
    """{split: rows}, the same on every run."""
    return {split: [make(random) for _ in range(size)]
            for split, size in SIZES.items() for random in [Random(f'{name} {split}')]}


def tab_file(rows):
    return ''.join('\t'.join(row) + '\n' for row in rows)


def comma_file(rows):
    file = io.StringIO()
    csv.writer(file, lineterminator='\n').writerows([['sentence1', 'sentence2', 'label'], *rows])
    return '\ufeff' + file.getvalue()


def many_languages(rows):
    """XNLI's dev or test file: 19 columns, and rows in another language."""
    columns = words('language gold_label sentence1_binary_parse sentence2_binary_parse sentence1_parse sentence2_parse '
                    'sentence1 sentence2 promptID pairID genre label1 label2 label3 label4 label5 sentence1_tokenized '
                    'sentence2_tokenized match')
    lines = [columns]
    for number, (premise, hypothesis, label) in enumerate(rows):
        other = ['en', label, '', '', '', '', 'A painter sings.', 'Somebody sings.', str(number)]
        own = ['zh', label, '', '', '', '', premise, hypothesis, str(number)]
        lines += [line + [''] * (len(columns) - len(line)) for line in ([other, own] if number % 10 == 0 else [own])]
    return tab_file(lines)


def make_files():
    """{name: text} of all of them."""
    files = {}
    for split, rows in rows_of('ChnSentiCorp', chnsenticorp).items():
        files[f'ChnSentiCorp/{split}.tsv'] = tab_file([('label', 'text_a'), *((label, text) for text, label in rows)])
    for split, rows in rows_of('LCQMC', lambda random: same_question(random, QUESTIONS)).items():
        files[f'LCQMC/{split}.txt'] = tab_file(rows)
    for split, rows in rows_of('BQ', lambda random: same_question(random, BANK)).items():
        files[f'BQ/{split}.csv'] = comma_file(rows)
    for split, rows in rows_of('XNLI', xnli).items():
        if split == 'train':
            rows = [(*texts, 'contradictory' if label == 'contradiction' else label) for *texts, label in rows]
            files['XNLI/multinli.train.zh.tsv'] = tab_file([('premise', 'hypo', 'label'), *rows])
        else:
            files[f'XNLI/xnli.{split}.tsv'] = many_languages(rows)
    return files


def write_model(folder, texts):
    """An ELECTRA whose vocabulary are the characters and Latin words of `texts`, with fresh values."""
    folder.mkdir(parents=True, exist_ok=True)
    tokens = sorted(set(re.findall(r'[a-z]+|[0-9]+|[^\sa-z0-9]', texts.lower())))
    tokens = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', *tokens]
    settings = {'model_type': 'electra', 'vocab_size': len(tokens), 'embedding_size': 48, 'hidden_size': 48,
                'num_hidden_layers': 2, 'num_attention_heads': 4, 'intermediate_size': 96,
                'max_position_embeddings': 128, 'type_vocab_size': 2, 'hidden_act': 'gelu',
                'hidden_dropout_prob': 0.0, 'attention_probs_dropout_prob': 0.0, 'layer_norm_eps': 1e-12}
    random, values = np.random.default_rng(0), {}
    for name, shape in encoder_shapes('electra', settings).items():
        if name.endswith(('gamma', 'beta', 'bias')):
            value = np.full(shape, float(name.endswith('gamma')))
        else:       # of the deviation 0.08, without functions that other machines round in another way
            value = (random.random(shape) - 0.5) * 0.28
        key = hugging_face_name(name, 'electra')
        values[key] = np.ascontiguousarray(value.T if name.endswith('/kernel') else value, np.float32)
    (folder / 'vocab.txt').write_text('\n'.join(tokens) + '\n', encoding='utf-8')
    (folder / 'config.json').write_text(json.dumps(settings, indent=1) + '\n')
    (folder / 'model.safetensors').write_bytes(safetensors.numpy.save(values, {'format': 'pt'}))


def write_files(folder, files):
    """files: {name: text}."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())


def main(folder):
    files = make_files()
    write_files(folder, files)
    write_model(folder / 'chinese-electra', ''.join(files.values()).replace('\ufeff', ''))


if __name__ == '__main__':
    argparse.ArgumentParser(prog='python -m checks.make_demo_chinese', description=__doc__,
                            formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    main(config.ROOT / 'demo')

"""Where in a text stands the word that is asked for? A span task over windows: a pair of positions for every window.

    python spans.py --model FOLDER
"""

import numpy as np

import snippets
from config import Knobs
from snippets import keras, tf

knobs = Knobs(maxlen=24, epochs=2, batch_size=8)


def load_data(knobs, split):
    """A word, a text that has it once, and as label the place of its first character there."""
    random = np.random.default_rng(len(split))
    examples = []
    for i in range({'train': 32, 'dev': 12, 'test': 12}[split]):
        words = [chr(97 + letter) * random.integers(1, 4) for letter in random.permutation(26)[:random.integers(3, 26)]]
        word, text = random.choice(words), ' '.join(words)
        examples.append(snippets.Example('made up', i + 1, i, word, text, f' {text} '.index(f' {word} ')))
    return examples


def prepare(knobs, split):
    """Windows, and for each where the answer's first and last token are; both 0, [CLS], where it is not inside."""
    data = snippets.tokenize(knobs, load_data(knobs, split), stride=4, offsets=True)
    positions = np.zeros((len(data), 2), np.int32)
    for i in range(len(data)):
        row, example = data.row(i), data.examples[data.example[i]]
        first, end = example.label, example.label + len(example.text_a)
        inside = (row.texts == 1) & (row.offsets[:, 0] >= first) & (row.offsets[:, 1] <= end)
        tokens = np.flatnonzero(inside)
        if len(tokens) and row.offsets[tokens[0], 0] == first and row.offsets[tokens[-1], 1] == end:
            positions[i] = tokens[0], tokens[-1]
    return data.with_targets(snippets.PerRow(positions))


def build_model(knobs, rows):
    encoder = snippets.build_encoder(knobs)
    logits = keras.layers.Dense(2, name='positions')(encoder.sequence)                 # (batch, length, 2)
    padding = tf.cast(encoder.inputs[0] == 0, tf.float32)[:, None, :] * -1e9
    logits = tf.transpose(logits, (0, 2, 1)) + padding                                  # (batch, 2, length)
    model = keras.Model(encoder.inputs, logits)
    model.compile(optimizer=snippets.build_optimizer(knobs, model, rows, lookup=encoder.words.embeddings),
                  loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def score(outputs, data):
    right = [answer == example.text_a for answer, example in zip(answers(outputs, data), data.examples, strict=True)]
    return {'exact': np.mean(right)}


def answers(outputs, data):
    """Of each example's windows the best span of text; outputs: a (tokens, 2) array for every window."""
    best = [(-np.inf, '')] * len(data.examples)
    for i, logits in enumerate(outputs):
        row, example = data.row(i), data.example[i]
        text = np.flatnonzero(row.texts == 1)
        start = text[logits[text, 0].argmax()]
        end = start + logits[start:text[-1] + 1, 1].argmax()
        found = data.examples[example].text_b[row.offsets[start, 0]:row.offsets[end, 1]]
        best[example] = max(best[example], (logits[start, 0] + logits[end, 1], found))
    return [text for _, text in best]


def main(knobs):
    data = {split: prepare(knobs, split) for split in snippets.splits(knobs)}
    best = snippets.train(knobs, build_model(knobs, len(data['train'])), data['train'], data['dev'], score, answers)
    outputs = best.predict(data['test'])
    snippets.write_answers(knobs, 'spans.tsv', data['test'].examples, outputs, answers(outputs, data['test']))


if __name__ == '__main__':
    snippets.launch(main, knobs, __doc__)

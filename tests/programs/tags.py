"""Which words are longer than two letters? A tagging task: one label for each token.

    python tags.py --model FOLDER
"""

import numpy as np

import snippets
from config import Knobs
from snippets import keras

knobs = Knobs(labels=('O', 'LONG'), maxlen=24, epochs=2, batch_size=8)


def load_data(knobs, split):
    """Words, and as label a class for each of them."""
    random = np.random.default_rng(len(split))
    examples = []
    for i in range({'train': 30, 'dev': 12, 'test': 12}[split]):
        words = [chr(97 + random.integers(26)) * random.integers(1, 4) for _ in range(random.integers(1, 14))]
        labels = tuple(int(len(word) > 2) for word in words)
        examples.append(snippets.Example('made up', i + 1, i, ' '.join(words), None, labels))
    return examples


def prepare(knobs, split):
    """The first piece of each word has its label, the others and [CLS] and [SEP] have none."""
    data = snippets.tokenize(knobs, load_data(knobs, split), offsets=True)
    rows = []
    for i, example in enumerate(data.examples):
        labels = np.full(data.lengths[i], snippets.PerToken.NONE)
        firsts = first_pieces(data, i)
        labels[firsts] = example.label[:len(firsts)]
        rows.append(labels)
    return data.with_targets(snippets.PerToken(rows))


def first_pieces(data, i):
    """The places in row i where a word begins: behind a blank, or at the beginning."""
    row, text = data.row(i), data.examples[i].text_a
    return np.flatnonzero((row.texts == 0) & [start <= 0 or text[start - 1] == ' ' for start in row.offsets[:, 0]])


def build_model(knobs, rows):
    encoder = snippets.build_encoder(knobs)
    x = snippets.Dropout(knobs.dropout, knobs.seed)(encoder.sequence)
    logits = snippets.classifier(knobs, len(knobs.labels))(x)           # (batch, length, labels)
    model = keras.Model(encoder.inputs, logits)
    model.compile(optimizer=snippets.build_optimizer(knobs, model, rows, lookup=encoder.words.embeddings),
                  loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def score(outputs, data):
    pairs = zip(answers(outputs, data), data.examples, strict=True)
    words = [(tag, data.labels[gold]) for tags, example in pairs
             for tag, gold in zip(tags.split(), example.label, strict=False)]
    return {'accuracy': np.mean([tag == gold for tag, gold in words])}


def answers(outputs, data):
    """The tags of every example's words; outputs: a (tokens, labels) array for each."""
    return [' '.join(data.labels[j] for j in logits[first_pieces(data, i)].argmax(-1))
            for i, logits in enumerate(outputs)]


def main(knobs):
    data = {split: prepare(knobs, split) for split in snippets.splits(knobs)}
    best = snippets.train(knobs, build_model(knobs, len(data['train'])), data['train'], data['dev'], score, answers)
    outputs = best.predict(data['test'])
    snippets.write_answers(knobs, 'tags.tsv', data['test'].examples, outputs, answers(outputs, data['test']))


if __name__ == '__main__':
    snippets.launch(main, knobs, __doc__)

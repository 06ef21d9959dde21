"""Yahoo Answers (Zhang et al. 2015): which of ten topics is a question about, with its best answer? Accuracy.

    uv run documents/Yahoo.py --demo                # a whole run on the small data set in demo/
    uv run documents/Yahoo.py                       # BERT-base on the real one: 1,400,000 rows
    uv run documents/Yahoo.py --limit 100000 --name 100000

Expect on test: BERT-base 77.6 (Sun et al. 2019, table 6; not yet rerun here).
"""

import functools

import snippets
from documents import long_text
from engine.files import read_csv
from snippets import keras

# ---- Knobs ----------------------------------------------------------------------------------------------------------

knobs = long_text.Knobs(
    labels=('Society & Culture', 'Science & Mathematics', 'Health', 'Education & Reference', 'Computers & Internet',
            'Sports', 'Business & Finance', 'Entertainment & Music', 'Family & Relationships',
            'Politics & Government'),                       # 1 to 10 in the files
    maxlen=256,                                             # 131 tokens on average
    batch_size=24,                                          # Sun et al. 2019, section 5.2
    dev_share=0.01,                                         # 14,000 rows say enough
    epochs={'bert': 4, 'electra': 3, 'minilm': 3},          # "up to 4"
)

# ---- Data -----------------------------------------------------------------------------------------------------------


def load_data(knobs, split):
    """The rows of 'train', 'dev' or 'test' as Examples: dev is a part of the training set.

    A row has the topic's number, the question's title and text, and the best answer. The question is the first text,
    the answer the second; with --truncation windows all is one text.
    """
    name = 'test.csv' if split == 'test' else 'train.csv'
    path = snippets.data_file(knobs, f'Yahoo/{name}', f'yahoo_answers_csv/{name}', name)
    return long_text.train_or_dev(knobs, read_rows(path, len(knobs.labels), knobs.truncation == 'windows'), split)


@functools.cache
def read_rows(path, topics, as_one_text):
    """All Examples of a file. Line ends are written as backslash and n there; here they are spaces."""
    numbers, examples = [str(number) for number in range(1, topics + 1)], []
    for line, row in read_csv(path):
        if len(row) != 4 or row[0] not in numbers:
            raise snippets.UserError(f'{path}, line {line}: {len(row)} columns, the first {row[0]!r}, are not a topic '
                                     f'from 1 to {topics}, title, question and answer.')
        topic, title, question, answer = (cell.replace('\\n', ' ').strip() for cell in row)
        text_a, text_b = f'{title} {question}'.strip(), answer
        if not (text_a or text_b):
            raise snippets.UserError(f'{path}, line {line}: no text.')
        if as_one_text:
            text_a, text_b = f'{text_a} {text_b}', None
        examples.append(snippets.Example(str(path), line, len(examples), text_a, text_b, int(topic) - 1))
    if not examples:
        raise snippets.UserError(f'{path}: the file is empty.')
    return examples


# ---- Model ----------------------------------------------------------------------------------------------------------


def build_model(knobs, examples):
    """The encoder's vector of the text, dropout, one dense layer; `examples` sets the schedule's length."""
    encoder = long_text.build_encoder(knobs)
    x = snippets.Dropout(knobs.dropout, knobs.seed)(encoder.vector)
    logits = snippets.classifier(knobs, len(knobs.labels))(x)
    model = keras.Model(encoder.inputs, logits)
    # Every batch brings weights, 0 for rows that only fill it up: a loss of your own multiplies by them, then takes the
    # mean.
    model.compile(optimizer=snippets.build_optimizer(knobs, model, examples, lookup=encoder.words.embeddings,
                                                     exponents=knobs.decay_rule),
                  loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
                  jit_compile=long_text.use_xla(knobs, examples), steps_per_execution=knobs.steps_per_execution)
    return model


# ---- Score and run --------------------------------------------------------------------------------------------------


def score(outputs, data):
    """{metric: value} of the model's outputs for dev, (examples, labels), against its labels."""
    from sklearn.metrics import accuracy_score  # takes 2 s: not before training
    return {'accuracy': accuracy_score(data.gold, outputs.argmax(-1))}


def answers(outputs, data):
    """What is written for every example, from the model's outputs for it: its label."""
    return [data.labels[i] for i in outputs.argmax(-1)]


def main(knobs):
    """From the texts to the predictions of the test set, whose labels are used once, at the end."""
    data = {split: snippets.tokenize(knobs, load_data(knobs, split)) for split in snippets.splits(knobs)}
    model = build_model(knobs, len(data['train']))
    best = snippets.train(knobs, model, data['train'], data['dev'], score, answers)     # the best epoch on dev
    if knobs.predict:
        outputs = best.predict(data['test'])
        snippets.write_test_scores(knobs, data, score(outputs, data['test']))
        snippets.write_answers(knobs, 'Yahoo.tsv', data['test'].examples, outputs, answers(outputs, data['test']))


if __name__ == '__main__':
    snippets.launch(main, knobs, __doc__)

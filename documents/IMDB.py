"""IMDB, film reviews (Maas et al. 2011): is a review positive? Scored by accuracy.

    uv run documents/IMDB.py --demo                         # a whole run on the small data set in demo/
    uv run documents/IMDB.py                                # BERT-base on the real one, 128 tokens of head, 382 of tail
    uv run documents/IMDB.py --truncation windows --combine attention --name windows
    uv run documents/IMDB.py --model runs/pretraining/MLM/bert-base-uncased-seed42

Expect on test: BERT-base 94.6, with further pre-training 95.6 (Sun et al. 2019, tables 2 and 5; not yet rerun here).
minilm with 2,500 reviews: 86.6 with 128 tokens, 88.6 in windows (docs/documents.md). The rows of its predictions are
the test reviews, neg first, by number.
"""

import dataclasses

import snippets
from config import knob
from documents import long_text
from snippets import keras

# ---- Knobs ----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Knobs(long_text.Knobs):
    keep_html: bool = knob(False, 'keep <br /> as text; else it is a space')


knobs = Knobs(
    labels=('neg', 'pos'),
    maxlen=512,                                             # from here on: Sun et al. 2019, section 5.2
    batch_size=24,
    epochs={'bert': 4, 'electra': 3, 'minilm': 3},          # "up to 4"
)

# ---- Data -----------------------------------------------------------------------------------------------------------


def load_data(knobs, split):
    """The reviews of 'train', 'dev' or 'test' as Examples: dev is a part of the training set."""
    path = snippets.data_file(knobs, 'IMDB/aclImdb_v1.tar.gz', 'IMDB/aclImdb', 'aclImdb_v1.tar.gz', 'aclImdb')
    if set(knobs.labels) != {'neg', 'pos'}:
        raise snippets.UserError(f'--labels {",".join(knobs.labels)}: they are neg and pos.')
    examples = []
    for review in long_text.read_reviews(knobs, path, 'test' if split == 'test' else 'train'):
        text = review.text if knobs.keep_html else review.text.replace('<br />', ' ')
        label = knobs.labels.index(review.label)
        examples.append(snippets.Example(review.file, 1, len(examples), text, None, label))
    return long_text.train_or_dev(knobs, examples, split)


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
        snippets.write_answers(knobs, 'IMDB.tsv', data['test'].examples, outputs, answers(outputs, data['test']))


if __name__ == '__main__':
    snippets.launch(main, knobs, __doc__)

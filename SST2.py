"""SST-2, the Stanford Sentiment Treebank: is a phrase from a film review positive? Scored by accuracy.

    uv run SST2.py --demo                           # a whole run on the small data set in demo/
    uv run SST2.py                                  # BERT-base on the real one
    uv run SST2.py --model electra-base --seed 3    # every knob is an option: --help

Expect on dev: minilm @SST2@ (measured, README); BERT-base about 92.5, ELECTRA-base about 95 (published, not yet rerun here).
"""

from sklearn.metrics import accuracy_score

from config import Knobs
from snippets import (build_encoder, build_optimizer, classifier, data_file, keras, launch, load_tsv, predict,
                      tokenize, train, write_answers)

# ---- Knobs ----------------------------------------------------------------------------------------------------------

knobs = Knobs(
    'SST2',
    labels=('0', '1'),                                  # negative, positive
    maxlen=64,                                          # the longest phrase has 66 tokens, 0.0 % have more than 62
    epochs=3,                                           # BERT, appendix A.3; ELECTRA, appendix B; README for minilm
)

# ---- Data -----------------------------------------------------------------------------------------------------------


def load_data(knobs, split):
    """The rows of 'train', 'dev' or 'test' as Examples."""
    path = data_file(knobs, f'SST-2/{split}.tsv')
    if split == 'test':
        return load_tsv(knobs, split, path, index='index', text_a='sentence')
    return load_tsv(knobs, split, path, text_a='sentence', label='label', labels=knobs.labels)


# ---- Model ----------------------------------------------------------------------------------------------------------


def build_model(knobs, examples):
    """The encoder's vector of the text, dropout, one dense layer; `examples` (in training) set the schedule's length."""
    encoder = build_encoder(knobs)
    x = keras.layers.Dropout(knobs.dropout, seed=knobs.seed)(encoder.vector)
    logits = classifier(knobs, len(knobs.labels))(x)
    model = keras.Model(encoder.inputs, logits)
    model.compile(optimizer=build_optimizer(knobs, model, examples),
                  loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


# ---- Score and run --------------------------------------------------------------------------------------------------


def score(logits, examples):
    """{metric: value} of logits (examples, labels) against the examples' labels."""
    return {'accuracy': accuracy_score([example.label for example in examples], logits.argmax(-1))}


def main(knobs):
    """From the rows of the TSV files to the rows of the submission."""
    splits = ('train', 'dev', 'test') if knobs.predict else ('train', 'dev')
    data = {split: tokenize(knobs, load_data(knobs, split)) for split in splits}
    model = build_model(knobs, len(data['train']))
    train(knobs, model, data['train'], data['dev'], score)      # the best epoch on dev
    if knobs.predict:
        answers = [knobs.labels[i] for i in predict(knobs, model, data['test']).argmax(-1)]
        write_answers(knobs, 'SST-2.tsv', data['test'], answers)


if __name__ == '__main__':
    launch(main, knobs, __doc__)

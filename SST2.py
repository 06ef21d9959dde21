"""SST-2, the Stanford Sentiment Treebank: is a phrase from a film review positive? Scored by accuracy.

    uv run SST2.py --demo                           # a whole run on the small data set in demo/
    uv run SST2.py                                  # BERT-base on the real one
    uv run SST2.py --model electra-base --seed 3    # every knob is an option: --help

Expect on dev: minilm about 90 (measured, README); BERT-base about 92.5, ELECTRA-base about 95
(published, not yet rerun here).
"""

from sklearn.metrics import accuracy_score

import snippets
from config import Knobs
from snippets import keras

# ---- Knobs ----------------------------------------------------------------------------------------------------------

knobs = Knobs(
    'SST2',
    labels=('0', '1'),                                  # negative, positive
    maxlen=64,                                          # 4 of 67349 phrases are longer
    epochs={'bert': 3, 'electra': 3, 'minilm': 2},      # BERT, appendix A.3; ELECTRA, appendix B; README
)

# ---- Data -----------------------------------------------------------------------------------------------------------


def load_data(knobs, split):
    """The rows of 'train', 'dev' or 'test' as Examples."""
    path = snippets.data_file(knobs, f'SST-2/{split}.tsv')
    if split == 'test':
        return snippets.load_tsv(knobs, split, path, index='index', text_a='sentence')
    return snippets.load_tsv(knobs, split, path, text_a='sentence', label='label', labels=knobs.labels)


# ---- Model ----------------------------------------------------------------------------------------------------------


def build_model(knobs, examples):
    """The encoder's vector of the text, dropout, one dense layer; `examples` sets the schedule's length."""
    encoder = snippets.build_encoder(knobs)
    x = snippets.Dropout(knobs.dropout, knobs.seed)(encoder.vector)
    logits = snippets.classifier(knobs, len(knobs.labels))(x)
    model = keras.Model(encoder.inputs, logits)
    model.compile(optimizer=snippets.build_optimizer(knobs, model, examples),
                  loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
                  jit_compile=knobs.jit, steps_per_execution=knobs.steps_per_execution)
    return model


# ---- Score and run --------------------------------------------------------------------------------------------------


def score(logits, examples):
    """{metric: value} of logits (examples, labels) against the examples' labels."""
    return {'accuracy': accuracy_score([example.label for example in examples], logits.argmax(-1))}


def main(knobs):
    """From the rows of the TSV files to the rows of the submission."""
    splits = ('train', 'dev', 'test') if knobs.predict else ('train', 'dev')
    data = {split: snippets.tokenize(knobs, load_data(knobs, split)) for split in splits}
    model = build_model(knobs, len(data['train']))
    snippets.train(knobs, model, data['train'], data['dev'], score)      # the best epoch on dev
    if knobs.predict:
        answers = [knobs.labels[i] for i in snippets.predict(knobs, model, data['test']).argmax(-1)]
        snippets.write_answers(knobs, 'SST-2.tsv', data['test'].examples, answers)


if __name__ == '__main__':
    snippets.launch(main, knobs, __doc__)

"""CoLA, the Corpus of Linguistic Acceptability: is a sentence grammatical English? Scored by Matthews correlation.

    uv run CoLA.py --demo                           # a whole run on the small data set in demo/
    uv run CoLA.py                                  # BERT-base on the real one
    uv run CoLA.py --model electra-base --seed 3    # every knob is an option: --help

Expect on dev: minilm about 30 (measured, README); BERT-base about 60, ELECTRA-base about 67
(published, not yet rerun here).
"""

import snippets
from config import Knobs
from snippets import keras

# ---- Knobs ----------------------------------------------------------------------------------------------------------

knobs = Knobs(
    labels=('0', '1'),                                  # unacceptable, acceptable
    maxlen=64,                                          # the longest sentence has 47 tokens
    epochs={'bert': 10, 'electra': 3, 'minilm': 3},     # small task: Mosbach et al. 2021; ELECTRA, appendix B; README
)

# ---- Data -----------------------------------------------------------------------------------------------------------


def load_data(knobs, split):
    """The rows of 'train', 'dev' or 'test' as Examples."""
    path = snippets.data_file(knobs, f'CoLA/{split}.tsv')
    if split == 'test':
        return snippets.load_tsv(knobs, split, path, index='index', text_a='sentence')
    return snippets.load_tsv(knobs, split, path, columns=4, text_a=3, label=1, labels=knobs.labels)    # no header


# ---- Model ----------------------------------------------------------------------------------------------------------


def build_model(knobs, examples):
    """The encoder's vector of the text, dropout, one dense layer; `examples` sets the schedule's length."""
    encoder = snippets.build_encoder(knobs)
    x = snippets.Dropout(knobs.dropout, knobs.seed)(encoder.vector)
    logits = snippets.classifier(knobs, len(knobs.labels))(x)
    model = keras.Model(encoder.inputs, logits)
    # Every batch brings weights, 0 for rows that only fill it up: a loss of your own multiplies by them, then takes the
    # mean.
    model.compile(optimizer=snippets.build_optimizer(knobs, model, examples, lookup=encoder.words.embeddings),
                  loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
                  jit_compile=snippets.use_xla(knobs, examples), steps_per_execution=knobs.steps_per_execution)
    return model


# ---- Score and run --------------------------------------------------------------------------------------------------


def score(outputs, data):
    """{metric: value} of the model's outputs for dev, (examples, labels), against its labels."""
    from sklearn.metrics import matthews_corrcoef  # takes 2 s: not before training
    return {'mcc': matthews_corrcoef(data.gold, outputs.argmax(-1))}


def answers(outputs, data):
    """What is written for every example, from the model's outputs for it: its label."""
    return [data.labels[i] for i in outputs.argmax(-1)]


def main(knobs):
    """From the rows of the TSV files to the rows of the submission."""
    data = {split: snippets.tokenize(knobs, load_data(knobs, split)) for split in snippets.splits(knobs)}
    model = build_model(knobs, len(data['train']))
    best = snippets.train(knobs, model, data['train'], data['dev'], score, answers)     # the best epoch on dev
    if knobs.predict:
        outputs = best.predict(data['test'])
        snippets.write_answers(knobs, 'CoLA.tsv', data['test'].examples, outputs, answers(outputs, data['test']))


if __name__ == '__main__':
    snippets.launch(main, knobs, __doc__)

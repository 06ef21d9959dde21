"""ChnSentiCorp: is a Chinese review of a hotel, a book or a computer positive? Scored by accuracy.

    uv run chinese/ChnSentiCorp.py --demo      # a whole run on the small data set in demo/
    uv run chinese/ChnSentiCorp.py             # BERT-base
    uv run chinese/ChnSentiCorp.py --model chinese-electra-180g-base --seed 3    # every knob is an option: --help

Expect on test (HFL, best of ten runs and their mean; not yet rerun here): BERT-base 95.0 (94.7),
ELECTRA-small 94.3 (93.5), ELECTRA-base 94.5 (93.5).
"""

import snippets
from chinese import pairs
from snippets import keras

# ---- Knobs ----------------------------------------------------------------------------------------------------------

knobs = pairs.Knobs(
    labels=('0', '1'),
    maxlen=256,                                         # Cui et al. 2019, arXiv 1906.08101, table 4; 5 % are longer
    epochs={'bert': 3, 'electra': 3, 'albert-chinese-base': 6},     # the same table; mkavim/finetune_bert: ALBERT
    learning_rate={'electra-small': 3e-4},              # ymcui/Chinese-ELECTRA; 1e-4 base, 5e-5 large
)

# ---- Data -----------------------------------------------------------------------------------------------------------


def load_data(knobs, split):
    """The rows of 'train', 'dev' or 'test' as Examples."""
    path = snippets.data_file(knobs, f'ChnSentiCorp/{split}.tsv', f'chnsenticorp/{split}.tsv')
    return snippets.load_tsv(knobs, split, path, text_a='text_a', label='label', labels=knobs.labels)


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
    from sklearn.metrics import accuracy_score  # takes 2 s: not before training
    return {'accuracy': accuracy_score(data.gold, outputs.argmax(-1))}


def answers(outputs, data):
    """What is written for every example, from the model's outputs for it: its label."""
    return [data.labels[i] for i in outputs.argmax(-1)]


def main(knobs):
    """From the files to the predictions of the test set, whose labels, where it has any, are used once, at the end."""
    data = {split: snippets.tokenize(knobs, load_data(knobs, split)) for split in snippets.splits(knobs)}
    model = build_model(knobs, len(data['train']))
    best = snippets.train(knobs, model, data['train'], data['dev'], score, answers)     # the best epoch on dev
    if knobs.predict:
        outputs = best.predict(data['test'])
        if data['test'].gold is not None:
            snippets.write_test_scores(knobs, data, score(outputs, data['test']))
        snippets.write_answers(knobs, 'ChnSentiCorp.tsv', data['test'].examples, outputs,
                               answers(outputs, data['test']))


if __name__ == '__main__':
    snippets.launch(main, knobs, __doc__)

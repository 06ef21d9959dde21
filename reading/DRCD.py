"""DRCD (Shao et al. 2018), in traditional Chinese: which piece of a paragraph answers a question? Scored by exact match
and F1.

    uv run reading/DRCD.py --demo              # a whole run on the small data set in demo/
    uv run reading/DRCD.py                     # BERT-base
    uv run reading/DRCD.py --model chinese-electra-180g-base --seed 3    # every knob is an option: --help

Expect on dev: BERT-base exact match 82.2, F1 89.3; on test 81.6, 88.8 (ymcui/cmrc2018, baseline; not yet rerun here).
"""

import snippets
from engine.metrics.reading import cmrc_scores, evaluate_cmrc
from reading import qa
from snippets import keras

# ---- Knobs ----------------------------------------------------------------------------------------------------------

knobs = qa.ChineseKnobs(
    maxlen=512,                                         # from here on: ymcui/cmrc2018, baseline
    epochs=2,
    learning_rate={'bert': 3e-5, 'electra-small': 3e-4},        # the same; ymcui/Chinese-ELECTRA; 1e-4 base, 5e-5 large
)

# ---- Data -----------------------------------------------------------------------------------------------------------


def load_data(knobs, split):
    """The questions of 'train', 'dev' or 'test'."""
    name = 'DRCD_training.json' if split == 'train' else f'DRCD_{split}.json'
    path = snippets.data_file(knobs, f'DRCD/{name}', f'DRCD/DRCD_{split}.json')
    return qa.load(knobs, split, path)


def prepare(knobs, loaded):
    """Their rows of tokens, with where in each the answer begins and ends."""
    return qa.prepare(knobs, loaded)


# ---- Model ----------------------------------------------------------------------------------------------------------


def build_model(knobs, rows):
    """For every token of a row how likely the answer begins there, and how likely it ends there; [CLS] stands for: not
    in this window. `rows` sets the schedule's length."""
    encoder = snippets.build_encoder(knobs)
    head = qa.joint_head if knobs.head == 'joint' else qa.plain_head
    model = keras.Model(*head(knobs, encoder))
    # Every batch brings weights, 0 for rows that only fill it up: a loss of your own multiplies by them, then takes the
    # mean. The mean is over beginnings and ends alike.
    model.compile(optimizer=snippets.build_optimizer(knobs, model, rows, lookup=encoder.words.embeddings),
                  loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
                  jit_compile=snippets.use_xla(knobs, rows), steps_per_execution=knobs.steps_per_execution)
    return model


# ---- Score and run --------------------------------------------------------------------------------------------------


def predict(predictor, data):
    """The best answers to every question, (questions, 1 + n_best, 3): see questions.predict()."""
    return qa.predict(predictor, data)


def score(outputs, data):
    """{metric: value} of what predict() returns for dev, by the official definition."""
    return qa.score(evaluate_cmrc, answers(outputs, data), data)


def answers(outputs, data):
    """What is written for every question: a piece of its paragraph."""
    return qa.best_texts(outputs, data)


def losses(outputs, data):
    """How wrong every answer is: 1 less its F1."""
    return qa.losses(cmrc_scores, answers(outputs, data), data)


def score_files(gold, predictions):
    """{metric: value} of a file of predictions, {id: text}, for a file with answers (tools.score)."""
    return evaluate_cmrc(*qa.read_predictions(gold, predictions))


def main(knobs):
    """From the files to the predictions of the test file."""
    splits = snippets.splits(knobs)
    data = {split: prepare(knobs, load_data(knobs, split)) for split in splits}
    knobs = qa.with_longest_answer(knobs, data['train'])
    model = build_model(knobs, len(data['train']))
    best = snippets.train(knobs, model, data['train'], data['dev'], score, answers, predict=predict, losses=losses)
    if knobs.predict:
        split = splits[-1]
        outputs = predict(best, data[split])
        if split == 'test' and data['test'].targets is not None:        # it has answers
            snippets.write_test_scores(knobs, data, score(outputs, data['test']))
        qa.write(knobs, 'DRCD', split, data[split], outputs, answers(outputs, data[split]))


if __name__ == '__main__':
    snippets.launch(main, knobs, __doc__)

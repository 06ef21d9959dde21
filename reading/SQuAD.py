"""SQuAD 1.1 and 2.0 (Rajpurkar et al. 2016, 2018): which piece of a paragraph answers a question? In 2.0 there may be
none. Scored by exact match and F1.

    uv run reading/SQuAD.py --demo              # a whole run on the small data set in demo/
    uv run reading/SQuAD.py                     # BERT-base on 1.1
    uv run reading/SQuAD.py --version 2.0 --model electra-small --seed 3     # every knob is an option: --help

Expect on dev, exact match: ELECTRA-small 75.8 on 1.1, 70.1 on 2.0 (google-research/electra; not yet rerun here).
Questions without an answer are handled wherever the files have any. The threshold from which on no answer is given is
the best one on dev, as in the official best_exact. The test set is hidden: without a file test-v1.1.json of your own,
the dev predictions are what is written.
"""

import dataclasses

import snippets
from config import knob
from engine.metrics.reading import evaluate_squad1, evaluate_squad2, squad2_scores
from reading import qa
from snippets import keras

# ---- Knobs ----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Knobs(qa.Knobs):
    version: str = knob('1.1', 'of the data; in 2.0 some questions have no answer', choices=('1.1', '2.0'))
    null_threshold: float = knob(0.0, 'how much higher the score of no answer must be than that of the best text, for '
                                 'questions whose answers are not known; 0: what is best on dev')


knobs = Knobs(
    maxlen={'bert': 384, 'electra': 512, 'minilm': 384},        # run_squad.py; ELECTRA's configure_finetuning.py
    epochs=2,                                                   # both READMEs
    learning_rate={'bert': 3e-5, 'electra-small': 3e-4},        # the same; 1e-4 base, 5e-5 large
)

# ---- Data -----------------------------------------------------------------------------------------------------------


def load_data(knobs, split):
    """The questions of 'train', 'dev' or 'test'; the answers of a test file are not looked at."""
    path = snippets.data_file(knobs, f'SQuAD/{split}-v{knobs.version}.json')
    loaded = qa.load(knobs, split, path, unanswerable=True)
    return [question._replace(label=None) for question in loaded] if split == 'test' else loaded


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
    """No answer, and the best answers, to every question, (questions, 1 + n_best, 3): see questions.predict()."""
    outputs = qa.predict(predictor, data)
    outputs[:, 0, 2] -= predictor.knobs.null_threshold
    return outputs


def score(outputs, data):
    """{metric: value} of what predict() returns for dev, by the official definition."""
    evaluate = evaluate_squad2 if qa.some_have_none(data) else evaluate_squad1
    return qa.score(evaluate, answers(outputs, data), data)


def answers(outputs, data):
    """What is written for every question: a piece of its paragraph, or '' for no answer."""
    is_null = qa.null_margins(outputs) > qa.null_threshold(outputs, data)
    return ['' if null else text for null, text in zip(is_null, qa.best_texts(outputs, data), strict=True)]


def losses(outputs, data):
    """How wrong every answer is: 1 less its F1."""
    return qa.losses(squad2_scores, answers(outputs, data), data)


def score_files(gold, predictions, null_odds=None):
    """{metric: value} of a file of predictions, {id: text}, for a file with answers (tools.score); of SQuAD 2.0 with a
    file {id: how sure it is that there is no answer} also the best thresholds on these."""
    accepted, texts = qa.read_predictions(gold, predictions, unanswerable=True)
    if () not in accepted.values():
        return evaluate_squad1(accepted, texts)
    return evaluate_squad2(accepted, texts, qa.read_odds(null_odds, accepted))


def main(knobs):
    """From the files to the predictions of the test file or, where there is none, of dev."""
    splits = qa.splits(knobs, f'SQuAD/test-v{knobs.version}.json')
    data = {split: prepare(knobs, load_data(knobs, split)) for split in splits}
    knobs = qa.with_longest_answer(knobs, data['train'])
    model = build_model(knobs, len(data['train']))
    best = snippets.train(knobs, model, data['train'], data['dev'], score, answers, predict=predict, losses=losses)
    outputs = predict(best, data['dev'])
    best.knobs = knobs = qa.with_null_threshold(knobs, outputs, data['dev'])
    snippets.write_configuration(knobs)
    if knobs.predict:
        split = splits[-1]
        if split == 'test':
            outputs = predict(best, data['test'])
        qa.write(knobs, 'SQuAD', split, data[split], outputs, answers(outputs, data[split]),
                        qa.some_have_none(data['dev']))


if __name__ == '__main__':
    snippets.launch(main, knobs, __doc__)

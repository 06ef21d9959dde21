"""The official scores of answers cut out of a text: CMRC 2018 and DRCD, SQuAD 1.1 and SQuAD 2.0.

    answers         {question id: [accepted texts]}; in SQuAD 2.0 an empty list: the question has no answer
    predictions     {question id: text}; in SQuAD 2.0 '' means: no answer

All scores are fractions. 'em' (exact match) is the share of predictions that equal an accepted text, 'f1' the mean
overlap of a prediction with the accepted text that is most like it.

    cmrc, squad1, squad2                                one question: its accepted texts and a prediction
    evaluate_cmrc, evaluate_squad1, evaluate_squad2     all questions
    each                                                the scores of every question

Sums are made by plain addition in the order of `answers`, as the scripts do (SQuAD 2.0's calls sum(), which from Python
3.12 on rounds otherwise: the last bit can differ).
"""

import collections
import difflib
import re
import string

# ---- CMRC 2018 and DRCD ----------------------------------------------------------------------------------------------

# As squad-style-data/cmrc2018_evaluate.py (v5) and baseline/cmrc2018_evaluate.py (v6) of github.com/ymcui/cmrc2018 have
# it. Their list also holds the two characters '……' as one entry, which no character equals.
DROPPED = set('-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』')


def cmrc_scores(accepted, prediction):
    """The scores of one question of CMRC 2018 or DRCD."""
    plain = ''.join(kept_characters(prediction))
    predicted = cmrc_segments(prediction)
    overlaps = []
    for text in accepted:
        wanted = cmrc_segments(text)
        run = difflib.SequenceMatcher(None, wanted, predicted, autojunk=False).find_longest_match()
        overlaps.append(harmonic_mean(run.size, len(predicted), len(wanted)))
    return {'em': int(any(plain == ''.join(kept_characters(text)) for text in accepted)), 'f1': max(overlaps)}


def kept_characters(text):
    return [character for character in text.lower().strip() if character not in DROPPED]


def cmrc_segments(text):
    """Each Chinese character alone, the stretches between them in words: 'iPhone 6在2014-9' -> iphone 6 在 20149."""
    result, stretch = [], ''
    for character in kept_characters(text):
        if '\u4e00' <= character <= '\u9fa5':
            result += word_tokens(stretch) + [character]
            stretch = ''
        else:
            stretch += character
    return result + word_tokens(stretch)


# What nltk.word_tokenize of NLTK 3.9.2 does with one sentence in lower case without the dropped characters
# (nltk/tokenize/destructive.py, Apache License 2.0, after Robert MacIntyre's Penn Treebank tokenizer). NLTK 3.9.3 and
# later also cut at the dashes – and —, which gives another F1 than the published ones. The scripts first cut a stretch
# into sentences, for which NLTK needs its punkt data; here a stretch is one sentence. The words can differ only where a
# period ends a word inside a stretch and punkt takes it for the end of a sentence: 'c.l. max' is here c.l. max, there
# c.l . max; 'dr. max', 'b. max' and '5. max' are the same in both.
WORD_RULES = [
    (r'[«‘„]', r' \g<0> '),
    (r'^"', ' `` '),
    (r"""([ (\[{<])("|'')""", r'\1 `` '),
    (r"'(?!re|ve|ll|m|t|s|d|n)(\w)\b", r"' \1"),
    (r"""([^.])(\.)([\])}>"'» ]*)\s*$""", r'\1 \2 \3 '),       # the last period
    (r',(\D|$)', r' , \1'),
    (r'\.{2,}', r' \g<0> '),
    (r'[;@#$%&?!]', r' \g<0> '),
    (r"([^'])' ", r"\1 ' "),
    (r'[][(){}<>]', r' \g<0> '),
    (r'^|$', ' '),
    (r'»', ' » '),
    (r"''|\"", " '' "),
    (r'\s+', ' '),
    (r"([^' ])('[smd]|') ", r'\1 \2 '),
    (r"([^' ])('ll|'re|'ve|n't) ", r'\1 \2 '),
    *[(rf'\b({first})({second})\b', r' \1 \2 ') for first, second in [
        ('can', 'not'), ('d', "'ye"), ('gim', 'me'), ('gon', 'na'), ('got', 'ta'), ('lem', 'me'), ('more', "'n"),
        ('wan', r'na(?=\s)')]],
    (r" ('t)(is)\b", r' \1 \2 '),
    (r" ('t)(was)\b", r' \1 \2 '),
]


def word_tokens(text):
    for pattern, replacement in WORD_RULES:
        text = re.sub(pattern, replacement, text)
    return text.split()


# ---- SQuAD: evaluate-v1.1.py and evaluate-v2.0.py of its site --------------------------------------------------------


def squad1_scores(accepted, prediction):
    """The scores of one question of SQuAD 1.1."""
    return {'em': max(int(normalized(text) == normalized(prediction)) for text in accepted),
            'f1': max(word_overlap(text, prediction) for text in accepted)}


def squad2_scores(accepted, prediction):
    """The scores of one question of SQuAD 2.0. To a question without an answer a prediction without words is right."""
    accepted = [text for text in accepted if normalized(text)] or ['']
    scores = squad1_scores(accepted, prediction)
    if accepted == ['']:
        scores['f1'] = scores['em']         # there are no words that could overlap
    return scores


def normalized(text):
    """In lower case, without ASCII punctuation and articles, with single spaces."""
    text = ''.join(character for character in text.lower() if character not in string.punctuation)
    return ' '.join(re.sub(r'\b(a|an|the)\b', ' ', text).split())


def word_overlap(accepted, prediction):
    wanted, predicted = normalized(accepted).split(), normalized(prediction).split()
    common = sum((collections.Counter(predicted) & collections.Counter(wanted)).values())
    return harmonic_mean(common, len(predicted), len(wanted))


# ---- All questions ---------------------------------------------------------------------------------------------------


def evaluate_cmrc(answers, predictions):
    scores = average(score_each(cmrc_scores, answers, predictions))
    return {**scores, 'average': (scores['em'] + scores['f1']) * 0.5}


def evaluate_squad1(answers, predictions):
    return average(score_each(squad1_scores, answers, predictions))


def evaluate_squad2(answers, predictions, odds=None, threshold=1.0):
    """odds: {question id: how sure it is that there is no answer}; where they exceed `threshold` the answer is ''.

    With odds also the thresholds that would have been best for em and for f1, and the scores they would give. Every
    question needs a prediction: the official script has no score for a missing one either.
    """
    raw = {question: squad2_scores(accepted, predictions[question]) for question, accepted in answers.items()}
    scores = raw if odds is None else with_threshold(raw, answers, odds, threshold)
    result = average(scores)
    has_answer = {question: scores[question] for question in answers if answers[question]}
    no_answer = {question: scores[question] for question in answers if not answers[question]}
    for kind, part in (('has_answer', has_answer), ('no_answer', no_answer)):
        if part:
            means = average(part)
            result[f'{kind}_em'], result[f'{kind}_f1'] = means['em'], means['f1']
    if odds is not None:
        for measure in ('em', 'f1'):
            result[f'best_{measure}'], result[f'best_{measure}_threshold'] = best_threshold(
                raw, answers, predictions, odds, measure)
    return result


def with_threshold(scores, answers, odds, threshold):
    """The scores of squad2 where odds above the threshold turn the prediction into ''."""
    right, wrong = {'em': 1, 'f1': 1}, {'em': 0, 'f1': 0}
    result = {}
    for question in scores:
        if odds[question] > threshold:
            result[question] = wrong if answers[question] else right
        else:
            result[question] = scores[question]
    return result


def best_threshold(scores, answers, predictions, odds, measure):
    """(score, threshold): the highest score that a threshold on the odds can give, and the lowest such threshold.

    It starts from '' for all questions, with threshold 0, and lets one prediction after the other in, by rising odds.
    As in the official script equal odds are let in one by one too, in the order of `odds`: the score found can be one
    that no threshold gives. scores: of squad2, without a threshold.
    """
    total = sum(1 for accepted in answers.values() if not accepted)
    best, threshold = total, 0.0
    for question in sorted(odds, key=odds.get):
        if question not in scores:
            continue
        if answers[question]:
            total += scores[question][measure]
        elif predictions[question]:
            total -= 1
        if total > best:
            best, threshold = total, odds[question]
    return best / len(scores), threshold


def score_each(score, answers, predictions):
    """{question id: its scores} by cmrc or squad1; 0 where there is no prediction."""
    result = {}
    for question, accepted in answers.items():
        if question in predictions:
            result[question] = score(accepted, predictions[question])
        else:
            result[question] = {'em': 0, 'f1': 0}
    return result


def average(scores):
    """The mean of each score over the questions."""
    totals = {'em': 0, 'f1': 0}
    for of_question in scores.values():
        for measure in totals:
            totals[measure] += of_question[measure]
    return {measure: total / len(scores) for measure, total in totals.items()}


def harmonic_mean(common, predicted, wanted):
    """Of precision and recall: `common` segments or words of the predicted and of the wanted ones."""
    if common == 0:
        return 0
    precision, recall = common / predicted, common / wanted
    return 2 * precision * recall / (precision + recall)

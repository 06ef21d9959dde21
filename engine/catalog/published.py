"""What others have published, in percent, to stand beside what tools.leaderboard measures."""

TRANSFORMERS = 'https://github.com/huggingface/transformers/tree/main/examples/pytorch/text-classification'
DISTILBERT = 'https://github.com/huggingface/transformers/tree/v4.40.0/examples/research_projects/distillation'
GOOGLE = 'https://github.com/google-research/electra#expected-results'
LONEPATIENT = 'https://github.com/lonePatient/electra_pytorch#result'
# On dev: (what the model's name contains, title, source, scores)
GLUE = [
    # One seed; 3 epochs, MRPC and WNLI 5.
    ('bert-base', 'BERT-base cased, transformers', TRANSFORMERS, {
        'CoLA mcc': 56.53, 'SST2 accuracy': 92.32, 'MRPC f1': 88.85, 'MRPC accuracy': 84.07, 'STSB pearson': 88.64,
        'STSB spearman': 88.48, 'QQP f1': 87.49, 'QQP accuracy': 90.71, 'MNLI accuracy_m': 83.91,
        'MNLI accuracy_mm': 84.10, 'QNLI accuracy': 90.66, 'RTE accuracy': 65.70, 'WNLI accuracy': 56.34}),
    # Medians of 5 seeds (arXiv 1910.01108). Of MRPC, STS-B, QQP and MNLI it does not say which metric: left out.
    ('bert-base', 'BERT-base uncased, DistilBERT', DISTILBERT, {
        'CoLA mcc': 56.3, 'SST2 accuracy': 92.7, 'QNLI accuracy': 91.8, 'RTE accuracy': 69.3, 'WNLI accuracy': 53.5}),
    ('distilbert', 'DistilBERT uncased', DISTILBERT, {
        'CoLA mcc': 51.3, 'SST2 accuracy': 91.3, 'QNLI accuracy': 89.2, 'RTE accuracy': 59.9, 'WNLI accuracy': 56.3}),
    # Medians over many seeds.
    ('electra-small', 'ELECTRA-small, Google', GOOGLE, {
        'CoLA mcc': 57.0, 'SST2 accuracy': 91.2, 'MRPC accuracy': 88.0, 'STSB spearman': 87.5, 'QQP accuracy': 89.0,
        'MNLI accuracy_m': 81.3, 'QNLI accuracy': 88.4, 'RTE accuracy': 66.7}),
    ('electra-base', 'ELECTRA-base, Google', GOOGLE, {
        'CoLA mcc': 67.7, 'SST2 accuracy': 95.1, 'MRPC accuracy': 89.5, 'STSB spearman': 91.2, 'QQP accuracy': 91.5,
        'MNLI accuracy_m': 88.8, 'QNLI accuracy': 93.2, 'RTE accuracy': 82.7}),
    ('electra-large', 'ELECTRA-large, Google', GOOGLE, {
        'CoLA mcc': 69.1, 'SST2 accuracy': 96.9, 'MRPC accuracy': 90.8, 'STSB spearman': 92.6, 'QQP accuracy': 92.4,
        'MNLI accuracy_m': 90.9, 'QNLI accuracy': 95.0, 'RTE accuracy': 88.0}),
    ('electra-small', 'ELECTRA-small, lonePatient', LONEPATIENT, {
        'CoLA mcc': 56.6, 'SST2 accuracy': 90.5, 'STSB pearson': 87.6}),
    ('electra-base', 'ELECTRA-base, lonePatient', LONEPATIENT, {
        'CoLA mcc': 67.8, 'SST2 accuracy': 94.2, 'STSB pearson': 91.1}),
    ('electra-large', 'ELECTRA-large, lonePatient', LONEPATIENT, {
        'CoLA mcc': 71.1, 'SST2 accuracy': 95.8, 'STSB pearson': 92.4}),
]

HFL = 'https://github.com/ymcui/Chinese-ELECTRA'
CHINESE_TASKS = 'chinese/ChnSentiCorp', 'chinese/LCQMC', 'chinese/BQ', 'chinese/XNLI'
# Accuracies on dev and test of each of these tasks, one task after the other: the best of ten runs and, where it is
# given, their mean. Of several names that a model's name contains the longest counts.
CHINESE = {
    'bert': ('BERT-base, HFL', [94.7, 95.0, 89.4, 86.9, 86.0, 84.8, 77.8, 77.8],
             [94.3, 94.7, 88.4, 86.4, 85.5, 84.6, 77.4, 77.5]),
    'electra-small': ('ELECTRA-small, HFL', [92.8, 94.3, 86.7, 85.9, 83.5, 82.0, 73.3, 73.1],
                      [92.5, 93.5, 86.3, 85.6, 83.0, 81.7, 72.5, 72.6]),
    'electra-small-ex': ('ELECTRA-small-ex, HFL', [92.6, 93.6, 87.5, 86.0, 84.0, 82.6, 75.4, 75.8], None),
    'electra-base': ('ELECTRA-base, HFL', [93.8, 94.5, 90.2, 87.6, 84.8, 84.5, 77.9, 78.4],
                     [93.0, 93.5, 89.8, 87.3, 84.7, 84.0, 77.0, 77.8]),
    'electra-large': ('ELECTRA-large, HFL', [95.2, 95.3, 90.7, 87.3, 86.7, 85.1, 81.5, 81.0], None),
    'electra-180g-small': ('ELECTRA-180g-small, HFL', [94.1, 93.6, 86.6, 85.8, 83.3, 82.1, 74.6, 74.6], None),
    'electra-180g-small-ex': ('ELECTRA-180g-small-ex, HFL', [92.8, 93.4, 87.6, 86.3, 84.6, 83.4, 76.5, 76.6], None),
    'electra-180g-base': ('ELECTRA-180g-base, HFL', [94.3, 94.8, 90.2, 87.1, 85.8, 84.5, 79.6, 79.5], None),
    'electra-180g-large': ('ELECTRA-180g-large, HFL', [94.8, 95.2, 90.3, 87.3, 86.4, 85.4, 81.2, 80.4], None),
}


def nearest(model, tasks=()):
    """{title: (source, {'CoLA mcc': percent, ...})} of what is published about this model, else about BERT-base.

    DistilBERT's name contains its teacher's, which is shown beside it. `tasks` says which scores are asked for.
    """
    name = model.lower().replace('_', '-')
    if set(tasks) <= set(CHINESE_TASKS) and tasks:
        title, best, means = CHINESE[max((key for key in CHINESE if key in name), key=len, default='bert')]
        names = [f'{task} {metric}' for task in CHINESE_TASKS for metric in ('accuracy', 'test accuracy')]
        columns = {f'{title}, best of 10': best} | ({f'{title}, mean': means} if means else {})
        return {title: (HFL, dict(zip(names, scores, strict=True))) for title, scores in columns.items()}
    if any('/' in task for task in tasks):
        return {}
    rows = [row for row in GLUE if row[0] in name] or GLUE[:1]
    return {title: (source, scores) for _, title, source, scores in rows}

"""One HTML page about finished runs: scores, learning curves, and where the answers on dev are right and wrong.

    uv run -m tools.report                              # all runs in runs/ -> runs/report.html
    uv run -m tools.report runs/CoLA --to cola.html     # folders of runs, or the --name of runs in runs/
    uv run -m tools.report --demo                       # those in runs/demo
    uv run -m tools.report baseline --against r_drop    # two sets of runs side by side, here without and with a name

Of each task: the scores of all seeds; learning curves; the confusion matrix and the calibration, for STS-B the errors
by score; scores by the length of the texts and by the words that they share; the worst mistakes; of MNLI the diagnostic
set by phenomenon, where the labelled file is there (DATA_DIR/diagnostic/diagnostic-full.tsv, or --diagnostic FILE).

The page needs no other file, no network and no JavaScript. No model is built. Exit status: 0, or 2 and no page.
"""

import argparse
import math
import re
import shlex
import statistics
import sys
from html import escape
from pathlib import Path

import numpy as np
from sklearn.metrics import confusion_matrix

from engine.catalog.datasets import TASKS
from engine.files import UserError, exit_status, write_file
from engine.runs.metrics import format_score
from engine.runs.records import BASELINE, RUN_ARGUMENT_HELP, add_options, find_runs, runs_dir
from lab import analysis, figures
from lab.page import Shaded, Words, document, figure, heading, paragraph, quotation, row, table
from tools import compare

MISTAKES = 20           # shown of each group of runs
# Knobs that are told of each group of runs, and when: always, or where they are set.
TOLD = ('epochs', 'batch_size', 'learning_rate', 'maxlen', 'precision')
TOLD_IF_SET = ('updates', 'limit', 'init', 'pooling')
DEMO_NOTE = '<p class="demo">Demo: made-up data. These scores mean nothing.</p>'


# ---- Words and numbers ----------------------------------------------------------------------------------------------


def legend(groups):
    """Which colour is which group; nothing where there is one."""
    if len(groups) == 1:
        return ''
    entries = ''.join(f'<span>{figures.swatch(i)}{escape(group.title)}</span>' for i, group in enumerate(groups))
    return f'<p class="legend">{entries}</p>'


def percent(share, digits=1):
    return format_score(share, digits)


def counted(number, singular):
    return f'{number:,} {singular}' if number == 1 else f'{number:,} {singular}s'


def slug(text):
    """A text as a part of an anchor."""
    return re.sub(r'\W+', '-', text)


def spread(values):
    """(median, max, standard deviation) as text in percent; the last is empty for one value. A value that is not
    defined counts as lower than any other."""
    comparable = [-math.inf if math.isnan(value) else value for value in values]
    found = [statistics.median(comparable), max(comparable)]
    shown = [percent(value) if math.isfinite(value) else 'undefined' for value in found]
    several = len(values) > 1 and all(map(math.isfinite, comparable))
    return [*shown, percent(statistics.stdev(values)) if several else '']


# ---- Scores and curves ----------------------------------------------------------------------------------------------


def scores(groups):
    """The table of all seeds, in short, and that of every run."""
    names = groups[0].records[0].metrics
    rows = []
    for group in groups:
        for name in names:
            best = spread([record.best[name] for record in group.records])
            last = spread([record.last[name] for record in group.records])
            rows.append([group.title, Words(name), len(group.records), *best, *last])
    head = ['runs of', Words('metric'), 'n runs', 'best epoch: median', 'max', 'std',
            'last epoch: median', 'max', 'std']
    note = ('Scores are in percent. The best epoch of each run was chosen on dev by the metric (the mean where there '
            'are two), which flatters it a little; the last epoch was not chosen. std: sample standard deviation '
            'over the runs.')
    return table('Scores on dev over all seeds, %', head, rows) + paragraph(note, 'note') + each_run(groups, names)


def each_run(groups, names):
    rows, warnings = [], []
    for group in groups:
        for record in group.records:
            minutes = sum(epoch['train_seconds'] + epoch['dev_seconds'] for epoch in record.epochs) / 60
            rows.append([group.title, record.seed, f'{record.best["epoch"]:g}',
                         *(percent(record.best[name]) for name in names),
                         f'{record.last["epoch"]:g}', *(percent(record.last[name]) for name in names),
                         f'{minutes:.1f}'])
            warnings += [paragraph(f'{record.folder}: the {which} epoch gives every dev example the same answer, '
                                   f'{epoch["same_answer"]}. Nothing was learned.')
                         for which, epoch in (('best', record.best), ('last', record.last)) if epoch.get('same_answer')]
    head = ['runs of', 'seed', 'best epoch', *(f'best: {name}' for name in names),
            'last epoch', *(f'last: {name}' for name in names), 'minutes']
    caption = 'Every run: epochs, scores on dev in %, minutes of training and scoring'
    return table(caption, head, rows) + ''.join(warnings)


def settings(groups):
    """What the runs of each group were trained with; a knob in which they differ has all its values."""
    lines = []
    for group in groups:
        knobs = [record.knobs for record in group.records]
        told = [name for name in TOLD if name in knobs[0]]
        told += [name for name in TOLD_IF_SET if any(each.get(name) not in (None, 0, '', 'auto') for each in knobs)]
        values = [f'{name.replace("_", " ")} {different(each.get(name) for each in knobs)}' for name in told]
        lines.append(f'<li>{escape(group.title)}: {escape(", ".join(values))}</li>')
    return f'<ul class="note">{"".join(lines)}</ul>'


def different(values):
    return ' or '.join(dict.fromkeys(f'{value:g}' if isinstance(value, float) else str(value) for value in values))


def learning_curves(groups):
    """A figure for the loss and one for each metric; where all runs were scored once, by seed."""
    records = [record for group in groups for record in group.records]
    scored_once = all(len(record.epochs) == 1 for record in records)
    if scored_once and len(records) == 1:
        loss = value_of(records[0].last, 'loss', 1)
        return paragraph(f'One run, scored once, so there is no curve. Its training loss is {loss:.4f}, the mean of '
                         'the epoch.')
    panels = [('loss', 'training loss (mean of the epoch)', 1)]
    panels += [(name, f'dev {name}, %', 100) for name in records[0].metrics]
    if scored_once:
        drawn = [figure(one_epoch(groups, *panel), f'{panel[1]}, by seed') for panel in panels]
        note = 'A dot is a run. All were scored once, at their end.'
    else:
        drawn = [figure(many_epochs(groups, *panel), f'{panel[1]}, by epoch') for panel in panels]
        note = 'A line is a run, its larger dot the best epoch.'
    return legend(groups) + row(*drawn) + paragraph(note, 'note')


def value_of(epoch, name, times):
    value = epoch[name]
    return math.nan if value is None else times * value


def one_epoch(groups, name, label, times):
    seeds = sorted({record.seed for group in groups for record in group.records})
    drawn, said = [], []
    for i, group in enumerate(groups):
        values = [[value_of(record.epochs[0], name, times) for record in group.records if record.seed == seed]
                  for seed in seeds]
        drawn.append((i, values))
        said += [f'{group.title} seed {record.seed}: {value_of(record.epochs[0], name, times):.4g}'
                 for record in group.records]
    return figures.by_category([[str(seed)] for seed in seeds], drawn, label, f'{label}. {"; ".join(said)}', 'seed')


def many_epochs(groups, name, label, times):
    lines, said = [], []
    for i, group in enumerate(groups):
        for record in group.records:
            xs = [epoch['epoch'] for epoch in record.epochs]
            ys = [value_of(epoch, name, times) for epoch in record.epochs]
            best = xs.index(record.best['epoch'])
            lines.append((i, f'{group.title}, seed {record.seed}', xs, ys, best))
            said.append(f'{group.title} seed {record.seed}: from {ys[0]:.4g} in epoch {xs[0]:g} to {ys[-1]:.4g} in '
                        f'epoch {xs[-1]:g}')
    return figures.curves(lines, 'epoch', label, f'{label}, by epoch. {"; ".join(said)}')


# ---- Classes --------------------------------------------------------------------------------------------------------


def files_of(dev):
    """{title: places in dev}: of MNLI two files, else one without a title."""
    names = [example.file for example in dev.examples]
    if len(set(names)) == 1:
        return {'': np.arange(len(names))}
    return {name: np.array([i for i, file in enumerate(names) if file == name]) for name in dict.fromkeys(names)}


def confusion(dev):
    tables = []
    for file, places in files_of(dev).items():
        for group in dev.groups:
            gold = np.tile(dev.gold[places], len(group.records))
            counts = confusion_matrix(gold, group.predictions[:, places].ravel(), labels=dev.labels)
            title = ', '.join(filter(None, (group.title, file)))
            tables.append(confusion_table(f'{title}: {counted(len(places), "example")}, '
                                          f'{counted(len(group.records), "run")}', dev.labels, counts))
    note = ('Rows are gold labels, columns are answers of the best epoch, pooled over the runs: every example counts '
            'once for each run. Percent and shade: the share of the row.')
    return row(*tables) + paragraph(note, 'note')


def confusion_table(caption, labels, counts):
    """counts: (gold, answered)."""
    rows = []
    for label, of_label in zip(labels, counts, strict=True):
        total = of_label.sum()
        shares = of_label / max(total, 1)
        cells = [Shaded(f'{count:,} ({100 * share:.0f} %)', share)
                 for count, share in zip(of_label, shares, strict=True)]
        rows.append([f'gold {label}', *cells, f'{total:,}'])
    return table(caption, ['', *(f'answered {label}' for label in labels), 'all'], rows)


def calibration(dev):
    """The reliability diagrams, and the table of the calibration errors."""
    known = [(i, group) for i, group in enumerate(dev.groups) if group.probabilities is not None]
    unknown = [paragraph(f'{group.title}: the outputs are not one logit for each label, so there are no probabilities '
                         'to look at.') for group in dev.groups if group.probabilities is None]
    if not known:
        return ''.join(unknown)
    rows, drawn = [], []
    for file, places in files_of(dev).items():
        in_figure, said = [], []
        for i, group in known:
            confidence = analysis.confidences(dev, group)[:, places]
            right = (group.predictions == dev.gold)[:, places]
            errors = [analysis.calibration_error(analysis.reliability(*run))
                      for run in zip(confidence, right, strict=True)]
            title = ', '.join(filter(None, (group.title, file)))
            rows.append([title, len(errors), f'{len(places):,}', percent(right.mean()), percent(confidence.mean()),
                         percent(statistics.median(errors)), f'{percent(min(errors))} to {percent(max(errors))}'])
            bins = analysis.reliability(confidence, right)
            in_figure.append((i, bins))
            said += [f'{title}, confidence {percent(each.confidence)}: accuracy {percent(each.accuracy)} '
                     f'(n {each.count})' for each in bins]
        of_file = f' ({file})' if file else ''
        diagram = figures.reliability_diagram(in_figure, f'Reliability in percent. {"; ".join(said)}')
        histogram = figures.confidence_histogram(in_figure, analysis.BINS, 'The share of the answers in each bin; the '
                                                 'numbers are those of the reliability diagram.')
        drawn += [figure(diagram, f'Reliability{of_file}: accuracy by confidence, pooled over the runs'),
                  figure(histogram, f'Share of the answers in each bin of confidence{of_file}')]
    head = ['runs of', 'n runs', 'n examples', 'accuracy, mean', 'confidence, mean', 'ECE: median', 'lowest to highest']
    note = (f'Confidence: the softmax of the outputs, of the answer given. On the dashed diagonal it is right; below '
            f'it the model is too sure. A dot is a bin. ECE: the expected calibration error of a run, '
            f'{analysis.BINS} bins of equal width (Guo et al. 2017, arXiv 1706.04599, section 2).')
    return (table('Calibration on dev, %', head, rows) + legend(dev.groups) + row(*drawn) + paragraph(note, 'note')
            + ''.join(unknown))


# ---- Scores from 0 to 5 ---------------------------------------------------------------------------------------------


def best_record(group):
    """The place of the run with the best score on dev."""
    return max(range(len(group.records)), key=lambda i: np.nan_to_num(group.records[i].best['score'], nan=-np.inf))


def errors_by_score(dev):
    """Gold against prediction for the best run of each group, and the errors by gold score."""
    drawn = []
    for i, group in enumerate(dev.groups):
        best = best_record(group)
        caption = (f'{group.title}: gold and predicted score of {counted(len(dev.gold), "example")} by the best run, '
                   f'seed {group.records[best].seed}. On the dashed line they are equal.')
        drawn.append(figure(figures.scatter(i, dev.gold.tolist(), group.predictions[best].tolist(), 'gold score',
                                            'predicted score', caption), caption))
    parts = analysis.by_score(dev.gold)
    names = [span(part.low, part.high) for part in parts]
    signed = [group.predictions - dev.gold for group in dev.groups]
    drawn.append(by_part(dev, [abs(each) for each in signed], parts, names, 'mean absolute error, points',
                         'gold score', 'Mean absolute error by gold score'))
    drawn.append(by_part(dev, signed, parts, names, 'mean error, points', 'gold score',
                         'Mean of prediction minus gold, by gold score: above 0 the predictions are too high'))
    return legend(dev.groups) + row(*drawn)


# ---- By length and overlap ------------------------------------------------------------------------------------------


def by_part(dev, values, parts, names, y_label, x_label, caption):
    """A figure. values: of each group (runs, examples); parts: lab.analysis.Parts, each with its name."""
    all_means = [analysis.means(each, parts) for each in values]
    said = [f'{group.title}: ' + ', '.join(
        f'{name} {np.mean(of_part):.3g} (n {len(part.members)})'
        for name, part, of_part in zip(names, parts, of_group, strict=True))
        for group, of_group in zip(dev.groups, all_means, strict=True)]
    lines = [[name, f'n {len(part.members):,}'] for name, part in zip(names, parts, strict=True)]
    drawn = figures.by_category(lines, list(enumerate(all_means)), y_label, f'{caption}. {"; ".join(said)}', x_label)
    return figure(drawn, caption)


def breakdown(dev):
    """By quartiles of length, and for pairs of the overlap of the two texts."""
    if dev.kind == 'classes':
        what, y_label = 'Accuracy', 'accuracy, %'
        values = [100.0 * (group.predictions == dev.gold) for group in dev.groups]
    else:
        what, y_label = 'Mean absolute error', 'mean absolute error, points'
        values = [abs(group.predictions - dev.gold) for group in dev.groups]
    parts = analysis.quartiles([analysis.length(example) for example in dev.examples])
    names = [span(part.low, part.high) for part in parts]
    drawn = [by_part(dev, values, parts, names, y_label, 'words', f'{what} by length')]
    if dev.is_pair:
        parts = analysis.quartiles([analysis.overlap(example) for example in dev.examples])
        names = [span(round(100 * part.low), round(100 * part.high)) for part in parts]
        drawn.append(by_part(dev, values, parts, names, y_label, 'words in both texts, %',
                             f'{what} by overlap of the two texts'))
    texts = ', of both texts together' if dev.is_pair else ''
    note = (f'{what} and not the metric of the task, since that is not a mean over examples. Quartiles of dev; n: '
            f'examples. A dot is a run, a bar the mean of several. Length: words{texts}; a Chinese character is one.')
    if dev.is_pair:
        note += ' Overlap: different words that are in both texts, in percent of those that are in any (Jaccard).'
    if len(files_of(dev)) > 1:
        note += f' {" and ".join(files_of(dev))} together.'
    return legend(dev.groups) + row(*drawn) + paragraph(note, 'note')


def span(low, high):
    return f'{low:g}' if low == high else f'{low:g}\N{EN DASH}{high:g}'


# ---- Mistakes -------------------------------------------------------------------------------------------------------


def mistakes(dev):
    pieces = []
    for group in dev.groups:
        if len(dev.groups) > 1:
            pieces.append(heading(4, group.title))
        if dev.kind == 'classes':
            items = [mistake_item(each, group) for each in analysis.worst_mistakes(dev, group, MISTAKES)]
        else:
            items = [miss_item(each, group) for each in analysis.worst_misses(dev, group, MISTAKES)]
        pieces.append(f'<ol class="mistakes">{"".join(items)}</ol>' if items else paragraph('No mistakes.'))
    if dev.kind == 'classes':
        note = ('Wrong in most runs first, of these the least probable gold label first. Probabilities are means over '
                'the runs; the answer is the most frequent wrong one.')
    else:
        note = 'The largest absolute error first, as the mean over the runs. Scores are from 0 to 5.'
    return paragraph(note, 'note') + ''.join(pieces)


def mistake_item(mistake, group):
    gold, answer = mistake.example.label, mistake.prediction
    if mistake.probability is not None:
        gold = f'{gold} ({percent(mistake.gold_probability)}\N{NO-BREAK SPACE}%)'
        answer = f'{answer} ({percent(mistake.probability)}\N{NO-BREAK SPACE}%)'
    return item(mistake.example, f'gold {gold}, answered {answer}, wrong in {mistake.wrong} of '
                                 f'{counted(len(group.records), "run")}')


def miss_item(miss, group):
    of_runs = '' if len(group.records) == 1 else f' ({miss.low:.2f} to {miss.high:.2f} in {len(group.records)} runs)'
    return item(miss.example, f'gold {miss.example.label}, predicted {miss.mean:.2f}{of_runs}, error {miss.error:.2f}')


def item(example, what):
    texts = [text for text in (example.text_a, example.text_b) if text]
    where = f'{example.file}, line\N{NO-BREAK SPACE}{example.line}'
    return f'<li><p><b>{escape(what)}</b> <small>{escape(where)}</small></p>{"".join(map(quotation, texts))}</li>'


# ---- The diagnostic set ---------------------------------------------------------------------------------------------


def diagnostic_file(groups, given):
    """The labelled file: that given, or the one where the runs had their data; None where there is none."""
    if given:
        return Path(given)
    for group in groups:
        for record in group.records:
            path = Path(record.knobs.get('data_dir', '')) / 'diagnostic' / 'diagnostic-full.tsv'
            if path.is_file():
                return path
    return None


def diagnostic(groups, path):
    """The table by phenomenon, of the runs that have answered the diagnostic set."""
    labels = analysis.labels_of(groups[0].records[0])
    labelled = analysis.read_diagnostic(path, labels)
    answered = []
    for group in groups:
        records = [record for record in group.records if (record.folder / 'AX.tsv').is_file()]
        if records:
            answers = [analysis.read_diagnostic_answers(record, labelled) for record in records]
            answered.append((f'{group.title} ({counted(len(records), "run")})', answers))
    if not answered:
        raise UserError(f'{groups[0].records[0]}: no AX.tsv in this or another of the MNLI runs, so there are no '
                        'answers to the diagnostic set. Run it without --no-predict, or leave --diagnostic out.')
    rows, kinds = [diagnostic_row('all', labelled, answered, range(len(labelled.gold)))], ['sum']
    for category, tags in labelled.categories.items():
        for tag, members in tags.items():
            if members:
                rows.append(diagnostic_row(tag or category, labelled, answered, members))
                kinds.append('more' if tag else 'sum')
    head = ['phenomenon', 'n', *(f'R3, {title}' for title, _ in answered)]
    note = ('R3: Matthews correlation of three classes, times 100, the mean over the runs, and their lowest to highest '
            '(Wang et al. 2018, arXiv 1804.07461, section 4); 0 where all labels or all answers are the same. n: '
            f'examples; one may have several phenomena. Labels: {path}, whose rows must be in the order of '
            'diagnostic.tsv.')
    return table('Diagnostic set by phenomenon, R3 in %', head, rows, kinds) + paragraph(note, 'note')


def diagnostic_row(name, labelled, answered, members):
    members = list(members)
    cells = []
    for _, answers in answered:
        values = [analysis.correlation(labelled.gold[members], of_run[members]) for of_run in answers]
        shown = percent(statistics.mean(values))
        cells.append(shown if len(values) == 1 else f'{shown} ({percent(min(values))} to {percent(max(values))})')
    return [name, len(members), *cells]


# ---- The page -------------------------------------------------------------------------------------------------------


def comparison(baseline, idea, names):
    """What the statistics say of the two sets of records, as HTML. Raises UserError."""
    found = compare.compare(baseline, idea, names)
    pieces = [paragraph(line) for line in compare.conclusions(found)]
    for caption, (head, rows) in (('Scores on dev, in points', compare.score_table(found)),
                                  ('Cost, and examples that change', compare.cost_table(found))):
        pieces.append(table(caption, head, rows))
    notes = ''.join(f'<li>{escape(line)}</li>' for line in found.notes + compare.legend())
    return f'{"".join(pieces)}<ul class="note">{notes}</ul>'


def sections_of(dev, diagnostic_path):
    """[(title, HTML)] of a task."""
    found = [('Scores', scores(dev.groups) + settings(dev.groups)), ('Learning curves', learning_curves(dev.groups))]
    if dev.kind == 'classes':
        found += [('Confusion', confusion(dev)), ('Calibration', calibration(dev))]
    if dev.kind == 'scores':
        found += [('Errors by score', errors_by_score(dev))]
    if dev.kind == 'other':
        found += [('Answers', paragraph('The answers are neither a label of each example nor a number: they are not '
                                        'looked at here.'))]
    else:
        found += [('By length and overlap' if dev.is_pair else 'By length', breakdown(dev)),
                  ('Worst mistakes', mistakes(dev))]
    if diagnostic_path:
        found += [('Diagnostic set', diagnostic(dev.groups, diagnostic_path))]
    return found


def is_demo(records):
    return any(record.knobs.get('demo') for record in records)


def task_section(dev, diagnostic_path):
    """(entry of the table of contents, section), both HTML."""
    links, pieces = [], []
    for title, content_html in sections_of(dev, diagnostic_path):
        anchor = slug(f'{dev.task} {title}')
        links.append(f'<a href="#{anchor}">{escape(title)}</a>')
        pieces.append(heading(3, title, anchor) + content_html)
    records = [record for group in dev.groups for record in group.records]
    about = f'{counted(len(records), "run")}, {counted(len(dev.examples), "example")} in dev.'
    if is_demo(records):
        about += ' Demo: made-up data.'
    section = (f'<section class="task">{heading(2, dev.task, slug(dev.task))}{paragraph(about)}{"".join(pieces)}'
               '</section>')
    return f'<li><a href="#{slug(dev.task)}">{escape(dev.task)}</a>: {", ".join(links)}</li>', section


def provenance(command, records, unfinished):
    """How the page was made, and from what; no dates, so that the same runs give the same page."""
    versions = {}
    for record in records:
        text = ', '.join(f'{name} {version}' for name, version in record.settings.get('versions', {}).items())
        where = f'{record.settings.get("device", "?")}, {record.settings.get("cores", "?")} cores'
        versions.setdefault(f'{text}; {where}', []).append(record)
    lines = []
    for text, same in versions.items():
        folders = ''.join(f'<li>{escape(str(record.folder))}</li>' for record in same)
        lines.append(f'<li>{counted(len(same), "run")}: {escape(text)}<ul>{folders}</ul></li>')
    lines += [f'<li>Left out, not finished: {escape(str(folder))}</li>' for folder in unfinished]
    return (f'<section>{heading(2, "Where this comes from", "provenance")}<p><code>{escape(command)}</code></p>'
            f'<ul>{"".join(lines)}</ul></section>')


def page(devs, diagnostic_paths, comparison_html, provenance_html, records):
    """The whole HTML file."""
    made = [task_section(dev, diagnostic_paths.get(dev.task)) for dev in devs]
    models = sorted({record.model for record in records})
    title = f'{", ".join(models)}: {", ".join(dev.task for dev in devs)}'
    entries, sections = [entry for entry, _ in made], [section for _, section in made]
    if comparison_html:
        entries.insert(0, '<li><a href="#comparison">Comparison</a></li>')
        sections.insert(0, f'<section>{heading(2, "Comparison", "comparison")}{comparison_html}</section>')
    entries.append('<li><a href="#provenance">Where this comes from</a></li>')
    return document(title, DEMO_NOTE if is_demo(records) else '', ''.join(entries),
                    '\n'.join([*sections, provenance_html]))


# ---- The command line -----------------------------------------------------------------------------------------------


def groups_of(records, title=''):
    """Groups of one task: a model and a --name each. title: of all of them, before the model's name where they are
    several."""
    found = {}
    for record in records:
        found.setdefault((record.model, record.name), []).append(record)
    if len(found) == 1:
        return [analysis.Group(title or f'{records[0].model} {records[0].name}'.strip(), records)]
    before = f'{title}: ' if title else ''
    return [analysis.Group(f'{before}{model} {name or BASELINE}', of_group)
            for (model, name), of_group in sorted(found.items())]


def finished_runs(words, args):
    """(records, folders of unfinished runs). A run that is itself named must be finished."""
    records, unfinished = find_runs(words, args.runs_dir, args.model)
    named = {Path(word).resolve() for word in words}
    for folder in unfinished:
        if folder.resolve() in named:
            raise UserError(f'{folder}: this run is not finished. Start its command again, or leave it out.')
    return records, unfinished


def all_runs(runs_dir):
    """The words for all runs of a folder."""
    if not Path(runs_dir).is_dir():
        raise UserError(f'{runs_dir}: no such folder. Run a script first, or name another one with --runs-dir.')
    return [str(runs_dir)]


def in_order(tasks):
    """GLUE's tasks in its order, then others."""
    known = list(TASKS)
    return sorted(tasks, key=lambda task: (known.index(task) if task in known else len(known), task))


def report(args, command):
    """Write the page. Raises UserError."""
    words = args.runs or all_runs(args.runs_dir)
    records, unfinished = finished_runs(words, args)
    sides, shared_html = [('', records)], ''
    if args.against:
        others, also_unfinished = finished_runs([args.against], args)
        both = {record.folder.resolve() for record in records} & {record.folder.resolve() for record in others}
        if both:
            raise UserError(f'{sorted(both)[0]}: this run is on both sides of --against.')
        unfinished = unfinished + also_unfinished
        sides = [(' '.join(args.runs) or 'all runs', records), (args.against, others)]
        shared_html = comparison(records, others, [title for title, _ in sides])
    everything = [record for _, of_side in sides for record in of_side]
    devs, diagnostic_paths = [], {}
    for task in in_order({record.task for record in everything}):
        groups = [group for title, of_side in sides
                  for group in groups_of([record for record in of_side if record.task == task], title)]
        devs.append(analysis.read_dev(task, groups))
        if task == 'MNLI':
            diagnostic_paths[task] = diagnostic_file(groups, args.diagnostic)
    if args.diagnostic and not diagnostic_paths:
        raise UserError(f'--diagnostic {args.diagnostic}: the diagnostic set is answered by MNLI runs, and there is '
                        'none among these.')
    text = page(devs, diagnostic_paths, shared_html, provenance(command, everything, unfinished), everything)
    target = Path(args.to or Path(args.runs_dir) / 'report.html')
    target.parent.mkdir(parents=True, exist_ok=True)
    write_file(target, text)
    for folder in unfinished:
        print(f'Note: left out, not finished: {folder}', file=sys.stderr)
    print(f'{target}: {counted(len(everything), "run")} of {", ".join(dev.task for dev in devs)}, '
          f'{len(text.encode()) / 1024:.0f} KiB')


def main(argv=None):
    """The command line. Returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(prog='python -m tools.report', description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('runs', nargs='*', metavar='RUN', help=f'{RUN_ARGUMENT_HELP} (all in RUNS_DIR)')
    parser.add_argument('--against', metavar='WORD', help='a second set of runs, shown beside the first')
    parser.add_argument('--diagnostic', metavar='FILE', help="MNLI's labelled diagnostic-full.tsv (that in the "
                        'DATA_DIR of the runs, if it is there)')
    add_options(parser)
    parser.add_argument('--to', metavar='FILE', help='the page (RUNS_DIR/report.html)')
    args = parser.parse_intermixed_args(argv)
    args.runs_dir = runs_dir(args)
    return exit_status(report, args, shlex.join(['python', '-m', 'tools.report', *argv]))


if __name__ == '__main__':
    sys.exit(main())

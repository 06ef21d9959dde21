"""Every task with several seeds, as many runs at a time as the machine holds, and one table of all of them.

    uv run -m tools.leaderboard --model electra-small                   # all tasks, seeds 1 to 5
    uv run -m tools.leaderboard CoLA RTE --seeds 3 --first-seed 4 --epochs 5 --data-dir /data/glue
    uv run -m tools.leaderboard --demo --seeds 2                        # no data, no weights to fetch
    uv run -m tools.leaderboard chinese --model chinese-electra-180g-small      # all scripts of a folder
    uv run -m tools.leaderboard CoLA RTE --seeds 8 --idea ideas/r_drop.patch        # does it help?
    uv run -m tools.leaderboard CoLA --seeds 8 --options='--layer-decay 0.9'        # options can be an idea, too
    uv run -m tools.leaderboard RTE MRPC STSB --seeds 8 --transfer      # and does it help to train on MNLI first?

Tasks come first; the options of the scripts are passed on to them. Every run is a process of its own. With GPUs each
has one to itself (of those in CUDA_VISIBLE_DEVICES, if it is set); on the CPU each has 4 cores and 4 GiB, where there
are as many; --jobs says otherwise. The longest tasks come first.

The same command again goes on: finished runs are not run again. What a run prints is in its folder's name with .log.
At the end, of the runs of this command: RUNS_DIR/leaderboard-MODEL.md, .json (in percent) and .png; and in results/ the
test predictions of the best seed of each task, by its dev score, for tools.submission. Scores on test are shown where
its labels are public.

With an idea, the baseline and the idea run with the same seeds, and tools.compare has the last word. A patch is applied
to copies of the scripts, never to the scripts themselves; one of CoLA.py is meant for all. The idea's runs are named
after it, or by --name; its test predictions go to results/NAME/. After an edit of the scripts themselves give --name
alone: these runs are compared with the finished ones without a name.

Exit status: 0 all runs are done, 1 some failed, 2 bad usage, 130 or 143 interrupted (the runs are stopped).
"""

import contextlib
import dataclasses
import io
import math
import re
import statistics
import sys
import tempfile
from pathlib import Path

import config
from engine.arguments import parse_args
from engine.catalog.datasets import TASKS, million_tokens
from engine.catalog.published import nearest
from engine.console import markdown_table, split_arguments
from engine.files import UserError, exit_status, read_json, write_file, write_json
from engine.runs import records
from engine.runs.layout import METRICS, metric_names, run_folder
from engine.runs.results import result_files
from lab.scheduler import (
    Run,
    by_task,
    common_knobs_class,
    knobs_class,
    make_slots,
    seconds,
    show_scores,
    with_knobs,
    work,
)
from lab.variants import (
    TRANSFER,
    TRANSFER_PUBLISHED,
    TRANSFER_TASKS,
    Side,
    check_name,
    copied_scripts,
    idea_name,
    is_script,
    keep_patch,
    parse_options,
    patched_scripts,
    plain_scripts,
    read_patch,
)
from tools import compare

MARKERS = 'Dsv'         # in the figure, of the published scores: at most three of a model


@dataclasses.dataclass
class Options:
    """This tool's own options, beside those of the scripts."""
    seeds: int = config.knob(5, 'runs of every task', 1, 1000)
    first_seed: int = config.knob(1, 'the first run has this seed, the next one more', 0, 2**30)
    jobs: int = config.knob(0, 'runs at a time; 0: as many as fit', 0, 1000)
    idea: str = config.knob('', 'a patch of a script, compared with the scripts as they are')
    options: str = config.knob('', "options of an idea: --options='--layer-decay 0.9'")
    transfer: bool = config.knob(False, f'the idea is to start {", ".join(TRANSFER_TASKS)} from the best MNLI run')


# ---- The report -----------------------------------------------------------------------------------------------------


def best_run(runs):
    return max(runs, key=lambda run: -math.inf if run.best['score'] is None else run.best['score'])


def summarize(runs):
    """Of the finished runs of one task, in percent: {'seeds', 'best_seed', 'minutes', 'metrics': {metric: statistics}}.

    A metric that is not defined counts as lower than any other, as in training; a result without a number is None.
    """
    def percent(value):
        return -math.inf if value is None else 100 * value

    def number(value):
        return value if math.isfinite(value) else None

    def statistics_of(scores):
        values = list(map(percent, scores))
        finite = all(map(math.isfinite, values))
        return {'median': number(statistics.median(values)), 'mean': statistics.mean(values) if finite else None,
                'max': number(max(values)), 'std': statistics.stdev(values) if finite and len(values) > 1 else None,
                'values': [number(value) for value in values]}

    metrics = {}
    for name in metric_names(runs[0].best):
        last = statistics.median(percent(run.rows[-1][name]) for run in runs)
        metrics[name] = statistics_of(run.best[name] for run in runs) | {'last_median': number(last)}
    for name in runs[0].test:
        if all(name in run.test for run in runs):
            metrics[f'test {name}'] = statistics_of(run.test[name] for run in runs)
    return {'seeds': [run.seed for run in runs], 'best_seed': best_run(runs).seed, 'metrics': metrics,
            'minutes': statistics.median(sum(map(seconds, run.rows)) for run in runs) / 60}


def markdown(summary, published):
    """The table of all tasks: a row a metric, a task's name and its runs in the first of its rows."""
    def number(percent):
        return 'undefined' if percent is None else f'{percent:.1f}'

    rows = []
    for task, of_task in summary.items():
        about = [task, len(of_task['seeds']), f'{of_task["minutes"]:.1f}']
        for name, figures in of_task['metrics'].items():
            deviation = '' if figures['std'] is None else number(figures['std'])
            others = [scores.get(f'{task} {name}', '') for _, scores in published.values()]
            last = number(figures['last_median']) if 'last_median' in figures else ''      # not of test
            rows.append([about[0], name, f'**{number(figures["median"])}**', number(figures['mean']),
                         number(figures['max']), deviation, last, *about[1:], *others])
            about = ['', '', '']
    return markdown_table(['task', 'metric', 'median', 'mean', 'max', 'std', 'last epoch, median', 'seeds',
                           'minutes a run', *published], rows)


def plot(title, summary, published):
    """A png: a panel for each task with a dot for each seed, a bar for the median, other marks for published scores."""
    import matplotlib
    matplotlib.use('Agg')
    from matplotlib import pyplot
    columns, rows = min(len(summary), 5), -(-len(summary) // 5)
    figure, panels = pyplot.subplots(rows, columns, figsize=(max(2.6 * columns, 7), 3.1 * rows + 1), squeeze=False)
    for panel in panels.flat[len(summary):]:
        panel.axis('off')
    for panel, (task, of_task) in zip(panels.flat, summary.items(), strict=False):
        metrics = of_task['metrics']
        for x, (name, figures) in enumerate(metrics.items()):
            for i, value in enumerate(figures['values']):     # side by side, so that none hides another
                panel.plot(x + 0.4 * ((i + 0.5) / len(figures['values']) - 0.5), [value], 'C0.', label='a seed')
            panel.plot([x - 0.3, x + 0.3], [figures['median']] * 2, 'C0', label='median')
            for i, (other, (_, scores)) in enumerate(published.items()):
                panel.plot(x, [scores.get(f'{task} {name}')], color=f'C{i + 1}', marker=MARKERS[i], linestyle='none',
                           fillstyle='none', label=other)
        panel.set_xticks(range(len(metrics)), [name.replace('_', '\n') for name in metrics])
        panel.set(title=task, xlim=(-0.6, len(metrics) - 0.4))
        panel.margins(y=0.15)
        panel.grid(axis='y', alpha=0.3)
    labels = dict(zip(*reversed(panels[0, 0].get_legend_handles_labels()), strict=True))
    figure.suptitle(title)
    figure.supylabel('score')
    figure.legend(labels.values(), labels, loc='lower center', ncols=len(labels) if columns > 3 else 2, frameon=False)
    figure.tight_layout(rect=(0, 0.7 / (3.1 * rows + 1), 1, 1))
    png = io.BytesIO()
    figure.savefig(png, dpi=120, format='png')
    pyplot.close(figure)
    return png.getvalue()


def machine(settings):
    return f'{"GPU" if "GPU" in settings["device"] else "CPU"}, {settings["cores"]} cores'


def report(knobs, options, runs):
    """Write the table, the numbers and the figure, and the best runs' test predictions; print what they are."""
    model = Path(knobs.model).resolve().name
    summary = {task: summarize(task_runs) for task, task_runs in by_task(runs).items()}
    published = {} if knobs.demo else nearest(model, summary)       # they are other data's
    machines = ' and '.join(sorted({machine(run.settings) for run in runs}))
    of_glue = 'GLUE, d' if set(summary) <= set(TASKS) else 'D'
    notes = ['Demo: made-up data. These scores mean nothing.'] if knobs.demo else []
    notes += [
        f'{of_glue}ev. Best epoch of each run, chosen by the metric (the mean where there are two). Minutes: training '
        f'and scoring dev ({machines}).', f'Options: {" ".join(options)}',
        *(f'{title}: published, {source}' for title, (source, _) in published.items())]
    title = f'# {model} {knobs.name}'.strip()
    text = '\n'.join([title, '', markdown(summary, published), *(f'- {note}' for note in notes)]) + '\n'
    numbers = {'model': model, 'options': options, 'machines': machines, 'tasks': summary, 'published': {
        title: {'source': source, 'scores': scores} for title, (source, scores) in published.items()}}
    variant = f'-{knobs.name}' if knobs.name else ''
    path = Path(knobs.runs_dir) / f'leaderboard-{model}{variant}'
    results = Path(knobs.results_dir) / knobs.name
    write_file(Path(f'{path}.md'), text)
    write_json(Path(f'{path}.json'), numbers)
    write_file(Path(f'{path}.png'), plot(f'{model}, demo' if knobs.demo else model, summary, published))
    results.mkdir(parents=True, exist_ok=True)
    said = [f'\n{text}\n{path}.md, .json and .png']
    for task_runs in by_task(runs).values():
        best = best_run(task_runs)
        for source in result_files(best.folder):
            write_file(results / source.name, source.read_bytes())
            said.append(f'{results / source.name}: of seed {best.seed}, on dev the best of '
                        f'{len(task_runs)}: {show_scores(best.best)}')
    print('\n'.join(said))


# ---- The command line -----------------------------------------------------------------------------------------------


def as_option(name, value):
    name = name.replace('_', '-')
    if isinstance(value, bool):
        return f'--{name}' if value else f'--no-{name}'
    if isinstance(value, tuple):
        value = ','.join(value)
    return f'--{name}={value}'


def main(argv=None):
    """The command line. Returns the exit status."""
    return exit_status(run, sys.argv[1:] if argv is None else argv)


def run(argv):
    words, rest = split_arguments(argv)
    names = [task for word in words for task in tasks_of(word)]
    family = common_knobs_class(names)
    options = with_knobs(Options, family)
    given = parse_args(options(), 'python -m tools.leaderboard', __doc__, rest)
    if 'seed' in given:
        raise UserError('not --seed, but --seeds (how many) and --first-seed (from where).')
    is_named = any(word.split('=')[0] == '--model' for word in rest)
    if not is_named and len({default_model(name, given.get('demo')) for name in names}) > 1:
        raise UserError('these scripts have different default models: choose one with --model.')
    if 'fresh' in given:
        given['fresh'] = '--fresh' in argv      # not because of --demo: a demo can be gone on with as well
    with tempfile.TemporaryDirectory() as scratch:
        return Leaderboard(options(**given), family, given, names, Path(scratch)).run()


def default_model(task, demo):
    """The model that a script takes where none is named."""
    knobs = knobs_class(task)
    return knobs.demo_settings['model'] if demo else knobs.model


def tasks_of(word):
    """The tasks that a word means: one, or all of a folder. Raises UserError."""
    if is_script(word):
        return [word]
    folder = config.ROOT / word
    names = [f'{word}/{path.stem}' for path in sorted(folder.glob('*.py'))] if re.fullmatch(r'\w+', word) else []
    if scripts := [name for name in names if is_script(name)]:
        return scripts
    raise UserError(f'no task {word}; there are {", ".join(TASKS)}.')


class Leaderboard:
    """All runs of a command, of its one side or its two."""

    def __init__(self, knobs, family, given, names, scratch):
        """knobs: of this tool and the scripts; family: the class of the scripts'; given: {name: value} of all that the
        command line sets."""
        self.knobs, self.family = knobs, family
        self.given = {name: value for name, value in given.items()
                      if name in family.__dataclass_fields__ and name not in ('name', 'results_dir')}
        names = names or (TRANSFER_TASKS if knobs.transfer else TASKS)
        tasks = sorted(names, key=million_tokens, reverse=True)
        self.tasks = list(dict.fromkeys(tasks))
        self.seeds = range(knobs.first_seed, knobs.first_seed + knobs.seeds)
        self.notes = []         # for the comparison
        self.idea = self.make_idea(scratch)
        tasks = [*TASKS, *self.tasks]
        of_baseline = copied_scripts(tasks, scratch / 'baseline') if self.idea else plain_scripts(tasks)
        self.baseline = Side('', {}, of_baseline)

    def make_idea(self, scratch):
        """The other Side, or None where there is no idea. Raises UserError."""
        knobs = self.knobs
        if knobs.name:
            check_name(knobs.name)
        if knobs.transfer:
            if knobs.idea or knobs.options:
                raise UserError('--transfer is an idea by itself: not with --idea or --options.')
            if not set(self.tasks) & set(TRANSFER_TASKS):
                raise UserError(f'--transfer is for {", ".join(TRANSFER_TASKS)}.')
            return Side(knobs.name or TRANSFER, {}, copied_scripts(self.transfer_tasks(), scratch / 'idea'))
        if not knobs.idea and not knobs.options:
            return Side(knobs.name, {}, copied_scripts(self.tasks, scratch / 'idea')) if knobs.name else None
        given = parse_options(knobs.options, self.family) if knobs.options else {}
        name = knobs.name or idea_name(knobs.idea, knobs.options)
        check_name(name)
        if not knobs.idea:
            return Side(name, given, copied_scripts(self.tasks, scratch / 'idea'))
        text, kept = read_patch(knobs.idea), Path(knobs.runs_dir) / f'{name}.patch'
        scripts = patched_scripts(knobs.idea, text, self.tasks, scratch / 'idea')
        keep_patch(text, kept, knobs.fresh)
        self.notes.append(f'{name} is {knobs.idea}, kept as {kept}.')
        return Side(name, given, scripts)

    def transfer_tasks(self):
        return [task for task in self.tasks if task in TRANSFER_TASKS]

    # ---- Runs ----

    def side_knobs(self, side):
        return dataclasses.replace(self.knobs, **side.given, name=side.name)

    def options(self, side):
        """What the scripts of a side are given, as on the command line."""
        named = {'name': side.name} if side.name else {}
        return [as_option(name, value) for name, value in (self.given | side.given | named).items()]

    def make_run(self, side, task, seed):
        knobs = dataclasses.replace(self.side_knobs(side), script=f'{config.ROOT / task}.py', seed=seed)
        return Run(task, seed, run_folder(knobs), side.scripts[task], tuple(self.options(side)), side.name)

    def work(self, runs):
        """Run them all. Returns the signal that interrupted it, or None."""
        slots = make_slots(self.knobs.jobs, len(runs), self.knobs.devices)
        gpus = [slot['CUDA_VISIBLE_DEVICES'] for slot in slots if 'CUDA_VISIBLE_DEVICES' in slot]
        place = f'GPU {", ".join(gpus)}' if gpus else 'the CPU'
        print(f'{len(runs)} runs, {len(slots)} at a time, on {place}')
        return work(runs, slots)

    def run(self):
        """Returns the exit status."""
        if self.knobs.transfer:
            runs, interrupted = self.run_transfer()
        else:
            sides = [self.baseline, self.idea] if self.idea else [self.baseline]
            if self.knobs.name and not self.knobs.idea and not self.knobs.options:
                sides = [self.idea]     # the scripts as they were are no longer there
            runs = [self.make_run(side, task, seed) for task in self.tasks for seed in self.seeds for side in sides]
            interrupted = self.work(runs)
        done = [run for run in runs if run.state == 'done']
        if interrupted:
            how = ' without --fresh' if self.knobs.fresh else ''
            print(f'Interrupted: {len(done)} of {len(runs)} runs are done. To go on, start the same command '
                  f'again{how}.', file=sys.stderr)
            return 128 + interrupted
        for run in runs:
            if run.state == 'failed':
                print(f'error: {run} failed: {run.log}', file=sys.stderr)
        self.report(done)
        return 1 if len(done) < len(runs) else 0

    def run_transfer(self):
        """MNLI and the baseline first; then, from the best MNLI run, the tasks that gain by it. Returns (runs, the
        signal that interrupted it or None)."""
        seeds = dict.fromkeys(self.tasks, self.seeds)
        seeds = {'MNLI': self.seeds[:1]} | seeds        # one run is enough, unless MNLI is asked for
        runs = [self.make_run(self.baseline, task, seed) for task in seeds for seed in seeds[task]]
        interrupted = self.work(runs)
        starts = [run for run in runs if run.task == 'MNLI' and run.state == 'done']
        if interrupted or not starts:
            return runs, interrupted
        best = best_run(starts)
        print(f'Starting from {best.folder}: {show_scores(best.best)}')
        self.notes.append(f'{self.idea.name} starts from {best.folder} with all seeds: what another MNLI run would do '
                          'is not in the intervals.')
        if not self.knobs.demo:
            self.notes.extend(TRANSFER_PUBLISHED)
        self.idea = self.idea._replace(given={'init': str(best.folder)})
        more = [self.make_run(self.idea, task, seed) for task in self.transfer_tasks() for seed in self.seeds]
        return runs + more, self.work(more)

    # ---- Report ----

    def report(self, done):
        """The tables of both sides, and the comparison."""
        for side in (self.baseline, self.idea):
            runs = [run for run in done if side and run.name == side.name]
            if runs:
                report(self.side_knobs(side), self.options(side), runs)
        if self.idea:
            self.compare({run.folder for run in done})

    def compare(self, done):
        """Compare the idea's runs with those of the baseline of the same tasks and seeds, as far as they are finished.
        done: folders of this command's runs that are."""
        tasks = self.idea.scripts
        ideas = [self.make_run(self.idea, task, seed).folder for task in tasks for seed in self.seeds]
        baselines = [self.make_run(self.baseline, task, seed).folder for task in tasks for seed in self.seeds]
        idea = [records.read_run(folder) for folder in ideas if folder in done]
        baseline = [records.read_run(folder) for folder in baselines if folder in done or is_finished(folder)]
        for side, name in ((baseline, records.BASELINE), (idea, self.idea.name)):
            if not side:
                print(f'No comparison: no run of {name} is finished.')
                return
        comparison = compare.compare(baseline, idea, (records.BASELINE, self.idea.name))
        comparison.notes[:0] = self.notes
        print(compare.write(comparison, compare.default_path(self.knobs.runs_dir, comparison)))


def is_finished(folder):
    with contextlib.suppress(UserError):
        return bool(read_json(folder / METRICS).get('finished'))
    return False


if __name__ == '__main__':
    sys.exit(main())

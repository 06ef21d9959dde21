"""An idea to be compared with the scripts as they are: a patch, options, or weights to start from."""

import filecmp
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import config
from engine.arguments import parse_args
from engine.catalog.datasets import TASKS
from engine.files import UserError, write_file
from engine.runs.records import BASELINE

# Of a comparison, not of one of its sides.
SHARED = ('seed', 'name', 'demo', 'runs_dir', 'results_dir')

TRANSFER = 'from-MNLI'          # the name of the runs that start from an MNLI run
TRANSFER_TASKS = ('RTE', 'MRPC', 'STSB')
TRANSFER_PUBLISHED = [
    'Published: RTE 70.4 -> 84.1 with BERT-large (Phang et al. 2018, arXiv 1811.01088; '
    'https://github.com/zphang/bert_on_stilts).',
    'Published: RTE 86.6 -> 91.0, MRPC 90.9 -> 91.4, STS-B 92.4 -> 92.6 with RoBERTa-large '
    '(https://github.com/facebookresearch/fairseq/issues/1166, medians of 5 seeds).']


class Side(NamedTuple):
    """One side of a comparison: the baseline, or the idea."""
    name: str           # --name of its runs; '' for the baseline
    given: dict         # the options it sets, {knob: value}
    scripts: dict       # {task: the path of the script}


def plain_scripts(tasks):
    """{task: its script as it is}."""
    return {task: config.ROOT / f'{task}.py' for task in tasks}


def copied_scripts(tasks, folder):
    """{task: its script in a copy of the project}, so that an edit during a long command changes nothing."""
    copy_project(folder, tasks)
    return {task: folder / f'{task}.py' for task in tasks}


def idea_name(patch, options):
    """'ideas/r_drop.patch' is named r_drop, '--layer-decay 0.9' layer-decay-0.9."""
    words = [Path(patch).stem if patch else '', options]
    return '-'.join(filter(None, (re.sub(r'[^\w.-]+', '-', word).strip('-') for word in words)))


def check_name(name):
    """Raises UserError where an idea's runs cannot be named so."""
    if name == BASELINE or not re.fullmatch(r'[\w.-]+', name):
        raise UserError(f'--name {name}: only letters, digits, ".", "-" and "_" can be part of a name, and {BASELINE} '
                        'means the runs without one.')


def parse_options(text, family=config.Knobs):
    """The options of an idea, '--layer-decay 0.9', as {knob: value}; family: the class of the knobs. Raises UserError;
    exits with status 2 as a script would."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UserError(f'--options {text}: {error}.') from error
    if not words:
        raise UserError("--options: it is empty. Write it like this: --options='--layer-decay 0.9'.")
    given = parse_args(family(labels=('0', '1')), '--options', None, words)
    for name in SHARED:
        if name in given:
            raise UserError(f'--options {text}: --{name.replace("_", "-")} is of both sides: give it to the command '
                            'itself.')
    return given


def read_patch(patch):
    try:
        return Path(patch).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f'--idea {patch}: not read: {error}.') from error


def keep_patch(text, path, fresh):
    """Keep the patch that makes the runs of a name, beside them. Raises UserError where another one made them."""
    if path.is_file() and path.read_text() != text and not fresh:
        raise UserError(f'{path}: the runs of this name were made by another patch. Give this idea a --name.')
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, text)


def patched_scripts(patch, text, tasks, scratch):
    """{task: its script in a copy of the project with the patch}, below the folder `scratch`. Raises UserError where
    the patch does not fit a script."""
    return {task: patched_script(patch, text, task, scratch / task) for task in tasks}


def patched_script(patch, text, task, folder):
    copy_project(folder, [task])
    names = re.findall(r'^--- .*\n\+\+\+ [^/\s]+/([\w/]+)\.py\b', text, re.MULTILINE)
    scripts = [name for name in names if is_script(name)]
    if len(scripts) == 1:       # a patch of CoLA.py is meant for the other scripts, too
        text = text.replace(scripts[0], task)
    try:
        done = subprocess.run(['git', 'apply', '-'], input=text, cwd=folder, capture_output=True, text=True,
                              env=os.environ | {'GIT_CEILING_DIRECTORIES': str(folder.parent)})
    except FileNotFoundError as error:
        raise UserError(f'--idea {patch}: git, which applies patches, is not installed.') from error
    if done.returncode:
        raise UserError(f'--idea {patch} does not fit {task}.py: {done.stderr.strip().splitlines()[0]}. It must be a '
                        f'patch of this version; name the tasks that it fits.')
    modules = [path for path in folder.rglob('*.py')
               if not is_script(path.relative_to(folder).with_suffix('').as_posix())]
    if all(is_as_it_was(path, folder) for path in (folder / f'{task}.py', *modules)):
        raise UserError(f'--idea {patch} changes nothing that makes a run of {task}.py. Name the tasks that it is for.')
    return folder / f'{task}.py'


def is_script(name):
    """Whether this is the name of a task: CoLA, chinese/LCQMC."""
    path = config.ROOT / f'{name}.py'
    return name in TASKS or '/' in name and path.is_file() and 'snippets.launch(' in path.read_text()


def is_as_it_was(path, folder):
    original = config.ROOT / path.relative_to(folder)
    return original.is_file() and filecmp.cmp(path, original, shallow=False)


def copy_project(folder, tasks):
    """A copy of the code that makes runs of these tasks."""
    folder.mkdir(parents=True)
    for path in config.ROOT.glob('*.py'):
        shutil.copy(path, folder)
    for package in {'engine', 'tools', *(task.split('/')[0] for task in tasks if '/' in task)}:
        shutil.copytree(config.ROOT / package, folder / package, ignore=shutil.ignore_patterns('__pycache__'))

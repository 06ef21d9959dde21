"""The scripts are one skeleton: `diff CoLA.py RTE.py` shows only what the tasks really have different."""

import ast
import re
import subprocess
import sys

import pytest
from helpers import CLASSIFIERS, SCRIPTS, SECTIONS, function, source

import config
from engine.catalog.datasets import TASKS


@pytest.mark.parametrize('name', SCRIPTS)
def test_sections_and_names(name):
    text, tree = source(name), ast.parse(source(name))
    assert re.findall(r'^# ---- (.*?) -+$', text, re.M) == SECTIONS
    assert [node.name for node in tree.body if isinstance(node, ast.FunctionDef)] == [
        'load_data', 'build_model', 'score', 'answers', 'main']
    docstring = ast.get_docstring(tree)
    assert f'uv run {name}.py' in docstring
    assert 'Expect' in docstring
    assert text.endswith("\n\nif __name__ == '__main__':\n    snippets.launch(main, knobs, __doc__)\n")
    assert len(text.splitlines()) <= 100
    knobs = re.search(r'^knobs = Knobs\(\n(.*?)^\)$', text, re.M | re.S)[1]
    assert all(re.search(r'#|labels=', line) for line in knobs.splitlines())        # a reason for each


@pytest.mark.parametrize('name', SCRIPTS)
def test_the_table_of_tasks_has_the_labels_of_the_script(name):
    knobs = next(node.value for node in ast.parse(source(name)).body
                 if isinstance(node, ast.Assign) and node.targets[0].id == 'knobs')
    labels = {keyword.arg: keyword.value for keyword in knobs.keywords}.get('labels')
    task = TASKS[name]
    assert task.labels == (ast.literal_eval(labels) if labels else ())
    assert not labels or task.majority in task.labels


@pytest.mark.parametrize('name', CLASSIFIERS)
def test_the_same_model_and_the_same_run(name):
    for which in ('build_model', 'answers'):
        assert function(name, which) == function('CoLA', which)
    if name != 'MNLI':          # it predicts three files
        own, first = (re.sub(r"'[\w-]+\.tsv'", '', function(script, 'main')) for script in (name, 'CoLA'))
        assert own == first


def test_nothing_names_a_task_outside_the_scripts():
    names = '|'.join([*TASKS, *(task.folder for task in TASKS.values())])
    assert not re.search(rf'\b({names})\b', re.sub(
        r'"""[\s\S]*?"""|#.*', '', ''.join(source(path.relative_to(config.ROOT).with_suffix(''))
                                       for path in [config.ROOT / 'snippets.py', *config.ROOT.glob('engine/*.py')])))


def test_importing_does_nothing(tmp_path):
    code = f'import sys; sys.path.insert(0, {str(config.ROOT)!r}); import {", ".join(SCRIPTS)}'
    done = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr, list(tmp_path.iterdir())) == (0, '', '', [])

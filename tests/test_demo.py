"""The demo data are what checks/make_demo.py makes."""

import config
from checks import make_demo

DEMO = config.ROOT / 'demo'


def test_the_committed_files_are_what_the_program_makes(tmp_path):
    make_demo.main(tmp_path)
    made = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob('*.tsv')}
    assert made == {path.relative_to(DEMO): path.read_bytes() for path in DEMO.rglob('*.tsv')}

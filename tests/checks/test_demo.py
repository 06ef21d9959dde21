"""The demo data are what checks/make_demo.py and its sisters make."""

import tarfile

import config
from checks import make_demo, make_demo_chinese, make_demo_documents, make_demo_reading, make_demo_tagging

DEMO = config.ROOT / 'demo'


def contents(folder):
    """{file: content} of all files, those of archives for themselves: zlib may pack them otherwise elsewhere."""
    found = {}
    for path in folder.rglob('*.*'):
        if path.suffix == '.gz':
            with tarfile.open(path) as archive:
                found |= {member.name: archive.extractfile(member).read() for member in archive}
        else:
            found[path.relative_to(folder)] = path.read_bytes()
    return found


def test_the_committed_files_are_what_the_programs_make(tmp_path):
    make_demo.main(tmp_path)
    make_demo_documents.main(tmp_path)
    make_demo_chinese.main(tmp_path)
    make_demo_reading.main(tmp_path)
    make_demo_tagging.main(tmp_path)
    assert contents(tmp_path) == contents(DEMO)

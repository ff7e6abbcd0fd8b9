import subprocess
import sys


def test_importing_the_room_brings_no_measures_and_no_arrays():
    code = (
        "import sys, rankpipe, rankpipe.evaluation; "
        "print(sorted({'ir_measures', 'numpy', 'scipy', 'rich', 'pandas'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


def test_measuring_brings_neither_scipy_nor_pandas():
    code = (
        "import sys, rankpipe; from rankpipe.evaluation import Result, compare, evaluate; "
        "from rankpipe.data import Corpus, Queries; from rankpipe.run import Run; "
        "run = Run.of(Queries.of({'q': ''}), Corpus.of_ids(['a']), {'q': {'a': 1.0}}); "
        "assert evaluate(run, {'q': {'a': 1}})['nDCG@10'] == 1; "
        "print(sorted({'scipy', 'pandas', 'torch'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"

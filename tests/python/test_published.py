"""The numbers of the READMEs are those of the published results."""

import contextlib
import io
import sys
import unittest
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks" / "gpu"))

import published


class PublishedTest(unittest.TestCase):
    def test_readmes_have_the_numbers_of_the_results(self):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), mock.patch.object(sys, "argv", ["published.py", "--summary"]):
            code = published.main()
        self.assertEqual(code, 0, printed.getvalue() + "python3 tests/benchmarks/gpu/published.py --write writes them")

    def test_the_main_readme_has_its_tables(self):
        text = (Path(published.ROOT) / "README.md").read_text(encoding="utf-8")
        kinds = [match[2].split(" ")[0] for match in published.TABLE.finditer(text)]
        self.assertEqual(sorted(kinds), ["backward", "forward", "variants"])

    def test_another_number_is_found(self):
        results = published.Results()
        text = (Path(published.ROOT) / "README.md").read_text(encoding="utf-8")
        for match in published.TABLE.finditer(text):
            line = match[3].split("\n")[2]
            digit = next(i for i in range(len(line) // 2, len(line)) if line[i].isdigit())
            wrong = line[:digit] + ("1" if line[digit] != "1" else "2") + line[digit + 1:]
            self.assertEqual(published.rewritten(text.replace(line, wrong), results), (text, 3), wrong)


if __name__ == "__main__":
    unittest.main()

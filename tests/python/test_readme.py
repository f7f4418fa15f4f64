"""The Python examples of the README run as they stand."""

import contextlib
import io
import re
import sys
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bindings" / "python"))

try:
    import torch  # noqa: F401
except ModuleNotFoundError:
    raise unittest.SkipTest("PyTorch is not installed") from None


class ReadmeTest(unittest.TestCase):
    def test_examples(self):
        blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
        self.assertGreater(len(blocks), 0)
        for block in blocks:
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(block, "README.md", "exec"), {})
            self.assertIn("(1, 256, 8, 64) (1, 256, 8, 64) (1, 8, 256, 64) cpu_forward", printed.getvalue())


if __name__ == "__main__":
    unittest.main()

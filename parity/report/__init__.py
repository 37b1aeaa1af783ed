"""What a run looks like: in a terminal, as JSON, as a Markdown summary.

Nothing here decides anything: the verdict and the exit code are those of the `RunResult`.
"""

from __future__ import annotations

from parity.report.files import check_writable, write_atomically
from parity.report.json_report import as_dict, as_json
from parity.report.markdown import as_markdown
from parity.report.terminal import as_text

__all__ = ["as_dict", "as_json", "as_markdown", "as_text", "check_writable", "write_atomically"]

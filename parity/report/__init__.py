"""What a run looks like: in a terminal, as JSON, Markdown, JUnit XML and HTML, and as annotations of a GitHub run.

Nothing here decides anything: the verdict and the exit code are those of the `RunResult`.
"""

from __future__ import annotations

from parity.report.files import check_writable, write_atomically
from parity.report.github import as_annotations
from parity.report.json_report import as_dict, as_json
from parity.report.junit import as_junit
from parity.report.markdown import as_markdown
from parity.report.page import as_html
from parity.report.terminal import as_text

__all__ = [
    "as_annotations",
    "as_dict",
    "as_html",
    "as_json",
    "as_junit",
    "as_markdown",
    "as_text",
    "check_writable",
    "write_atomically",
]

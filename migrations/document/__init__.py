"""The code that the document of differences proposes, taken at its word, as a stack to hold against official.

`DocumentStack` offers what that code computes; `DocumentStack.not_offered` says, capability by capability,
why it computes nothing else. Use `migrations.legacy` for the code that the document starts from and `port`
for the code that it should have arrived at.
"""

from __future__ import annotations

from migrations.document.stack import NOT_OFFERED, DocumentStack

__all__ = ["NOT_OFFERED", "DocumentStack"]

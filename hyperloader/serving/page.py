"""The page for people: one file of ours that loads nothing."""

import base64
import hashlib
import re
from functools import cache
from pathlib import Path

from starlette.responses import HTMLResponse

FILE = Path(__file__).with_name("page.html")


@cache
def _content() -> tuple[str, str]:
    """The page, and the policy that lets it run its own script and style and nothing else."""
    text = FILE.read_text(encoding="utf-8")

    def hashed(tag: str) -> str:
        (inside,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        return f"'sha256-{base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()}'"

    policy = (
        f"default-src 'none'; script-src {hashed('script')}; style-src {hashed('style')}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return text, policy


def page() -> HTMLResponse:
    """The answer with the page."""
    text, policy = _content()
    return HTMLResponse(text, headers={"Content-Security-Policy": policy})
